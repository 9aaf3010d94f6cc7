"""The sidecar: the Open Inference Protocol (HTTP and gRPC) in front of an attested enclave, for unmodified clients.

It runs beside the application, on the caller's side of the trust boundary: it sees plaintext, attests the appliance and
seals. Its listeners are local by default: a Unix socket of the user's own, or loopback TCP with a token.
"""

"""Other people's verifiers on the same documents: run by the lane's own environment, imports nothing of this project.

`python oracles.py ORACLE ROOT.der DOCUMENT...` prints one JSON object: document to "accept" or the oracle's own words.
"""

from datetime import UTC, datetime
import importlib
import json
from pathlib import Path
import sys
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509 import verification
from OpenSSL import crypto


def loaded(data: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Envelope and payload as the usual decoder has them: lenient, the last of two keys wins."""
    outer = cbor2.loads(data)
    if isinstance(outer, cbor2.CBORTag):
        outer = outer.value
    return list(outer), cbor2.loads(outer[2])


def check_signature(outer: list[Any], key: ec.EllipticCurvePublicKey) -> None:
    """ES384 over the payload as it was received."""
    message = cbor2.dumps(["Signature1", outer[0], b"", outer[2]])
    r, s = int.from_bytes(outer[3][:48], "big"), int.from_bytes(outer[3][48:], "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))


def moment(payload: dict[str, Any]) -> datetime:
    """The document's own."""
    return datetime.fromtimestamp(payload["timestamp"] / 1000, UTC)


def pyopenssl(data: bytes, root: bytes) -> None:
    """X509Store with default flags at the document's moment, then the signature."""
    outer, payload = loaded(data)
    leaf, *others = (crypto.load_certificate(crypto.FILETYPE_ASN1, der) for der in (payload["certificate"], *payload["cabundle"]))
    store = crypto.X509Store()
    store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, root))
    store.set_time(moment(payload))
    crypto.X509StoreContext(store, leaf, others).verify_certificate()
    check_signature(outer, leaf.get_pubkey().to_cryptography_key())  # type: ignore[arg-type]


def cryptography(data: bytes, root: bytes) -> None:
    """The path builder with web rules for CAs and none for the leaf, then the signature."""
    outer, payload = loaded(data)
    policy = verification.PolicyBuilder().store(verification.Store([x509.load_der_x509_certificate(root)])).time(moment(payload))
    policy = policy.extension_policies(
        ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=verification.ExtensionPolicy.permit_all()
    )
    leaf = x509.load_der_x509_certificate(payload["certificate"])
    policy.build_client_verifier().verify(leaf, [x509.load_der_x509_certificate(der) for der in payload["cabundle"]])
    check_signature(outer, leaf.public_key())  # type: ignore[arg-type]


# Said once chain and signature were found good (a damaged signature is named before these), about what that product binds.
_EVERVAULT_BEYOND = ("User data was not set", "public key length in the attestation doc", "did not contain the certificate public key")


def evervault(data: bytes, _: bytes) -> None:
    """The Rust verifier behind `evervault-attestation-bindings`: AWS's root built in, the process's clock."""
    bindings: Any = importlib.import_module("evervault_attestation_bindings")
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a caller's own")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, datetime(2020, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    try:
        bindings.attest_enclave(certificate, [bindings.PCRs.empty()], data)
    except ValueError as error:
        if not any(text in str(error) for text in _EVERVAULT_BEYOND):
            raise


ORACLES = {"pyopenssl": pyopenssl, "cryptography": cryptography, "evervault": evervault}


def main() -> None:
    """Judge every document named."""
    judge, root = ORACLES[sys.argv[1]], Path(sys.argv[2]).read_bytes()
    verdicts = {}
    for path in sys.argv[3:]:
        try:
            judge(Path(path).read_bytes(), root)
            verdicts[path] = "accept"
        except Exception as error:  # noqa: BLE001 - whatever an oracle says no with
            verdicts[path] = f"{type(error).__name__}: {error}"[:160]
    sys.stdout.write(json.dumps(verdicts))


if __name__ == "__main__":
    main()

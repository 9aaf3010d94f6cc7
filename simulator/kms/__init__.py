"""A KMS that judges attestation and key policies as AWS documents it, fails closed, and says which statement decided."""

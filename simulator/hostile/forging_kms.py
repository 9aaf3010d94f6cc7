"""A KMS that lies: `python -P -m simulator.hostile.forging_kms`, with the real simulator's command line and TLS identity.

Where the state directory has a `forged-data-key`, every Decrypt is answered with its bytes, sealed to the attested RSA key
as real answers are: what a parent could hand an enclave if TLS or KMS itself failed. No policy is asked then.
"""

import base64
import json
from pathlib import Path
import sys

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation import document
from simulator.kms import command, envelope
from simulator.kms.service import CONTENT_TYPE, HttpRequest, HttpResponse, SimulatedKms

FORGED = "forged-data-key"
SEEN = "seen-evidence"  # the last document that KMS was shown, for whoever would use it elsewhere


class ForgingKms(SimulatedKms):
    """Forges Decrypt, leaves the rest alone."""

    forged: Path

    def handle(self, request: HttpRequest) -> HttpResponse:
        """The forged answer, or the simulator's."""
        if request.headers.get("x-amz-target") != "TrentService.Decrypt":
            return super().handle(request)
        asked = json.loads(request.body)
        shown = base64.b64decode(asked["Recipient"]["AttestationDocument"])
        self.forged.with_name(SEEN).write_bytes(shown)
        if not self.forged.exists():
            return super().handle(request)
        evidence = document.parse(shown)
        key = load_der_public_key(evidence.public_key or b"")
        if not isinstance(key, RSAPublicKey):
            return super().handle(request)
        sealed = envelope.seal(self.forged.read_bytes(), key)
        answer = {
            "KeyId": asked["KeyId"],
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "CiphertextForRecipient": base64.b64encode(sealed).decode(),
        }
        return HttpResponse(status=200, headers={"Content-Type": CONTENT_TYPE}, body=json.dumps(answer).encode())


def main(argv: list[str]) -> int:
    """The simulator's command with this KMS in place of its own."""
    ForgingKms.forged = Path(argv[argv.index("--state") + 1]) / FORGED
    return command.main(argv, ForgingKms)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Write tests/vectors/wire anew: `python -P -m tests.wire.generate_vectors` (from the repository's root).

Everything but the HPKE vector and signatures' inputs is deterministic; HPKE's encapsulation is random, so that a new run
gives another, equally valid file. Written once and kept: the files are what later versions must still read.
"""

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.wire.examples import CALLER, ISSUER, a_config, a_credential, key, signed_manifest
from wire import credential, evidence, handshake, message, record, seal
from wire.frame import FrameType, encode

DIRECTORY = Path(__file__).resolve().parent.parent / "vectors" / "wire"
SECRET = bytes(range(32))
NONCE = bytes(range(32, 64))
MLKEM_SEED = bytes(range(64))
X25519_KEY = bytes(range(64, 96))
DOCUMENT = b"not a document"


def session() -> dict[str, str]:
    """One whole handshake and the first records of both directions, as hex."""
    pk = MLKEM768PrivateKey.from_seed_bytes(MLKEM_SEED).public_key().public_bytes_raw()
    pk += X25519PrivateKey.from_private_bytes(X25519_KEY).public_key().public_bytes_raw()
    challenge = handshake.encode_challenge(NONCE)
    config = evidence.encode_config(a_config())
    offered = encode(FrameType.EVIDENCE, evidence.encode_evidence_body(config, pk, DOCUMENT))
    th1 = handshake.transcript1(challenge, offered)
    issued = credential.issue(a_credential(), key(ISSUER))
    signature = key(CALLER).sign(handshake.to_be_signed(th1, SECRET, issued))
    plaintext = handshake.encode_opening(handshake.Opening(secret=SECRET, signature=signature, credential=issued))
    opening = encode(FrameType.OPEN, seal.seal(pk, plaintext, handshake.hpke_info(th1)))
    th2 = handshake.transcript2(th1, opening)
    keys = handshake.session_keys(SECRET, th2)
    caller, enclave = record.RecordSealer(keys.c2s), record.RecordSealer(keys.s2c)
    accept = enclave.control(record.Kind.ACCEPT, 0, {1: 3600, 2: 1 << 26, 3: 32})
    pieces = message.encode(path="/v2/models/tumour/infer", json=b'{"inputs":[]}', tensors=[b"tensor"], deadline_ms=1000)
    (request,) = caller.message(1, pieces)
    values = {
        "mlkem_seed": MLKEM_SEED,
        "x25519_key": X25519_KEY,
        "pk": pk,
        "challenge": challenge,
        "config": config,
        "user_data": evidence.user_data(config, pk),
        "evidence": offered,
        "th1": th1,
        "credential": issued,
        "signature": signature,
        "secret": SECRET,
        "plaintext": plaintext,
        "open": opening,
        "th2": th2,
        "c2s_key": keys.c2s.key,
        "c2s_iv": keys.c2s.iv,
        "s2c_key": keys.s2c.key,
        "s2c_iv": keys.s2c.iv,
        "accept": accept,
        "message": b"".join(pieces),
        "request": request,
    }
    return {name: bytes(value).hex() for name, value in values.items()}


def main() -> None:
    """Write the files."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "session.json").write_text(json.dumps(session(), indent=1) + "\n")
    (DIRECTORY / "manifest.cose").write_bytes(signed_manifest())
    for path in (DIRECTORY / "manifest.cose", DIRECTORY / "session.json"):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)


if __name__ == "__main__":
    main()

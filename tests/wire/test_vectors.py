"""The golden vectors, and the hybrid HPKE computed a second time from its parts."""

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
import pytest

from tests.wire.examples import CALLER, ISSUER, NOW, OWNER, a_config, a_credential, a_manifest, key, public
from wire import credential, evidence, handshake, manifest, message, record, seal
from wire.frame import HEADER_BYTES, FrameType, decode
from wire.manifest import Issuers

DIRECTORY = Path(__file__).resolve().parent.parent / "vectors" / "wire"
V = {name: bytes.fromhex(value) for name, value in json.loads((DIRECTORY / "session.json").read_text()).items()}


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:length]


def _open_by_hand(sealed: bytes, info: bytes, mlkem_seed: bytes, x25519_key: bytes) -> bytes:
    """RFC 9180 base mode over the X-Wing combiner: SHA3-256(ss_M || ss_X || ct_X || pk_X || label)."""
    mlkem, x25519 = MLKEM768PrivateKey.from_seed_bytes(mlkem_seed), X25519PrivateKey.from_private_bytes(x25519_key)
    ct_m, ct_x, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
    ss_x = x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
    own = x25519.public_key().public_bytes_raw()
    shared = hashlib.sha3_256(mlkem.decapsulate(ct_m) + ss_x + ct_x + own + b"\\.//^\\").digest()
    suite = b"HPKE" + b"\x64\x7a" + b"\x00\x01" + b"\x00\x02"
    context = b"\x00" + _labeled_extract(suite, b"", b"psk_id_hash", b"") + _labeled_extract(suite, b"", b"info_hash", info)
    secret = _labeled_extract(suite, shared, b"secret", b"")
    aead_key = _labeled_expand(suite, secret, b"key", context, 32)
    nonce = _labeled_expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(aead_key).decrypt(nonce, ciphertext, b"")


def _pair() -> seal.SessionKeyPair:
    pair = seal.SessionKeyPair()
    pair._private = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(V["mlkem_seed"]), X25519PrivateKey.from_private_bytes(V["x25519_key"])
    )
    return pair


def test_public_key_is_mlkem_then_x25519() -> None:
    """pk = ML-KEM-768 encapsulation key (1,184) || X25519 (32)."""
    assert V["pk"][:1184] == MLKEM768PrivateKey.from_seed_bytes(V["mlkem_seed"]).public_key().public_bytes_raw()
    assert V["pk"][1184:] == X25519PrivateKey.from_private_bytes(V["x25519_key"]).public_key().public_bytes_raw()


def test_opening_opens_by_an_independent_hpke() -> None:
    """The KEM, KDF, AEAD and both orders (key and encapsulation) are those of the protocol, computed from their parts."""
    sealed = V["open"][HEADER_BYTES:]
    assert len(sealed) == 1088 + 32 + 4096 + 16
    assert _open_by_hand(sealed, b"cloister/1 open\0" + V["th1"], V["mlkem_seed"], V["x25519_key"]) == V["plaintext"]


def test_opening_opens_by_ours() -> None:
    """The known answer of `wire.seal`."""
    assert _pair().open(decode(V["open"], FrameType.OPEN), handshake.hpke_info(V["th1"])) == V["plaintext"]


@pytest.mark.parametrize("name", ["halves swapped", "another info", "another transcript", "flipped"])
def test_opening_that_is_not_this_one_does_not_open(name: str) -> None:
    """Encapsulation halves in the other order, another info and a flipped bit are refused alike."""
    sealed, info = V["open"][HEADER_BYTES:], handshake.hpke_info(V["th1"])
    bad = {
        "halves swapped": (sealed[1088:1120] + sealed[:1088] + sealed[1120:], info),
        "another info": (sealed, info + b"\0"),
        "another transcript": (sealed, handshake.hpke_info(V["th2"])),
        "flipped": (sealed[:-1] + bytes([sealed[-1] ^ 1]), info),
    }
    with pytest.raises(seal.SealError):
        _pair().open(*bad[name])


def test_handshake_values_follow_from_one_another() -> None:
    """Challenge, config, evidence, transcripts and keys of the file are what the code makes of the ones before."""
    assert handshake.parse_challenge(decode(V["challenge"], FrameType.CHALLENGE)) == bytes(range(32, 64))
    assert evidence.encode_config(a_config()) == V["config"]
    body = evidence.parse_evidence_body(decode(V["evidence"], FrameType.EVIDENCE))
    assert (body.config_raw, body.config, body.pk, body.document) == (V["config"], a_config(), V["pk"], b"not a document")
    assert evidence.user_data(V["config"], V["pk"]) == V["user_data"]
    assert handshake.transcript1(V["challenge"], V["evidence"]) == V["th1"]
    assert handshake.transcript2(V["th1"], V["open"]) == V["th2"]
    keys = handshake.session_keys(V["secret"], V["th2"])
    assert (keys.c2s.key, keys.c2s.iv, keys.s2c.key, keys.s2c.iv) == (V["c2s_key"], V["c2s_iv"], V["s2c_key"], V["s2c_iv"])


def test_opening_holds_secret_signature_and_credential() -> None:
    """The plaintext parses to its parts, and the credential and the signature are accepted."""
    opening = handshake.parse_opening(V["plaintext"])
    assert (opening.secret, opening.signature, opening.credential) == (V["secret"], V["signature"], V["credential"])
    issuer, accepted = credential.accept(
        opening.credential, Issuers(keys=(public(ISSUER),)), deployment="clinic", owner_key=public(OWNER), now=NOW
    )
    assert (issuer, accepted) == (public(ISSUER), a_credential())
    credential.accept_signature(accepted, opening.signature, th1=V["th1"], secret=V["secret"], data=V["credential"])
    assert credential.issue(a_credential(), key(ISSUER)) == V["credential"]
    assert key(CALLER).sign(handshake.to_be_signed(V["th1"], V["secret"], V["credential"])) == V["signature"]


def test_records_open() -> None:
    """Accept and the first request open to their content."""
    keys = handshake.session_keys(V["secret"], V["th2"])
    room = bytearray(2000)
    accept = record.RecordOpener(keys.s2c).open_into(V["accept"], room)
    assert (accept.kind, accept.message) == (record.Kind.ACCEPT, 0)
    assert record.parse_control(room[: accept.length]) == {1: 3600, 2: 1 << 26, 3: 32}
    request = record.RecordOpener(keys.c2s).open_into(V["request"], room)
    assert (request.kind, request.message) == (record.Kind.END, 1)
    assert bytes(room[: request.length]) == V["message"]
    got = message.decode(1, V["message"])
    assert (got.path, bytes(got.tensors), got.deadline_ms) == ("/v2/models/tumour/infer", b"tensor", 1000)


def test_manifest_file_opens() -> None:
    """The signed manifest reads as the example, and the example encodes to it."""
    signed = manifest.open_envelope((DIRECTORY / "manifest.cose").read_bytes())
    assert (signed.owner_key, signed.manifest) == (public(OWNER), a_manifest())
    assert manifest.encode(a_manifest()) == signed.payload

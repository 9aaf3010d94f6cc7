"""COSE_Sign1: one profile, every deviation refused."""

from collections.abc import Callable
import contextlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.wire.examples import key, public
from wire import cbor, cose
from wire.cose import ALG, EDDSA, KID, TYP, BadSignatureError, MalformedEnvelopeError, Sign1

KID_VALUE = bytes(range(32))
TYPE = cose.WITHDRAWN
GENUINE = cose.sign(b"payload", kid=KID_VALUE, typ=TYPE, key=key(9))
LIMIT = 1000


def _parse(data: bytes) -> Sign1:
    return cose.parse(data, typ=TYPE, limit=LIMIT)


def test_envelope_comes_back_and_verifies() -> None:
    """Payload, kid and typ come back; the signature is over RFC 9052's structure."""
    envelope = _parse(GENUINE)
    assert (envelope.kid, envelope.typ, envelope.payload) == (KID_VALUE, TYPE, b"payload")
    cose.verify(envelope, key(9).public_key())
    key(9).public_key().verify(envelope.signature, cbor.encode(["Signature1", envelope.protected, b"", b"payload"]))


def test_types_are_those_of_the_protocol() -> None:
    """The four things that are signed differ in `typ`."""
    assert (cose.MANIFEST, cose.CREDENTIAL, cose.WITHDRAWN, cose.REFERENCE_VALUES) == (
        "cloister-manifest+cbor",
        "cloister-credential+cwt",
        "cloister-withdrawn+cbor",
        "cloister-reference-values+json",
    )


def _with(at: int, value: cbor.Value) -> bytes:
    outer = cbor.decode(GENUINE)
    assert isinstance(outer, list)
    outer[at] = value
    return cbor.encode(outer)


def _protected(change: Callable[[dict[cbor.Key, cbor.Value]], object]) -> bytes:
    header: dict[cbor.Key, cbor.Value] = {ALG: EDDSA, KID: KID_VALUE, TYP: TYPE}
    change(header)
    return _with(0, cbor.encode(header))


BAD: dict[str, bytes] = {
    "empty": b"",
    "tagged": b"\xd2" + GENUINE,
    "trailing": GENUINE + b"\0",
    "cut": GENUINE[:-1],
    "a map": cbor.encode({}),
    "three elements": cbor.encode(cbor.decode(GENUINE)[:3]),  # type: ignore[index]
    "five elements": cbor.encode([*cbor.decode(GENUINE), b""]),  # type: ignore[misc]
    "protected not bytes": _with(0, {ALG: EDDSA}),
    "protected empty": _with(0, b""),
    "protected an array": _with(0, b"\x80"),
    "protected not deterministic": _with(0, bytes.fromhex("a3105766") + b"x"),
    "unprotected not empty": _with(1, {4: b"x"}),
    "unprotected an array": _with(1, []),
    "payload detached": _with(2, None),
    "payload text": _with(2, "payload"),
    "signature short": _with(3, bytes(63)),
    "signature long": _with(3, bytes(65)),
    "signature text": _with(3, "s" * 64),
    "another algorithm": _protected(lambda header: header.update({ALG: -7})),
    "no algorithm": _protected(lambda header: header.pop(ALG)),
    "another type": _protected(lambda header: header.update({TYP: cose.MANIFEST})),
    "no type": _protected(lambda header: header.pop(TYP)),
    "no kid": _protected(lambda header: header.pop(KID)),
    "kid short": _protected(lambda header: header.update({KID: bytes(31)})),
    "kid text": _protected(lambda header: header.update({KID: "k" * 32})),
    "critical header": _protected(lambda header: header.update({2: [16]})),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_envelope_is_refused(name: str) -> None:
    """Tags, other shapes, header values and lengths are refused before any signature is looked at."""
    with pytest.raises(MalformedEnvelopeError):
        _parse(BAD[name])


def test_envelope_over_its_limit_is_refused() -> None:
    """The limit is inclusive and checked first."""
    cose.parse(GENUINE, typ=TYPE, limit=len(GENUINE))
    with pytest.raises(MalformedEnvelopeError, match="longer"):
        cose.parse(GENUINE, typ=TYPE, limit=len(GENUINE) - 1)


def test_signature_by_another_key_is_refused() -> None:
    """Another key does not verify."""
    with pytest.raises(BadSignatureError):
        cose.verify(_parse(GENUINE), key(8).public_key())


def test_changed_payload_or_header_is_refused() -> None:
    """The signature covers payload and protected header."""
    for data in (_with(2, b"payloae"), _protected(lambda header: header.update({KID: bytes(32)}))):
        with pytest.raises(BadSignatureError):
            cose.verify(_parse(data), key(9).public_key())


@given(st.binary(max_size=200))
def test_any_bytes_give_an_envelope_or_our_error(data: bytes) -> None:
    """Any bytes: an envelope, or MalformedEnvelopeError."""
    with contextlib.suppress(MalformedEnvelopeError):
        _parse(data)


@given(st.integers(0, len(GENUINE) - 1), st.integers(1, 255))
def test_every_changed_byte_is_refused(at: int, change: int) -> None:
    """A changed byte is malformed or does not verify: nothing in an envelope is unsigned."""
    data = bytearray(GENUINE)
    data[at] ^= change
    with pytest.raises((MalformedEnvelopeError, BadSignatureError)):
        cose.verify(_parse(bytes(data)), key(9).public_key())


def test_public_of_the_examples_is_raw() -> None:
    """Keys are raw 32 bytes everywhere."""
    assert len(public(9)) == 32

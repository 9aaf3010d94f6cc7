"""The evidence body and the service config: exact keys, exact types, bounded lengths."""

import contextlib
import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.wire.examples import a_config, public
from wire import cbor, evidence
from wire.evidence import (
    CONFIG_MAX,
    KMS_USER_DATA,
    PK_BYTES,
    MalformedEvidenceBodyError,
    encode_config,
    encode_evidence_body,
    parse_config,
    parse_evidence_body,
    user_data,
)
from wire.frame import EVIDENCE_BODY_MAX

RAW = encode_config(a_config())
FIELDS: Any = cbor.decode(RAW)
PK = bytes(PK_BYTES)


@pytest.mark.parametrize("changes", [{}, {"audit_key": public(9)}, {"callers": 0}, {"session_seconds": 86_400, "sequence": (1 << 53) - 1}])
def test_config_comes_back(changes: dict[str, object]) -> None:
    """Every field comes back, the audit key null or a key."""
    config = a_config(**changes)
    assert parse_config(encode_config(config)) == config


def test_config_is_small_and_numbered() -> None:
    """Integer keys 1 to 8, version first, far below 1,024 bytes."""
    assert list(FIELDS) == list(range(1, 9))
    assert FIELDS[1] == 1
    assert len(encode_config(a_config(audit_key=public(9)))) < CONFIG_MAX == 1024


BAD_FIELDS: list[tuple[int, cbor.Value]] = [
    (1, 0), (1, 2), (1, "1"),
    (2, b""), (2, bytes(31)), (2, public(1) + b"\0"), (2, b"\x01" + bytes(31)), (2, None), (2, "k" * 32),
    (3, bytes(47)), (3, bytes(49)), (3, None),
    (4, 0), (4, -1), (4, 1 << 53), (4, True), (4, "1"),
    (5, 0), (5, 1 << 53), (5, None),
    (6, 2), (6, -1), (6, True), (6, None), (6, "anyone"),
    (7, b""), (7, bytes(32)), (7, 0), (7, False), (7, "k" * 32),
    (8, 0), (8, 86_401), (8, True), (8, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_config_field_out_of_its_type_or_range_is_refused(name: int, value: cbor.Value) -> None:
    """Each field in turn: another type, one below, one above, a key of small order."""
    with pytest.raises(MalformedEvidenceBodyError):
        parse_config(cbor.encode({**FIELDS, name: value}))


@pytest.mark.parametrize("name", range(1, 9))
def test_missing_config_field_is_refused(name: int) -> None:
    """All eight fields are required."""
    with pytest.raises(MalformedEvidenceBodyError, match=rf"config\.{name}"):
        parse_config(cbor.encode({key: value for key, value in FIELDS.items() if key != name}))


@pytest.mark.parametrize("raw", [b"", b"\x80", RAW + b"\0", RAW[:-1], cbor.encode({**FIELDS, 9: 0}), cbor.encode({**FIELDS, "x": 0})])
def test_config_of_another_shape_is_refused(raw: bytes) -> None:
    """No map, trailing bytes, a cut and unknown fields are refused."""
    with pytest.raises(MalformedEvidenceBodyError):
        parse_config(raw)


def test_config_over_its_limit_is_refused_before_it_is_parsed() -> None:
    """1,025 bytes are not looked into, 1,024 are."""
    with pytest.raises(MalformedEvidenceBodyError, match="exceeds"):
        parse_config(bytes(CONFIG_MAX + 1))
    with pytest.raises(MalformedEvidenceBodyError, match="CBOR"):
        parse_config(bytes(CONFIG_MAX))


def test_body_comes_back() -> None:
    """u16be n, config, 1,216 bytes of key, document."""
    body = encode_evidence_body(RAW, PK, b"document")
    assert body == len(RAW).to_bytes(2, "big") + RAW + PK + b"document"
    got = parse_evidence_body(body)
    assert (got.config_raw, got.config, got.pk, got.document) == (RAW, a_config(), PK, b"document")


BODY = encode_evidence_body(RAW, PK, b"d")
BAD_BODIES = {
    "empty": b"",
    "one byte": b"\0",
    "no document": BODY[:-1],
    "no key": BODY[: 2 + len(RAW)],
    "config longer than all": b"\x04\x00" + BODY[2:],
    "config too long": (CONFIG_MAX + 1).to_bytes(2, "big") + bytes(CONFIG_MAX + 1) + PK + b"d",
    "config empty": b"\0\0" + PK + b"d",
    "too long": encode_evidence_body(RAW, PK, bytes(EVIDENCE_BODY_MAX - 2 - len(RAW) - PK_BYTES)) + b"\0",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_malformed_body_is_refused(name: str) -> None:
    """Cut, oversized and inconsistent bodies are refused."""
    with pytest.raises(MalformedEvidenceBodyError):
        parse_evidence_body(BAD_BODIES[name])


def test_largest_config_is_carried() -> None:
    """1,024 bytes of config fit into a body; what they say is judged by its reader."""
    assert len(encode_evidence_body(bytes(CONFIG_MAX), PK, b"d")) == 2 + CONFIG_MAX + PK_BYTES + 1


def test_body_at_its_limit_is_taken() -> None:
    """A whole frame of 24 KiB passes."""
    document = bytes(EVIDENCE_BODY_MAX - 2 - len(RAW) - PK_BYTES)
    assert parse_evidence_body(encode_evidence_body(RAW, PK, document)).document == document


@pytest.mark.parametrize(
    ("config", "pk", "document"),
    [
        (bytes(CONFIG_MAX + 1), PK, b"d"),
        (RAW, PK[:-1], b"d"),
        (RAW, PK, b""),
        (RAW, PK, bytes(EVIDENCE_BODY_MAX - 1 - len(RAW) - PK_BYTES)),
    ],
)
def test_body_out_of_bounds_is_misuse(config: bytes, pk: bytes, document: bytes) -> None:
    """What a frame cannot hold is not encoded."""
    with pytest.raises(ValueError, match="bounds"):
        encode_evidence_body(config, pk, document)


def test_binding_is_the_protocols() -> None:
    """user_data = H(label || H(config) || pk), 48 bytes; KMS evidence has another, fixed one."""
    assert user_data(b"c", b"p") == hashlib.sha384(b"cloister/1 evidence\0" + hashlib.sha384(b"c").digest() + b"p").digest()
    assert KMS_USER_DATA == hashlib.sha384(b"cloister/1 kms\0").digest()
    assert len(KMS_USER_DATA) == 48
    assert evidence.NONCE_BYTES == 32


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_bytes_give_evidence_or_our_error(data: bytes, config: bytes) -> None:
    """Any bytes, also where the frame is whole around a damaged config: evidence, or MalformedEvidenceBodyError."""
    damaged = RAW[: len(data) % len(RAW)] + config
    for body in (data, len(damaged).to_bytes(2, "big") + damaged + PK + b"d"):
        with contextlib.suppress(MalformedEvidenceBodyError):
            parse_evidence_body(body)


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255))
def test_any_changed_config_gives_a_config_with_one_encoding_or_our_error(at: int, byte: int) -> None:
    """One changed byte: another config that encodes to exactly those bytes, or MalformedEvidenceBodyError."""
    raw = RAW[:at] + bytes([byte]) + RAW[at + 1 :]
    try:
        config = parse_config(raw)
    except MalformedEvidenceBodyError:
        return
    assert encode_config(config) == raw

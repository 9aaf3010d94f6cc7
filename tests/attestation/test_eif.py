"""Measuring and composing images: the registers, every rule that refuses, and memory that does not grow with the image."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
import hashlib
import io
import struct
import zlib

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation import eif, eif_format, eif_signature
from attestation.checks import Check
from attestation.eif_format import HEADER, SECTION, Kind
from attestation.errors import MalformedImageError

KERNEL, CMDLINE, BOOT, APP, MORE = b"kernel" * 9, b"reboot=k", b"boot" * 50, b"app" * 70, b"more" * 7
PLAIN = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT, APP], metadata=b"{}")


def pcr(*parts: bytes) -> bytes:
    """The rule of AWS's image format, written out."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(parts)).digest()).digest()


def refused(image: bytes) -> Check:
    """The check that refuses an image."""
    with pytest.raises(MalformedImageError) as caught:
        eif.measure(io.BytesIO(image))
    return caught.value.check


def built(
    sections: Sequence[tuple[int, bytes]],
    *,
    section_flags: int = 0,
    fields: Callable[[list[int]], list[int]] = lambda fields: fields,
    crc: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """An image of any sections; `fields` may change the numbers of the header before the CRC is made."""
    offsets, sizes, body, at = [], [], b"", HEADER.size
    for kind, data in sections:
        offsets.append(at)
        sizes.append(len(data))
        body += SECTION.pack(kind, section_flags, len(data)) + data
        at += SECTION.size + len(data)
    empty = [0] * (32 - len(sections))
    numbers = fields([4, 0, 0, 0, 0, len(sections), *offsets, *empty, *sizes, *empty, 0])
    header = HEADER.pack(b".eif", *numbers, 0)[:-4]
    return header + struct.pack(">I", zlib.crc32(body, zlib.crc32(header)) if crc is None else crc) + body + tail


GOOD = [(Kind.KERNEL, KERNEL), (Kind.CMDLINE, CMDLINE), (Kind.RAMDISK, BOOT), (Kind.RAMDISK, APP)]


def test_registers_follow_the_rule() -> None:
    """PCR0 is of everything, PCR1 of kernel, cmdline and first ramdisk, PCR2 of the other ramdisks."""
    for ramdisks in ([BOOT], [BOOT, APP], [BOOT, APP, MORE]):
        image = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=ramdisks)
        measured = eif.measure(io.BytesIO(image))
        assert measured.pcr0 == pcr(KERNEL, CMDLINE, *ramdisks)
        assert measured.pcr1 == pcr(KERNEL, CMDLINE, BOOT)
        assert measured.pcr2 == pcr(*ramdisks[1:])
        assert measured.pcr8 is None
        assert measured.pcrs == {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2}


def test_an_image_without_application_ramdisk_has_the_known_pcr2() -> None:
    """A constant of the platform."""
    measured = eif.measure(io.BytesIO(eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT])))
    assert measured.pcr2.hex().startswith("21b9efbc184807662e966d34f390821309eeac68")


def test_sections_say_which_registers_they_move() -> None:
    """In file order, with place, size and digest."""
    measured = eif.measure(io.BytesIO(PLAIN))
    assert [(item.kind, item.size, item.pcrs) for item in measured.sections] == [
        (Kind.KERNEL, len(KERNEL), (0, 1)),
        (Kind.CMDLINE, len(CMDLINE), (0, 1)),
        (Kind.METADATA, 2, ()),
        (Kind.RAMDISK, len(BOOT), (0, 1)),
        (Kind.RAMDISK, len(APP), (0, 2)),
    ]
    assert measured.sections[0].offset == HEADER.size
    assert measured.sections[4].sha256 == hashlib.sha256(APP).digest()
    assert (measured.cmdline, measured.metadata, measured.aarch64) == (CMDLINE, b"{}", False)


def test_the_same_arguments_give_the_same_bytes() -> None:
    """Composing is deterministic, and its own measure reads it."""
    again = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT, APP], metadata=b"{}")
    assert again == PLAIN
    arm = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT], aarch64=True, default_memory=1 << 30, default_cpus=2)
    assert eif.measure(io.BytesIO(arm)).aarch64


def test_what_is_no_image_is_not_composed() -> None:
    """No ramdisk, and more sections than a header has places for."""
    for ramdisks in ([], [b"x"] * 31):
        with pytest.raises(ValueError, match="ramdisk"):
            eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=ramdisks)


def _header(place: int, value: int) -> Callable[[list[int]], list[int]]:
    def change(numbers: list[int]) -> list[int]:
        return [*numbers[:place], value, *numbers[place + 1 :]]

    return change


OFFSETS, SIZES = 6, 38
BROKEN: list[tuple[str, bytes, Check]] = [
    ("empty", b"", Check.EIF_TRUNCATED),
    ("half a header", PLAIN[:300], Check.EIF_TRUNCATED),
    ("no sections' bytes", PLAIN[: HEADER.size], Check.EIF_TRUNCATED),
    ("last byte missing", PLAIN[:-1], Check.EIF_TRUNCATED),
    ("magic", b".elf" + PLAIN[4:], Check.EIF_MAGIC),
    ("version 3", built(GOOD, fields=_header(0, 3)), Check.EIF_VERSION),
    ("version 5", built(GOOD, fields=_header(0, 5)), Check.EIF_VERSION),
    ("unknown flag", built(GOOD, fields=_header(1, 2)), Check.EIF_HEADER_FLAGS),
    ("reserved", built(GOOD, fields=_header(4, 1)), Check.EIF_HEADER_FLAGS),
    ("unused", built(GOOD, fields=_header(70, 1)), Check.EIF_HEADER_FLAGS),
    ("no section", built([]), Check.EIF_SECTION_COUNT),
    ("33 sections", built(GOOD, fields=_header(5, 33)), Check.EIF_SECTION_COUNT),
    ("an offset nobody counts", built(GOOD, fields=_header(OFFSETS + 9, 5)), Check.EIF_SECTION_COUNT),
    ("a size nobody counts", built(GOOD, fields=_header(SIZES + 9, 5)), Check.EIF_SECTION_COUNT),
    ("fewer counted than there", built(GOOD, fields=_header(5, 3)), Check.EIF_SECTION_COUNT),
    ("offset into the header", built(GOOD, fields=_header(OFFSETS, 0)), Check.EIF_SECTION_PLACE),
    ("gap", built(GOOD, fields=_header(OFFSETS + 2, 10_000)), Check.EIF_SECTION_PLACE),
    ("overlap", built(GOOD, fields=_header(OFFSETS + 2, 560)), Check.EIF_SECTION_PLACE),
    ("size differs", built(GOOD, fields=_header(SIZES, len(KERNEL) + 1)), Check.EIF_SECTION_SIZE),
    ("type 0", built([*GOOD, (0, b"")]), Check.EIF_SECTION_TYPE),
    ("type 6", built([*GOOD, (6, b"")]), Check.EIF_SECTION_TYPE),
    ("section flags", built(GOOD, section_flags=1), Check.EIF_SECTION_FLAGS),
    ("no kernel", built(GOOD[1:]), Check.EIF_SECTIONS),
    ("no cmdline", built([GOOD[0], *GOOD[2:]]), Check.EIF_SECTIONS),
    ("no ramdisk", built(GOOD[:2]), Check.EIF_SECTIONS),
    ("two kernels", built([GOOD[0], *GOOD]), Check.EIF_SECTIONS),
    ("two cmdlines", built([*GOOD[:2], *GOOD[1:]]), Check.EIF_SECTIONS),
    ("two metadata", built([*GOOD, (Kind.METADATA, b""), (Kind.METADATA, b"")]), Check.EIF_SECTIONS),
    ("cmdline before kernel", built([GOOD[1], GOOD[0], *GOOD[2:]]), Check.EIF_ORDER),
    ("ramdisk before kernel", built([GOOD[2], *GOOD[:2], GOOD[3]]), Check.EIF_ORDER),
    ("ramdisk before cmdline", built([GOOD[0], GOOD[2], GOOD[1], GOOD[3]]), Check.EIF_ORDER),
    ("trailing byte", built(GOOD, tail=b"\0"), Check.EIF_TRAILING_BYTES),
    ("crc", built(GOOD, crc=1), Check.EIF_CRC),
    ("a byte of a ramdisk", PLAIN[:-1] + b"!", Check.EIF_CRC),
    ("a byte of the header", built(GOOD, crc=0, fields=_header(2, 5)), Check.EIF_CRC),
    ("large cmdline", built([GOOD[0], (Kind.CMDLINE, bytes((1 << 20) + 1)), *GOOD[2:]]), Check.EIF_SECTION_LIMIT),
    ("large metadata", built([*GOOD, (Kind.METADATA, bytes((1 << 20) + 1))]), Check.EIF_SECTION_LIMIT),
]


@pytest.mark.parametrize(("image", "check"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_malformed_image_is_refused_by_its_rule(image: bytes, check: Check) -> None:
    """Each rule has an image that breaks it alone."""
    assert refused(image) == check


def test_metadata_and_signature_may_stand_anywhere() -> None:
    """Only what is measured has an order."""
    sections = [(Kind.METADATA, b"{}"), *GOOD]
    assert eif.measure(io.BytesIO(built(sections))).pcr0 == pcr(KERNEL, CMDLINE, BOOT, APP)


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "image signer") -> x509.Certificate:
    """A signer's certificate, signed by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7)
    return builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=900)).sign(key, SHA256())


SIGNER = ec.generate_private_key(ec.SECP384R1())
CERTIFICATE = certificate(SIGNER)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_a_signed_image_has_pcr8_of_its_certificate(curve: type[ec.EllipticCurve]) -> None:
    """On each curve that AWS's tools sign with, and the same bytes on every run."""
    key = ec.generate_private_key(curve())
    signer = (key, certificate(key))
    image = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT, APP], signer=signer)
    measured = eif.measure(io.BytesIO(image))
    assert measured.pcr8 == pcr(signer[1].public_bytes(Encoding.DER))
    assert measured.pcrs[8] == measured.pcr8
    assert measured.signer is not None
    assert measured.signer.subject == "CN=image signer"
    assert eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT, APP], signer=signer) == image


def test_metadata_is_not_signed_because_it_is_not_measured() -> None:
    """The same signature fits the image with other metadata."""
    signer = (SIGNER, CERTIFICATE)
    images = [
        eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT], metadata=metadata, signer=signer)
        for metadata in (None, b"{}", b"other")
    ]
    assert len({eif.measure(io.BytesIO(image)).pcr0 for image in images}) == 1


def signed(section: bytes) -> bytes:
    """An image with this signature section."""
    return built([*GOOD, (Kind.SIGNATURE, section)])


PCR0 = pcr(KERNEL, CMDLINE, BOOT, APP)


def section(
    *,
    index: object = 0,
    value: object = None,
    pem: bytes | None = None,
    protected: bytes = bytes.fromhex("a1013822"),
    unprotected: object = None,
    signature: bytes | None = None,
) -> bytes:
    """A signature section, one part of which may differ."""
    payload = cbor2.dumps({"register_index": index, "register_value": list(PCR0) if value is None else value})
    if signature is None:
        good = cbor2.loads(eif_signature.build(PCR0, SIGNER, CERTIFICATE))[0]["signature"]
        signature = cbor2.loads(bytes(good))[3]
    envelope = cbor2.dumps([protected, {} if unprotected is None else unprotected, payload, signature])
    pem = CERTIFICATE.public_bytes(Encoding.PEM) if pem is None else pem
    return cbor2.dumps([{"signing_certificate": list(pem), "signature": list(envelope)}])


PEM = CERTIFICATE.public_bytes(Encoding.PEM)
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_SIGNER = certificate(ec.generate_private_key(ec.SECP384R1()))
P256_CERTIFICATE = certificate(ec.generate_private_key(ec.SECP256R1()))
SIGNATURES: list[tuple[str, bytes, Check]] = [
    ("not CBOR", b"\xff", Check.EIF_SIGNATURE_FORM),
    ("empty array", cbor2.dumps([]), Check.EIF_SIGNATURE_FORM),
    ("two entries", cbor2.dumps([1, 2]), Check.EIF_SIGNATURE_FORM),
    ("no map", cbor2.dumps([1]), Check.EIF_SIGNATURE_FORM),
    ("a member too many", cbor2.dumps([{"signing_certificate": [], "signature": [], "x": 0}]), Check.EIF_SIGNATURE_FORM),
    ("a member too many in a good one", cbor2.dumps([{**cbor2.loads(section())[0], "x": 0}]), Check.EIF_SIGNATURE_FORM),
    ("byte strings", cbor2.dumps([{"signing_certificate": PEM, "signature": b""}]), Check.EIF_SIGNATURE_FORM),
    ("numbers over 255", cbor2.dumps([{"signing_certificate": [256], "signature": []}]), Check.EIF_SIGNATURE_FORM),
    ("no certificate", section(pem=b"text"), Check.EIF_SIGNATURE_FORM),
    ("two certificates", section(pem=PEM + PEM), Check.EIF_SIGNATURE_FORM),
    ("RSA certificate", section(pem=certificate(RSA_KEY).public_bytes(Encoding.PEM)), Check.EIF_SIGNATURE_FORM),
    ("another curve", section(pem=P256_CERTIFICATE.public_bytes(Encoding.PEM)), Check.EIF_SIGNATURE_FORM),
    ("another algorithm", section(protected=bytes.fromhex("a10126")), Check.EIF_SIGNATURE_FORM),
    ("no algorithm", section(protected=b"\xa0"), Check.EIF_SIGNATURE_FORM),
    ("an unknown algorithm", section(protected=cbor2.dumps({1: 1})), Check.EIF_SIGNATURE_FORM),
    ("an algorithm that is no number", section(protected=cbor2.dumps({1: []})), Check.EIF_SIGNATURE_FORM),
    ("unprotected", section(unprotected={1: 2}), Check.EIF_SIGNATURE_FORM),
    ("short signature", section(signature=bytes(95)), Check.EIF_SIGNATURE_FORM),
    ("register value of bytes", section(value=PCR0), Check.EIF_SIGNATURE_FORM),
    ("register 8", section(index=8), Check.EIF_SIGNATURE_REGISTER),
    ("another PCR0", section(value=list(bytes(48))), Check.EIF_SIGNATURE_VALUE),
    ("zero signature", section(signature=bytes(96)), Check.EIF_SIGNATURE),
    ("another signer", section(pem=OTHER_SIGNER.public_bytes(Encoding.PEM)), Check.EIF_SIGNATURE),
]


@pytest.mark.parametrize(("data", "check"), [case[1:] for case in SIGNATURES], ids=[case[0] for case in SIGNATURES])
def test_a_signature_section_is_aws_structure_and_verifies(data: bytes, check: Check) -> None:
    """Every part of it is checked against the image's own PCR0."""
    assert eif.measure(io.BytesIO(signed(section()))).signer is not None
    assert refused(signed(data)) == check


def test_two_signatures_and_large_ones_are_refused() -> None:
    """One signer an image, in a bounded section."""
    assert refused(built([*GOOD, (Kind.SIGNATURE, section()), (Kind.SIGNATURE, section())])) == Check.EIF_SECTIONS
    assert refused(signed(bytes((1 << 20) + 1))) == Check.EIF_SECTION_LIMIT


def test_a_key_signs_only_with_its_own_certificate() -> None:
    """Composing with another's certificate, or on another curve, is misuse."""
    koblitz = ec.generate_private_key(ec.SECP256K1())
    for key, other in ((SIGNER, OTHER_SIGNER), (koblitz, CERTIFICATE), (koblitz, certificate(koblitz))):
        with pytest.raises(ValueError, match="key"):
            eif_signature.build(PCR0, key, other)


class Pattern(io.RawIOBase):
    """An image of a large ramdisk that exists nowhere; it remembers the largest read."""

    def __init__(self, head: bytes, size: int, tail: bytes) -> None:
        self.parts = [head, tail]
        self.size, self.at, self.largest = size, 0, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self.largest = max(self.largest, size)
        head, tail = self.parts
        total = len(head) + self.size + len(tail)
        end = min(self.at + size, total)
        if self.at < len(head):
            data = head[self.at : end]
        elif self.at < len(head) + self.size:
            data = bytes(min(end, len(head) + self.size) - self.at)
        else:
            data = tail[self.at - len(head) - self.size : end - len(head) - self.size]
        self.at += len(data)
        return data


def test_an_image_is_streamed_in_pieces_with_progress() -> None:
    """Memory does not grow with the image: nothing larger than 1 MiB is ever asked for."""
    ramdisk = bytes(5 << 20)
    image = eif.compose(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[BOOT, ramdisk])
    source = Pattern(image[: -len(ramdisk)], len(ramdisk), b"")
    heard: list[tuple[int, int]] = []
    measured = eif.measure(source, lambda done, total: heard.append((done, total)))  # type: ignore[arg-type]
    assert measured.pcr2 == pcr(ramdisk)
    assert source.largest == eif.PIECE
    assert heard[-1] == (len(image), len(image))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_a_claimed_size_costs_nothing_before_it_is_read() -> None:
    """A header that announces 2^60 bytes ends at the end of the stream."""
    image = built([GOOD[0], GOOD[1], (Kind.RAMDISK, BOOT)], fields=_header(SIZES + 2, 1 << 60))
    assert refused(image) == Check.EIF_SECTION_SIZE
    huge = bytearray(image)
    at = huge.index(BOOT) - 8
    huge[at : at + 8] = (1 << 60).to_bytes(8, "big")
    assert refused(bytes(huge)) == Check.EIF_TRUNCATED


@given(st.binary(max_size=700))
def test_any_bytes_give_our_error(data: bytes) -> None:
    """No bytes raise anything else."""
    refused(data)


@given(st.integers(0, len(PLAIN) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, flip: int) -> None:
    """The CRC covers what the rules do not."""
    damaged = bytearray(PLAIN)
    damaged[place] ^= flip
    refused(bytes(damaged))


@given(st.binary(max_size=300))
def test_any_signature_section_gives_our_error(data: bytes) -> None:
    """Neither does any signature section."""
    with pytest.raises(MalformedImageError):
        eif_signature.check(data, PCR0)


def test_the_pcr_rule_is_one_function() -> None:
    """What the hypervisor measures with is what this module measures with."""
    assert eif_format.pcr(hashlib.sha384(b"data").digest()) == pcr(b"data")

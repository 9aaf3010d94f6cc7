"""`enclave.cms`: opens what genuine KMS sends, refuses every other shape, and never says why."""

import contextlib
import hashlib
from pathlib import Path
import shutil
import subprocess

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from enclave.cms import ENVELOPE_MAX, CmsError, open_envelope, parse_envelope
from simulator.kms.envelope import seal
from tests.cms.build import KEY, Shape, build


def _pem(path: Path) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the vector's key is RSA")
    return key


def test_genuine_answer_with_its_published_key_opens(shared_vectors: Path) -> None:
    """A genuine KMS answer opens to its published data key."""
    cms = shared_vectors / "cms"
    opened = open_envelope((cms / "kms_edgebit_datakey.ber").read_bytes(), _pem(cms / "kms_edgebit_datakey.key.pem"))
    assert opened == (cms / "kms_edgebit_datakey.plain").read_bytes()


def test_genuine_answer_without_its_key_parses_and_does_not_open(shared_vectors: Path) -> None:
    """The genuine answer whose key is unknown is read up to the key, and no other key opens it."""
    envelope = (shared_vectors / "cms" / "kms_awssdkc_constructed.ber").read_bytes()
    parsed = parse_envelope(envelope)
    assert (len(parsed.subject_key_identifier), len(parsed.encrypted_key), len(parsed.iv), len(parsed.ciphertext)) == (32, 256, 16, 48)
    with pytest.raises(CmsError):
        open_envelope(envelope, KEY)


# p*.der, p*.stream.ber: a 20-byte (SHA-1) key identifier. isn: issuer and serial number. gcm: AuthEnvelopedData. pkcs1: RSAES-PKCS1-v1_5.
@pytest.mark.parametrize(
    "name", [f"p{n}.{form}" for n in (32, 2400, 4096) for form in ("der", "isn.der", "stream.ber")] + ["p32.gcm.der", "p32.pkcs1.der"]
)
def test_openssl_envelopes_are_refused(shared_vectors: Path, name: str) -> None:
    """What OpenSSL writes by default names its recipient otherwise than KMS and is refused, with its own key at hand."""
    folder = shared_vectors / "cms" / "openssl"
    with pytest.raises(CmsError):
        open_envelope((folder / name).read_bytes(), _pem(folder / "k.pem"))


@pytest.mark.parametrize("name", [f"p{n}.{form}" for n in (32, 2400, 4096) for form in ("der", "stream.ber")])
def test_openssl_envelopes_open_once_the_recipient_is_named_like_kms_does(shared_vectors: Path, name: str) -> None:
    """The key identifier is all that stands between OpenSSL's envelopes, definite or in chunks, and this reader."""
    folder = shared_vectors / "cms" / "openssl"
    key = _pem(folder / "k.pem")
    data = (folder / name).read_bytes()
    recipient = data.index(b"\x02\x01\x02\x80\x14")
    identifier = hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    renamed = bytearray(data[: recipient + 3] + b"\x80\x20" + identifier + data[recipient + 25 :])
    at = 0
    while at < recipient:  # twelve bytes more in every definite length around the recipient
        tag, length = renamed[at], renamed[at + 1]
        header = 4 if length == 0x82 else 2
        if length == 0x82:
            grown = int.from_bytes(renamed[at + 2 : at + 4], "big") + 12
            renamed[at + 2 : at + 4] = grown.to_bytes(2, "big")
        at += header if tag in (0x30, 0x31, 0xA0) else header + length
    assert open_envelope(bytes(renamed), key) == (folder / name.split(".", maxsplit=1)[0]).read_bytes()


@pytest.mark.parametrize(("size", "length"), [(0, 461), (15, 461), (16, 477), (31, 477), (32, 493), (47, 493), (64, 525), (79, 525)])
def test_the_simulator_writes_the_lengths_of_genuine_answers(size: int, length: int) -> None:
    """Simulated answers have the measured lengths of genuine ones, and open."""
    envelope = seal(bytes(size), KEY.public_key())
    assert length == len(envelope)
    assert bytes(size) == open_envelope(envelope, KEY)


def test_the_simulator_writes_the_bytes_of_a_genuine_answer(shared_vectors: Path) -> None:
    """Apart from identifier, wrapped key, IV and ciphertext a simulated answer equals a genuine one byte for byte."""

    def frame(envelope: bytes) -> bytes:
        parsed = parse_envelope(envelope)
        for part in (parsed.subject_key_identifier, parsed.encrypted_key, parsed.iv, parsed.ciphertext):
            envelope = envelope.replace(part, bytes(len(part)))
        return envelope

    genuine = (shared_vectors / "cms" / "kms_edgebit_datakey.ber").read_bytes()
    assert frame(genuine) == frame(seal(bytes(32), KEY.public_key()))


@pytest.mark.parametrize("chunk", [1, 7, 16, 31, 32, 127, 128, 160, 255, 256])
def test_content_in_chunks_opens(chunk: int) -> None:
    """The content may come in any number of octet strings."""
    assert open_envelope(seal(bytes(600), KEY.public_key(), chunk=chunk), KEY) == bytes(600)


ACCEPTED = {
    "as KMS writes it": Shape(),
    "primitive content": Shape(primitive_content=True),
    "definite lengths": Shape(indefinite=False),
    "hash parameters absent": Shape(null_parameters=False),
}


@pytest.mark.parametrize("shape", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted_shapes(shape: Shape) -> None:
    """The variants that BER and RFC 4055 leave open, and no others, open."""
    assert open_envelope(build(b"a data key of thirty-two bytes..", shape), KEY) == b"a data key of thirty-two bytes.."


REFUSED = {
    "another content type": Shape(content_type="2a864886f70d010702"),
    "EnvelopedData v0": Shape(version=0),
    "EnvelopedData v3": Shape(version=3),
    "no recipient": Shape(recipients=0),
    "two recipients": Shape(recipients=2),
    "recipient v0": Shape(recipient_version=0),
    "identifier of another key": Shape(identifier=bytes(32)),
    "identifier of 20 bytes": Shape(identifier=bytes(20)),
    "OAEP with SHA-1": Shape(key_algorithm="06092a864886f70d010107"),
    "RSAES-PKCS1-v1_5": Shape(key_algorithm="06092a864886f70d0101010500"),
    "inner type is not data": Shape(inner_type="2a864886f70d010702"),
    "AES-128-CBC": Shape(content_algorithm="0609608648016503040102"),
    "AES-256-GCM": Shape(content_algorithm="060960864801650304012e"),
    "IV of 15 bytes": Shape(iv=bytes(15)),
    "content key of 16 bytes": Shape(cek=bytes(16)),
    "content key of 33 bytes": Shape(cek=bytes(33)),
    "broken padding": Shape(padding=b"\x00" * 16),
    "padding of 17": Shape(padding=b"\x11" * 16),
    "ciphertext no multiple of 16": Shape(cut_ciphertext=1),
    "no ciphertext": Shape(cut_ciphertext=1 << 20),
    "unprotected attributes": Shape(attributes=b"\xa1\x00"),
    "originator info": Shape(originator=b"\xa0\x00"),
    "trailing byte": Shape(trailing=b"\0"),
    "trailing end of contents": Shape(trailing=b"\0\0"),
    "length not in its shortest form": Shape(long_length=True),
    "wrapped key one byte longer": Shape(key_prefix=b"\0"),
    "over the size limit": Shape(chunk_of_content=b"\0" * ENVELOPE_MAX),
}


@pytest.mark.parametrize("shape", REFUSED.values(), ids=REFUSED.keys())
def test_refused_shapes(shape: Shape) -> None:
    """Each deviation alone from the shape of genuine answers is refused."""
    with pytest.raises(CmsError):
        open_envelope(build(b"a data key of thirty-two bytes..", shape), KEY)


def test_an_rsa_key_of_another_size_is_refused() -> None:
    """KMS answers RSA-2048 alone; an envelope for an RSA-1024 or RSA-3072 key is refused although it would decrypt."""
    key = rsa.generate_private_key(65537, 3072)
    with pytest.raises(CmsError):
        open_envelope(seal(bytes(32), key.public_key()), key)


PARSED_AND_REFUSED = {
    "identifier of 20 bytes": Shape(identifier=bytes(20)),
    "wrapped key one byte longer": Shape(key_prefix=b"\0"),
    "ciphertext no multiple of 16": Shape(cut_ciphertext=1),
    "no ciphertext": Shape(cut_ciphertext=1 << 20),
    "definite content followed by more": Shape(indefinite=False, attributes=b"\xa1\x00"),
    "AES-128-CBC": Shape(content_algorithm="0609608648016503040102"),
}


@pytest.mark.parametrize("shape", PARSED_AND_REFUSED.values(), ids=PARSED_AND_REFUSED.keys())
def test_the_shape_is_refused_before_any_key_is_used(shape: Shape) -> None:
    """Lengths and structure are judged while parsing, without the private key."""
    with pytest.raises(CmsError):
        parse_envelope(build(bytes(32), shape))


@pytest.mark.parametrize("length", [b"\x80", b"\x81\x01", b"\x82\x00\x01", b"\x83\x00\x00\x01", b"\x84\x00\x00\x00\x01", b"\xff", b"\x7f"])
def test_lengths_of_any_other_form_are_refused(length: bytes) -> None:
    """A primitive value has a definite length, in its shortest form, of at most two bytes, inside what is left."""
    envelope = build(bytes(32), Shape())
    at = envelope.index(b"\x02\x01\x02")  # EnvelopedData's version
    with pytest.raises(CmsError):
        parse_envelope(envelope[: at + 1] + length + envelope[at + 2 :])
    with pytest.raises(CmsError):
        parse_envelope(envelope[:at] + b"\x02" + length)


def test_a_length_announced_as_three_bytes_is_not_read_as_two() -> None:
    """Only the two long forms that genuine answers need are read."""
    envelope = build(bytes(32), Shape())
    at = envelope.index(b"\x31\x82")
    parse_envelope(envelope)
    with pytest.raises(CmsError):
        parse_envelope(envelope[: at + 1] + b"\x83" + envelope[at + 2 :])


def test_lengths_reach_to_the_end_and_no_further() -> None:
    """A last value that claims one byte more than there is, primitive or constructed, is refused."""
    for shape in (Shape(indefinite=False), Shape(indefinite=False, primitive_content=True)):
        envelope = build(bytes(32), shape)
        with pytest.raises(CmsError):
            parse_envelope(envelope[:-1])
        at = envelope.rindex(b"\x80\x30" if shape.primitive_content else b"\xa0\x32")
        with pytest.raises(CmsError):
            parse_envelope(envelope[: at + 1] + bytes((envelope[at + 1] + 1,)) + envelope[at + 2 :])


def test_a_value_ends_where_its_length_says() -> None:
    """Recipient and set that claim what follows them, to its last byte, are refused though every value in them is good."""
    envelope = build(bytes(32), Shape())
    at = envelope.index(b"\x31\x82")
    size = int.from_bytes(envelope[at + 2 : at + 4], "big")
    rest = len(envelope) - 8 - (at + 4 + size)  # four indefinite values end behind it
    grown = bytearray(envelope)
    for place in (at, at + 4):
        assert grown[place + 1] == 0x82
        grown[place + 2 : place + 4] = (int.from_bytes(grown[place + 2 : place + 4], "big") + rest).to_bytes(2, "big")
    with pytest.raises(CmsError):
        parse_envelope(bytes(grown))


def test_sizes_up_to_the_limit_open_and_none_above() -> None:
    """An envelope of the largest size opens, one block more is refused, before anything of it is read."""
    size = ENVELOPE_MAX - len(seal(bytes(256), KEY.public_key())) + 256 - 1
    while len(seal(bytes(size), KEY.public_key(), chunk=8_192)) > ENVELOPE_MAX:
        size -= 1
    assert open_envelope(seal(bytes(size), KEY.public_key(), chunk=8_192), KEY) == bytes(size)
    with pytest.raises(CmsError):
        open_envelope(seal(bytes(size + 16), KEY.public_key(), chunk=8_192), KEY)


def test_every_failure_reads_the_same() -> None:
    """Errors do not tell a wrong key from wrong padding from a wrong shape, and carry no cause."""
    seen = set()
    for shape in REFUSED.values():
        with pytest.raises(CmsError) as caught:
            open_envelope(build(bytes(32), shape), KEY)
        seen.add((str(caught.value), caught.value.args, caught.value.__cause__))
    assert {("the envelope does not open", ("the envelope does not open",), None)} == seen


def test_cut_anywhere_is_refused() -> None:
    """An envelope cut at any byte is refused."""
    envelope = build(bytes(32), Shape())
    for end in range(len(envelope)):
        with pytest.raises(CmsError):
            open_envelope(envelope[:end], KEY)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 492), value=st.integers(0, 255), cut=st.integers(0, 493), extra=st.binary(max_size=3))
def test_mutations_open_or_raise_our_error(at: int, value: int, cut: int, extra: bytes) -> None:
    """A damaged envelope gives bytes (nothing authenticates it) or CmsError, nothing else."""
    envelope = bytearray(_SAMPLE)
    envelope[at] = value
    with contextlib.suppress(CmsError):
        assert isinstance(open_envelope(bytes(envelope[:cut]) + extra + bytes(envelope[cut:]), KEY), bytes)


@given(st.binary(max_size=600))
def test_any_bytes_parse_or_raise_our_error(data: bytes) -> None:
    """Any bytes: an envelope or CmsError."""
    with contextlib.suppress(CmsError):
        parse_envelope(data)


@given(
    st.lists(
        st.sampled_from(
            [b"\x30\x80", b"\x06\x09*\x86H\x86\xf7\r\x01\x07\x03", b"\xa0\x80", b"\x02\x01\x02", b"\x31\x80", b"\0\0", b"\x04\x01"]
        )
    )
)
def test_any_nesting_parses_or_raises_our_error(parts: list[bytes]) -> None:
    """Any nesting of the format's own tags: an envelope or CmsError."""
    with contextlib.suppress(CmsError):
        parse_envelope(b"".join(parts))


def test_forged_answer_opens() -> None:
    """The known weakness, kept visible: who knows the public key can make an answer that opens to bytes of his choice."""
    assert open_envelope(seal(b"chosen by the parent", KEY.public_key()), KEY) == b"chosen by the parent"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl absent")
@pytest.mark.parametrize("size", [0, 16, 32, 79, 4_096])
def test_openssl_opens_what_the_simulator_writes(tmp_path: Path, size: int) -> None:
    """`openssl cms -decrypt` opens simulated answers to the same bytes: the shape is CMS, not only ours."""
    (tmp_path / "key.pem").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "envelope").write_bytes(seal(bytes(range(256)) * 16 if size == 4_096 else bytes(size), KEY.public_key(), chunk=1_000))
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", "envelope", "-inkey", "key.pem", "-binary"]
    opened = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout
    assert open_envelope((tmp_path / "envelope").read_bytes(), KEY) == opened


_SAMPLE = build(bytes(32), Shape())

"""The envelope reader beside asn1crypto: whatever ours takes, the other reads alike; whatever opens wrongly, the artifact notices."""

from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest

from enclave.cms import CmsError, open_envelope, parse_envelope
from simulator.kms.envelope import seal
from tests.artifact import make
from tests.cms.build import KEY, Shape, build
from wire import artifact

cms = pytest.importorskip("asn1crypto.cms", reason="asn1crypto absent")

PUBLIC = KEY.public_key()
ENVELOPE = seal(make.DATA_KEY, PUBLIC)
HEADER = make.header()


def theirs(envelope: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Key identifier, encrypted key, IV and ciphertext, as asn1crypto reads them."""
    info = cms.ContentInfo.load(envelope, strict=True)
    content = info["content"]
    (recipient,) = content["recipient_infos"]
    encrypted = content["encrypted_content_info"]
    assert (info["content_type"].native, content["version"].native, recipient.name) == ("enveloped_data", "v2", "ktri")
    assert recipient.chosen["key_encryption_algorithm"]["algorithm"].native == "rsaes_oaep"
    assert encrypted["content_encryption_algorithm"]["algorithm"].native == "aes256_cbc"
    return (
        recipient.chosen["rid"].chosen.native,
        recipient.chosen["encrypted_key"].native,
        encrypted["content_encryption_algorithm"]["parameters"].native,
        encrypted["encrypted_content"].native,
    )


def ours(envelope: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The same four, as our reader reads them."""
    parsed = parse_envelope(envelope)
    return parsed.subject_key_identifier, parsed.encrypted_key, parsed.iv, parsed.ciphertext


@pytest.mark.parametrize("name", ["kms_awssdkc_constructed.ber", "kms_edgebit_datakey.ber"])
def test_genuine_answers_read_alike(shared_vectors: Path, name: str) -> None:
    """Both readers find the same in genuine answers."""
    envelope = (shared_vectors / "cms" / name).read_bytes()
    assert theirs(envelope) == ours(envelope)


@given(st.binary(max_size=4096), st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_simulated_answers_read_alike(plaintext: bytes, chunk: int) -> None:
    """Both readers find the same in what the simulator writes, in one chunk or several."""
    envelope = seal(plaintext, PUBLIC, chunk=chunk)
    assert theirs(envelope) == ours(envelope)


def test_other_encodings_read_alike() -> None:
    """Both readers find the same in the tests' own writer's envelope."""
    envelope = build(make.DATA_KEY, Shape())
    assert theirs(envelope) == ours(envelope)


CHANGES = st.lists(st.tuples(st.integers(0, len(ENVELOPE) - 1), st.integers(0, 255)), min_size=1, max_size=3)


@given(CHANGES)
@settings(max_examples=400, deadline=None)
@example([(len(ENVELOPE) - 1, 1)])
def test_what_we_take_they_read_alike(changes: list[tuple[int, int]]) -> None:
    """A changed envelope that our reader still takes means the same to the other."""
    changed = bytearray(ENVELOPE)
    for at, value in changes:
        changed[at] = value
    try:
        mine = ours(bytes(changed))
    except CmsError:
        return
    assert theirs(bytes(changed)) == mine


@given(CHANGES)
@settings(max_examples=300, deadline=None)
def test_what_opens_wrongly_fails_at_the_commitment(changes: list[tuple[int, int]]) -> None:
    """Every change gives our one error, the right key, or a key that the artifact's commitment refuses: never a model."""
    changed = bytearray(ENVELOPE)
    for at, value in changes:
        changed[at] = value
    try:
        data_key = open_envelope(bytes(changed), KEY)
    except CmsError:
        return
    if data_key != make.DATA_KEY:
        with pytest.raises(artifact.WrongKeyError):
            artifact.unlock(HEADER, data_key)


def test_a_flipped_iv_is_such_a_change() -> None:
    """The IV is under no protection: flipping it opens to another key of the right length, which the commitment refuses."""
    at = ENVELOPE.index(ours(ENVELOPE)[2])
    changed = ENVELOPE[:at] + bytes((ENVELOPE[at] ^ 1,)) + ENVELOPE[at + 1 :]
    data_key = open_envelope(changed, KEY)
    assert (32, False) == (len(data_key), data_key == make.DATA_KEY)
    with pytest.raises(artifact.WrongKeyError):
        artifact.unlock(HEADER, data_key)

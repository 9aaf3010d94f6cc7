"""Messages of model workers, who are not trusted: everything that may not stand there is refused."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st
import pytest

from enclave import channel
from enclave.channel import Answer, BrokenWorkerError, Request, Slot
from wire import manifest_codec, tensor
from wire.errors import BootFailure, Code

AREA = 1 << 16
REQUEST = Request(number=7, inputs=(Slot(offset=64, length=12, shape=(1, 3)), Slot(offset=0, length=0, shape=())), outputs=(1, 0))
OUTPUTS = (Slot(offset=0, length=8, shape=(2,)), Slot(offset=64, length=AREA - 64, shape=(0, 2**63)))
ANSWER = Answer(number=7, code=Code.OK, outputs=OUTPUTS)


def parse(data: bytes) -> Answer:
    return channel.parse_answer(data, request=REQUEST, inputs=2, area=AREA)


def test_requests_and_answers_come_through() -> None:
    """What is encoded is parsed to the same value."""
    assert channel.parse_request(channel.encode_request(REQUEST), area=AREA) == REQUEST
    assert parse(channel.encode_answer(ANSWER)) == ANSWER
    refused = Answer(number=7, code=Code.INVALID_VALUE, input=1)
    assert parse(channel.encode_answer(refused)) == refused
    for failure in (None, BootFailure.MODEL_LOAD, BootFailure.MODEL_REFUSED, BootFailure.MODEL_SIGNATURE, BootFailure.INTERNAL):
        assert channel.parse_ready(channel.encode_ready(failure)) == failure


BROKEN = {
    "another number": Answer(number=8, code=Code.OK, outputs=OUTPUTS),
    "too few outputs": Answer(number=7, code=Code.OK, outputs=OUTPUTS[:1]),
    "too many outputs": Answer(number=7, code=Code.OK, outputs=OUTPUTS + OUTPUTS[:1]),
    "outputs of a failure": Answer(number=7, code=Code.MODEL_FAILED, outputs=OUTPUTS),
    "a code that is not a worker's": Answer(number=7, code=Code.MODEL_NOT_AUTHORISED),
    "about an input that is not": Answer(number=7, code=Code.INVALID_VALUE, input=2),
    "about no input": Answer(number=7, code=Code.INVALID_VALUE),
    "about an input for no reason": Answer(number=7, code=Code.MODEL_FAILED, input=0),
    "an offset beyond": Answer(number=7, code=Code.OK, outputs=(OUTPUTS[0], Slot(offset=AREA + 64, length=0, shape=()))),
    "a length beyond": Answer(number=7, code=Code.OK, outputs=(OUTPUTS[0], Slot(offset=64, length=AREA - 63, shape=()))),
    "a length that wraps": Answer(number=7, code=Code.OK, outputs=(OUTPUTS[0], Slot(offset=64, length=2**64 - 1, shape=()))),
    "an offset between": Answer(number=7, code=Code.OK, outputs=(OUTPUTS[0], Slot(offset=32, length=1, shape=()))),
    "too many dimensions": Answer(number=7, code=Code.OK, outputs=(OUTPUTS[0], Slot(offset=0, length=1, shape=(1,) * 17))),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_refused(answer: Answer) -> None:
    """An answer that a correct worker never gives is BrokenWorkerError."""
    with pytest.raises(BrokenWorkerError):
        parse(channel.encode_answer(answer))


def test_an_unknown_code_is_refused() -> None:
    """A status that is no code at all is refused like a wrong one."""
    data = bytearray(channel.encode_answer(Answer(number=7, code=Code.MODEL_FAILED)))
    struct.pack_into("<H", data, 5, 9999)
    with pytest.raises(BrokenWorkerError):
        parse(bytes(data))


def test_every_cut_and_every_extra_byte_is_refused() -> None:
    """No prefix of a message, and no message with bytes behind it, is one."""
    whole = channel.encode_answer(ANSWER)
    for data in [whole[:at] for at in range(len(whole))] + [whole + b"\0"]:
        with pytest.raises(BrokenWorkerError):
            parse(data)
    asked = channel.encode_request(REQUEST)
    for data in [asked[:at] for at in range(len(asked))] + [asked + b"\0"]:
        with pytest.raises(BrokenWorkerError):
            channel.parse_request(data, area=AREA)
    for data in (b"", b"\3", b"\3\0\0\0", b"\2\0\0", b"\3\x63\0"):
        with pytest.raises(BrokenWorkerError):
            channel.parse_ready(data)


def test_one_message_is_not_another() -> None:
    """A message of another kind is refused whatever follows."""
    for kind in (1, 3, 0):
        with pytest.raises(BrokenWorkerError):
            parse(bytes([kind]) + channel.encode_answer(ANSWER)[1:])
    with pytest.raises(BrokenWorkerError):
        channel.parse_request(b"\2" + channel.encode_request(REQUEST)[1:], area=AREA)


def test_too_many_tensors_are_refused_before_they_are_read() -> None:
    """Counts beyond the signature's bound are refused without a loop over them."""
    with pytest.raises(BrokenWorkerError):
        channel.parse_request(struct.pack("<BIHH", 1, 7, 0, 0xFFFF), area=AREA)
    with pytest.raises(BrokenWorkerError):
        channel.parse_request(struct.pack("<BIHH", 1, 7, 300, 0) + bytes(600), area=AREA)
    with pytest.raises(BrokenWorkerError):
        channel.parse_request(struct.pack("<BIHH", 1, 7, 0, 257) + struct.pack("<QQB", 0, 0, 0) * 257, area=AREA)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_our_error(data: bytes) -> None:
    """Any bytes from a worker: an answer whose tensors lie in the area, or BrokenWorkerError."""
    for candidate in (data, channel.encode_answer(ANSWER)[:11] + data):
        try:
            found = parse(candidate)
        except BrokenWorkerError:
            continue
        assert all(slot.offset + slot.length <= AREA for slot in found.outputs)
    for reader in (channel.parse_ready, lambda raw: channel.parse_request(raw, area=AREA)):
        with contextlib.suppress(BrokenWorkerError):
            reader(data)


def test_the_largest_signature_fits_one_message() -> None:
    """A request and an answer of as many tensors of as many dimensions as a manifest may name fit the channel."""
    slots = tuple(Slot(offset=0, length=0, shape=(1,) * tensor.RANK_MAX) for _ in range(tensor.TENSORS_MAX))
    outputs = tuple(range(tensor.TENSORS_MAX))
    assert len(channel.encode_request(Request(number=1, inputs=slots, outputs=outputs))) <= channel.MESSAGE_MAX
    assert len(channel.encode_answer(Answer(number=1, code=Code.OK, outputs=slots))) <= channel.MESSAGE_MAX


def test_limits_and_datatypes_are_the_manifests() -> None:
    """The bounds and datatypes of tensors are those that manifests are checked against."""
    assert (tensor.RANK_MAX, tensor.TENSORS_MAX) == (manifest_codec.RANK_MAX, manifest_codec.TENSORS_MAX)
    assert tuple(tensor.ITEM_BYTES) == manifest_codec.DATATYPES

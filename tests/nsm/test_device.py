"""`DeviceNsm` on aws-nsm-interface: the ioctl is answered by the simulated module, so every byte of both sides is real."""

from contextlib import suppress
import ctypes
import errno
import fcntl
import io
from pathlib import Path
import threading
import time
from typing import Any

import aws_nsm_interface
import cbor2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from enclave.nsm import DeviceNsm, Nsm, NsmError, NsmErrorCode, document_time, open_device
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki

MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
IOCTL = 0xC0200A00


class Driver:
    """The kernel's side of the ioctl: copies the request out, the response in, and sets its length."""

    def __init__(self, respond: Any) -> None:
        self.respond = respond
        self.inside = 0
        self.most_inside = 0

    def __call__(self, file: object, operation: int, message: Any) -> int:
        assert operation == IOCTL
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            request = ctypes.string_at(message.request.iov_base, message.request.iov_len)
            response = self.respond(request)
            if isinstance(response, OSError):
                raise response
            assert len(response) <= message.response.iov_len == 0x3000
            ctypes.memmove(message.response.iov_base, response, len(response))
            message.response.iov_len = len(response)
            return 0
        finally:
            self.inside -= 1


def device(monkeypatch: pytest.MonkeyPatch, respond: Any) -> tuple[DeviceNsm, Driver]:
    driver = Driver(respond)
    monkeypatch.setattr(aws_nsm_interface.fcntl, "ioctl", driver)
    return DeviceNsm(io.BytesIO()), driver


@pytest.fixture
def module(tmp_path: Path) -> SimulatedNsm:
    return SimulatedNsm(pcrs={}, module_id=MODULE, pki=SimulatedPki.open(tmp_path, instance_id="i-0"))


def test_every_call_gives_its_typed_value(module: SimulatedNsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the library and the driver's buffers each operation gives what the module answered."""
    nsm: Nsm = device(monkeypatch, module.call)[0]
    described = nsm.describe()
    assert (described.module_id, described.max_pcrs, described.locked_pcrs, described.digest) == (MODULE, 32, tuple(range(16)), "SHA384")
    value = nsm.extend_pcr(16, b"x")
    assert nsm.describe_pcr(16).value == value
    assert not nsm.describe_pcr(16).locked
    nsm.lock_pcrs(32)
    assert nsm.describe_pcr(16).locked
    assert len(nsm.random()) == 256
    before = time.time()
    data = nsm.attest(user_data=b"u", nonce=b"n", public_key=None)
    assert abs(document_time(data).timestamp() - before) < 60
    assert cbor2.loads(cbor2.loads(data)[2])["user_data"] == b"u"


def test_the_modules_errors_keep_their_code(module: SimulatedNsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `Error` answer becomes NsmError with that code; a request over 4,096 bytes is InputTooLarge."""
    nsm, _ = device(monkeypatch, module.call)
    nsm.lock_pcrs(32)
    for call, code in (
        (lambda: nsm.extend_pcr(16, b"x"), NsmErrorCode.READ_ONLY_INDEX),
        (lambda: nsm.describe_pcr(32), NsmErrorCode.INVALID_INDEX),
        (lambda: nsm.lock_pcrs(33), NsmErrorCode.INVALID_INDEX),
        (lambda: nsm.attest(user_data=bytes(1025), nonce=None, public_key=None), NsmErrorCode.INPUT_TOO_LARGE),
        (lambda: nsm.attest(user_data=bytes(5000), nonce=None, public_key=None), NsmErrorCode.INPUT_TOO_LARGE),
    ):
        with pytest.raises(NsmError) as caught:
            call()
        assert caught.value.code is code


def test_a_silent_driver_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ioctl that fails (time-out, size) is UNAVAILABLE, never an OSError of the platform."""
    for number in (errno.ETIMEDOUT, errno.EMSGSIZE, errno.EIO):
        nsm, _ = device(monkeypatch, lambda _request, number=number: OSError(number, ""))
        with pytest.raises(NsmError) as caught:
            nsm.random()
        assert caught.value.code is NsmErrorCode.UNAVAILABLE


def test_a_missing_device_is_unavailable(tmp_path: Path) -> None:
    """Where there is no device, opening it is NsmError(UNAVAILABLE)."""
    with pytest.raises(NsmError) as caught:
        open_device(str(tmp_path / "nsm"))
    assert caught.value.code is NsmErrorCode.UNAVAILABLE


def test_calls_from_many_threads_are_serialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads never have two calls in the driver at once."""

    def slow(_request: bytes) -> bytes:
        time.sleep(0.005)
        return cbor2.dumps({"GetRandom": {"random": bytes(256)}})

    nsm, driver = device(monkeypatch, slow)
    threads = [threading.Thread(target=nsm.random) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert driver.most_inside == 1


CALLS = {
    "describe": lambda nsm: nsm.describe(),
    "describe_pcr": lambda nsm: nsm.describe_pcr(0),
    "extend_pcr": lambda nsm: nsm.extend_pcr(16, b""),
    "lock_pcrs": lambda nsm: nsm.lock_pcrs(32),
    "random": lambda nsm: nsm.random(),
    "attest": lambda nsm: nsm.attest(user_data=None, nonce=None, public_key=None),
}
NAMES = [
    "DescribeNSM",
    "DescribePCR",
    "ExtendPCR",
    "LockPCRs",
    "GetRandom",
    "Attestation",
    "Error",
    "data",
    "lock",
    "random",
    "document",
    "locked_pcrs",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=60) | st.sampled_from(NAMES) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(response=st.binary(max_size=100) | VALUES.map(cbor2.dumps))
def test_any_response_is_a_value_or_our_error(name: str, monkeypatch: pytest.MonkeyPatch, response: bytes) -> None:
    """Whatever the driver writes back, each call returns a value or raises NsmError."""
    nsm, _ = device(monkeypatch, lambda _request: response)
    with suppress(NsmError):
        CALLS[name](nsm)


DESCRIPTION: dict[str, object] = {
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 0,
    "module_id": MODULE,
    "max_pcrs": 32,
    "locked_pcrs": [0, 1],
    "digest": "SHA384",
}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("random", {"GetRandom": {"random": bytes(255)}}),
        ("random", {"GetRandom": {"random": "x" * 256}}),
        ("describe", {"DescribeNSM": DESCRIPTION | {"locked_pcrs": [0, "1"]}}),
        ("describe", {"DescribeNSM": DESCRIPTION | {"max_pcrs": "32"}}),
        ("describe_pcr", {"DescribePCR": {"lock": True, "data": bytes(47)}}),
        ("describe_pcr", {"DescribePCR": {"lock": 1, "data": bytes(48)}}),
        ("extend_pcr", {"ExtendPCR": {"data": bytes(47)}}),
        ("attest", {"Attestation": {"document": b""}}),
        ("random", {"Error": "InternalError"}),
        ("describe_pcr", {"Error": "Surprise"}),
    ],
)
def test_short_or_odd_answers_are_malformed(name: str, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of another length or type than the module's are refused, and an unknown error code is one of them."""
    nsm, _ = device(monkeypatch, lambda _request: cbor2.dumps(answer))
    with pytest.raises(NsmError) as caught:
        CALLS[name](nsm)
    assert caught.value.code is NsmErrorCode.MALFORMED


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80) | VALUES.map(cbor2.dumps) | VALUES.map(lambda value: cbor2.dumps([b"", {}, cbor2.dumps(value), b""])))
def test_document_time_of_any_bytes(data: bytes) -> None:
    """Any bytes have a time or are NsmError."""
    with suppress(NsmError):
        document_time(data)


def test_document_time_refuses_times_outside_the_profile() -> None:
    """Zero, negative, boolean and 2^53 are no timestamps."""
    for timestamp in (0, -1, True, 1 << 53, 1 << 52):
        with pytest.raises(NsmError):
            document_time(cbor2.dumps([b"", {}, cbor2.dumps({"timestamp": timestamp}), b""]))


def test_the_ioctl_number_is_the_drivers() -> None:
    """The library's ioctl equals _IOWR(0x0A, 0, 32 bytes)."""
    seen: list[int] = []

    def ioctl(_file: object, operation: int, _message: object) -> int:
        seen.append(operation)
        raise OSError(errno.EIO, "")

    original = fcntl.ioctl
    try:
        aws_nsm_interface.fcntl.ioctl = ioctl
        with pytest.raises(NsmError):
            DeviceNsm(io.BytesIO()).random()
    finally:
        aws_nsm_interface.fcntl.ioctl = original
    assert seen == [IOCTL]

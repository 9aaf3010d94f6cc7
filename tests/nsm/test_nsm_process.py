"""The simulated module as a process of its own on a Unix socket."""

from collections.abc import Iterator
from pathlib import Path
import socket
import subprocess
import sys

import cbor2
import pytest

from tests.vectors_path import ROOT

MODULE = "i-0123456789abcdef0-enc0123456789abcdef"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "simulator", "nsm", "--socket", str(tmp_path / "nsm.sock"), "--state", str(tmp_path / "state")]
    started = subprocess.Popen(
        [*command, "--module-id", MODULE, "--pcr", "0=" + "11" * 48],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert started.stdout is not None
    assert started.stdin is not None
    with started:
        assert started.stdout.readline() == b"ready\n"
        yield started
        started.stdin.close()
        started.wait(20)


def ask(path: Path, request: object) -> object:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        data = cbor2.dumps(request)
        connection.sendall(len(data).to_bytes(4, "big") + data)
        with connection.makefile("rb") as stream:
            return cbor2.loads(stream.read(int.from_bytes(stream.read(4), "big")))


def test_it_answers_with_the_pcrs_it_was_given_and_keeps_state(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Connections share one module: what one locks, the next finds locked."""
    del process
    path = tmp_path / "nsm.sock"
    assert ask(path, {"DescribePCR": {"index": 0}}) == {"DescribePCR": {"lock": True, "data": b"\x11" * 48}}
    assert ask(path, {"LockPCRs": {"range": 32}}) == "LockPCRs"
    assert ask(path, {"ExtendPCR": {"index": 16, "data": b""}}) == {"Error": "ReadOnlyIndex"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_ends_with_the_process_that_started_it(process: subprocess.Popen[bytes]) -> None:
    """Closing its standard input ends it with exit code 0."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0


def test_an_oversized_announcement_ends_the_connection(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """A length over the framing limit is not read at all."""
    del process
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(tmp_path / "nsm.sock"))
        connection.sendall((1 << 31).to_bytes(4, "big"))
        assert connection.recv(1) == b""

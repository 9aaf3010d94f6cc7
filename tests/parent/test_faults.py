"""The parent as a process: it starts and stops cleanly, and no fault of caller, enclave or machine takes it down, or keeps
another session waiting beyond its quiet range (`tests.pace`)."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
import json
from pathlib import Path
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from parent.appliance import files_needed
from parent.config import parse
from parent.forward import OPENING_BYTES
from simulator.hostile.twins import Edit, copy_tree
from tests.pace import OUTLIERS, PAUSE_SECONDS, Pace
from wire.errors import BootFailure, Stage
from wire.feed import BootReport, encode_boot_report, encode_get_manifest

ROOT = Path(__file__).parents[2]
CONFIG = """
[enclave]
session = "unix:{d}/enclave"
[listen]
sessions = ["unix:{d}/sessions"]
feed = "unix:{d}/feed"
status = "unix:{d}/status"
credentials = "unix:{d}/credentials"
metrics = "unix:{d}/metrics"
[feed]
directory = "{d}"
[[egress]]
listen = "unix:{d}/egress"
to = "127.0.0.1:9"
[limits]
drain_seconds = {drain}
{limits}
"""
SOCKETS = ("sessions", "feed", "status", "credentials", "metrics", "egress")


class Enclave:
    """An echo in the enclave's place: one thread per session."""

    def __init__(self, path: Path) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(128)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(stream,), daemon=True).start()

    def _echo(self, stream: socket.socket) -> None:
        with stream:
            try:
                while data := stream.recv(1 << 16):
                    stream.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join()


class Parent:
    """A parent process on Unix sockets in a directory."""

    def __init__(self, directory: Path, limits: str = "", *, stderr: str = "log", drain: int = 0, tree: Path = ROOT) -> None:
        self.directory = directory
        self.config = directory / "parent.toml"
        self.config.write_text(CONFIG.format(d=directory, drain=drain, limits=limits))
        self.log = directory / "log"
        path = self.log if stderr == "log" else Path(stderr)
        with path.open("wb") as sink:
            command = [sys.executable, "-m", "parent", "--config", str(self.config)]
            self.process = subprocess.Popen(command, cwd=tree, stderr=sink, stdin=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        until(lambda: self.process.poll() is not None or all((self.directory / name).exists() for name in SOCKETS))
        assert self.process.poll() is None, self.log.read_text()

    def connect(self, name: str = "sessions") -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        stream.connect(str(self.directory / name))
        return stream

    def allow_descriptors(self, count: int) -> None:
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, hard))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def until(what: Callable[[], bool]) -> None:
    """Wait for a condition; a test that waits for ever has failed."""
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def world(directory: Path, limits: str = "", *, stderr: str = "log", tree: Path = ROOT) -> Iterator[Parent]:
    enclave = Enclave(directory / "enclave")
    parent = Parent(directory, limits, stderr=stderr, tree=tree)
    try:
        parent.wait_ready()
        yield parent
    finally:
        parent.process.terminate()
        assert parent.process.wait(20) == 0
        enclave.close()


def echoes(stream: socket.socket, data: bytes = b"hello") -> bool:
    stream.sendall(data)
    got = b""
    while len(got) < len(data) and (part := stream.recv(1 << 16)):
        got += part
    return got == data


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    """A parent that nobody attacks."""
    with world(tmp_path_factory.mktemp("quiet")) as parent:
        yield parent


@contextmanager
def paced(opened: socket.socket, quiet: Parent) -> Iterator[Pace]:
    """How long an open session waits for each answer while the body runs, compared with a session of the quiet parent."""
    pace, over = Pace(), threading.Event()

    def undisturbed(stream: socket.socket) -> None:
        while not over.wait(PAUSE_SECONDS):
            assert echoes(stream)
            pace.undisturbed += 1

    def watched() -> None:
        while not over.wait(PAUSE_SECONDS):
            with pace.wait():
                assert echoes(opened)

    with quiet.connect() as stream, ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(undisturbed, stream), pool.submit(watched)]
        try:
            yield pace
        finally:
            over.set()
        for task in tasks:
            task.result()


def metric(parent: Parent, name: str) -> float:
    with parent.connect("metrics") as stream:
        stream.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = b""
        while part := stream.recv(1 << 16):
            text += part
    return float(next(line for line in text.decode().splitlines() if line.startswith(name + " ")).rpartition(" ")[2])


def test_it_serves_stops_orderly_and_leaves_no_socket(tmp_path: Path) -> None:
    """SIGTERM with open sessions: exit 0, sessions closed, every socket's name gone."""
    with world(tmp_path) as parent:
        stream = parent.connect()
        assert echoes(stream)
    assert stream.recv(1) == b""
    stream.close()
    assert not [name for name in SOCKETS if (tmp_path / name).exists()]


def test_sessions_at_hand_end_by_themselves_within_the_drain_time(tmp_path: Path) -> None:
    """While it drains, an open session goes on and no new one is taken."""
    enclave = Enclave(tmp_path / "enclave")
    parent = Parent(tmp_path, drain=20)
    until(lambda: "parent is ready" in parent.log.read_text())
    with parent.connect() as stream:
        assert echoes(stream)
        parent.process.send_signal(signal.SIGTERM)
        until(lambda: not (tmp_path / "sessions").exists())
        assert echoes(stream)
    assert parent.process.wait(20) == 0
    enclave.close()


def test_a_killed_parents_sockets_do_not_stop_the_next(tmp_path: Path) -> None:
    """kill -9, start again in the same place, and it serves; a second one beside it does not start."""
    enclave = Enclave(tmp_path / "enclave")
    first = Parent(tmp_path)
    first.wait_ready()
    second = Parent(tmp_path, stderr="/dev/null")
    assert second.process.wait(20) == 3
    first.process.kill()
    first.process.wait()
    third = Parent(tmp_path)
    until(lambda: "parent is ready" in third.log.read_text())
    with third.connect() as stream:
        assert echoes(stream)
    third.process.terminate()
    assert third.process.wait(20) == 0
    enclave.close()


def test_a_missing_enclave_closes_the_caller_at_once_and_its_return_is_noticed(tmp_path: Path) -> None:
    """No enclave: the caller sees an end, not a wait. An enclave: the next call works without a restart."""
    with world(tmp_path) as parent:
        (tmp_path / "enclave").rename(tmp_path / "away")
        with parent.connect() as stream:
            assert stream.recv(1) == b""
        (tmp_path / "away").rename(tmp_path / "enclave")
        with parent.connect() as stream:
            assert echoes(stream)
        assert metric(parent, "cloister_parent_enclave_unreachable_total") == 1
    assert "reachable again" in (tmp_path / "log").read_text()


def test_a_full_log_disk_does_not_stop_it(tmp_path: Path) -> None:
    """With every write to standard error failing with ENOSPC, sessions and reports go on."""
    with world(tmp_path, stderr="/dev/full") as parent:
        with parent.connect("status") as status:
            status.sendall(encode_boot_report(BootReport(stage=Stage.COLD, failure=BootFailure.KMS_REFUSED)))
            until(lambda: metric(parent, "cloister_enclave_boot_failure") == BootFailure.KMS_REFUSED)
        with parent.connect() as stream:
            assert echoes(stream)


def test_no_file_descriptor_left_delays_new_sessions_and_hurts_no_old_one(tmp_path: Path, quiet: Parent) -> None:
    """EMFILE at accept: the open session goes on, waiting ones are served once descriptors come free, and the loop does not spin."""
    with world(tmp_path) as parent:
        first = parent.connect()
        assert echoes(first)
        limit = parent.descriptors()
        parent.allow_descriptors(limit)
        with paced(first, quiet) as pace:
            waiting = [parent.connect() for _ in range(5)]
            until(lambda: pace.is_decided)
        assert pace.is_quiet, pace
        parent.allow_descriptors(limit + 64)
        for stream in waiting:
            assert echoes(stream)
            stream.close()
        first.close()
        until(lambda: metric(parent, "cloister_parent_accept_exhausted_total") > 0)
        assert metric(parent, "cloister_parent_accept_exhausted_total") < 1000


def test_no_file_descriptor_left_to_dial_with_closes_that_caller_alone(tmp_path: Path) -> None:
    """EMFILE at dial: the caller is closed, the open session goes on."""
    with world(tmp_path) as parent:
        first = parent.connect()
        assert echoes(first)
        limit = parent.descriptors() + 1
        parent.allow_descriptors(limit)
        with parent.connect() as second:
            assert second.recv(1) == b""
        assert echoes(first)
        first.close()


def test_a_flood_of_silent_sessions_leaves_others_their_place(tmp_path: Path, quiet: Parent) -> None:
    """Silent openings fill every place, are cut off by the handshake limit, and an opened session goes on all the while."""
    with world(tmp_path, "sessions = 8\nsessions_per_address = 8\nhandshake_seconds = 0.5") as parent:
        opened = parent.connect()
        assert echoes(opened, bytes(OPENING_BYTES))
        with paced(opened, quiet) as pace:
            silent = [parent.connect() for _ in range(7)]
            with parent.connect() as over:
                assert over.recv(1) == b""
            for stream in silent:
                assert stream.recv(1) == b""
                stream.close()
            with parent.connect() as later:
                assert echoes(later)
            until(lambda: pace.is_decided)
        assert pace.is_quiet, pace
        opened.close()


def flood(parent: Parent, opened: socket.socket, quiet: Parent, *, least: int) -> tuple[Pace, int, int]:
    """What an open session sees of at least so many that begin, how many those were, and how many of them were served."""
    asked = served = 0
    with paced(opened, quiet) as pace:
        while asked < least or not pace.is_decided:
            with parent.connect() as stream, suppress(OSError):
                asked += 1
                served += echoes(stream, b"x")
    return pace, asked, served


def test_a_challenge_flood_is_refused_beyond_the_rate(tmp_path: Path, quiet: Parent) -> None:
    """New sessions beyond the limit per second are closed at once; an open session waits no longer than in quiet times."""
    with world(tmp_path, "new_sessions_per_second = 5") as parent:
        opened = parent.connect()
        assert echoes(opened)
        pace, asked, served = flood(parent, opened, quiet, least=200)
        assert pace.is_quiet, pace
        assert served < asked / 2
        opened.close()


def test_latency_is_measured(tmp_path: Path, quiet: Parent) -> None:
    """Where every new session holds up the parent's loop for a quarter of a second, the flood takes others out of their quiet range."""
    line = "        name = self.gate.enter(peer, stream.family)\n"
    copy_tree(tmp_path / "tree", (Edit(file="parent/listen.py", old=line, new=line + '        __import__("time").sleep(0.25)\n'),))
    with world(tmp_path, "new_sessions_per_second = 5", tree=tmp_path / "tree") as parent:
        opened = parent.connect()
        with paced(opened, quiet) as pace:
            until(lambda: pace.is_decided)
        assert pace.is_quiet, pace
        pace, _, _ = flood(parent, opened, quiet, least=1)
        assert not pace.is_quiet
        assert pace.outliers > OUTLIERS
        opened.close()


def test_a_stuck_enclave_connection_is_cut_off(tmp_path: Path) -> None:
    """A feed request that never becomes whole ends by the feed's time limit, and the feed serves on."""
    (tmp_path / "manifest.cose").write_bytes(b"m")
    with world(tmp_path, "feed_seconds = 0.3\nfeed_connections = 1") as parent:
        with parent.connect("feed") as stuck:
            stuck.sendall(encode_get_manifest()[:2])
            assert stuck.recv(1) == b""
        with parent.connect("feed") as stream:
            stream.sendall(encode_get_manifest())
            assert stream.recv(6) == b"\0\0\0\x02\x11m"


def test_the_file_limit_is_checked_before_anything_is_served(tmp_path: Path) -> None:
    """A configuration that needs more open files than are allowed is refused at start, by name."""
    parent = Parent(tmp_path, f"sessions = {100_000}")
    parent.process.kill()
    parent.process.wait()
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        f"sys.argv[1:] = ['--config', {json.dumps(str(parent.config))}]; runpy.run_module('parent', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "limits.sessions" in done.stderr
    assert files_needed(parse(parent.config.read_text())) > 200_000


@pytest.mark.parametrize("text", ["", "nonsense = 1"])
def test_an_unusable_configuration_is_exit_2(tmp_path: Path, text: str) -> None:
    """A mistake in the configuration is told and the exit code is 2; so is a file that is not there."""
    path = tmp_path / "c.toml"
    path.write_text(text)
    for each in (path, tmp_path / "missing.toml"):
        command = [sys.executable, "-m", "parent", "--config", str(each), "--check"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 2
        assert str(each) in done.stderr

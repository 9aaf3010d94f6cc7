"""Launching: the archive's own code runs, isolated, beside a security module that holds its measurements."""

from collections.abc import Callable, Iterator
import contextlib
import hashlib
import json
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

import cbor2
import pytest

from simulator import hypervisor
from simulator.hypervisor import Enclave
from tests.vectors_path import ROOT

# Stands for enclave.boot: says what it sees of its world on the console, then waits as a serving enclave does.
BOOT = """
    import base64, json, os, pathlib, sys, time
    import enclave, wire

    MEMORY_FOLDER = pathlib.Path("/dev/shm")

    def run(*, nsm, platform, endpoints, memory):
        try:
            import simulator
            reachable = True
        except ImportError:
            reachable = False
        value = nsm.extend_pcr(16, b"owner")
        nsm.lock_pcrs(32)
        seen = {
            "code": [enclave.__file__, wire.__file__],
            "path": sys.path[0],
            "simulator": reachable,
            "environment": sorted(set(os.environ) - {"LC_CTYPE"}),
            "isolated": sys.flags.isolated,
            "module": nsm.describe().module_id,
            "pcr16": [value.hex(), nsm.describe_pcr(16).value.hex()],
            "document": nsm.attest(user_data=b"u", nonce=None, public_key=None).hex(),
            "random": len(nsm.random()),
            "session": endpoints.session.path,
            "clocksource": platform.clocksource(),
        }
        print(json.dumps(seen), flush=True)
        time.sleep(600)
        return 0
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "wire", tree / "wire")
    (tree / "enclave").mkdir()
    for name in ("__init__", "nsm", "dial", "platform", "privileges"):
        shutil.copy(ROOT / f"enclave/{name}.py", tree / "enclave")
    (tree / "enclave/boot.py").write_text(textwrap.dedent(BOOT))
    (tree / "requirements").mkdir()
    (tree / "requirements/enclave.lock").write_text("")
    return hypervisor.pack(tree)


Launch = Callable[..., tuple[Enclave, dict[str, object]]]


@pytest.fixture
def launch(archive: bytes, tmp_path: Path) -> Iterator[Launch]:
    with contextlib.ExitStack() as stack:

        def start(*, debug: bool = False) -> tuple[Enclave, dict[str, object]]:
            run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c-")))
            enclave = hypervisor.launch(archive, state=tmp_path / "state", run=run, debug=debug, console=subprocess.PIPE)
            stack.callback(enclave.terminate)
            assert enclave.process.stdout is not None
            stack.enter_context(enclave.process.stdout)
            line = enclave.process.stdout.readline()
            return enclave, json.loads(line)

        yield start


def payload(seen: dict[str, object]) -> dict[str, object]:
    value: dict[str, object] = cbor2.loads(cbor2.loads(bytes.fromhex(str(seen["document"])))[2])
    return value


def test_the_enclave_runs_the_archives_code_and_sees_nothing_else(launch: Launch) -> None:
    """Isolated interpreter, no environment, code from the unpacked directory, no simulator on its path."""
    enclave, seen = launch()
    image = str(enclave.run / "image")
    assert seen["path"] == image
    assert all(str(path).startswith(image + "/") for path in seen["code"])  # type: ignore[attr-defined]
    assert (seen["environment"], seen["isolated"], seen["simulator"]) == ([], 1, False)
    assert (seen["session"], seen["clocksource"], seen["random"]) == ("enclave_7000", "kvm-clock", 256)


def test_its_module_holds_what_was_measured(launch: Launch, archive: bytes) -> None:
    """Documents show PCR0-2 of the archive, PCR4 of the instance, PCR16 as extended and locked."""
    enclave, seen = launch()
    measurements = hypervisor.measure(archive)
    pcrs = payload(seen)["pcrs"]
    assert isinstance(pcrs, dict)
    assert [pcrs[0], pcrs[1], pcrs[2]] == [measurements.pcr0, measurements.pcr1, measurements.pcr2]
    assert pcrs[4] == hashlib.sha384(bytes(48) + enclave.module_id.partition("-enc")[0].encode()).digest()
    assert pcrs[16] == hashlib.sha384(bytes(48) + b"owner").digest()
    assert seen["pcr16"] == [pcrs[16].hex()] * 2
    assert seen["module"] == enclave.module_id == payload(seen)["module_id"]


def test_debug_mode_zeroes_pcr0_to_pcr2_and_nothing_else(launch: Launch) -> None:
    """As on Nitro: PCR0-2 are zero, PCR4 is not."""
    _, seen = launch(debug=True)
    pcrs = payload(seen)["pcrs"]
    assert isinstance(pcrs, dict)
    assert [pcrs[0], pcrs[1], pcrs[2]] == [bytes(48)] * 3
    assert pcrs[4] != bytes(48)


def test_every_launch_has_a_fresh_module(launch: Launch) -> None:
    """A second launch finds PCR16 unlocked again, under the same root and another module id."""
    first, seen_first = launch()
    second, seen_second = launch()
    assert first.module_id != second.module_id
    assert seen_first["pcr16"] == seen_second["pcr16"]
    assert payload(seen_first)["cabundle"][0] == payload(seen_second)["cabundle"][0]  # type: ignore[index]


def test_both_processes_end_with_the_hypervisor(tmp_path: Path, archive: bytes) -> None:
    """Killed without a word, the hypervisor takes enclave and security module with it."""
    (tmp_path / "archive").write_bytes(archive)
    with tempfile.TemporaryDirectory(prefix="c-") as run:
        script = f"""
            import sys; sys.path.insert(0, {str(ROOT)!r})
            from pathlib import Path
            import subprocess, time
            from simulator import hypervisor
            run = Path({run!r})
            archive = (Path({str(tmp_path)!r}) / "archive").read_bytes()
            enclave = hypervisor.launch(archive, state=run / "s", run=run, console=subprocess.PIPE)
            enclave.process.stdout.readline()
            print(enclave.process.pid, enclave.nsm.pid, flush=True)
            time.sleep(600)
        """
        with subprocess.Popen([sys.executable, "-I", "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            children = [int(word) for word in parent.stdout.readline().split()]
            assert len(children) == 2
            parent.kill()
        for _ in range(200):
            if not any(alive(child) for child in children):
                break
            time.sleep(0.05)
        assert [child for child in children if alive(child)] == []


def alive(process: int) -> bool:
    """Whether the process runs; one that ended and was not reaped does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_code_from_elsewhere_is_refused(archive: bytes, tmp_path: Path) -> None:
    """The entry refuses to boot packages that are not the directory's."""
    hypervisor.unpack(archive, tmp_path / "image")
    entry = textwrap.dedent(
        f"""
        import runpy, sys
        sys.path.insert(0, {str(tmp_path / "image")!r})
        import enclave
        sys.argv = ["entry", {str(tmp_path)!r} + "/other"]
        runpy.run_path({str(hypervisor.ENTRY)!r}, run_name="__main__")
        """
    )
    done = subprocess.run([sys.executable, "-I", "-c", entry], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "the enclave's code is not that of the directory\n")

"""nitro-cli: the right arguments, strict answers, never debug mode, no hanging child."""

import asyncio
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent import launch as module
from parent.config import Launch
from parent.errors import LaunchError
from parent.launch import Launcher, Running, parse_describe, parse_run
from tests.parent.streams import run

ENCLAVE = {"EnclaveName": "cloister", "EnclaveID": "i-0-enc1", "EnclaveCID": 16, "State": "RUNNING", "Flags": "NONE", "CPUIDs": [1, 3]}
SCRIPT = """#!/bin/sh
echo "$@" >> {directory}/calls
{body}
"""


def launcher(directory: Path, body: str) -> Launcher:
    cli = directory / "nitro-cli"
    cli.write_text(SCRIPT.format(directory=directory, body=body))
    cli.chmod(0o700)
    return Launcher(Launch(nitro_cli=str(cli), eif="/e.eif", name="cloister", cpus=2, memory_mib=1024), 16)


def test_the_enclave_is_started_as_configured_and_never_in_debug_mode(tmp_path: Path) -> None:
    """run-enclave gets image, size, CID and name, and nothing else."""
    one = launcher(tmp_path, f"echo '{json.dumps(ENCLAVE)}'")
    assert run(one.start()) == "i-0-enc1"
    expected = "run-enclave --eif-path /e.eif --cpu-count 2 --memory 1024 --enclave-cid 16 --enclave-name cloister\n"
    assert (tmp_path / "calls").read_text() == expected


def test_the_enclave_of_the_name_is_found_and_stopped(tmp_path: Path) -> None:
    """Another enclave on the instance is left alone."""
    listed = json.dumps([{**ENCLAVE, "EnclaveName": "other", "EnclaveID": "i-0-enc0"}, ENCLAVE])
    one = launcher(tmp_path, f"echo '{listed}'")
    assert run(one.find()) == Running(id="i-0-enc1", name="cloister", cid=16, state="RUNNING", debug=False)
    run(one.stop())
    assert "terminate-enclave --enclave-id i-0-enc1" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("change", [{"EnclaveCID": 17}, {"Flags": "DEBUG_MODE"}])
def test_an_enclave_of_another_kind_under_the_name_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """A debug enclave, or one with another CID, is not taken for ours."""
    one = launcher(tmp_path, f"echo '{json.dumps([{**ENCLAVE, **change}])}'")
    with pytest.raises(LaunchError):
        run(one.find())


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        'echo \'{"EnclaveID": "i"}\'; exit 1',
        "echo '{\"EnclaveID\": 5}'",
        'echo \'{"EnclaveID": ""}\'',
        "echo nonsense",
        "echo '{}'",
        "echo '[]'",
        "head -c 300000 /dev/zero",
    ],
)
def test_a_failing_or_babbling_nitro_cli_is_an_error(tmp_path: Path, body: str) -> None:
    """Exit codes, no JSON, no id, too much output."""
    with pytest.raises(LaunchError):
        run(launcher(tmp_path, body).start())


def test_a_missing_or_hanging_nitro_cli_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed; never ending: its process is killed and reaped."""
    with pytest.raises(LaunchError, match="installed"):
        run(Launcher(Launch(nitro_cli=str(tmp_path / "none"), eif="e", name="n", cpus=1, memory_mib=64), 16).start())
    monkeypatch.setattr(module, "RUN_SECONDS", 0.2)
    with pytest.raises(LaunchError, match="does not end"):
        run(launcher(tmp_path, "exec sleep 60").start())


def test_a_lost_enclave_is_started_again_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is not listed it is started, over and over, with pauses; each loss is told."""
    monkeypatch.setattr(module, "PAUSES", (0.01,))
    one = launcher(tmp_path, f"case $1 in describe-enclaves) echo '[]';; *) echo '{json.dumps(ENCLAVE)}';; esac")

    async def body() -> None:
        lost = asyncio.Event()
        keeping = asyncio.get_running_loop().create_task(one.keep(lost))
        while one.starts < 3:
            await asyncio.sleep(0.01)
        assert lost.is_set()
        keeping.cancel()
        await asyncio.wait([keeping])

    run(body())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(ENCLAVE)), inner),
    )
)
def test_any_json_is_understood_or_refused(value: object) -> None:
    """The parsers raise LaunchError and nothing else."""
    for parse in (parse_run, parse_describe):
        for text in (json.dumps(value), json.dumps([value]), str(value)):
            try:
                parse(text)
            except LaunchError:
                continue

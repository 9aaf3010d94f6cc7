"""nitro-cli: the right arguments, strict answers, never debug mode, no hanging child."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise, repeat
import json
from math import inf
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent import launch as module
from parent.appliance import Appliance
from parent.config import Launch, parse
from parent.errors import LaunchError
from parent.launch import Launcher, Running, parse_describe, parse_run
from tests.parent.streams import run
from tests.parent.test_config import MINIMAL
from wire.errors import BootFailure, Stage

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
        f"head -c 300000 /dev/zero | tr '\\0' ' '; echo '{json.dumps(ENCLAVE)}'",
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


class OverError(Exception):
    """The scene is over."""


class Scene:
    """An instance under a clock that only sleeping moves: each enclave lives as long as `lives` says, the last one for ever."""

    def __init__(self, lives: Iterable[float], *, serves_after: float = inf, seconds: float = inf) -> None:
        self.now = 0.0
        self.started: list[float] = []
        self.told: list[float] = []
        self.lost = asyncio.Event()
        self.broken = False
        self._lives = iter(lives)
        self._until = -1.0
        self._serves_after = serves_after
        self._seconds = seconds

    async def sleep(self, seconds: float) -> None:
        if self.lost.is_set():
            self.told.append(self.now)
            self.lost.clear()
        self.now += seconds
        if self.now > self._seconds:
            raise OverError

    @property
    def is_there(self) -> bool:
        return self.now < self._until

    def serving(self) -> bool:
        return self.is_there and bool(self.started) and self.now - self.started[-1] >= self._serves_after

    def play(self) -> list[float]:
        """When the enclave was started."""
        launch = Launch(nitro_cli="nitro-cli", eif="/e.eif", name="cloister", cpus=2, memory_mib=1024)
        one = Launcher(launch, 16, now=lambda: self.now, sleep=self.sleep)

        async def call(verb: str, *_: str, seconds: float) -> str:
            if self.broken:
                raise LaunchError("broken")
            if verb == "describe-enclaves":
                return json.dumps([ENCLAVE] if self.is_there else [])
            self.started.append(self.now)
            self._until = self.now + next(self._lives)
            return json.dumps(ENCLAVE)

        one._call = call  # type: ignore[method-assign]
        with pytest.raises(OverError):
            run(one.keep(self.lost, self.serving))
        assert one.starts == len(self.started)
        return self.started


def test_an_enclave_whose_boot_stops_is_started_ever_later() -> None:
    """Each look after a start finds it gone; the pauses before the next ones are 1, 5, 15 and from then on 60 s, whatever looks saw."""
    for life in (4.0, 14.0):
        scene = Scene(repeat(life), seconds=600)
        seen = 10.0 * -(-life // 10)  # when its end is seen
        gaps = [pause + seen for pause in (1, 5, 15, 60, 60, 60)]
        assert [0.0, *accumulate(gaps)] == scene.play()[:7]
        assert 12 > len(scene.started)
        assert [start + seen for start in scene.started][:7] == scene.told[:7]


def test_an_enclave_that_served_or_lived_is_started_again_at_once() -> None:
    """After a boot that came to SERVING, or an enclave that lived for minutes, the pauses begin anew."""
    served = Scene([4, 4, 4, 100, 4, 4, inf], serves_after=20, seconds=400).play()
    assert [11.0, 15.0, 25.0, 101.0, 11.0, 15.0] == [later - earlier for earlier, later in pairwise(served)]
    lived = Scene([4, 4, 310, 4, inf], seconds=800).play()
    assert [11.0, 15.0, 311.0, 11.0] == [later - earlier for earlier, later in pairwise(lived)]
    young = Scene([4, 4, 290, 4, inf], seconds=800).play()
    assert [11.0, 15.0, 305.0, 70.0] == [later - earlier for earlier, later in pairwise(young)]


def test_a_nitro_cli_that_fails_is_asked_ever_later() -> None:
    """What cannot be asked is asked again after 1, 5, 15 and 60 s; no start is missed by it, and no loss made up."""
    scene = Scene([inf], seconds=30)
    scene.broken = True
    slept: list[float] = []
    sleep = scene.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        scene.broken = len(slept) < 3
        await sleep(seconds)

    scene.sleep = noted  # type: ignore[method-assign]
    assert [21.0] == scene.play()
    assert [1.0, 5.0, 15.0, 10.0] == slept
    assert [] == scene.told


class Told(Launcher):
    """Keeps nothing: says once that the enclave is lost, and notes what it hears of serving before and after."""

    heard: list[bool]

    async def keep(self, lost: asyncio.Event, serving: Callable[[], bool]) -> None:
        """Ends once it hears that nothing serves."""
        self.heard = [serving()]
        lost.set()
        while serving():
            await asyncio.sleep(0)
        self.heard.append(serving())
        raise OverError


def test_the_parent_tells_its_launcher_what_the_enclave_reports() -> None:
    """What the enclave said last counts as serving until it is lost; the failure that it reported stays in the metrics."""

    async def scene() -> None:
        appliance = Appliance(parse(MINIMAL))
        appliance.status.stage, appliance.status.last_failure, appliance.status.boot_failures = Stage.SERVING, BootFailure.KMS_REFUSED, 3
        one = Told(Launch(nitro_cli="none", eif="e", name="n", cpus=1, memory_mib=64), 16)
        with pytest.raises(ExceptionGroup):
            await appliance._keep(one)
        assert [True, False] == one.heard
        values = {metric.name: metric.samples[0][1] for metric in appliance.collect() if metric.name.startswith("enclave_")}
        assert (0, 42, 3) == (values["enclave_stage"], values["enclave_boot_failure"], values["enclave_boot_failures_total"])

    run(scene())


def test_a_running_enclave_is_taken_over() -> None:
    """One that is there already is not started; once it is gone, it is."""
    scene = Scene([inf], seconds=60)
    scene._until = 15.0
    assert [21.0] == scene.play()
    assert [20.0] == scene.told


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(ENCLAVE)), inner),
    )
)
def test_any_json_is_understood_or_refused(value: object) -> None:
    """The parsers raise LaunchError and nothing else."""
    for read in (parse_run, parse_describe):
        for text in (json.dumps(value), json.dumps([value]), str(value)):
            try:
                read(text)
            except LaunchError:
                continue

"""`cloister attestation fetch` against a running appliance: fresh evidence, appraised, kept for later."""

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

import pytest

from attestation import reference_values
from cloister.command.main import main
from simulator.owner import ADMIN, PARENT, SEALER
from simulator.world import World


@pytest.fixture
def ask(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run one verb with --json under the world's root; exit code and answer."""

    def run(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["attestation", *map(str, arguments), "--json"], world.roots)
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def values(world: World, tmp_path: Path) -> Path:
    """What the world's owner tells callers to accept."""
    path = tmp_path / "values.json"
    path.write_bytes(reference_values.render(world.owner.reference_values([world.measured()])))
    return path


def test_fetched_evidence_is_fresh_accepted_and_kept(world: World, ask: Callable[..., Any], values: Path, tmp_path: Path) -> None:
    """Twice with two nonces; what was written is what `appraise` accepts with the nonce that was said."""
    out = tmp_path / "evidence.bin"
    code, first = ask("fetch", world.endpoint, "--reference-values", values, "--out", out)
    assert (code, first["answer"], first["heading"].partition(":")[0]) == (0, "fetched", "SIMULATED")
    assert first["config"]["sequence"] == world.owner.sequence
    code, again = ask("appraise", out, "--reference-values", values, "--nonce", first["nonce"])
    assert (code, again["evidence_sha256"]) == (0, first["evidence_sha256"])
    _, second = ask("fetch", world.endpoint, "--reference-values", values)
    assert second["nonce"] != first["nonce"]
    assert second["session_key_sha256"] != first["session_key_sha256"]


def test_refused_evidence_is_kept_for_an_explanation(world: World, ask: Callable[..., Any], values: Path, tmp_path: Path) -> None:
    """Other reference values: exit 1, every mismatch, the nonce, and a page that says why."""
    other, out, page = tmp_path / "other.json", tmp_path / "evidence.bin", tmp_path / "page.html"
    held = json.loads(values.read_text())
    other.write_text(json.dumps({**held, "min_sequence": held["min_sequence"] + 1, "pcr3": ["11" * 48]}))
    code, refused = ask("fetch", world.endpoint, "--reference-values", other, "--out", out)
    assert (code, [item["reason"] for item in refused["mismatches"]]) == (1, ["sequence", "role"])
    code, told = ask("explain", out, "--reference-values", other, "--nonce", refused["nonce"], "--html", page)
    assert (code, told["verdict"]) == (1, "REJECTED")
    assert "SIMULATED" in page.read_text()


def test_the_last_step_of_a_roll_out_is_seen_as_it_says(
    world: World, values: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed command accepts an old enclave with the values before the last step, and exits 1 with those that it gives out."""
    new, steps = tmp_path / "new.json", tmp_path / "steps"
    image = {f"pcr{index}": f"{index + 33:02x}" * 48 for index in (0, 1, 2)}
    new.write_text(json.dumps({**json.loads(values.read_text()), "measurements": [image]}))
    roles = ["--admin", ADMIN, "--sealer", SEALER, "--parent", PARENT, "--epoch", "1"]
    rollout = ["key-policy", "rollout", "--reference-values", str(values), "--new", str(new), *roles]
    assert main([*rollout, "--write", str(steps), "--json"]) == 0
    *_, last = json.loads(capsys.readouterr().out)["steps"]
    command = re.findall("cloister (attestation fetch ENDPOINT --reference-values FILE),.* exits 1$", last["check"])[0]
    for file, status in (("1-reference-values.json", 0), ("6-reference-values.json", 1)):
        arguments = command.replace("ENDPOINT", str(world.endpoint)).replace("FILE", str(steps / file)).split()
        assert (file, main(arguments, world.roots)) == (file, status)


def test_a_fetched_pack_is_checked_offline(world: World, ask: Callable[..., Any], values: Path, tmp_path: Path) -> None:
    """Fetch, pack, check: the whole of an auditor's afternoon."""
    evidence, out = tmp_path / "evidence.bin", tmp_path / "audit.zip"
    _, fetched = ask("fetch", world.endpoint, "--reference-values", values, "--out", evidence)
    code, _ = ask("pack", out, "--evidence", evidence, "--reference-values", values, "--nonce", fetched["nonce"])
    assert code == 0
    code, checked = ask("pack", out, "--check")
    assert (code, checked["config"]["owner_key"]) == (0, world.owner.public.hex())

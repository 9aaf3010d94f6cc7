"""Locks, extras and docs/dependencies.md agree; a lock holds hashes and nothing of the machine that made it."""

import itertools
from pathlib import Path
import re
import tomllib

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(path.stem for path in REQUIREMENTS.glob("*.lock"))
EXTRAS = ("client", "sidecar", "owner", "parent", "enclave", "simulator")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\$", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    return dict(PINNED.findall((REQUIREMENTS / f"{lock}.lock").read_text(encoding="utf-8")))


def project() -> dict[str, list[str]]:
    """The distribution's extras, and its base dependencies as "verifier"."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"verifier": table["dependencies"], **table["optional-dependencies"]}


def names(requirements: list[str]) -> set[str]:
    found = {
        re.split(r"[<>=\[ ]", requirement.lower())[0] for requirement in requirements if requirement and not requirement.startswith("#")
    }
    return found - {"cloister"}


def test_there_is_a_lock_per_trust_domain() -> None:
    """Each extra, the base, the tests and the build."""
    assert set(LOCKS) == {"verifier", *EXTRAS, "dev", "build"}
    assert set(project()) == {"verifier", *EXTRAS}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_pins_with_hashes_and_nothing_else(lock: str) -> None:
    """No address, no path, no option; every pin has a hash of its own."""
    lines = (REQUIREMENTS / f"{lock}.lock").read_text(encoding="utf-8").splitlines()
    kinds = (r"#.*", r"    # .*", r"    --hash=sha256:[0-9a-f]{64}( \\)?", r"[a-z0-9._-]+==[0-9a-z.]+ \\", "")
    for line in lines:
        assert any(re.fullmatch(kind, line) for kind in kinds), line
        assert "://" not in line
        assert not re.search(r"(^|\s)(-r |-c )?/", line)
    for before, line in itertools.pairwise(lines):
        assert not before.endswith("\\") or line.startswith("    --hash=sha256:")


def test_one_version_of_each_distribution_everywhere() -> None:
    """What the tests run is what the image, the parent and the callers install."""
    dev = pins("dev")
    for lock in set(LOCKS) - {"dev", "build"}:
        for name, version in pins(lock).items():
            assert dev[name] == version, (lock, name)


@pytest.mark.parametrize("lock", ["verifier", *EXTRAS])
def test_a_lock_contains_what_the_distribution_declares(lock: str) -> None:
    """Each extra's dependencies are pinned in its lock."""
    assert names(project()[lock]) <= set(pins(lock))


def test_the_parents_and_the_enclaves_inputs_are_the_extras() -> None:
    """The two locks that do without the base dependencies are made from the same names and bounds."""

    def lines(name: str) -> set[str]:
        text = (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8")
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    base = {requirement for requirement in project()["verifier"] if not requirement.startswith("pyopenssl")}
    assert lines("parent") == set(project()["parent"])
    assert lines("enclave") == set(project()["enclave"]) | base


def test_no_domain_has_what_it_must_not_have() -> None:
    """The parent cannot open anything; the enclave has no verifier; no product lock has a test oracle."""
    assert not {"cryptography", "cbor2", "numpy", "pyopenssl"} & set(pins("parent"))
    assert "pyopenssl" not in pins("enclave")
    for lock in ("verifier", *EXTRAS):
        assert not {"pytest", "hypothesis", "moto", "aws-encryption-sdk", "asn1crypto", "mypy"} & set(pins(lock))


def test_the_document_lists_every_lock_with_its_direct_dependencies() -> None:
    """The table of docs/dependencies.md is the project's."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `requirements/(\w+)\.lock` \| .* \| (.*) \|$", text, re.MULTILINE))
    assert set(rows) == set(LOCKS)
    for lock in ("verifier", "client", "sidecar", "owner", "parent"):
        assert names(project()[lock]) <= set(re.findall(r"[a-z][a-z0-9-]+", rows[lock])), lock
    assert names((REQUIREMENTS / "enclave.in").read_text(encoding="utf-8").splitlines()) == set(rows["enclave"].split(", "))
    for name in {name for lock in ("verifier", *EXTRAS) for name in names(project()[lock])}:
        assert f"**{name}**" in text, name

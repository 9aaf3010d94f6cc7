"""Every import contract holds, and each one of them breaks for a bad import."""

import configparser
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("wire", "enclave", "parent", "attestation", "owner", "cloister", "simulator")

# contract -> (module to add a line to, the line)
BREAKS = {
    "wire": [("wire/ports.py", "import attestation"), ("wire/keys.py", "import numpy")],
    "wire-plain": [("wire/ports.py", "import cbor2"), ("wire/frame.py", "import wire.cbor")],
    "wire-pure": [("wire/keys.py", f"import {name}") for name in ("socket", "os", "time", "logging")],
    "enclave": [("enclave/limits.py", "import attestation.chain"), ("enclave/limits.py", "import requests")],
    "parent": [
        ("parent/errors.py", "import cryptography"),
        ("parent/errors.py", "import cbor2"),
        ("parent/errors.py", "import numpy"),
        ("parent/errors.py", "import wire.seal"),
        ("parent/errors.py", "from wire import handshake"),
        ("parent/errors.py", "import enclave.dial"),
    ],
    "attestation": [("attestation/errors.py", "import wire.record"), ("attestation/errors.py", "import numpy")],
    "owner": [("owner/errors.py", "import enclave.dial"), ("owner/errors.py", "import numpy")],
    "cloister": [("cloister/errors.py", f"import {name}") for name in ("owner.errors", "rich", "parent.errors")],
    "sidecar": [("cloister/sidecar/__init__.py", "import owner.errors"), ("cloister/sidecar/__init__.py", "import boto3")],
    "command": [("cloister/command/main.py", "import enclave.dial"), ("cloister/command/main.py", "import parent.errors")],
    "simulator": [
        ("wire/ports.py", "import simulator"),
        ("enclave/limits.py", "import simulator"),
        ("parent/errors.py", "import simulator"),
        ("attestation/errors.py", "import simulator"),
        ("owner/errors.py", "import simulator"),
        ("cloister/command/main.py", "import simulator"),
    ],
    "simulator-external": [("simulator/__init__.py", "import requests")],
    "seal": [("cloister/api.py", "import wire.seal"), ("enclave/serve.py", "from wire import seal")],
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages' sources, with the contracts beside them."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (tmp_path / "cloister/sidecar").mkdir(exist_ok=True)
    (tmp_path / "cloister/sidecar/__init__.py").touch()
    shutil.copyfile(ROOT / ".importlinter", tmp_path / ".importlinter")
    (tmp_path / "tests/contracts").mkdir(parents=True)
    shutil.copyfile(ROOT / "tests/contracts/allowed.py", tmp_path / "tests/contracts/allowed.py")
    return tmp_path


def lint(directory: Path, *contracts: str) -> "subprocess.CompletedProcess[str]":
    chosen = [f"--contract={name}" for name in contracts]
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", *chosen]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


def contracts() -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    return {section.removeprefix(prefix): parser[section]["name"] for section in parser.sections() if section.startswith(prefix)}


def test_all_contracts_hold(copy: Path) -> None:
    """The tree as it is keeps every contract."""
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("contract", "path", "line"), [(name, path, line) for name, breaks in BREAKS.items() for path, line in breaks])
def test_a_bad_import_breaks_its_contract(copy: Path, contract: str, path: str, line: str) -> None:
    """One import that the table does not allow is refused by the contract for it."""
    target = copy / path
    target.write_text(target.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint(copy, contract)
    assert done.returncode == 1, done.stdout
    assert "0 kept, 1 broken" in done.stdout
    assert line.split()[1].partition(".")[0] in done.stdout.split("Broken contracts")[1]


def test_every_contract_has_its_break() -> None:
    """A contract that nothing was seen to break proves nothing."""
    assert set(BREAKS) == set(contracts())


def test_every_package_is_under_contract() -> None:
    """A top-level package of ours that no contract names could import what it likes."""
    text = (ROOT / ".importlinter").read_text(encoding="utf-8")
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert found <= set(PACKAGES)
    for package in PACKAGES:
        assert f"\npackage = {package}\n" in text

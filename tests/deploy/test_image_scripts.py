"""The scripts around the image: the base that base.lock names, and registers computed without our reader of the format."""

from collections.abc import Mapping
import datetime
import io
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
import pytest

from attestation import eif

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"
# Debian, as far as base.sh sees it: the packages of the day.
DEBS = """#!/bin/sh
mkdir -p "$1/root"
cp "$(dirname "$0")/../today" "$1/packages"
(cd "$1" && cp packages root/here)
"""
MONDAY, TUESDAY = "libc6 2.41-12 aa\n", "libc6 2.41-13 bb\n"


class Tree:
    """A tree with base.sh, and Debian on one of its days."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "deploy" / "image").mkdir(parents=True)
        shutil.copy(IMAGE / "base.sh", path / "deploy" / "image")
        (path / "deploy" / "debs.sh").write_text(DEBS)
        (path / "base.lock").touch()

    def base(self, today: str, *update: str, **environment: str) -> int:
        """The exit status of base.sh."""
        (self.path / "today").write_text(today)
        command = ["sh", str(self.path / "deploy" / "image" / "base.sh"), str(self.path / "base"), *update]
        given = {name: value for name, value in os.environ.items() if name != "BASE_MOVED"} | environment
        return subprocess.run(command, env=given, capture_output=True, timeout=60, check=False).returncode

    @property
    def moved(self) -> bool:
        """Whether the base differs from the lock, as eif.sh asks it."""
        return (self.path / "base" / "moved").stat().st_size > 0

    @property
    def root(self) -> str:
        """What the root was made from."""
        return (self.path / "base" / "root" / "here").read_text()


def test_an_updated_base_is_the_locks(tmp_path: Path) -> None:
    """After an update nothing has moved, whatever was accepted before it, so that the list of files is compared again."""
    tree = Tree(tmp_path)
    assert tree.base(MONDAY, "update") == 0
    (tmp_path / "base.lock").write_text("another\n")
    assert tree.base(MONDAY) == 1
    assert tree.base(MONDAY, BASE_MOVED="accept") == 0
    assert tree.moved
    assert tree.base(MONDAY, "update") == 0
    assert not tree.moved
    assert tree.base(MONDAY, BASE_MOVED="accept") == 0
    assert not tree.moved


def test_a_lock_that_comes_back_is_compared_again(tmp_path: Path) -> None:
    """A base that was accepted although it had moved does not pass for the one that an earlier run found to be the lock's."""
    tree = Tree(tmp_path)
    assert tree.base(MONDAY, "update") == 0
    lock = (tmp_path / "base.lock").read_text()
    assert tree.base(TUESDAY) == 0
    assert tree.root == MONDAY  # nothing is fetched while the lock is the same
    (tmp_path / "base.lock").write_text("another\n")
    assert tree.base(TUESDAY, BASE_MOVED="accept") == 0
    (tmp_path / "base.lock").write_text(lock)
    assert tree.base(TUESDAY) == 1
    assert tree.base(MONDAY) == 0
    assert (tree.root, tree.moved) == (MONDAY, False)


def signer() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "image signer")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return key, builder.sign(key, hashes.SHA384())


def registers(path: Path) -> dict[str, str]:
    done = subprocess.run(["sh", str(IMAGE / "registers.sh"), str(path)], capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize(("ramdisks", "signed"), [((b"init", b"root" * 9999), False), ((b"a", b"b", b"\nc\0"), True), ((b"alone",), False)])
def test_two_readers_compute_the_same_registers(tmp_path: Path, ramdisks: tuple[bytes, ...], signed: bool) -> None:
    """Coreutils and attestation/eif.py agree on PCR0, PCR1 and PCR2: one ramdisk or three, signed or not, metadata left out."""
    key = signer() if signed else None
    data = eif.compose(kernel=b"\0kernel", cmdline=b"quiet", ramdisks=ramdisks, metadata=b"{}", signer=key, default_memory=1 << 40)
    (tmp_path / "enclave.eif").write_bytes(data)
    expected = {f"PCR{index}": value.hex() for index, value in eif.measure(io.BytesIO(data)).pcrs.items() if index != 8}
    assert expected == registers(tmp_path / "enclave.eif")


def test_the_script_computes_the_vectors_registers(shared_vectors: Path) -> None:
    """For images that are well-formed, the values of the vectors' author."""
    good = [case for case in json.loads((shared_vectors / "eif" / "cases.json").read_text())["cases"] if case["verdict"] == "accept"]
    assert good
    for case in good:
        expected = {name: value for name, value in case["pcrs"].items() if name != "PCR8"}
        assert expected == registers(shared_vectors / "eif" / case["file"])


# `cloister image build` and `image measure`, both saying what they are told to.
COMMAND = """
import json, pathlib, sys

def main():
    given = json.loads(pathlib.Path("given.json").read_text())
    if "build" in sys.argv:
        pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).write_bytes(bytes.fromhex(given["eif"]))
        pathlib.Path(sys.argv[sys.argv.index("--report") + 1]).write_text(json.dumps({"pcrs": given["report"]}))
        pathlib.Path("listed").write_text(str("--files" in sys.argv))
    else:
        print(json.dumps({"pcrs": given["measured"]}))
"""


def made(tree: Path, pcrs: Mapping[int, str], data: bytes, **environment: str) -> int:
    """The exit status of eif.sh where the command says this of the image, in report and measurement alike."""
    for folder in ("image", "kernel", "cloister/command", "build/base"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / "cloister/command/main.py").write_text(COMMAND)
    told = {"eif": data.hex(), "report": {f"PCR{index}": value for index, value in pcrs.items()}, "measured": dict(pcrs)}
    (tree / "given.json").write_text(json.dumps(told))
    command = ["sh", str(IMAGE / "eif.sh"), sys.executable, "image", "kernel"]
    given = {name: value for name, value in os.environ.items() if name not in ("BASE_MOVED", "PYTHONPATH")} | environment
    return subprocess.run(command, cwd=tree, env=given, capture_output=True, timeout=60, check=False).returncode


@pytest.fixture
def image() -> tuple[bytes, dict[int, str]]:
    """A file and its registers."""
    data = eif.compose(kernel=b"kernel", cmdline=b"quiet", ramdisks=(b"init", b"root"))
    return data, {index: value.hex() for index, value in eif.measure(io.BytesIO(data)).pcrs.items()}


def test_a_wrong_measurement_stops_the_build(tmp_path: Path, image: tuple[bytes, dict[int, str]]) -> None:
    """Where report and `image measure` say the same wrong thing, as they share their reader, the build stops all the same."""
    data, pcrs = image
    assert made(tmp_path, pcrs, data) == 0
    for index in pcrs:
        assert made(tmp_path, {**pcrs, index: "00" * 48}, data) == 1
        assert made(tmp_path, {number: value for number, value in pcrs.items() if number != index}, data) == 1


def test_the_list_of_files_is_compared_unless_the_base_has_moved(tmp_path: Path, image: tuple[bytes, dict[int, str]]) -> None:
    """Only a base that has moved, and was accepted, is built without the list."""
    data, pcrs = image
    for moved, accepted, listed in ((b"", "accept", True), (b"+ libc6", "", True), (b"+ libc6", "accept", False)):
        (tmp_path / "build/base").mkdir(parents=True, exist_ok=True)
        (tmp_path / "build/base/moved").write_bytes(moved)
        assert made(tmp_path, pcrs, data, BASE_MOVED=accepted) == 0
        assert (tmp_path / "listed").read_text() == str(listed)

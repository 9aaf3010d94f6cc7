"""docs/protocol.md and the code say the same numbers, types, kinds and labels."""

import ast
import importlib
from pathlib import Path
import re

import pytest

from enclave.connection import GRACE_SECONDS
from wire import cose
from wire.feed import FEED_BODIES, FeedType
from wire.frame import SESSION_BODIES, FrameType
from wire.handshake import HANDSHAKE_SECONDS
from wire.record import Kind

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "protocol.md").read_text()
MODULES = ("frame", "evidence", "handshake", "record", "message", "buffer", "keys", "credential", "cbor", "feed", "ports", "manifest")
# Of the manifest's values only the credentials' lifetime is the protocol's.
LIFETIMES = {"wire.manifest_values.CREDENTIAL_LIFETIME_DEFAULT", "wire.manifest_codec.CREDENTIAL_LIFETIME_MAX"}


def _section(name: str) -> str:
    return TEXT.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def _rows(section: str) -> list[list[str]]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in _section(section).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows][2:]


CONSTANTS = {name.strip("`"): value.strip("`") for name, value in _rows("Constants")}


def _in_code() -> set[str]:
    """The public constants of the protocol's modules that are numbers, and the labels."""
    found = set()
    for name in MODULES:
        module = importlib.import_module(f"wire.{name}")
        for node in ast.parse((ROOT / "wire" / f"{name}.py").read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            for target in targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for item in names:
                    if isinstance(item, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", item.id):
                        value = getattr(module, item.id)
                        if type(value) is int or (type(value) is bytes and item.id.endswith("LABEL")):
                            found.add(f"wire.{name}.{item.id}")
    return found


def test_every_constant_is_in_the_document() -> None:
    """No constant of the protocol's modules is missing from the document, none is there that the code has not."""
    assert set(CONSTANTS) == _in_code() | LIFETIMES


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_has_the_documents_value(name: str) -> None:
    """Each constant of the table equals the code's."""
    module, _, constant = name.rpartition(".")
    value = getattr(importlib.import_module(module), constant)
    expected = CONSTANTS[name]
    assert value == (int(expected) if type(value) is int else expected.replace("\\0", "\0").encode())


def test_session_frames_are_the_codes() -> None:
    """Types, names and bounds of the sealed session's frames."""
    rows = {(int(row[0]), row[1].upper()): (int(row[3]), int(row[4])) for row in _rows("Frames")}
    assert rows == {(kind.value, kind.name): SESSION_BODIES[kind] for kind in FrameType}


def test_feed_frames_are_the_codes() -> None:
    """Types, names and bounds between enclave and parent."""
    rows = {(int(row[0]), row[1].upper().replace(" ", "_")): (int(row[2]), int(row[3])) for row in _rows("Between enclave and parent")}
    assert rows == {(kind.value, kind.name): FEED_BODIES[kind] for kind in FeedType}


def test_kinds_are_the_codes() -> None:
    """Kinds of records by number and name."""
    assert [(int(row[0]), row[1].upper()) for row in _rows("Records")] == [(kind.value, kind.name) for kind in Kind]


def test_types_of_envelopes_are_the_codes() -> None:
    """What COSE's typ may be."""
    types = {row[0].strip("`") for row in _rows("Credential and envelopes")}
    assert types == {cose.MANIFEST, cose.CREDENTIAL, cose.WITHDRAWN, cose.REFERENCE_VALUES}


def test_labels_are_the_codes() -> None:
    """Every label of the document is in the code, and every label of the code in the document."""
    label = re.compile(r'b?"(cloister/1 ?[a-z0-9 ]*)(?:\\0)?"')
    code = {found for path in (ROOT / "wire").glob("*.py") for found in label.findall(path.read_text())}
    assert set(label.findall(TEXT)) == code


def test_numbers_in_prose_are_constants() -> None:
    """A number of three digits or more in the text is a constant, part of a layout, a standard's number or a date."""
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith(("|", "    ")))
    prose = re.sub(r"`tests/[^`]*`", "", prose)
    layout = {1184, 1088}  # ML-KEM-768's encapsulation key and ciphertext
    others = {2119, 8949, 9180, 9052, 384, 256, 25519, 768}  # RFCs, algorithms
    known = {int(value) for value in CONSTANTS.values() if value.isdigit()} | layout | others
    assert {int(number) for number in re.findall(r"(?<![0-9a-zA-Z])[0-9]{3,}(?![0-9a-zA-Z])", prose)} <= known


def test_times_are_the_codes() -> None:
    """Handshake and grace seconds stand in the text."""
    assert f"within {HANDSHAKE_SECONDS} seconds" in " ".join(TEXT.split())
    assert f"get {GRACE_SECONDS:.0f} seconds" in " ".join(TEXT.split())


def test_named_tests_exist() -> None:
    """The properties name files of the suite."""
    for path in re.findall(r"`(tests/[^`]+\.py)`", TEXT):
        assert (ROOT / path).is_file(), path


def test_known_answer_is_the_tested_one() -> None:
    """The key schedule's known answer in the text is the one that is tested."""
    answers = re.findall(r"    [cs]2[cs] (?:key|iv) +([0-9a-f]+)", TEXT)
    tested = (ROOT / "tests" / "wire" / "test_handshake.py").read_text()
    assert len(answers) == 4
    assert all(answer in tested for answer in answers)

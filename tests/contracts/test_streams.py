"""Where streams are opened is where architecture.md says, and nowhere else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPENERS = {"socket", "create_connection", "create_server", "open_connection", "start_server", "open_unix_connection", "start_unix_server"}
OWNERS = {"socket", "asyncio", "loop"}
ALLOWED = {"enclave/serve.py", "enclave/dial.py", "parent/listen.py", "parent/dial.py", "cloister/connection.py"}
PREFIXES = ("cloister/sidecar/",)
PACKAGES = ("wire", "enclave", "parent", "attestation", "owner", "cloister")


def openings(source: str) -> list[int]:
    """Lines that open a stream or a listener."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in OPENERS:
            value = node.func.value
            inherited = any(keyword.arg == "fileno" for keyword in node.keywords)
            if isinstance(value, ast.Name) and value.id in OWNERS and not inherited:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_streams_are_opened_in_the_named_modules_alone(package: str) -> None:
    """No other module of the product opens a socket."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name not in ALLOWED and not name.startswith(PREFIXES) and (lines := openings(path.read_text(encoding="utf-8"))):
            found[name] = lines
    assert found == {}


def test_the_search_finds_what_it_looks_for() -> None:
    """Each named module opens something, and an opening in another would be seen."""
    for name in ALLOWED:
        assert openings((ROOT / name).read_text(encoding="utf-8")), name
    assert openings("import socket\nx = socket.socket()\n") == [2]

"""docs/use.md: its configuration parses and names every key, its tables are the code's, what it points at exists."""

import ast
from dataclasses import fields
from pathlib import Path
import re

from cloister.sidecar import grpc_door, http_door, metrics, room, serve
from cloister.sidecar.config import Config, parse_config
from cloister.sidecar.routes import route

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_configuration_parses_and_has_every_entry() -> None:
    """Each field of the configuration stands in the example."""
    config = parse_config(block("toml").encode(), ROOT)
    assert config.owner_key is not None
    said = set(re.findall(r"^\[?(\w+)\]?", block("toml"), re.MULTILINE)) | {"http", "grpc"}
    assert {field.name for field in fields(Config)} <= said


def test_the_metrics_are_the_codes() -> None:
    """Names of the table, and no other; the operations are those that are counted."""
    assert set(re.findall(r"^\| `(cloister_sidecar_\w+)` \|", TEXT, re.MULTILINE)) == set(metrics._HELP)
    assert f"({', '.join(metrics.OPERATIONS)})" in " ".join(TEXT.split())


def test_the_bounds_are_the_codes() -> None:
    """Each number of the paragraph, in its order."""
    found = re.search(r"\*\*Bounds\.\*\*(.*?)\n\n", TEXT, re.DOTALL)
    assert found is not None
    held = [serve.BODIES_MAX, int(room.WAIT_SECONDS), room.FREE_BYTES >> 10]
    http = [http_door.CONNECTIONS_MAX, int(http_door.REQUEST_SECONDS), int(http_door.IDLE_SECONDS)]
    grpc = [grpc_door.CONNECTIONS_MAX, grpc_door.STREAMS_MAX, int(grpc_door.REQUEST_SECONDS), int(grpc_door.IDLE_SECONDS)]
    assert [int(number) for number in re.findall(r"\b\d+\b", found[1])] == held + http + grpc
    assert (http_door.WRITE_SECONDS, http_door.WRITE_BYTES, grpc_door.CALLS_MAX) == (75, 1 << 20, grpc_door.CONNECTIONS_MAX)


def test_every_path_is_routed() -> None:
    """Each method and path of the table is an operation."""
    rows = re.findall(r"`(GET|POST) (/[^`]*)`", TEXT)
    assert len(rows) >= 9
    for method, path in rows:
        for variant in (path.replace("[/versions/V]", ""), path.replace("[/versions/V]", "/versions/V")):
            assert route(method, variant).operation in metrics.OPERATIONS


def test_python_blocks_are_python_of_ours() -> None:
    """The SDK's example compiles, and what it imports exists (examples/ runs the same calls)."""
    tree = ast.parse(block("python"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("attestation", "cloister"):
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            assert all(getattr(module, alias.name) for alias in node.names)


def test_files_that_it_names_exist() -> None:
    """Examples and deployment files are there."""
    named = set(re.findall(r"\b((?:examples|deploy)/[\w./-]+\w)", TEXT))
    assert named
    assert all((ROOT / name).exists() for name in named)

"""docs/errors.md is the error table, row by row, and every bad request that it lists has its test."""

import ast
from pathlib import Path
import re

import grpc
import pytest

from tests.sidecar.test_one_session import CASES
from wire.errors import TABLE, Code

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CODES = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+?) \| (named|) \| (\d+) \| ([A-Z_]+) \| (.+) \|$", TEXT, re.MULTILINE)
BAD = re.findall(r"^\| ([^`|]+) \| `([a-z-]+)` \| `(\S+)::(\w+)` \|$", TEXT, re.MULTILINE)
LISTED = re.findall(r"^\| ([^`|]+) \| `([a-z-]+)` \| case `([^`]+)` \|$", TEXT, re.MULTILINE)
STATUS = {status.value[0]: status.name for status in grpc.StatusCode}


def test_every_code_is_a_row_and_every_row_a_code() -> None:
    """Name, number, text, whether a field is named, HTTP and gRPC status are the code's; what to do is said."""
    expected = [
        (code.name.lower().replace("_", "-"), str(code.value), row.text, "named" if row.field else "", str(row.http), STATUS[row.grpc])
        for code, row in ((code, TABLE[code]) for code in Code)
    ]
    assert [row[:6] for row in CODES] == expected
    assert all(len(row[6]) > 10 for row in CODES)


@pytest.mark.parametrize(("what", "code", "path", "name"), BAD)
def test_every_bad_request_has_its_test(what: str, code: str, path: str, name: str) -> None:
    """The named test exists and speaks of this code."""
    source = (ROOT / "tests" / path).read_text(encoding="utf-8")
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert f"Code.{code.upper().replace('-', '_')}" in (ast.get_source_segment(source, found) or ""), what


@pytest.mark.parametrize(("what", "code", "case"), LISTED)
def test_every_bad_request_on_one_session_is_told_this(what: str, code: str, case: str) -> None:
    """The case is there, with the code of the table's row."""
    assert CASES[case][1] is Code[code.upper().replace("-", "_")], what


def test_the_list_is_not_empty() -> None:
    """The pattern above still reads the table."""
    assert (len(BAD), len(LISTED)) == (6, 28)

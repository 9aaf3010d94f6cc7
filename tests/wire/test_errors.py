"""The fixed tables are complete, and their texts say nothing that a peer sent."""

import re

import pytest

from wire.errors import BOOT_TABLE, TABLE, BootFailure, Code


def test_every_code_has_a_row() -> None:
    """Both tables cover their enumerations exactly."""
    assert set(TABLE) == set(Code)
    assert set(BOOT_TABLE) == set(BootFailure)


@pytest.mark.parametrize("code", list(Code))
def test_row_is_fit_for_an_answer(code: Code) -> None:
    """A fixed lower-case text without a stop, an HTTP status of its class and a gRPC status that is a failure."""
    row = TABLE[code]
    assert re.fullmatch(r"[a-zA-Z][^{}%]*[^.{}%]", row.text)
    assert (row.http == 200) == (row.grpc == 0) == (code is Code.OK)
    assert 200 <= row.http < 600
    assert 0 <= row.grpc <= 16


def test_codes_fit_a_message_header() -> None:
    """A status has 16 bits."""
    assert all(0 <= code < 1 << 16 for code in Code)

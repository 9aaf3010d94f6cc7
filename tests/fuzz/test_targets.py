"""Every fuzz target takes its seeds, damaged seeds and bombs: no exception but ours, bounded work, bounded memory."""

from collections.abc import Callable
import io
import sys
import tracemalloc
import zipfile

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_and_anything(name: str) -> None:
    """The seeds, nothing, and bytes of every value."""
    target = TARGETS[name]
    for data in (*target.seeds, b"", bytes(range(256))):
        target.run(data)


def _damaged(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(seed)
    for place, cut, insert in edits:
        at = place % (len(data) + 1)
        data[at : at + cut] = insert
    return bytes(data)


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_damaged_seeds(name: str) -> None:
    """Edits anywhere in what it accepts."""

    @given(st.sampled_from(TARGETS[name].seeds), EDITS)
    def run(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        TARGETS[name].run(_damaged(seed, edits))

    run()


def _zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("index.json", "evidence.bin", "nonce.bin", "reference-values.json", "report.html"):
            archive.writestr(name, bytes(1 << 24))
    return out.getvalue()


BOMBS: dict[str, bytes] = {
    "deep arrays": b"\x81" * 30_000,
    "deep indefinite arrays": b"\x9f" * 30_000,
    "deep maps": b"\xa1\x61a" * 10_000,
    "a huge array": b"\x9b" + b"\xff" * 8,
    "a huge map": b"\xbb" + b"\xff" * 8,
    "a huge string": b"\x5b" + b"\xff" * 8,
    "many small items": b"\x99\x1f\xf0" + b"\x80" * 0x1FF0,
    "many keys": b"\xbf" + b"".join(b"\x19" + n.to_bytes(2, "big") + b"\x01" for n in range(256, 4000)) + b"\xff",
    "deep JSON": b"[" * 200_000,
    "a long number": b'{"sequence": ' + b"9" * 200_000 + b"}",
    "many JSON members": b"{" + b",".join(b'"%d":0' % n for n in range(20_000)) + b"}",
    "a ZIP bomb": _zip_bomb(),
    "an image that announces much": b".eif\x00\x04" + bytes(20) + b"\x00\x01" + b"\x00" * 6 + b"\x02\x24" + b"\xff" * 512,
    "much of nothing": bytes(1 << 20),
}
CALLS_MAX = 300_000
PEAK_MAX = 24 << 20


def _measured(run: Callable[[bytes], object], data: bytes) -> tuple[int, int]:
    """Function calls made, Python's and C's, and peak bytes allocated."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        run(data)
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, peak


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_bomb_costs_bounded_work_and_memory(name: str, bomb: str) -> None:
    """Steps and bytes stay below fixed limits, whatever is announced."""
    calls, peak = _measured(TARGETS[name].run, BOMBS[bomb])
    assert calls <= CALLS_MAX
    assert peak <= PEAK_MAX

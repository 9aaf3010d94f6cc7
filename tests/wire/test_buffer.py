"""Content buffers: alignment, size, and the padding check."""

import ctypes

from hypothesis import given
from hypothesis import strategies as st
import pytest

from wire.buffer import ALIGNMENT, LARGE, aligned, is_zero


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("size", [1, 63, 64, 1024, 100_000, LARGE - 1, LARGE, LARGE + 1])
def test_buffer_starts_on_a_multiple_of_64(size: int) -> None:
    """Buffers of every size class are aligned, zero, writable and exactly as long as asked."""
    buffers = [aligned(size) for _ in range(5 if size < 1 << 20 else 1)]
    for view in buffers:
        assert _address(view) % ALIGNMENT == 0
        assert len(view) == size
        assert not view.readonly
        assert is_zero(view)
        view[-1] = 1


def test_buffer_that_does_not_fit_is_a_memory_error() -> None:
    """What the machine cannot hold is a MemoryError, whoever refuses it."""
    with pytest.raises(MemoryError):
        aligned(1 << 62)


@given(st.integers(0, 200_000), st.data())
def test_one_bit_anywhere_is_not_zero(size: int, data: st.DataObject) -> None:
    """Zeros pass, one set bit at any place does not."""
    octets = bytearray(size)
    assert is_zero(memoryview(octets))
    if size:
        octets[data.draw(st.integers(0, size - 1))] = 1 << data.draw(st.integers(0, 7))
        assert not is_zero(memoryview(octets))

"""Memory for content: starts on a multiple of 64 bytes, so that a tensor inside it can be viewed where it lies."""

import contextlib
import ctypes
import mmap

ALIGNMENT = 64
# Below this glibc's heap hands out memory that was touched before; from here on it maps anew each time (M_MMAP_THRESHOLD's
# largest value), and then pages of 2 MiB make the first touch three times cheaper.
LARGE = 32 << 20
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_ZEROS = bytes(1 << 16)


def aligned(size: int) -> memoryview:
    """A writable buffer of `size` bytes on a multiple of 64, all zeros. Raises MemoryError."""
    if size >= LARGE:
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            raise MemoryError from None
        if _HUGE_PAGES is not None:
            with contextlib.suppress(OSError):  # a kernel without huge pages: the same memory, a little slower
                pages.madvise(_HUGE_PAGES)
        return memoryview(pages)
    octets = bytearray(size + ALIGNMENT)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(octets)) % ALIGNMENT
    return memoryview(octets)[start : start + size]


def is_zero(view: memoryview) -> bool:
    """Whether every byte is zero; as fast as memory compares, whatever the length."""
    for at in range(0, len(view), len(_ZEROS)):
        piece = bytes(view[at : at + len(_ZEROS)])
        if piece != _ZEROS[: len(piece)]:
            return False
    return True

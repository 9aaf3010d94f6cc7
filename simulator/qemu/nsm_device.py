"""The security module as a virtio device (id 33, one queue) around the same simulated module as everywhere else.

Linux's driver posts request and response as two buffers of one queue, out only, then in only, and takes both back on one
interrupt: out first, then in with the length of the response.
"""

from collections.abc import Callable

from simulator.qemu.vring import DeviceError, Queue

VIRTIO_ID = 33
REQUEST_MAX = 4096


class NsmDevice:
    """`call` is `SimulatedNsm.call`; `interrupt` the back-end's."""

    queue_count = 1
    config = b""

    def __init__(self, call: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._request: tuple[int, bytes] | None = None
        self.interrupt: Callable[[int], None] = lambda _index: None

    def kicked(self, index: int, queue: Queue) -> None:
        """Answer every request whose response buffer is there."""
        done = False
        while (chain := queue.peek()) is not None:
            queue.pop()
            if chain.readable:
                request = b"".join(chain.readable)
                if self._request is not None or len(request) > REQUEST_MAX:
                    raise DeviceError("a second request before its response buffer, or one over 4,096 bytes")
                self._request = (chain.head, request)
            if chain.writable:
                if self._request is None:
                    raise DeviceError("a response buffer without a request")
                head, request = self._request
                self._request = None
                written = _scatter(self._call(request), chain.writable)
                if head != chain.head:
                    queue.push(head, 0)
                queue.push(chain.head, written)
                done = True
        if done:
            self.interrupt(index)

    def reset(self) -> None:
        """Forget a request whose response was never fetched."""
        self._request = None


def _scatter(data: bytes, views: tuple[memoryview, ...]) -> int:
    """Fill the views in order; what does not fit is cut, as the device does. Returns the bytes written."""
    at = 0
    for view in views:
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
    return at

"""A small event loop for devices: level-triggered callbacks per file, one thread, ends when told."""

from collections.abc import Callable
import os
import selectors

Callback = Callable[[int], None]
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """Callbacks get the mask of what their file is ready for; they may add and remove files at any time."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, READ, self._stop)
        self._running = True

    def watch(self, descriptor: int, events: int, callback: Callback) -> None:
        """Watch a file for `events` (0: not at all) from now on."""
        known = descriptor in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(descriptor)
        elif not known:
            self._selector.register(descriptor, events, callback)
        elif self._selector.get_key(descriptor).events != events:
            self._selector.modify(descriptor, events, callback)

    def forget(self, descriptor: int) -> None:
        """Watch a file no longer; needed before it is closed."""
        self.watch(descriptor, 0, self._stop)

    def run(self) -> None:
        """Run until `stop`."""
        while self._running:
            for key, mask in self._selector.select():
                if self._running and self._selector.get_map().get(key.fd) == key:
                    key.data(mask)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def stop(self) -> None:
        """End `run`; from any thread."""
        os.write(self._wake_write, b"x")

    def _stop(self, _mask: int) -> None:
        self._running = False

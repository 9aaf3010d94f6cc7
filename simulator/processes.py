"""The processes of a simulated world: marked when they start, so that whoever sweeps the world ends them and no other.

The mark stands on the command line, which the kernel shows of every process and which forks keep; a working directory can be
anybody's, and of a process that is not traceable neither it nor the environment can be read.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
from pathlib import Path
import select
import signal
import sys

MARK = "simulated-world="
ROUNDS = 20  # a process may fork while it is looked for
GONE_SECONDS = 10.0


def interpreter(world: Path) -> list[str]:
    """The beginning of the command line of each process of the world in this directory; Python ignores an -X that it does not know."""
    return [sys.executable, "-X", f"{MARK}{world}"]


def belongs(words: Sequence[str], world: Path) -> bool:
    """Whether this command line is that of one of the world's processes, or of the one that its enclave forks workers from."""
    if list(words[1:3]) == ["-X", f"{MARK}{world}"]:
        return True
    # The enclave starts that one by itself, with a line of code that names the image inside the world's directory.
    code = f"import sys; sys.path.insert(0, {f'{world}/'!r}".removesuffix("'")
    return list(words[1:4]) == ["-I", "-B", "-c"] and "".join(words[4:5]).startswith(code)


def _running(world: Path) -> Iterator[int]:
    """A pidfd of each of them: the number behind it cannot become another process's between looking and ending."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(entry.name))
            words = (entry / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
            if belongs(words, world):
                yield descriptor
            os.close(descriptor)


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(GONE_SECONDS * 1000)


def end(world: Path) -> int:
    """Kill what runs of the world, wait until it is gone, and say how many processes that were."""
    ended = 0
    for _ in range(ROUNDS):
        found = 0
        for descriptor in _running(world):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait(descriptor)
                found += 1
        if not found:
            break
        ended += found
    return ended

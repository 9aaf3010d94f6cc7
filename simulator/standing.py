"""Where a world that `up` keeps running is found by the commands typed beside it: one folder per user, in memory.

`up` holds a lock on the folder's `pid` file for as long as it lives, so a stale file is told from a running world. What an
`up` that was killed left behind, processes and files, goes with `down` or when the next one starts.
"""

import contextlib
from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
from typing import IO

from simulator import processes, typed
from simulator.world import memory_folder, remove


class StandingError(Exception):
    """No world is up, or one already is; the text says what to do."""


def default_folder() -> Path:
    """This user's; $CLOISTER_WORLD where one user wants several."""
    return Path(os.environ.get("CLOISTER_WORLD") or memory_folder() / f"cloister-up-{os.getuid()}").absolute()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The folder of one standing world: what a caller and an owner have, and the way to the world itself."""

    folder: Path

    @property
    def pid_file(self) -> Path:
        """The process of `up`, locked by it."""
        return self.folder / "pid"

    @property
    def root(self) -> Path:
        """SHA-256 of the simulated root, in hex."""
        return self.folder / "root"

    def claim(self) -> IO[str]:
        """Make the folder and take its lock; keep the file open. Raises: StandingError where a world is up; OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid() or self.folder.is_symlink():
            raise StandingError(f"{self.folder} is another user's")
        if not self.pid_file.exists() and any(self.folder.iterdir()):  # whatever is in it would go with the world
            raise StandingError(f"{self.folder} holds other files; name a new or an empty folder in CLOISTER_WORLD")
        self.folder.chmod(0o700)
        held = os.fdopen(os.open(self.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held.close()
            raise StandingError(f"a world is up already; this ends it: {typed.line('down')}") from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        return held

    def pid(self) -> int | None:
        """The process that keeps the world up, None where none does."""
        try:
            with self.pid_file.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = self.pid_file.read_text()
            return int(text) if text.isdecimal() else None
        except OSError:
            return None
        return None

    @property
    def world(self) -> Path:
        """The file that names the directory of the world itself."""
        return self.folder / "world"

    def sweep(self) -> "Swept":
        """Once claimed: end what still runs of a world that nobody keeps any more, and remove its files and this folder's."""
        swept = Swept()
        with contextlib.suppress(OSError):
            directory = Path(self.world.read_text(encoding="utf-8"))
            if directory.parent == memory_folder() and directory.name.startswith("cloister-"):
                swept = Swept(world=directory, processes=processes.end(directory))
                remove(directory)
        for stale in self.folder.iterdir():
            if stale != self.pid_file:
                stale.unlink()
        return swept


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The directory of the world that nobody kept, None where there was none, and how many of its processes still ran."""

    world: Path | None = None
    processes: int = 0

    def __str__(self) -> str:
        return f"a world that was left behind is gone: {self.processes} processes ended, {self.world} removed"

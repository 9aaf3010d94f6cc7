"""How the simulator's commands are typed, so that a line works as it is printed: in any shell, in the directory of this process."""

import os
from pathlib import Path
import shlex
import sys

KEPT = ("CLOISTER_WORLD", "PYTHONPATH")  # which world, and where this very tree is found: another shell need not have either


def interpreter(path: Path, here: Path) -> str:
    """A Python as a shell in `here` starts it: by its path, never by whichever name that shell's PATH knows."""
    if not path.is_relative_to(here):
        return str(path)
    below = str(path.relative_to(here))
    return below if "/" in below else f"./{below}"


def line(*words: str) -> str:
    """The shell's line for the simulator with these words."""
    kept = [f"{name}={shlex.quote(value)}" for name in KEPT if (value := os.environ.get(name))]
    return " ".join([*kept, shlex.join([interpreter(Path(sys.executable), Path.cwd()), "-P", "-m", "simulator", *words])])

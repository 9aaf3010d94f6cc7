"""`python -P -m simulator cloister ANYTHING`: the unchanged `cloister` command, under the root of the world that is up."""

from collections.abc import Sequence
import sys

from attestation.chain import Root
from cloister.command.main import main as command
from simulator import typed
from simulator.standing import Standing, default_folder
from simulator.world import PARTITION

NO_WORLD = 3


def main(argv: Sequence[str]) -> int:
    """The command's exit status; 3 where no world has been up."""
    standing = Standing(folder=default_folder())
    try:
        digest = bytes.fromhex(standing.root.read_text(encoding="ascii"))
    except (OSError, ValueError):
        print(f"no simulated world is up; this starts one: {typed.line('up')}", file=sys.stderr)
        return NO_WORLD
    return command(argv, root=(Root(partition=PARTITION, sha256=digest),))

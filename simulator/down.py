"""`python -P -m simulator down`: end the world that `up` keeps running."""

import argparse
from collections.abc import Sequence
import os
import signal
import sys
import time

from simulator.standing import Standing, default_folder

SECONDS = 60.0


def main(argv: Sequence[str]) -> int:
    """0 when the world is gone or there was none, 1 when it does not end."""
    argparse.ArgumentParser(prog="python -P -m simulator down", description=__doc__).parse_args(argv)
    standing = Standing(folder=default_folder())
    pid = standing.pid()
    if pid is None:
        print("no world is up")
        return 0
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + SECONDS
    while standing.pid() is not None:
        if time.monotonic() > end:
            print(f"process {pid} does not end", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("the world is gone")
    return 0

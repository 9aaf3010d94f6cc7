"""`python -P -m simulator down`: end the world that `up` keeps running, or what an `up` that was killed left behind."""

import argparse
from collections.abc import Sequence
from contextlib import closing, suppress
import os
import shutil
import signal
import sys
import time

from simulator.standing import Standing, StandingError, default_folder

SECONDS = 60.0


def _sweep(standing: Standing) -> int:
    """End and remove what nobody keeps, and say what that was."""
    if not standing.folder.is_dir():
        print("no world is up")
        return 0
    try:
        with closing(standing.claim()):
            swept = standing.sweep()
            shutil.rmtree(standing.folder, ignore_errors=True)
    except StandingError as error:  # one started this very moment
        print(error, file=sys.stderr)
        return 1
    print("no world is up" if swept.world is None else f"no world is up; {swept}")
    return 0


def main(argv: Sequence[str]) -> int:
    """0 when the world is gone or there was none, 1 when it does not end."""
    argparse.ArgumentParser(prog="python -P -m simulator down", description=__doc__).parse_args(argv)
    standing = Standing(folder=default_folder())
    pid = standing.pid()
    if pid is None:
        return _sweep(standing)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + SECONDS
    while standing.pid() == pid:
        if time.monotonic() > end:
            print(f"process {pid} does not end", file=sys.stderr)
            return 1
        time.sleep(0.05)
    if standing.pid() is None and standing.world.exists():  # it was killed meanwhile
        return _sweep(standing)
    print("the world is gone")
    return 0

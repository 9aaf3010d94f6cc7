"""`python -P -m parent --config FILE`: run the parent until SIGTERM or SIGINT."""

import argparse
import asyncio
from collections.abc import Sequence
import contextlib
import logging
from pathlib import Path
import resource
import signal
import sys

from parent.appliance import Appliance, files_needed
from parent.config import Config, parse
from parent.errors import BindError, ConfigError

EXIT_USAGE = 2
EXIT_COULD_NOT_START = 3

log = logging.getLogger("parent")


def raise_file_limit(needed: int) -> None:
    """Make room for `needed` open files. Raises: ConfigError where the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(f"limits: {needed} open files may be needed and {hard} are allowed; lower limits.sessions or raise LimitNOFILE")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def serve(config: Config, path: Path) -> None:
    """Run the appliance until a signal asks to stop; a second one cuts the drain short by its default effect.

    SIGHUP reads the configuration at `path` again; one that cannot be taken over is logged and changes nothing.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    appliance = Appliance(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, loop, stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, appliance, path)
    await appliance.run(stop)


def _reload(appliance: Appliance, path: Path) -> None:
    try:
        appliance.reload(parse(path.read_text(encoding="utf-8")))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        log.error("%s: not taken over: %s", path, error)


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    stop.set()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 after an orderly stop, 2 for a configuration that is not usable, 3 where a listener cannot be opened."""
    parser = argparse.ArgumentParser(prog="python -P -m parent", description="Forward sealed sessions to the enclave and serve its boot.")
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML; docs/operate.md explains every key")
    parser.add_argument("--check", action="store_true", help="read the configuration and stop")
    args = parser.parse_args(argv)
    logging.raiseExceptions = False  # a full disk behind standard error must not stop the parent
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = parse(Path(args.config).read_text(encoding="utf-8"))
        raise_file_limit(files_needed(config))
        if not args.check:
            asyncio.run(serve(config, Path(args.config)))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        log.error("%s: %s", args.config, error)
        return EXIT_USAGE
    except BindError as error:
        log.error("cannot listen: %s", error)
        return EXIT_COULD_NOT_START
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())

"""`python -P -m attestation VERB ...`: `cloister attestation` with the base dependencies alone."""

import argparse
from collections.abc import Sequence
import sys
from typing import NoReturn

from attestation.chain import AWS_ROOTS
from attestation.command import register_verbs
from attestation.output import Context, Exit, UsageError, explain


class _Parser(argparse.ArgumentParser):
    """Errors become values, so that `--json` holds for them too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status. Evidence is judged under AWS's roots."""
    argv = tuple(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = tuple(argument for at, argument in enumerate(argv) if argument != "--json" or at > end)
    context = Context(roots=AWS_ROOTS, json="--json" in argv[:end], stdout=sys.stdout, stderr=sys.stderr)
    parser = _Parser(
        prog="python -P -m attestation",
        description="Verify and appraise AWS Nitro Enclaves evidence.",
        epilog="exit status: 0 accepted, 1 rejected, 2 usage, 3 could not ask (file)",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per answer, for machines")
    register_verbs(parser)
    try:
        args = parser.parse_args(arguments)
        return Exit(args.run(args, context) or Exit.ACCEPTED)
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.COULD_NOT_ASK
    except Exception as error:  # noqa: BLE001 - explain raises again what it does not know
        return context.fail(explain(error))


if __name__ == "__main__":
    sys.exit(main())

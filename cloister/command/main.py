"""`cloister NOUN ...`: parse, load the noun's module, run its handler, turn what happened into an exit code."""

import argparse
from collections.abc import Sequence
import importlib
from importlib.metadata import version
import importlib.util
import sys
from types import ModuleType
from typing import NoReturn

from attestation.chain import AWS_ROOTS, Root
from cloister.command.output import Context, CouldNotAskError, Exit, UsageError, explain

# Noun, what it is for, and the extra of the distribution that its module needs. The module is the noun with underscores.
NOUNS: dict[str, tuple[str, str]] = {
    "attestation": ("fetch, verify, inspect and appraise evidence", "client"),
    "caller-key": ("make the key that a caller signs its sessions with", "client"),
    "credential": ("issue and inspect callers' credentials", "client"),
    "image": ("build, measure and compare enclave images", "owner"),
    "infer": ("send tensors to a model inside an attested enclave", "client"),
    "key-policy": ("generate, check and explain the policy of a model's KMS key", "owner"),
    "manifest": ("make, sign and inspect manifests", "owner"),
    "model": ("seal models and ask for their metadata", "owner"),
    "owner-key": ("make the key that signs manifests and reference values", "owner"),
    "reference-values": ("make, sign and inspect what evidence is appraised against", "client"),
    "sidecar": ("serve the Open Inference Protocol in front of an enclave", "sidecar"),
}


def _module(noun: str) -> str:
    return f"cloister.command.{noun.replace('-', '_')}"


def nouns() -> tuple[str, ...]:
    """The nouns whose modules are here; none of them is loaded by asking."""
    return tuple(noun for noun in NOUNS if importlib.util.find_spec(_module(noun)) is not None)


class _Parser(argparse.ArgumentParser):
    """Errors become values, so that `--json` holds for them too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cloister",
        description="Confidential inference: seal, attest, ask.",
        epilog="exit status: 0 accepted, 1 rejected, 2 usage, 3 could not ask (file, network)",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cloister {version('cloister')}")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer, for machines")
    subparsers = parser.add_subparsers(metavar="NOUN", required=True, parser_class=_Parser)
    for noun in nouns():
        if noun == chosen:
            _load(noun).register(subparsers)
        else:
            subparsers.add_parser(noun, help=NOUNS[noun][0])
    return parser


def _load(noun: str) -> ModuleType:
    try:
        return importlib.import_module(_module(noun))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("cloister", "attestation", "owner", "wire"):
            raise
        raise CouldNotAskError(f"{noun} needs {missing}, which is not installed; try: pip install 'cloister[{NOUNS[noun][1]}]'") from None


def _run(argv: Sequence[str], context: Context) -> Exit:
    """Parse and run. Raises: CommandError and what `explain` knows."""
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    args = _parser(chosen).parse_args(argv)
    return Exit(args.run(args, context) or Exit.ACCEPTED)


def main(argv: Sequence[str] | None = None, root: tuple[Root, ...] = AWS_ROOTS) -> int:
    """Run the command line and give its exit status; never raises but for a defect of ours.

    Evidence is judged under `root`: AWS's, except where a caller of this function says otherwise; no argument in
    `argv`, variable or file can.
    """
    argv = tuple(sys.argv[1:] if argv is None else argv)
    heading = None if root == AWS_ROOTS else f"SIMULATED: judged under the root of {', '.join(r.partition for r in root)}, not under AWS's"
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = tuple(argument for at, argument in enumerate(argv) if argument != "--json" or at > end)  # it may stand anywhere
    context = Context(roots=root, json="--json" in argv[:end], stdout=sys.stdout, stderr=sys.stderr, heading=heading)
    try:
        return _run(arguments, context)
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.COULD_NOT_ASK
    except Exception as error:  # noqa: BLE001 - explain raises again what it does not know
        return context.fail(explain(error))


def run() -> None:
    """The console script."""
    sys.exit(main())

"""The one place for exit codes, for `--json` and for how errors read: of `cloister` and of `python -m attestation` alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
import errno
import json
from typing import TextIO

from attestation.chain import Root
from attestation.checks import Check
from attestation.errors import AppraisalError, AttestationError
from wire.errors import WireError


class Exit(IntEnum):
    """What the command's exit status says; scripts may rely on it."""

    ACCEPTED = 0
    REJECTED = 1
    USAGE = 2
    COULD_NOT_ASK = 3
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command: `text` in lower case, without a full stop, saying what to do next; `data` goes into `--json`."""

    exit = Exit.REJECTED

    def __init__(self, text: str, *, data: Mapping[str, object] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.data = dict(data or {})


class RejectedError(CommandError):
    """The question was asked and the answer is no."""


class UsageError(CommandError):
    """The arguments make no question."""

    exit = Exit.USAGE


class CouldNotAskError(CommandError):
    """A file, the network or an optional package stood in the way."""

    exit = Exit.COULD_NOT_ASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a noun's handler gets beside its arguments: the trust roots and where answers go.

    `heading` stands over every answer that does not rest on AWS's roots; machines find it as the member `heading`, and beside
    an answer that goes into a file it is on standard error.
    """

    roots: tuple[Root, ...]
    json: bool
    stdout: TextIO
    stderr: TextIO
    heading: str | None = None

    def show(self, text: str, value: Mapping[str, object]) -> None:
        """Write one answer: `text` for people, or `value` as one line of JSON where `--json` was given."""
        if self.json:
            heading = {"heading": self.heading} if self.heading else {}
            print(json.dumps({**heading, **value}, separators=(",", ":"), ensure_ascii=False), file=self.stdout)
        else:
            if self.heading:
                print(self.heading, file=self.stdout)
            print(text, file=self.stdout)

    def document(self, text: str, value: Mapping[str, object]) -> None:
        """Write an answer that is a file's content: `text` alone on standard output, and the heading on standard error."""
        if self.json:
            self.show(text, value)
            return
        if self.heading:
            print(self.heading, file=self.stderr)
        print(text, file=self.stdout)

    def note(self, text: str) -> None:
        """Write a line about the work itself to standard error; machines get none."""
        if not self.json:
            print(text, file=self.stderr)

    def fail(self, error: CommandError) -> Exit:
        """Write the error and give its exit code."""
        if self.json:
            self.show("", {"accepted": False, "exit": int(error.exit), "error": error.text, **error.data})
        else:
            if self.heading:
                print(self.heading, file=self.stderr)
            print(f"cloister: {error.text}", file=self.stderr)
        return error.exit


def _name(check: Check) -> dict[str, object]:
    return {"check": check.value, "reason": check.reason}


# What a person does next, where the refusal has a usual cause that is no attack.
_NEXT = {
    Check.EXPIRED: "to judge an old document at its own moment: attestation verify --at document",
    Check.CLOCK_AHEAD: "compare this machine's clock, and ask for fresh evidence",
    Check.CLOCK_BEHIND: "compare this machine's clock",
    Check.BINDING_MISSING: "give the whole evidence body as fetch --out writes it, or --config and --pk",
    Check.WITHDRAWALS_EXPIRED: "ask the owner for the current list: reference-values update --withdrawn",
}


def _text(error: AttestationError) -> str:
    return "; ".join([f"{error}", *(_NEXT[check] for check in error.checks if check in _NEXT)])


def explain(error: Exception) -> CommandError:
    """The command's error for a package's error: refusals of evidence and bytes are rejections, the system's are not."""
    match error:
        case CommandError():
            return error
        case AppraisalError():
            found = [{**_name(m.check), "expected": m.expected, "actual": m.actual} for m in error.mismatches]
            return RejectedError(_text(error), data={"kind": type(error).__name__, "mismatches": found})
        case AttestationError():
            return RejectedError(_text(error), data={"kind": type(error).__name__, "checks": [_name(check) for check in error.checks]})
        case WireError():
            return RejectedError(f"{error}", data={"kind": type(error).__name__})
        case TimeoutError():
            return CouldNotAskError("no answer in time; check the address, and that the parent is running")
        case OSError():
            reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
            what = f"{error.filename}: " if error.filename else ""
            return CouldNotAskError(
                f"{what}{(error.strerror or reason).lower()}; check that it exists and is yours to use", data={"errno": reason}
            )
    raise error

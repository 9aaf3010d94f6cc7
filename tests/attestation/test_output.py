"""What a command says: one answer on standard output, for people or for machines; headings that no document swallows."""

import io
import json

import pytest

from attestation.checks import Check
from attestation.errors import UntrustedEvidenceError
from attestation.output import Context, CouldNotAskError, Exit, RejectedError, UsageError, explain
from tests.attestation import forge
from wire.errors import WireError


def context(*, machine: bool, heading: str | None) -> Context:
    """A context whose streams are kept."""
    return Context(roots=forge.roots(), json=machine, stdout=io.StringIO(), stderr=io.StringIO(), heading=heading)


def said(made: Context) -> tuple[str, str]:
    """Standard output and standard error."""
    assert isinstance(made.stdout, io.StringIO) and isinstance(made.stderr, io.StringIO)
    return made.stdout.getvalue(), made.stderr.getvalue()


@pytest.mark.parametrize("heading", [None, "SIMULATED"])
def test_a_document_is_alone_on_standard_output(heading: str | None) -> None:
    """Its heading goes to standard error; as JSON it is one line, heading and all."""
    people, machine = context(machine=False, heading=heading), context(machine=True, heading=heading)
    for each in (people, machine):
        each.document("text", {"accepted": True})
    assert said(people) == ("text\n", f"{heading}\n" if heading else "")
    out, err = said(machine)
    assert (json.loads(out), err) == ({"accepted": True} | ({"heading": heading} if heading else {}), "")


@pytest.mark.parametrize("heading", [None, "SIMULATED"])
def test_answers_notes_and_errors(heading: str | None) -> None:
    """An answer follows its heading; a note is for people; an error names the command and gives its exit code."""
    above = f"{heading}\n" if heading else ""
    people, machine = context(machine=False, heading=heading), context(machine=True, heading=heading)
    for each in (people, machine):
        each.show("answer", {"accepted": True})
        each.note("working")
        assert each.fail(UsageError("wrong")) is Exit.USAGE
    assert said(people) == (f"{above}answer\n", f"working\n{above}cloister: wrong\n")
    first, second = (json.loads(line) for line in said(machine)[0].splitlines())
    assert (first["accepted"], second["accepted"], second["error"], second["exit"]) == (True, False, "wrong", int(Exit.USAGE))
    assert said(machine)[1] == ""


def test_every_error_has_its_kind() -> None:
    """Refusals of evidence and of bytes are rejections, the system's are not, and a defect stays one."""
    refused = explain(UntrustedEvidenceError(Check.COSE_SIGNATURE))
    assert isinstance(refused, RejectedError) and refused.data["kind"] == "UntrustedEvidenceError"
    assert isinstance(explain(WireError("x")), RejectedError)
    assert isinstance(explain(TimeoutError()), CouldNotAskError)
    assert "no such file" in explain(FileNotFoundError(2, "No such file", "f")).text
    given = UsageError("as it is")
    assert explain(given) is given
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError())

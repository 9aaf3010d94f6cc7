"""A KMS that follows a script: `python -P -m tests.appliance.scripted_kms`, with the simulator's command line and TLS identity.

The state directory's `script` has one step per Decrypt, in order: `throttled`, `broken`, `held` (until there is a file `go`,
then the truth) or `truth`, which is also what follows its end. Every Decrypt leaves a file `asked-N` with what it showed.
"""

import base64
from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
import sys
import threading
import time
from typing import Final

from simulator.kms import command
from simulator.kms.service import CONTENT_TYPE, HttpRequest, HttpResponse, SimulatedKms

MODULE: Final = "tests.appliance.scripted_kms"
SCRIPT, GO, ASKED = "script", "go", "asked-"
HELD_SECONDS = 60.0
_ERRORS = {"throttled": (400, "ThrottlingException"), "broken": (500, "KMSInternalException")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one Decrypt showed: the attestation document, and whose access key signed it."""

    document: bytes
    access_key_id: str


def asked(state: Path) -> list[Asked]:
    """Every Decrypt since `write`, in order."""
    found = sorted(state.glob(f"{ASKED}*"), key=lambda path: int(path.name.removeprefix(ASKED)))
    shown = [json.loads(path.read_bytes()) for path in found]
    return [Asked(document=base64.b64decode(document), access_key_id=access_key_id) for document, access_key_id in shown]


def write(state: Path, *steps: str) -> None:
    """The script from now on; nothing was asked yet."""
    for path in (state / GO, *state.glob(f"{ASKED}*")):
        path.unlink(missing_ok=True)
    (state / SCRIPT).write_text(" ".join(steps), encoding="utf-8")


def go(state: Path) -> None:
    """Let what is held go on."""
    (state / GO).touch()


class ScriptedKms(SimulatedKms):
    """The simulator's answers, but for what the script says."""

    state: Path
    _counting = threading.Lock()

    def handle(self, request: HttpRequest) -> HttpResponse:
        """The step's answer to a Decrypt; the truth for the rest."""
        if request.headers.get("x-amz-target") != "TrentService.Decrypt":
            return super().handle(request)
        step = self._step(request)
        if step in _ERRORS:
            status, code = _ERRORS[step]
            return HttpResponse(status=status, headers={"Content-Type": CONTENT_TYPE}, body=json.dumps({"__type": code}).encode())
        end = time.monotonic() + HELD_SECONDS
        while step == "held" and not (self.state / GO).exists() and time.monotonic() < end:
            time.sleep(0.005)
        return super().handle(request)

    def _step(self, request: HttpRequest) -> str:
        """Write down what was asked; which step it is."""
        signer = re.search("Credential=([^/]+)/", request.headers.get("authorization", ""))
        shown = json.loads(request.body)["Recipient"]["AttestationDocument"], signer[1] if signer else ""
        with self._counting:
            number = len(list(self.state.glob(f"{ASKED}*")))
            whole = self.state / f"being-{ASKED}{number}"
            whole.write_text(json.dumps(shown), encoding="utf-8")
            os.replace(whole, self.state / f"{ASKED}{number}")
        steps = (self.state / SCRIPT).read_text(encoding="utf-8").split() if (self.state / SCRIPT).exists() else []
        return steps[number] if number < len(steps) else "truth"


def main(argv: list[str]) -> int:
    """The simulator's command with this KMS in place of its own."""
    ScriptedKms.state = Path(argv[argv.index("--state") + 1])
    return command.main(argv, ScriptedKms)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The caller's errors: one class per stage, with the data that a program needs; no request or answer content in any."""

from attestation.errors import AttestationError, Mismatch
from wire.errors import TABLE, Code


class CloisterError(Exception):
    """Whatever goes wrong between this caller and an enclave; `code` is the row of the fixed table (docs/errors.md)."""

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(TABLE[code].text + (f": {detail}" if detail else ""))
        self.code = code


class EvidenceRefusedError(CloisterError):
    """The appliance's evidence was refused and nothing was sent. `reason` is the verifier's error, `mismatches` every
    reference value that differed (empty where the evidence was not even authentic)."""

    def __init__(self, reason: AttestationError) -> None:
        super().__init__(Code.EVIDENCE_REFUSED, str(reason))
        self.reason = reason

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """All mismatches at once, as values."""
        return getattr(self.reason, "mismatches", ())


class UnreachableError(CloisterError):
    """The connection, or the handshake on it, did not come about in time. Nothing was sent to an enclave."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(Code.APPLIANCE_UNREACHABLE, detail)


class SessionRefusedError(CloisterError):
    """The enclave refused the session; `code` says why (credential, session limit, shutting down)."""


class SessionLostError(CloisterError):
    """The session ended before the answer was complete. `sent`: whether anything of the request left, so that it may have
    run; `ended`: the reason that the enclave gave, if it still could."""

    def __init__(self, ended: Code | None = None, *, sent: bool = True) -> None:
        super().__init__(Code.SESSION_LOST, "" if ended is None else TABLE[ended].text)
        self.ended = ended
        self.sent = sent


class RequestRefusedError(CloisterError):
    """The enclave answered a request with an error; `field` is the path of the field it names, or empty."""

    def __init__(self, code: Code, field: str = "") -> None:
        super().__init__(code, field)
        self.field = field


class DeadlineError(CloisterError):
    """The request's time was over, on this side or at the enclave, which had it with the request."""

    def __init__(self) -> None:
        super().__init__(Code.DEADLINE_EXPIRED)


class MalformedAnswerError(CloisterError):
    """The enclave's answer is not one of the inference protocol."""

    def __init__(self) -> None:
        super().__init__(Code.PROTOCOL_VIOLATION)


class IdentityError(Exception):
    """The files of the caller's identity cannot be used; nothing was sent, nobody was asked."""

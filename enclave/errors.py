"""The enclave's errors: one class per stage, what crosses the boundary is the code alone."""

from wire.errors import BootFailure, Code


class EnclaveError(Exception):
    """Whatever the enclave refuses; one subclass per stage."""


class RequestError(EnclaveError):
    """A request is refused, the session lives on: the code, and the path of the field where the table names one."""

    def __init__(self, code: Code, field: str = "") -> None:
        super().__init__(code.name, field)
        self.code = code
        self.field = field


class RunError(EnclaveError):
    """A model did not run on this input; `input` is the place of the input that the code is about."""

    def __init__(self, code: Code, at: int | None = None) -> None:
        super().__init__(code.name)
        self.code = code
        self.input = at


class BootError(EnclaveError):
    """The boot stops; `boot_failure` is all that is ever said about it."""

    def __init__(self, boot_failure: BootFailure) -> None:
        super().__init__(boot_failure.name)
        self.boot_failure = boot_failure


class ModelError(BootError):
    """A model cannot be served at all."""


class WorkersGoneError(EnclaveError):
    """The process that workers are forked from is gone; nothing can bring it back after boot."""

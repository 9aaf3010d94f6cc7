"""Exit codes, `--json` and how errors read: the frame of `attestation.output`, which `python -m attestation` shares."""

from attestation.output import CommandError, Context, CouldNotAskError, Exit, RejectedError, UsageError, explain

__all__ = ["CommandError", "Context", "CouldNotAskError", "Exit", "RejectedError", "UsageError", "explain"]

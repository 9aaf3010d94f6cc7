"""What every noun that talks to an appliance needs: where it is, how it is judged, who calls, and how failures read."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from attestation import reference_values
from attestation.command import read
from cloister.api import Client, connect
from cloister.command.output import CommandError, Context, CouldNotAskError, RejectedError, UsageError, explain
from cloister.errors import (
    CloisterError,
    DeadlineError,
    EvidenceRefusedError,
    IdentityError,
    RequestRefusedError,
    SessionLostError,
    UnreachableError,
)
from cloister.identity import load_identity
from cloister.session import CallerIdentity
from wire import endpoint as endpoints
from wire.errors import MalformedEndpointError

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, judged how, as whom."""
    parser.add_argument("endpoint", metavar="ENDPOINT", help="tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or unix-connect:PATH:PORT")
    parser.add_argument("--reference-values", metavar="FILE", required=True, help="what the appliance's evidence must equal")
    parser.add_argument("--credential", metavar="FILE", type=Path, help="from your issuer; none where the deployment takes anyone")
    parser.add_argument("--key", metavar="FILE", type=Path, help="the caller key that the credential names")
    parser.add_argument("--timeout", metavar="S", type=float, default=TIMEOUT_SECONDS, help="seconds for each request (default: 60)")


def _identity(args: argparse.Namespace) -> CallerIdentity | None:
    if (args.credential is None) is not (args.key is None):
        raise UsageError("--credential and --key belong together")
    try:
        return None if args.credential is None else load_identity(args.credential, args.key)
    except IdentityError as error:
        raise UsageError(f"{error}") from None


def failure(error: CloisterError) -> CommandError:
    """The command's error for one of the SDK's: rejected where somebody said no, could not ask where nobody could."""
    data: dict[str, Any] = {"kind": type(error).__name__, "code": error.code.name.lower().replace("_", "-")}
    match error:
        case EvidenceRefusedError():
            refused = explain(error.reason)
            return RejectedError(f"the appliance's evidence was refused, nothing was sent: {refused.text}", data={**data, **refused.data})
        case RequestRefusedError():
            return RejectedError(f"{error}", data={**data, "field": error.field})
        case UnreachableError():
            return CouldNotAskError(f"{error}; check the address, and that the parent and the enclave are running", data=data)
        case DeadlineError():
            return CouldNotAskError(f"{error}; give it more with --timeout", data=data)
        case SessionLostError():
            return CouldNotAskError(f"{error}; it is safe to ask again where the model may run twice", data=data)
    return RejectedError(f"{error}", data=data)


async def connected(args: argparse.Namespace, context: Context, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect as the arguments say and do `work` with the client. Raises: CommandError, OSError."""
    values = reference_values.parse(read(args.reference_values))
    try:
        where = endpoints.parse(args.endpoint)
    except MalformedEndpointError as error:
        raise UsageError(f"{error}") from None
    if not args.timeout > 0:
        raise UsageError("--timeout is a positive number of seconds")
    try:
        async with await connect(where, values, identity=_identity(args), roots=context.roots) as client:
            return await work(client)
    except CloisterError as error:
        raise failure(error) from None

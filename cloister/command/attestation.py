"""`cloister attestation`: the verifier's own verbs, and `fetch`, which needs the SDK's connection."""

import argparse
import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from attestation import evaluate, reference_values
from attestation.appraise import AttestationResult
from attestation.command import read, register_verbs, show_result
from attestation.errors import AttestationError
from cloister.command.output import Context, CouldNotAskError, RejectedError, UsageError, explain
from cloister.connection import Opening, open_session
from cloister.errors import EvidenceRefusedError, UnreachableError
from wire import endpoint as endpoints
from wire.endpoint import Endpoint
from wire.errors import MalformedEndpointError


class _EnoughError(AttestationError):
    """Ends the handshake once the evidence is here: nothing is ever sealed for a fetch."""


def evidence_of(endpoint: Endpoint) -> tuple[bytes, bytes]:
    """A fresh evidence body of the appliance, and the nonce that it was asked for with. Raises: UnreachableError."""
    found: list[tuple[bytes, bytes]] = []

    def keep(body: bytes, nonce: bytes) -> AttestationResult:
        found.append((body, nonce))
        raise _EnoughError

    with suppress(EvidenceRefusedError):
        asyncio.run(open_session(Opening(endpoint=endpoint, judge=keep, identity=None, answer_bytes=0)))
    if not found:
        raise UnreachableError("no evidence came")
    return found[0]


def _fetch(args: argparse.Namespace, context: Context) -> None:
    values = reference_values.parse(read(args.reference_values))
    try:
        endpoint = endpoints.parse(args.endpoint)
    except MalformedEndpointError as error:
        raise UsageError(f"{error}") from None
    try:
        body, nonce = evidence_of(endpoint)
    except UnreachableError as error:
        raise CouldNotAskError(f"{error}; check the address, and that the parent and the enclave are running") from None
    if args.out is not None:
        Path(args.out).write_bytes(body)
    asked = {"nonce": nonce.hex(), "out": args.out}
    try:
        result = evaluate(body, nonce=nonce, reference_values=values, now=datetime.now(UTC), roots=context.roots)
    except AttestationError as error:
        refused = explain(error)
        raise RejectedError(f"{refused.text}; the nonce was {nonce.hex()}", data={**refused.data, **asked}) from None
    show_result(result, context, "fetched", **asked)
    context.note(f"asked with nonce {nonce.hex()}")


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or unix-connect:PATH:PORT")
    parser.add_argument("--reference-values", metavar="FILE", required=True)
    parser.add_argument("--out", metavar="FILE", help="write the evidence body, accepted or not")
    parser.set_defaults(run=_fetch)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("attestation", help="fetch, verify, inspect and appraise evidence")
    register_verbs(noun, _add_fetch)

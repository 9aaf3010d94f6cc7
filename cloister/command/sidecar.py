"""`cloister sidecar`: serve the Open Inference Protocol (HTTP, gRPC) in front of an attested enclave, until told to end."""

import argparse
import asyncio
from pathlib import Path

from attestation import reference_values
from cloister.command.output import Context, CouldNotAskError, UsageError
from cloister.errors import IdentityError
from cloister.identity import load_identity
from cloister.session import CallerIdentity
from cloister.sidecar.appliance import Target
from cloister.sidecar.config import Config, ConfigError, Listener, parse_config, read_token
from cloister.sidecar.serve import Opened, Settings, serve


def _token(listener: Listener | None) -> str | None:
    return None if listener is None or listener.token_file is None else read_token(listener.token_file.read_bytes())


def _identity(config: Config) -> CallerIdentity | None:
    if config.credential is None or config.caller_key is None:
        return None
    return load_identity(config.credential, config.caller_key)


def _settings(path: Path, context: Context) -> Settings:
    """Everything that the file names, read. Raises: ConfigError, IdentityError, MalformedReferenceValuesError, OSError."""
    config = parse_config(path.read_bytes(), path.absolute().parent)
    data = config.reference_values.read_bytes()
    values = reference_values.parse(data) if config.owner_key is None else reference_values.open_signed(data, owner_key=config.owner_key)
    target = Target(
        endpoint=config.endpoint,
        reference_values=values,
        roots=context.roots,
        identity=_identity(config),
        sessions=config.sessions,
        repeatable=config.repeatable,
    )
    return Settings(
        target=target,
        http=config.http,
        http_token=_token(config.http),
        grpc=config.grpc,
        grpc_token=_token(config.grpc),
        request_seconds=config.request_seconds,
        request_bytes=config.request_bytes,
        banner=context.heading,
    )


def run(args: argparse.Namespace, context: Context) -> None:
    """Serve; the two lines (or one JSON object) on standard output say that the doors are open."""

    def opened(doors: Opened) -> None:
        lines = [f"SIDECAR_{name}={place}" for name, place in (("HTTP", doors.http), ("GRPC", doors.grpc)) if place is not None]
        context.show("\n".join(lines), {"accepted": True, "http": doors.http, "grpc": doors.grpc})
        context.stdout.flush()

    try:
        settings = _settings(args.config, context)
    except (ConfigError, IdentityError) as error:
        raise UsageError(f"{args.config}: {error}") from None
    try:
        asyncio.run(serve(settings, opened))
    except RuntimeError as error:  # grpcio's word for a port or path that it cannot bind
        raise CouldNotAskError(f"the grpc listener does not open: {error}") from None


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun."""
    parser = subparsers.add_parser(
        "sidecar", help="serve the Open Inference Protocol in front of an enclave", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="TOML, see docs/use.md")
    parser.set_defaults(run=run)

"""`cloister sidecar`: serve the Open Inference Protocol (HTTP, gRPC) in front of an attested enclave, until told to end."""

import argparse
import asyncio
from pathlib import Path

from attestation import reference_values
from cloister.command.output import Context, CouldNotAskError, UsageError
from cloister.errors import IdentityError
from cloister.identity import load_identity, read_private
from cloister.session import CallerIdentity
from cloister.sidecar.appliance import Target
from cloister.sidecar.config import Config, ConfigError, Listener, parse_config, read_token
from cloister.sidecar.serve import Opened, Settings, serve


def _token(listener: Listener | None) -> str | None:
    return None if listener is None or listener.token_file is None else read_token(read_private(listener.token_file))


class Identity:
    """The identity in two files, and again whenever one of them was replaced: credentials live for hours."""

    def __init__(self, config: Config) -> None:
        self._files = () if config.credential is None or config.caller_key is None else (config.credential, config.caller_key)
        self._seen: tuple[tuple[int, int], ...] = ()

    def renewed(self) -> CallerIdentity | None:
        """The identity, if the files are others than last time and belong together; half-written ones are looked at again."""
        try:
            found = self._stamps()
            if found == self._seen:
                return None
            identity = load_identity(*self._files)
        except (IdentityError, OSError):
            return None
        self._seen = found
        return identity

    def load(self) -> CallerIdentity | None:
        """The identity, None where the file names none. Raises: IdentityError, OSError."""
        if not self._files:
            return None
        self._seen = self._stamps()
        return load_identity(*self._files)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files))


def _settings(path: Path, context: Context) -> Settings:
    """Everything that the file names, read. Raises: ConfigError, IdentityError, MalformedReferenceValuesError, OSError."""
    config = parse_config(path.read_bytes(), path.absolute().parent)
    data = config.reference_values.read_bytes()
    values = reference_values.parse(data) if config.owner_key is None else reference_values.open_signed(data, owner_key=config.owner_key)
    identity = Identity(config)
    target = Target(
        endpoint=config.endpoint,
        reference_values=values,
        roots=context.roots,
        identity=identity.load(),
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
        renewed=identity.renewed,
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

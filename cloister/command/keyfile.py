"""Key files on the command line: where a passphrase comes from, and the owner's errors as this command's."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import getpass
from pathlib import Path
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.command.output import CouldNotAskError, RejectedError, UsageError
from owner import keys
from owner.errors import KeyFileError, OwnerError


@contextmanager
def owner_errors() -> Iterator[None]:
    """What the owner's tools refuse becomes a rejection."""
    try:
        yield
    except OwnerError as error:
        raise RejectedError(f"{error}", data={"kind": type(error).__name__}) from None


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """The one option that passphrases have; they never stand on a command line or in the environment."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="first line is the passphrase; mode 0600 (default: ask)")


def passphrase(args: argparse.Namespace, *, twice: bool = False) -> bytes:
    """From the file, else asked at the terminal."""
    if args.passphrase_file is not None:
        with owner_errors():
            return keys.read_secret(args.passphrase_file).partition(b"\n")[0].removesuffix(b"\r")
    if not sys.stdin.isatty():
        raise CouldNotAskError("no terminal to ask for the passphrase; give --passphrase-file")
    first = getpass.getpass("passphrase: ")
    if twice and getpass.getpass("once more: ") != first:
        raise UsageError("the two passphrases differ")
    return first.encode()


def private_key(path: Path, args: argparse.Namespace) -> Ed25519PrivateKey:
    """An owner's or issuer's private key from its encrypted file; permissions are judged before a passphrase is asked for."""
    with owner_errors():
        keys.read_secret(path)
    secret = passphrase(args)
    with owner_errors():
        return keys.read_private(path, secret)


def public_key(text: str) -> bytes:
    """A raw public key: a file in PEM or hex, or the 64 hex digits themselves."""
    try:
        return keys.parse_public(text.encode() if len(text) == 64 and "/" not in text else Path(text).read_bytes())
    except KeyFileError as error:
        raise UsageError(f"{text}: {error}") from None

"""`cloister caller-key`: the key that a caller signs its sessions with; its issuer needs the public half alone."""

import argparse
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.command.output import Context, UsageError
from cloister.errors import IdentityError
from cloister.identity import read_key, write_key


def _show_public(key: Ed25519PrivateKey, context: Context, done: str = "") -> None:
    raw = key.public_key().public_bytes_raw().hex()
    context.show(f"{done}caller key  {raw}", {"accepted": True, "caller_key": raw})


def _new(args: argparse.Namespace, context: Context) -> None:
    key = Ed25519PrivateKey.generate()
    write_key(args.key, key)
    public = args.key.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    _show_public(key, context, f"written: {args.key} (it stays here), {public} (for your issuer, or the line below)\n")


def _show(args: argparse.Namespace, context: Context) -> None:
    try:
        _show_public(read_key(args.key), context)
    except IdentityError as error:
        raise UsageError(f"{error}") from None


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("caller-key", help="make the key that a caller signs its sessions with")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    for name, run, text in (
        ("new", _new, "make KEY, mode 0600, and its public half beside it as .pub"),
        ("show", _show, "the public half of KEY, for the issuer"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("key", type=Path, metavar="KEY.pem")
        verb.set_defaults(run=run)

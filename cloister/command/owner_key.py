"""`cloister owner-key`: the key that signs manifests, reference values and withdrawals, in an encrypted file."""

import argparse
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloister.command import keyfile
from cloister.command.output import Context
from owner import keys
from wire.manifest import extended, owner_hash, owner_measurement


def _show_public(raw: bytes, context: Context, done: str = "") -> None:
    pcr16 = extended(owner_measurement(raw)).hex()
    text = f"{done}owner key     {raw.hex()}\nowner hash    {owner_hash(raw)}\nPCR16         {pcr16}"
    context.show(text, {"accepted": True, "owner_key": raw.hex(), "owner_hash": owner_hash(raw), "pcr16": pcr16})


def _new(args: argparse.Namespace, context: Context) -> None:
    key = Ed25519PrivateKey.generate()
    with keyfile.owner_errors():
        keys.write_private(args.key, key, keyfile.passphrase(args, twice=True))
    public = args.key.with_suffix(".pub")
    public.write_bytes(keys.public_pem(key.public_key()))
    raw = key.public_key().public_bytes_raw()
    _show_public(raw, context, f"written: {args.key} (keep it, and its passphrase, apart from every parent instance), {public}\n")


def _show(args: argparse.Namespace, context: Context) -> None:
    _show_public(keyfile.public_key(args.key), context)


def _publish(args: argparse.Namespace, context: Context) -> None:
    raw = keyfile.private_key(args.key, args).public_key().public_bytes_raw()
    pem = keys.public_pem(Ed25519PublicKey.from_public_bytes(raw)).decode()
    context.document(pem.rstrip("\n"), {"accepted": True, "owner_key": raw.hex(), "pem": pem})


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("owner-key", help="make the key that signs manifests and reference values")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    new = verbs.add_parser("new", help="make KEY, encrypted, and KEY's public half beside it as .pub")
    new.add_argument("key", type=Path, metavar="KEY.pem")
    keyfile.add_passphrase(new)
    new.set_defaults(run=_new)
    show = verbs.add_parser("show", help="the key's hash and PCR16, from its public half")
    show.add_argument("key", metavar="KEY.pub", help="PEM file, hex file or 64 hex digits")
    show.set_defaults(run=_show)
    public = verbs.add_parser("public", help="write the public half of KEY as PEM to standard output")
    public.add_argument("key", type=Path, metavar="KEY.pem")
    keyfile.add_passphrase(public)
    public.set_defaults(run=_publish)

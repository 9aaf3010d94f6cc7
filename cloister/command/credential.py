"""`cloister credential`: issue callers' credentials, offline, and read them."""

import argparse
from datetime import UTC, datetime
import os
from pathlib import Path
import re
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.command import keyfile
from cloister.command.output import Context, RejectedError, UsageError
from owner import keys
from wire import credential as credentials
from wire.credential import Credential
from wire.handshake import CREDENTIAL_MAX
from wire.manifest_values import CREDENTIAL_LIFETIME_DEFAULT, Issuers, Quota

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
LIFETIME_MAX = 30 * 86_400


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if found is None or int(found[1]) * _UNITS[found[2]] > LIFETIME_MAX:
        raise UsageError("--lifetime is a number with s, m, h or d, at most 30d")
    return int(found[1]) * _UNITS[found[2]]


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,11})([kmgt]?)", text.lower())
    if found is None:
        raise UsageError("--quota-bytes is a number, with k, m, g or t for powers of 1,024")
    return int(found[1]) * _SIZES[found[2]]


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _value(claims: Credential) -> dict[str, object]:
    return {
        "issuer": claims.issuer,
        "subject": claims.subject,
        "deployment": claims.audience,
        "issued": claims.issued,
        "not_before": claims.not_before,
        "expires": claims.expires,
        "caller_key": claims.key.hex(),
        "models": list(claims.models),
        "quota": {"requests": claims.quota.requests, "bytes": claims.quota.bytes},
    }


def _text(claims: Credential) -> str:
    rows = (
        ("subject", claims.subject),
        ("issuer", claims.issuer),
        ("deployment", claims.audience),
        ("models", ", ".join(claims.models)),
        ("valid", f"{_moment(claims.not_before)} to {_moment(claims.expires)}"),
        ("quota", f"{claims.quota.requests:,} requests and {claims.quota.bytes:,} bytes an hour"),
        ("caller key", claims.key.hex()),
    )
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _new_issuer(args: argparse.Namespace, context: Context) -> None:
    key = Ed25519PrivateKey.generate()
    with keyfile.owner_errors():
        keys.write_private(args.key, key, keyfile.passphrase(args, twice=True))
    public = args.key.with_suffix(".pub")
    public.write_bytes(keys.public_pem(key.public_key()))
    raw = key.public_key().public_bytes_raw().hex()
    text = f"written: {args.key} (keep it out of reach of whoever operates the parent), {public}\nissuer key  {raw}"
    context.show(text, {"accepted": True, "issuer_key": raw})


def _issue(args: argparse.Namespace, context: Context) -> None:
    caller = keyfile.public_key(args.caller_key)
    lifetime, now = _seconds(args.lifetime), int(time.time())
    quota = Quota(requests=args.quota_requests, bytes=_bytes(args.quota_bytes))
    issuer = keyfile.private_key(args.issuer_key, args)
    claims = Credential(
        issuer=args.issuer,
        subject=args.subject,
        audience=args.deployment,
        issued=now,
        not_before=now,
        expires=now + lifetime,
        key=caller,
        models=tuple(dict.fromkeys(args.model)),
        quota=quota,
    )
    try:
        data = credentials.issue(claims, issuer)
    except ValueError as error:
        raise UsageError(f"{error}") from None
    with os.fdopen(os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
        file.write(data)
    context.show(f"written: {args.out}\n{_text(claims)}", {"accepted": True, "out": str(args.out), "credential": _value(claims)})


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(CREDENTIAL_MAX + 1)


def _show(args: argparse.Namespace, context: Context) -> None:
    data = _read(args.file)
    try:
        claims = credentials.parse(data)
        verified = args.issuer_key is not None
        if verified:
            issuers = Issuers(keys=(keyfile.public_key(args.issuer_key),), max_lifetime=LIFETIME_MAX)
            now = args.at if args.at is not None else time.time()
            credentials.accept(data, issuers, deployment=claims.audience, owner_key=b"", now=now)
    except credentials.CredentialError as error:
        raise RejectedError(f"{args.file}: {error}", data={"code": f"{error}"}) from None
    said = "signed by that issuer and valid" if verified else "signature not checked; give --issuer-key"
    context.show(f"{_text(claims)}\n{said}", {"accepted": True, "verified": verified, "credential": _value(claims)})


def _add_issue(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", type=Path, metavar="FILE", help="the credential; never replaces a file")
    verb.add_argument("--issuer-key", type=Path, metavar="KEY.pem", required=True, help="encrypted, mode 0600")
    keyfile.add_passphrase(verb)
    verb.add_argument("--issuer", required=True, help="your name")
    verb.add_argument("--subject", required=True, help="the caller's name: quotas are counted by it")
    verb.add_argument("--caller-key", metavar="HEX", required=True, help="from cloister caller-key: 64 hex digits, or a public key file")
    verb.add_argument("--deployment", metavar="ID", required=True, help="the manifest's deployment id")
    verb.add_argument("--model", metavar="ID", action="append", required=True, help="a model that the caller may ask; repeatable")
    verb.add_argument(
        "--lifetime", metavar="TIME", default=f"{CREDENTIAL_LIFETIME_DEFAULT // 3600}h", help="like 90m, 12h or 7d (default: 24h)"
    )
    verb.add_argument("--quota-requests", metavar="N", type=int, default=100_000, help="an hour (default: 100000)")
    verb.add_argument("--quota-bytes", metavar="N", default="10g", help="an hour, like 500m (default: 10g)")
    verb.set_defaults(run=_issue)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the noun and its verbs."""
    noun = subparsers.add_parser("credential", help="issue and inspect callers' credentials")
    verbs = noun.add_subparsers(metavar="VERB", required=True)
    new = verbs.add_parser("new-issuer", help="make an issuer's KEY, encrypted, and its public half beside it as .pub")
    new.add_argument("key", type=Path, metavar="KEY.pem")
    keyfile.add_passphrase(new)
    new.set_defaults(run=_new_issuer)
    _add_issue(verbs.add_parser("issue", help="issue a credential, offline"))
    show = verbs.add_parser("show", help="read a credential; with --issuer-key, check it as an enclave would")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--issuer-key", metavar="PUB", help="the issuer's public key: file or 64 hex digits")
    show.add_argument("--at", metavar="SECONDS", type=float, help="check as at this Unix time instead of now")
    show.set_defaults(run=_show)

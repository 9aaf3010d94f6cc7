"""Who may call: simulated access keys, each a principal with its identity policies, kept in one file of the state directory.

`issue` is how a world, a demo or a person makes a caller; a running server reads the file again when it changes. An
expired access key answers ExpiredTokenException, as a role's session does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
import json
import os
from pathlib import Path
import secrets

from owner.policy_document import parse_identity
from owner.policy_principal import CallerKind, principal_from_arn

ACCOUNTS = "accounts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One access key. `arn`: a root user, user, role or role session; `identity`: its identity policies as JSON texts.

    A role's key has a session token and usually an expiry; `expires` is timezone-aware, None is never.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: datetime | None = None
    arn: str
    identity: tuple[str, ...] = ()


def _encode(access: Access) -> dict[str, object]:
    return {
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
        "session_token": access.session_token,
        "expires": None if access.expires is None else access.expires.timestamp(),
        "arn": access.arn,
        "identity": list(access.identity),
    }


def _decode(value: dict[str, object]) -> Access:
    expires = value["expires"]
    identity = value["identity"]
    return Access(
        access_key_id=str(value["access_key_id"]),
        secret_access_key=str(value["secret_access_key"]),
        session_token=None if value["session_token"] is None else str(value["session_token"]),
        expires=datetime.fromtimestamp(expires, UTC) if isinstance(expires, int | float) else None,
        arn=str(value["arn"]),
        identity=tuple(map(str, identity)) if isinstance(identity, list) else (),
    )


def write_private(path: Path, text: str) -> None:
    """Replace a file of the state directory at once; only its owner may read it."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def load(state: Path) -> dict[str, Access]:
    """Every access key of a state directory, by its id; none where there is no file yet."""
    path = state / ACCOUNTS
    if not path.exists():
        return {}
    return {access.access_key_id: access for access in map(_decode, json.loads(path.read_text(encoding="utf-8")))}


def issue(state: Path, arn: str, *, identity: Sequence[str] = (), expires: datetime | None = None) -> Access:
    """A new access key for the principal `arn`, added to the state directory. Raises ValueError, MalformedPolicyError."""
    principal = principal_from_arn(arn)
    for text in identity:
        parse_identity(text)
    temporary = principal.kind in (CallerKind.ROLE, CallerKind.FEDERATED)
    access = Access(
        access_key_id=("ASIA" if temporary else "AKIA") + secrets.token_hex(8).upper(),
        secret_access_key=secrets.token_urlsafe(30),
        session_token=secrets.token_urlsafe(48) if temporary else None,
        expires=expires,
        arn=arn,
        identity=tuple(identity),
    )
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    everyone = {**load(state), access.access_key_id: access}
    write_private(state / ACCOUNTS, json.dumps([_encode(one) for one in everyone.values()], indent=1))
    return access


class Accounts:
    """The access keys of a state directory, read again when the file has changed."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._seen: tuple[int, int] | None = None
        self._all: dict[str, Access] = {}

    def find(self, access_key_id: str) -> Access | None:
        """The access key with this id."""
        path = self._state / ACCOUNTS
        stat = path.stat() if path.exists() else None
        seen = (stat.st_mtime_ns, stat.st_ino) if stat else None
        if seen != self._seen:
            self._all, self._seen = load(self._state), seen
        return self._all.get(access_key_id)

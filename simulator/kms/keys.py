"""The simulated keys: state, ciphertext blobs, and their file in the state directory.

A blob is AES-256-GCM under the key's material with the encryption context as associated data, so that another context
or another key does not open it, as at AWS. The layout is our own; AWS's is not documented.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
import json
import os
from pathlib import Path
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from owner.policy import Grant
from simulator.kms.accounts import write_private
from simulator.kms.errors import ErrorCode, KmsError

KEYS = "keys.json"
_MAGIC = bytes.fromhex("01020200")
_HEADER = len(_MAGIC) + 16
_NONCE = 12


class KeyState(StrEnum):
    """The states that a key of origin AWS_KMS can be in."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGrant:
    """A grant as CreateGrant recorded it."""

    grant: Grant
    created: float
    issuing_account: str
    retiring: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A symmetric key of origin AWS_KMS, single-Region unless `multi_region`."""

    arn: str
    material: bytes = field(repr=False)
    policy: str
    created: float
    description: str = ""
    state: KeyState = KeyState.ENABLED
    multi_region: bool = False
    grants: tuple[StoredGrant, ...] = ()

    @property
    def id(self) -> str:
        """The UUID at the end of the ARN (with `mrk-` in front for a multi-Region key)."""
        return self.arn.rpartition("/")[2]

    @property
    def account(self) -> str:
        """The account that owns the key."""
        return self.arn.split(":")[4]


def _associated(key: Key, context: Mapping[str, str]) -> bytes:
    return json.dumps([key.arn, sorted(context.items())], separators=(",", ":")).encode()


def _identifier(arn: str) -> bytes:
    return uuid.uuid5(uuid.NAMESPACE_URL, arn).bytes


def encrypt(key: Key, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """The ciphertext blob of `plaintext` under `key`, bound to the encryption context."""
    nonce = os.urandom(_NONCE)
    return _MAGIC + _identifier(key.arn) + nonce + AESGCM(key.material).encrypt(nonce, plaintext, _associated(key, context))


def decrypt(key: Key, blob: bytes, context: Mapping[str, str]) -> bytes:
    """The plaintext of a blob. Raises: KmsError(INVALID_CIPHERTEXT) for a damaged blob or another context."""
    nonce, ciphertext = blob[_HEADER : _HEADER + _NONCE], blob[_HEADER + _NONCE :]
    try:
        return AESGCM(key.material).decrypt(nonce, ciphertext, _associated(key, context))
    except (InvalidTag, ValueError):
        raise KmsError(ErrorCode.INVALID_CIPHERTEXT, "") from None


class KeyStore:
    """All keys of a state directory; every change is on disk before it is answered."""

    def __init__(self, state: Path) -> None:
        self._path = state / KEYS
        self._keys: dict[str, Key] = {}
        if self._path.exists():
            self._keys = {key.arn: key for key in map(_decode, json.loads(self._path.read_text(encoding="utf-8")))}

    def all(self) -> tuple[Key, ...]:
        """Every key."""
        return tuple(self._keys.values())

    def find(self, arn: str) -> Key | None:
        """The key with this ARN."""
        return self._keys.get(arn)

    def of_blob(self, blob: bytes) -> Key | None:
        """The key that a ciphertext blob names. Raises: KmsError(INVALID_CIPHERTEXT) for what is no blob."""
        if len(blob) < _HEADER + _NONCE + 16 or not blob.startswith(_MAGIC):
            raise KmsError(ErrorCode.INVALID_CIPHERTEXT, "")
        return next((key for key in self._keys.values() if _identifier(key.arn) == blob[len(_MAGIC) : _HEADER]), None)

    def put(self, key: Key) -> None:
        """Add or replace a key."""
        self._keys[key.arn] = key
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path, json.dumps([_encode(one) for one in self._keys.values()], indent=1))

    def set_state(self, arn: str, state: KeyState) -> None:
        """Enable, disable or doom a key, as its owner does in the console. Raises: KeyError."""
        self.put(replace(self._keys[arn], state=state))


def new_key(*, account: str, region: str, policy: str, description: str, now: datetime, multi_region: bool = False) -> Key:
    """A key with fresh material."""
    name = "mrk-" + uuid.uuid4().hex if multi_region else str(uuid.uuid4())
    return Key(
        arn=f"arn:aws:kms:{region}:{account}:key/{name}",
        material=os.urandom(32),
        policy=policy,
        created=now.timestamp(),
        description=description,
        multi_region=multi_region,
    )


def _encode(key: Key) -> dict[str, object]:
    return {
        "arn": key.arn,
        "material": base64.b64encode(key.material).decode(),
        "policy": key.policy,
        "created": key.created,
        "description": key.description,
        "state": key.state.value,
        "multi_region": key.multi_region,
        "grants": [
            {
                "id": stored.grant.id,
                "grantee": stored.grant.grantee,
                "operations": sorted(stored.grant.operations),
                "equals": None if stored.grant.context_equals is None else dict(stored.grant.context_equals),
                "subset": None if stored.grant.context_subset is None else dict(stored.grant.context_subset),
                "created": stored.created,
                "issuing_account": stored.issuing_account,
                "retiring": stored.retiring,
                "name": stored.name,
            }
            for stored in key.grants
        ],
    }


def _decode(value: dict[str, object]) -> Key:
    grants = value["grants"]
    return Key(
        arn=str(value["arn"]),
        material=base64.b64decode(str(value["material"])),
        policy=str(value["policy"]),
        created=float(str(value["created"])),
        description=str(value["description"]),
        state=KeyState(str(value["state"])),
        multi_region=bool(value["multi_region"]),
        grants=tuple(
            StoredGrant(
                grant=Grant(
                    id=item["id"],
                    grantee=item["grantee"],
                    operations=frozenset(item["operations"]),
                    context_equals=item["equals"],
                    context_subset=item["subset"],
                ),
                created=item["created"],
                issuing_account=item["issuing_account"],
                retiring=item["retiring"],
                name=item["name"],
            )
            for item in (grants if isinstance(grants, list) else [])
        ),
    )

"""An owner, a deployment and its evidence, for tests of appraisal: what a real appliance would send at NOW."""

from dataclasses import replace
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.values import Measurement, ReferenceValues, pcr16_of, pcr17_of
from attestation.withdrawn import SignedWithdrawals, Withdrawal, Withdrawals, open_envelope, sign
from tests.attestation import forge
from wire import evidence as wire_evidence
from wire.evidence import Config, Evidence

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWNER_KEY = OWNER.public_key().public_bytes_raw()
OTHER_OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER_KEY = OTHER_OWNER.public_key().public_bytes_raw()
NOW = int(forge.NOW.timestamp())
PK = bytes(range(256)) * 4 + bytes(192)
CONFIG = Config(
    owner_key=OWNER_KEY,
    manifest_digest=hashlib.sha384(b"manifest").digest(),
    sequence=7,
    not_after=NOW + 86_400,
    callers=wire_evidence.CALLERS_ISSUERS,
    audit_key=None,
    session_seconds=3600,
)


def pcrs(config: Config = CONFIG) -> dict[int, bytes]:
    """The registers of an appliance that booted this deployment."""
    return {**forge.pcrs(), 16: pcr16_of(config.owner_key), 17: pcr17_of(config.manifest_digest)}


def evidence_body(config: Config = CONFIG, pk: bytes = PK, **changes: object) -> bytes:
    """The body of the evidence frame; `changes` are members of the document's payload."""
    raw = wire_evidence.encode_config(config)
    members: dict[str, Any] = {"pcrs": pcrs(config), "user_data": wire_evidence.user_data(raw, pk), **changes}
    return wire_evidence.encode_evidence_body(raw, pk, forge.document(**members))


def evidence(config: Config = CONFIG, pk: bytes = PK, **changes: object) -> Evidence:
    """The same, parsed."""
    return wire_evidence.parse_evidence_body(evidence_body(config, pk, **changes))


MEASUREMENT = Measurement(pcr0=forge.pcrs()[0], pcr1=forge.pcrs()[1], pcr2=forge.pcrs()[2], label="current")
VALUES = ReferenceValues(measurements=(MEASUREMENT,), pcr16=pcr16_of(OWNER_KEY), min_sequence=5, owner_key=OWNER_KEY, sequence=3)


def values(**changes: object) -> ReferenceValues:
    """The reference values that the evidence meets, changed."""
    return replace(VALUES, **changes)  # type: ignore[arg-type]


def withdrawals(*entries: Withdrawal, owner: Ed25519PrivateKey = OWNER, sequence: int = 1, not_after: int = NOW + 60) -> SignedWithdrawals:
    """A signed list that is current at NOW unless told otherwise."""
    listed = Withdrawals(
        owner_key=owner.public_key().public_bytes_raw(), sequence=sequence, issued=NOW - 3600, not_after=not_after, entries=entries
    )
    return open_envelope(sign(listed, owner))

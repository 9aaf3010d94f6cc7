"""Withdrawn measurements (docs/verification.md, checks 619, 620 and 805 to 807): an owner's signed, expiring list.

An owner takes back an image, a manifest or itself by listing PCR values; relying parties hold the list inside their
reference values and refuse evidence once the list has expired, so that nobody can withhold a newer one for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.checks import Check
from attestation.errors import MalformedReferenceValuesError
from wire import cbor, cose, keys
from wire.errors import WireError
from wire.fields import Fields

VERSION = 1
ENVELOPE_MAX = 65_536
ENTRIES_MAX = 256
LIFETIME_MAX = 90 * 86_400  # seconds; as long as a manifest may live
REASON_MAX = 200
PCR_BYTES = 48
WITHDRAWABLE = (0, 1, 2, 8, 16, 17)
SEQUENCE_MAX = (1 << 53) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """One withdrawn measurement: evidence that has *all* of `pcrs` is refused. `reason` is for people."""

    pcrs: Mapping[int, bytes]
    reason: str

    def __post_init__(self) -> None:
        if not self.pcrs or any(index not in WITHDRAWABLE or len(value) != PCR_BYTES for index, value in self.pcrs.items()):
            raise ValueError(f"a withdrawal names one or more of PCR {WITHDRAWABLE}, 48 bytes each")
        if len(self.reason) > REASON_MAX:
            raise ValueError(f"a withdrawal's reason has at most {REASON_MAX} characters")
        object.__setattr__(self, "pcrs", MappingProxyType(dict(sorted(self.pcrs.items()))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """The list: `issued` and `not_after` in seconds since 1970, `sequence` rises with every list of an owner."""

    owner_key: bytes
    sequence: int
    issued: int
    not_after: int
    entries: tuple[Withdrawal, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.sequence <= SEQUENCE_MAX or len(self.entries) > ENTRIES_MAX:
            raise ValueError(f"a sequence from 1 and at most {ENTRIES_MAX} entries")
        if not 0 < self.issued < self.not_after <= self.issued + LIFETIME_MAX:
            raise ValueError("not_after lies after issued, by at most 90 days")

    def withdrawal_of(self, pcrs: Mapping[int, bytes]) -> Withdrawal | None:
        """The first entry all of whose PCRs `pcrs` has."""
        return next((entry for entry in self.entries if all(pcrs.get(index) == value for index, value in entry.pcrs.items())), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedWithdrawals:
    """A list whose signature verified under the key that its envelope names, and the envelope, to be passed on."""

    envelope: bytes
    withdrawals: Withdrawals


def sign(withdrawals: Withdrawals, owner: Ed25519PrivateKey) -> bytes:
    """The envelope. Raises ValueError where `owner` is not the list's owner."""
    if owner.public_key().public_bytes_raw() != withdrawals.owner_key:
        raise ValueError("the key is not the owner of this list")
    entries: list[cbor.Value] = [{"pcrs": dict(entry.pcrs.items()), "reason": entry.reason} for entry in withdrawals.entries]
    payload = cbor.encode(
        {
            "version": VERSION,
            "sequence": withdrawals.sequence,
            "issued": withdrawals.issued,
            "not_after": withdrawals.not_after,
            "entries": entries,
        }
    )
    return cose.sign(payload, kid=withdrawals.owner_key, typ=cose.WITHDRAWN, key=owner)


def _entry(value: object, path: str) -> Withdrawal:
    fields = Fields(value, path, WireError)
    pcrs = fields.take("pcrs")
    if not isinstance(pcrs, dict):
        raise fields.fail("pcrs", "a map")
    values = {index: item for index, item in pcrs.items() if isinstance(index, int) and isinstance(item, bytes)}
    if len(values) != len(pcrs):
        raise fields.fail("pcrs", "a map of PCR values")
    reason = fields.text("reason", r"[^\x00-\x1f\x7f]*")
    fields.done()
    return Withdrawal(pcrs=values, reason=reason)


def _payload(payload: bytes, owner_key: bytes) -> Withdrawals:
    fields = Fields(cbor.decode(payload), "", WireError)
    fields.integer("version", VERSION, VERSION)
    entries = fields.items("entries", 0, ENTRIES_MAX)
    withdrawals = Withdrawals(
        owner_key=owner_key,
        sequence=fields.integer("sequence", 1, SEQUENCE_MAX),
        issued=fields.integer("issued", 1, SEQUENCE_MAX),
        not_after=fields.integer("not_after", 1, SEQUENCE_MAX),
        entries=tuple(_entry(entry, f"entries[{place}]") for place, entry in enumerate(entries)),
    )
    fields.done()
    return withdrawals


def open_envelope(data: bytes) -> SignedWithdrawals:
    """Verify the signature under the key that the envelope names, then parse.

    Raises: MalformedReferenceValuesError (805, 806). Not checked: whose key it is, time.
    """
    try:
        envelope = cose.parse(data, typ=cose.WITHDRAWN, limit=ENVELOPE_MAX)
        key = keys.load_public(envelope.kid)
    except WireError as error:
        raise MalformedReferenceValuesError(Check.WITHDRAWALS, str(error)) from None
    try:
        cose.verify(envelope, key)
    except cose.BadSignatureError:
        raise MalformedReferenceValuesError(Check.WITHDRAWALS_SIGNATURE) from None
    try:
        return SignedWithdrawals(envelope=data, withdrawals=_payload(envelope.payload, envelope.kid))
    except (WireError, ValueError) as error:
        raise MalformedReferenceValuesError(Check.WITHDRAWALS, str(error)) from None

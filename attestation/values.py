"""Reference values: what a relying party accepts, as values that cannot be constructed empty.

One JSON file (docs/schemas/reference-values.schema.json), readable by a person, optionally signed by the owner key so that
relying parties follow upgrades safely (`attestation.reference_values`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
import re

from attestation.withdrawn import SignedWithdrawals
from wire import keys, manifest

PCR_BYTES = 48
ZERO = bytes(PCR_BYTES)
MEASUREMENTS_MAX = 16
PINNED_MAX = 64
MAX_AGE = 300  # seconds; the verifier's tolerance bounds it anyway
SEQUENCE_MAX = (1 << 53) - 1
_PARTITION = re.compile(r"[a-z0-9-]{1,32}")
_LABEL = re.compile(r"[^\x00-\x1f\x7f]{0,100}")


def _measured(name: str, value: bytes) -> None:
    if len(value) != PCR_BYTES:
        raise ValueError(f"{name} is not 48 bytes")
    if value == ZERO:
        raise ValueError(f"{name} is zero: a debug enclave's, or an unmeasured one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One accepted image: PCR0, PCR1 and PCR2 together, and PCR8 (the image's signer) where given.

    Bytes can move between kernel and ramdisk with PCR0 equal, so that no single one of them is a measurement.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes | None = None
    label: str = ""

    def __post_init__(self) -> None:
        for index, value in self.pcrs.items():
            _measured(f"PCR{index}", value)
        if _LABEL.fullmatch(self.label) is None:
            raise ValueError("a label has at most 100 printable characters")

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """Index to value, PCR8 only where given."""
        pcrs = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return pcrs if self.pcr8 is None else {**pcrs, 8: self.pcr8}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """What evidence must equal. Raises ValueError for values that would check too little.

    `measurements`: one or more accepted images. `pcr16`: the owner, mandatory. `pcr17` pins one manifest, `min_sequence`
    is the floor of the manifest's sequence; at least one of them. `pcr3`, `pcr4`: accepted roles and instances, empty for
    any. `max_age`: seconds. `accept_anyone`: whether an enclave that authenticates no caller will do. `sequence` rises
    with every version of these values. `withdrawn`: the owner's list, None where the owner publishes none.
    """

    measurements: tuple[Measurement, ...]
    pcr16: bytes
    pcr17: bytes | None = None
    min_sequence: int | None = None
    pcr3: tuple[bytes, ...] = ()
    pcr4: tuple[bytes, ...] = ()
    partition: str = "aws"
    max_age: int = MAX_AGE
    accept_anyone: bool = False
    owner_key: bytes | None = None
    sequence: int = 1
    withdrawn: SignedWithdrawals | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.measurements) <= MEASUREMENTS_MAX:
            raise ValueError(f"1 to {MEASUREMENTS_MAX} measurements")
        _measured("PCR16", self.pcr16)
        if self.pcr17 is None and self.min_sequence is None:
            raise ValueError("neither PCR17 nor min_sequence: an older manifest would do")
        if self.pcr17 is not None:
            _measured("PCR17", self.pcr17)
        if self.min_sequence is not None and not 1 <= self.min_sequence <= SEQUENCE_MAX:
            raise ValueError("min_sequence is from 1")
        for name, values in (("PCR3", self.pcr3), ("PCR4", self.pcr4)):
            if len(values) > PINNED_MAX:
                raise ValueError(f"at most {PINNED_MAX} values of {name}")
            for value in values:
                _measured(name, value)
        if _PARTITION.fullmatch(self.partition) is None:
            raise ValueError("partition is not a name")
        if not 1 <= self.max_age <= MAX_AGE or not 1 <= self.sequence <= SEQUENCE_MAX:
            raise ValueError(f"max_age is 1 to {MAX_AGE} seconds, sequence from 1")
        self._check_owner()

    def _check_owner(self) -> None:
        if self.owner_key is not None:
            try:
                keys.load_public(self.owner_key)
            except keys.WeakKeyError as error:
                raise ValueError(str(error)) from None
            if pcr16_of(self.owner_key) != self.pcr16:
                raise ValueError("PCR16 is not that of owner_key")
        if self.withdrawn is not None and self.withdrawn.withdrawals.owner_key != self.owner_key:
            raise ValueError("the withdrawals are signed by another key than owner_key")


def pcr16_of(owner_key: bytes) -> bytes:
    """The PCR16 of an enclave whose manifest `owner_key` signed."""
    return manifest.extended(manifest.owner_measurement(owner_key))


def pcr17_of(manifest_digest: bytes) -> bytes:
    """The PCR17 of an enclave that booted the manifest with this SHA-384."""
    return manifest.extended(manifest_digest)

"""From the leaf to a pinned root (docs/verification.md, checks 4xx): whose key signed the document.

The root is compared by the SHA-256 of its bytes with one pinned per AWS partition and never believed from the document.
OpenSSL's X509Store, through pyOpenSSL, builds the path and verifies the signatures; the profile's rules are ours. Time
is `attestation.verify`'s: the store is given a moment at which the caller found every certificate valid.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
import hashlib
import threading

from OpenSSL import crypto

from attestation import certificate as rules
from attestation.certificate import Certificate
from attestation.checks import Check
from attestation.errors import MalformedEvidenceError, UntrustedEvidenceError

NAMES = ("root", "regional", "zonal", "instance", "leaf")
CACHE_MAX = 256  # chains; a leaf lives three hours, so that this many enclaves are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A trust anchor: the SHA-256 of the root certificate's DER, and the partition that it stands for."""

    partition: str
    sha256: bytes

    def __post_init__(self) -> None:
        if len(self.sha256) != hashlib.sha256().digest_size:
            raise ValueError("a root is pinned by the 32 bytes of its SHA-256")


AWS_ROOTS: tuple[Root, ...] = (
    Root(partition="aws", sha256=bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")),
    Root(partition="aws-us-gov", sha256=bytes.fromhex("20bcd30a3e168ea03789e1c45912bc123c4de3c977b8a6e1c125c7929d668b3b")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Certificates of the profile under a pinned root, names chaining; signatures are not verified before `check_path`."""

    root: Root
    certificates: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The certificate whose key signed the document."""
        return self.certificates[-1]


def place(index: int, count: int) -> str:
    """What to call certificate `index` of `count`, root first."""
    return NAMES[index] if count == len(NAMES) else ("root" if index == 0 else "leaf" if index == count - 1 else f"CA {index}")


def parse(ders: tuple[bytes, ...], roots: tuple[Root, ...]) -> Chain:
    """Apply every rule of the profile but signatures and time. `ders`: root first, leaf last.

    Raises: UntrustedEvidenceError; MalformedEvidenceError for bytes that are no certificate.
    """
    fingerprint = hashlib.sha256(ders[0]).digest()
    root = next((root for root in roots if root.sha256 == fingerprint), None)
    if root is None:
        raise UntrustedEvidenceError(Check.ROOT)
    count = len(ders)
    certificates = tuple(rules.parse(der, place(index, count)) for index, der in enumerate(ders))
    for index in range(1, count):
        if certificates[index].issuer != certificates[index - 1].subject:
            raise UntrustedEvidenceError(Check.CHAIN_NAMES, place(index, count))
    for index, certificate in enumerate(certificates[:-1]):
        rules.check_ca(certificate, count - 2 - index, place(index, count))
    rules.check_leaf(certificates[-1], place(count - 1, count))
    return Chain(root=root, certificates=certificates)


class PathCache:
    """Chains whose path OpenSSL accepted, by the SHA-256 of all their bytes in order; thread-safe, bounded, least recent out."""

    def __init__(self, limit: int = CACHE_MAX) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    @staticmethod
    def key(chain: Chain) -> bytes:
        """Lengths are hashed too, so that no other split of the same bytes has the same key."""
        digest = hashlib.sha256()
        for item in chain.certificates:
            digest.update(len(item.der).to_bytes(4, "big") + item.der)
        return digest.digest()

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            if key not in self._known:
                return False
            self._known.move_to_end(key)
            return True

    def add(self, key: bytes) -> None:
        """Remember one accepted chain."""
        with self._lock:
            self._known[key] = None
            while len(self._known) > self._limit:
                self._known.popitem(last=False)


def _loaded(der: bytes, where: str) -> crypto.X509:
    """OpenSSL is here and there stricter about DER than `cryptography`: what only one of them reads is malformed."""
    try:
        return crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    except crypto.Error:
        raise MalformedEvidenceError(Check.CERTIFICATE_ENCODING, where) from None


def check_path(chain: Chain, at: datetime, cache: PathCache | None = None) -> None:
    """Verify that each certificate signed the next and that the path is exactly the chain (412, 413).

    `at`: a moment inside every certificate's validity. A hit in `cache` skips OpenSSL and nothing else.
    Raises: UntrustedEvidenceError; MalformedEvidenceError for what OpenSSL does not read.
    """
    key = PathCache.key(chain)
    if cache is not None and key in cache:
        return
    loaded = [_loaded(item.der, place(index, len(chain.certificates))) for index, item in enumerate(chain.certificates)]
    store = crypto.X509Store()
    store.add_cert(loaded[0])
    store.set_time(at)
    context = crypto.X509StoreContext(store, loaded[-1], loaded[1:-1])
    try:
        path = context.get_verified_chain()
    except crypto.X509StoreContextError:
        raise UntrustedEvidenceError(Check.CHAIN_SIGNATURES) from None
    ders = tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, item) for item in reversed(path))
    if ders != tuple(item.der for item in chain.certificates):
        raise UntrustedEvidenceError(Check.CHAIN_EXACT)
    if cache is not None:
        cache.add(key)

"""The simulated Nitro PKI: root, regional, zonal, instance and leaf certificates with the profile of the real ones.

The root lives in a state directory (`root.der`, public, and `root.key`), so that relying parties and the KMS
simulator can be given it as a file; everything below it is made in memory and reissued before it expires. Names say
SIMULATED: nobody takes these for AWS's.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
import os
from pathlib import Path
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT_DER = "root.der"
ROOT_KEY = "root.key"
ROOT_LIFETIME = timedelta(days=30 * 365)
ROOT_BACKDATED = timedelta(days=365)  # the only backdated level: a relying party with a slow clock still finds the root valid
REISSUE_BEFORE = timedelta(minutes=15)
LEAF_LIFETIME = timedelta(hours=3)

Clock = Callable[[], datetime]
_Builder = x509.CertificateBuilder


def system_clock() -> datetime:
    """Now, from the machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What a security module signs documents with: its own certificate and the chain above it, root first."""

    issued: Issued
    cabundle: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    common_name: str
    path_length: int
    lifetime: timedelta


def _name(common_name: str) -> x509.Name:
    pairs = (
        (NameOID.COUNTRY_NAME, "XX"),
        (NameOID.ORGANIZATION_NAME, "SIMULATED"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "cloister simulator"),
    )
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in (*pairs, (NameOID.COMMON_NAME, common_name))])


def _key_usage(*, signature: bool = False, commitment: bool = False, cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer: Issued | None) -> Issued:
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA384())
    return Issued(certificate=certificate, key=key)


def _begin(
    common_name: str, issuer: Issued | None, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    subject = _name(common_name)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _authority(common_name: str, path_length: int | None, issuer: Issued | None, start: datetime, end: datetime) -> Issued:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _begin(common_name, issuer, key, start, end).add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    )
    if issuer is not None:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    # the instance's certificate signs certificates only
    usage = _key_usage(cert_sign=True) if path_length == 0 else _key_usage(signature=True, cert_sign=True, crl_sign=True)
    return _sign(builder.add_extension(usage, critical=True), key, issuer)


def _make_root(now: datetime) -> Issued:
    return _authority("simulated.nitro-enclaves", None, None, now - ROOT_BACKDATED, now + ROOT_LIFETIME)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Publish whole files only, and never replace one: of two processes that make a root at once one wins."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def read_root(state: Path) -> bytes:
    """DER of the root certificate in a state directory. Raises: OSError where none was made yet."""
    return (state / ROOT_DER).read_bytes()


def _open_root(state: Path, now: datetime) -> Issued:
    state.mkdir(parents=True, exist_ok=True)
    key_path, certificate_path = state / ROOT_KEY, state / ROOT_DER
    if not key_path.exists():
        made = _make_root(now)
        private = made.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write_new(key_path, private + made.certificate.public_bytes(serialization.Encoding.PEM), 0o600)
    pem = key_path.read_bytes()  # key and certificate in one file: they cannot come from two roots
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the simulated root's key is no P-384 key")
    root = Issued(certificate=x509.load_pem_x509_certificate(pem), key=key)
    if not certificate_path.exists():
        _write_new(certificate_path, root.der, 0o644)
    return root


class SimulatedPki:
    """Certificates for one simulated instance. Not safe for use from several threads at once."""

    def __init__(self, root: Issued, *, instance_id: str, clock: Clock = system_clock) -> None:
        self.root = root
        self._clock = clock
        self._levels = (
            _Level(common_name=f"{secrets.token_hex(8)}.xx-simulated-1.nitro-enclaves", path_length=2, lifetime=timedelta(days=20)),
            _Level(common_name=f"{secrets.token_hex(8)}.zonal.xx-simulated-1.nitro-enclaves", path_length=1, lifetime=timedelta(days=6)),
            _Level(common_name=f"{instance_id}.xx-simulated-1.nitro-enclaves", path_length=0, lifetime=timedelta(days=1)),
        )
        self._chain: list[Issued] = [root]

    @classmethod
    def open(cls, state: Path, *, instance_id: str, clock: Clock = system_clock) -> "SimulatedPki":
        """Use the root in `state`, making one where there is none. Raises: OSError, ValueError."""
        return cls(_open_root(state, clock()), instance_id=instance_id, clock=clock)

    def leaf(self, module_id: str) -> Leaf:
        """A new leaf for this module, valid three hours from now, with the chain as it stands."""
        now = self._clock().replace(microsecond=0)
        self._renew(now)
        key = ec.generate_private_key(ec.SECP384R1())
        builder = (
            _begin(f"{module_id}.xx-simulated-1", self._chain[-1], key, now, now + LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signature=True, commitment=True), critical=False)
        )
        return Leaf(issued=_sign(builder, key, self._chain[-1]), cabundle=tuple(issued.der for issued in self._chain))

    def _renew(self, now: datetime) -> None:
        """Reissue, from the top down, what would not outlive what it has to sign."""
        if len(self._chain) == 1 + len(self._levels):
            below = (*(level.lifetime for level in self._levels[1:]), LEAF_LIFETIME)
            whole = all(now + least <= issued.certificate.not_valid_after_utc for least, issued in zip(below, self._chain[1:], strict=True))
            if whole:
                return
        chain = [self.root]
        for level in self._levels:
            chain.append(_authority(level.common_name, level.path_length, chain[-1], now, now + level.lifetime))
        self._chain = chain


def due(leaf: Leaf, now: datetime) -> bool:
    """Whether the module wants a new leaf: from 15 minutes before the old one expires."""
    return now >= leaf.issued.certificate.not_valid_after_utc - REISSUE_BEFORE

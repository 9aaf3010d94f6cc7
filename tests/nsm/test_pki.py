"""The simulated PKI: five levels with the certificate profile of the genuine chain."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
import stat
import threading

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID
import pytest

from simulator.pki import LEAF_LIFETIME, SimulatedPki, read_root

START = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"


def chain(pki: SimulatedPki) -> list[x509.Certificate]:
    leaf = pki.leaf(MODULE)
    return [x509.load_der_x509_certificate(der) for der in (*leaf.cabundle, leaf.issued.der)]


@pytest.fixture
def certificates(tmp_path: Path) -> list[x509.Certificate]:
    return chain(SimulatedPki.open(tmp_path, instance_id="i-0123456789abcdef0", clock=lambda: START))


def shape(certificate: x509.Certificate) -> list[tuple[str, bool]]:
    """Extension names and criticality in the order of AWS's, less what has no counterpart here."""
    return [(extension.oid.dotted_string, extension.critical) for extension in certificate.extensions if extension.oid != CRL]


CRL = ExtensionOID.CRL_DISTRIBUTION_POINTS


def test_five_levels_of_p384_chain_by_name_and_signature(certificates: list[x509.Certificate]) -> None:
    """Root, regional, zonal, instance, leaf: each issued by the one before, P-384 and ecdsa-with-SHA384 throughout."""
    assert len(certificates) == 5
    for issuer, certificate in zip([certificates[0], *certificates[:-1]], certificates, strict=True):
        certificate.verify_directly_issued_by(issuer)
        assert certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA384
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp384r1"


def test_path_lengths_are_none_2_1_0(certificates: list[x509.Certificate]) -> None:
    """The authorities allow none, 2, 1 and 0 levels below; the leaf is no authority."""
    constraints = [certificate.extensions.get_extension_for_class(x509.BasicConstraints).value for certificate in certificates]
    assert [(value.ca, value.path_length) for value in constraints] == [(True, None), (True, 2), (True, 1), (True, 0), (False, None)]


def test_extensions_are_those_of_a_genuine_chain(certificates: list[x509.Certificate], shared_vectors: Path) -> None:
    """Level by level the same extensions with the same criticality and key usage as AWS's, CRL pointers aside."""
    genuine = cbor2.loads(cbor2.loads((shared_vectors / "attestation/real/20260103T204107Z-base-prod-9e038c2d.bin").read_bytes())[2])
    for ours, der in zip(certificates, [*genuine["cabundle"], genuine["certificate"]], strict=True):
        theirs = x509.load_der_x509_certificate(der)
        assert sorted(shape(ours)) == sorted(shape(theirs))
        usage = [certificate.extensions.get_extension_for_class(x509.KeyUsage).value for certificate in (ours, theirs)]
        assert usage[0] == usage[1]


def test_the_leaf_lives_three_hours_and_has_no_key_identifiers(certificates: list[x509.Certificate]) -> None:
    """The leaf is valid from now for three hours, key usage not critical, no identifiers, no names."""
    leaf = certificates[-1]
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (START, START + timedelta(hours=3))
    assert shape(leaf) == [(ExtensionOID.BASIC_CONSTRAINTS.dotted_string, True), (ExtensionOID.KEY_USAGE.dotted_string, False)]


def test_every_level_outlives_what_it_signs(tmp_path: Path) -> None:
    """Over thirty days of leaves no certificate expires before the one below it, and reissues happen."""
    now = [START]
    pki = SimulatedPki.open(tmp_path, instance_id="i-0", clock=lambda: now[0])
    instances = set()
    for step in range(40):
        now[0] = START + step * timedelta(hours=19)
        certificates = chain(pki)
        assert all(certificate.not_valid_before_utc <= now[0] for certificate in certificates)
        ends = [certificate.not_valid_after_utc for certificate in certificates]
        assert ends[-1] == now[0] + LEAF_LIFETIME
        assert all(end >= ends[-1] for end in ends)
        instances.add(certificates[3].serial_number)
    assert len(instances) >= 20


def test_the_root_persists_and_its_key_is_private(tmp_path: Path) -> None:
    """Opened again, the directory gives the same root; the key file is its owner's alone."""
    first = SimulatedPki.open(tmp_path, instance_id="i-0", clock=lambda: START)
    second = SimulatedPki.open(tmp_path, instance_id="i-1", clock=lambda: START)
    assert first.root.der == second.root.der == read_root(tmp_path)
    assert stat.S_IMODE((tmp_path / "root.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.der", "root.key"]


def test_processes_that_start_at_once_share_one_root(tmp_path: Path) -> None:
    """Eight openings of a fresh directory at the same time end with one root."""
    barrier = threading.Barrier(8)
    roots: list[bytes] = []

    def open_() -> None:
        barrier.wait(10)
        roots.append(SimulatedPki.open(tmp_path, instance_id="i-0", clock=lambda: START).root.der)

    threads = [threading.Thread(target=open_) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(roots) == 8
    assert set(roots) == {read_root(tmp_path)}

"""The chain: each rule of 4xx refuses a chain that breaks it alone, and a correct chain passes."""

from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st
import pytest

from attestation import chain
from attestation.chain import PathCache, Root
from attestation.checks import Check
from attestation.errors import AttestationError
from attestation.report import links
from tests.attestation import forge
from tests.attestation.forge import SPECS, changed, under_root

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
NAME_CONSTRAINTS = x509.NameConstraints([x509.DNSName("example.org")], None)

# Damaged certificates have odd serial numbers, about which the parser warns before it refuses them.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


def check_of(ders: tuple[bytes, ...], cache: PathCache | None = None) -> Check | None:
    """The check that refuses the chain, None where it passes."""
    try:
        chain.check_path(chain.parse(ders, forge.roots()), forge.DOCUMENT_TIME, cache)
    except AttestationError as error:
        return error.checks[0]
    return None


def test_the_profiles_chain_passes() -> None:
    """Root, regional, zonal, instance, leaf."""
    assert check_of(under_root(SPECS)) is None


def test_the_root_is_the_pinned_one() -> None:
    """A root with the same name and key, signed anew, is another certificate."""
    again = forge.certificate(SPECS[0], SPECS[0])
    assert check_of((again, *under_root(SPECS)[1:])) == Check.ROOT
    assert check_of(under_root(SPECS)[1:]) == Check.ROOT


def test_no_roots_accept_nothing() -> None:
    """An empty set of roots is a set that refuses."""
    with pytest.raises(AttestationError) as caught:
        chain.parse(under_root(SPECS), ())
    assert caught.value.checks == (Check.ROOT,)


def test_a_root_is_a_whole_digest() -> None:
    """A truncated pin cannot be constructed."""
    with pytest.raises(ValueError, match="32 bytes"):
        Root(partition="aws", sha256=bytes(31))


def test_the_partition_is_that_of_the_root() -> None:
    """Which root it was is part of the answer."""
    other = Root(partition="other", sha256=bytes(32))
    assert chain.parse(under_root(SPECS), (other, *forge.roots())).root.partition == "aws"


CA_NAMES = ("regional", "zonal", "instance")


@pytest.mark.parametrize("name", CA_NAMES)
@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"basic": None}, Check.CA_BASIC_CONSTRAINTS),
        ({"basic": (False, None, True)}, Check.CA_BASIC_CONSTRAINTS),
        ({"basic": (True, 2, False)}, Check.CA_BASIC_CONSTRAINTS),
        ({"usage": None}, Check.CA_KEY_USAGE),
        ({"usage": (True, False)}, Check.CA_KEY_USAGE),
        ({"key": "p256", "digest": hashes.SHA384()}, Check.CERTIFICATE_KEY),
        ({"digest": hashes.SHA256()}, Check.CERTIFICATE_ALGORITHM),
        ({"digest": hashes.SHA512()}, Check.CERTIFICATE_ALGORITHM),
        ({"extensions": ((UNKNOWN, True),)}, Check.CRITICAL_EXTENSION),
        ({"extensions": ((NAME_CONSTRAINTS, True),)}, Check.CRITICAL_EXTENSION),
        ({"extensions": ((UNKNOWN, False),)}, None),
        ({"issuer": "someone else"}, Check.CHAIN_NAMES),
        ({"signer": "someone else"}, Check.CHAIN_SIGNATURES),
    ],
)
def test_rules_of_each_ca(name: str, changes: dict[str, object], check: Check | None) -> None:
    """Every rule holds for every CA under the root."""
    assert check_of(under_root(changed(name, **changes))) == check


@pytest.mark.parametrize(
    ("name", "path_length", "check"),
    [
        ("regional", 1, Check.CA_PATH_LENGTH),
        ("regional", 2, None),
        ("zonal", 0, Check.CA_PATH_LENGTH),
        ("zonal", 1, None),
        ("instance", 0, None),
        ("regional", None, None),
        ("instance", None, None),
    ],
)
def test_path_lengths(name: str, path_length: int | None, check: Check | None) -> None:
    """A pathLen below the number of CAs that follow refuses; its absence sets no limit (RFC 5280, 4.2.1.9)."""
    assert check_of(under_root(changed(name, basic=(True, path_length, True)))) == check


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"basic": (True, None, True)}, Check.LEAF_BASIC_CONSTRAINTS),
        ({"basic": (True, 0, True)}, Check.LEAF_BASIC_CONSTRAINTS),
        ({"basic": (False, 0, True)}, Check.CERTIFICATE_ENCODING),
        ({"basic": None}, None),
        ({"usage": None}, Check.LEAF_KEY_USAGE),
        ({"usage": (False, False)}, Check.LEAF_KEY_USAGE),
        ({"usage": (True, True)}, Check.LEAF_KEY_USAGE),
        ({"key": "p256"}, Check.CERTIFICATE_KEY),
        ({"key": "rsa"}, Check.CERTIFICATE_KEY),
        ({"digest": hashes.SHA256()}, Check.CERTIFICATE_ALGORITHM),
        ({"extensions": ((UNKNOWN, True),)}, Check.CRITICAL_EXTENSION),
        ({"extensions": ((UNKNOWN, False),)}, None),
        ({"issuer": "zonal"}, Check.CHAIN_NAMES),
        ({"signer": "zonal"}, Check.CHAIN_SIGNATURES),
    ],
)
def test_rules_of_the_leaf(changes: dict[str, object], check: Check | None) -> None:
    """The leaf is no CA, signs, and does not certify."""
    assert check_of(under_root(changed("leaf", **changes))) == check


@pytest.mark.parametrize(
    ("order", "check"),
    [
        ((0, 2, 1, 3, 4), Check.CHAIN_NAMES),
        ((0, 1, 3, 4), Check.CHAIN_NAMES),
        ((0, 1, 2, 4), Check.CHAIN_NAMES),
        ((0, 0, 1, 2, 3, 4), Check.CHAIN_EXACT),
        ((0, 1, 1, 2, 3, 4), Check.CHAIN_NAMES),
        ((0, 1, 2, 3, 4, 4), Check.CHAIN_NAMES),
        ((0, 1, 2, 3), Check.LEAF_BASIC_CONSTRAINTS),
        ((0,), Check.LEAF_BASIC_CONSTRAINTS),
    ],
)
def test_order_and_completeness(order: tuple[int, ...], check: Check) -> None:
    """Nothing is shuffled, missing, extra or twice."""
    ders = under_root(SPECS)
    assert check_of(tuple(ders[place] for place in order)) == check


def test_a_shorter_chain_of_the_profile_passes() -> None:
    """The number of CAs is AWS's business: a leaf directly under the root is a path."""
    assert check_of(under_root((SPECS[0], SPECS[4]))) is None


def _resealed(der: bytes, old: bytes, new: bytes, place: int) -> bytes:
    """The certificate with the `place`th occurrence of `old` replaced by `new`, of the same length."""
    at = -1
    for _ in range(place + 1):
        at = der.index(old, at + 1)
    return der[:at] + new + der[at + len(old) :]


@pytest.mark.parametrize("place", [0, 1])
def test_inner_and_outer_algorithm_are_both_checked(place: int) -> None:
    """A leaf whose inner or outer AlgorithmIdentifier alone says SHA-256 is refused for that."""
    *above, leaf = under_root(SPECS)
    sha384, sha256 = bytes.fromhex("06082a8648ce3d040303"), bytes.fromhex("06082a8648ce3d040302")
    assert check_of((*above, _resealed(leaf, sha384, sha256, place))) == Check.CERTIFICATE_ALGORITHM


def _shortened(der: bytes, old: bytes, new: bytes) -> bytes:
    """The certificate with a part of what is signed replaced by a shorter one."""
    cut, at = len(old) - len(new), der.index(old)
    outer, inner = (int.from_bytes(der[place : place + 2], "big") - cut for place in (2, 6))
    return der[:2] + outer.to_bytes(2, "big") + der[4:6] + inner.to_bytes(2, "big") + der[8:at] + new + der[at + len(old) :]


def test_certificates_are_der_and_nothing_more() -> None:
    """A trailing byte, a cut, an empty SEQUENCE and version 1 are no certificates of the profile."""
    *above, leaf = under_root(SPECS)
    version1 = _resealed(leaf, bytes.fromhex("a003020102"), bytes.fromhex("a003020100"), 0)
    unversioned = _shortened(leaf, bytes.fromhex("a003020102"), b"")  # version 1, with extensions all the same
    for bad in (leaf + b"\0", leaf[:-1], b"\x30\x00", version1, unversioned):
        assert check_of((*above, bad)) == Check.CERTIFICATE_ENCODING


def test_a_serial_number_is_positive() -> None:
    """A negative one, which some parsers take and RFC 5280 forbids, is refused."""
    *above, leaf = under_root(SPECS)
    at = leaf.index(bytes.fromhex("a003020102")) + 7  # the first byte of the serial number itself
    assert check_of((*above, leaf[:at] + b"\xff" + leaf[at + 1 :])) == Check.CERTIFICATE_ENCODING
    serial = leaf[at - 2 : at + leaf[at - 1]]
    for bad in (b"\x02\x01\x00", b"\x02\x01\xff"):
        assert check_of((*above, _shortened(leaf, serial, bad))) == Check.CERTIFICATE_ENCODING


def test_what_only_one_of_two_parsers_reads_is_malformed() -> None:
    """A name whose attribute is no string, another that is a bit string: no parser's own error escapes, whichever refuses."""
    *above, leaf = under_root(SPECS)
    for attribute in ("0603550c030404", "060355040c0304"):
        odd = leaf.replace(bytes.fromhex("06035504030c04") + b"leaf", bytes.fromhex(attribute) + b"leaf")
        assert odd != leaf
        assert check_of((*above, odd)) == Check.CERTIFICATE_ENCODING
        links((odd,))


def test_an_extension_twice_is_malformed() -> None:
    """A certificate that says two things about the same extension is none."""
    *above, leaf = under_root(changed("leaf", extensions=((UNKNOWN, False), (replace_oid("1.2.3.5"), False))))
    twice = leaf.replace(bytes.fromhex("06032a0305"), bytes.fromhex("06032a0304"))
    assert check_of((*above, twice)) == Check.CERTIFICATE_ENCODING


def replace_oid(oid: str) -> x509.UnrecognizedExtension:
    """Another unknown extension."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x05\x00")


def test_a_broken_signature_is_refused_at_every_level() -> None:
    """One bit of the signature of any certificate under the root."""
    ders = under_root(SPECS)
    for place in range(1, 5):
        broken = bytearray(ders[place])
        broken[-1] ^= 1
        assert check_of((*ders[:place], bytes(broken), *ders[place + 1 :])) == Check.CHAIN_SIGNATURES


def test_the_cache_skips_openssl_and_nothing_else() -> None:
    """A remembered chain passes again; a chain with a broken signature is not remembered; rules run on a hit."""
    cache = PathCache()
    ders = under_root(SPECS)
    assert PathCache.key(chain.parse(ders, forge.roots())) not in cache
    assert check_of(ders, cache) is None
    assert PathCache.key(chain.parse(ders, forge.roots())) in cache
    assert check_of(ders, cache) is None
    broken = (*ders[:4], ders[4][:-1] + bytes([ders[4][-1] ^ 1]))
    assert check_of(broken, cache) == Check.CHAIN_SIGNATURES
    assert PathCache.key(chain.parse(broken, forge.roots())) not in cache
    with pytest.raises(AttestationError):
        chain.parse(ders, ())


def test_a_remembered_chain_costs_no_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it is remembered for."""
    cache, ders = PathCache(), under_root(SPECS)
    assert check_of(ders, cache) is None
    monkeypatch.setattr(chain, "_loaded", lambda *_: pytest.fail("OpenSSL was asked again"))
    assert check_of(ders, cache) is None


def test_the_cache_is_bounded_and_forgets_the_least_recent() -> None:
    """At the limit the chain that was not asked for longest is dropped."""
    cache = PathCache(2)
    for key in (b"a", b"b"):
        cache.add(key)
    assert b"a" in cache
    cache.add(b"c")
    assert [key in cache for key in (b"a", b"b", b"c")] == [True, False, True]


def test_the_cache_key_knows_where_certificates_end() -> None:
    """Chains of other certificates, and the same in another order, have other keys."""
    parsed = chain.parse(under_root(SPECS), forge.roots())
    shuffled = replace(parsed, certificates=parsed.certificates[::-1])
    shorter = replace(parsed, certificates=parsed.certificates[:-1])
    assert len({PathCache.key(item) for item in (parsed, shuffled, shorter)}) == 3


def test_a_signer_outside_its_validity_is_refused_by_openssl_too() -> None:
    """Should the profile's own time rules fail, the store still knows the moment."""
    parsed = chain.parse(under_root(SPECS), forge.roots())
    with pytest.raises(AttestationError) as caught:
        chain.check_path(parsed, forge.DOCUMENT_TIME + timedelta(days=400))
    assert caught.value.checks == (Check.CHAIN_SIGNATURES,)


@given(st.integers(1, 4), st.integers(0, 2000), st.integers(1, 255))
def test_any_damage_to_a_certificate_is_refused_with_our_error(which: int, place: int, flip: int) -> None:
    """One changed byte anywhere below the root: refused, and never by another exception."""
    ders = list(under_root_once())
    damaged = bytearray(ders[which])
    damaged[place % len(damaged)] ^= flip
    ders[which] = bytes(damaged)
    assert check_of(tuple(ders)) is not None


def under_root_once() -> tuple[bytes, ...]:
    """One chain for all examples."""
    return forge.default_chain()


@given(st.binary(max_size=200))
def test_any_bytes_as_a_certificate_give_our_error(data: bytes) -> None:
    """No bytes raise anything else."""
    assert check_of((*forge.default_chain()[:4], data)) is not None

"""The simulated security module: PCR and lock semantics, errors, limits, and documents in the shape of AWS's."""

from datetime import UTC, datetime, timedelta
import hashlib
from pathlib import Path

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from wire.cbor import decode_evidence

MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
START = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
ZERO = bytes(48)
ERRORS = {
    "InvalidArgument",
    "InvalidIndex",
    "InvalidResponse",
    "ReadOnlyIndex",
    "InvalidOperation",
    "BufferTooSmall",
    "InputTooLarge",
    "InternalError",
}


class SteppedClock:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def nsm(tmp_path: Path, clock: SteppedClock) -> SimulatedNsm:
    pki = SimulatedPki.open(tmp_path, instance_id="i-0123456789abcdef0", clock=clock)
    return SimulatedNsm(pcrs={0: b"\1" * 48, 4: b"\4" * 48}, module_id=MODULE, pki=pki, clock=clock)


def ask(nsm: SimulatedNsm, request: object) -> object:
    return cbor2.loads(nsm.call(cbor2.dumps(request)))


def document(nsm: SimulatedNsm, **fields: object) -> bytes:
    answer = ask(nsm, {"Attestation": {"user_data": None, "nonce": None, "public_key": None} | fields})
    assert isinstance(answer, dict)
    data: bytes = answer["Attestation"]["document"]
    return data


def payload(data: bytes) -> bytes:
    part: bytes = cbor2.loads(data)[2]
    return part


def claims(data: bytes) -> dict[str, object]:
    value: dict[str, object] = cbor2.loads(payload(data))
    return value


def test_description_names_module_and_locked_pcrs(nsm: SimulatedNsm) -> None:
    """DescribeNSM gives the module id, 32 PCRs, SHA384 and PCR0-15 locked."""
    assert ask(nsm, "DescribeNSM") == {
        "DescribeNSM": {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": MODULE,
            "max_pcrs": 32,
            "locked_pcrs": list(range(16)),
            "digest": "SHA384",
        }
    }


def test_extend_hashes_old_value_and_raw_data(nsm: SimulatedNsm) -> None:
    """ExtendPCR is SHA-384(old || data), and DescribePCR shows the result, unlocked."""
    first = hashlib.sha384(ZERO + b"one").digest()
    second = hashlib.sha384(first + b"two").digest()
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"one"}}) == {"ExtendPCR": {"data": first}}
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"two"}}) == {"ExtendPCR": {"data": second}}
    assert ask(nsm, {"DescribePCR": {"index": 16}}) == {"DescribePCR": {"lock": False, "data": second}}


def test_a_locked_pcr_neither_extends_nor_locks_again(nsm: SimulatedNsm) -> None:
    """Extending or locking a locked PCR is ReadOnlyIndex, whoever locked it, and leaves its value."""
    assert ask(nsm, {"ExtendPCR": {"index": 0, "data": b"x"}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"LockPCR": {"index": 20}}) == "LockPCR"
    assert ask(nsm, {"LockPCR": {"index": 20}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"ExtendPCR": {"index": 20, "data": b"x"}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"DescribePCR": {"index": 20}}) == {"DescribePCR": {"lock": True, "data": ZERO}}


def test_a_range_locks_everything_below_it(nsm: SimulatedNsm) -> None:
    """LockPCRs of 18 locks PCR16 and PCR17 and no more; of 32 all."""
    assert ask(nsm, {"LockPCRs": {"range": 18}}) == "LockPCRs"
    assert [i for i in range(32) if ask(nsm, {"DescribePCR": {"index": i}}) == {"DescribePCR": {"lock": False, "data": ZERO}}] == list(
        range(18, 32)
    )
    assert ask(nsm, {"LockPCRs": {"range": 32}}) == "LockPCRs"
    assert ask(nsm, {"ExtendPCR": {"index": 31, "data": b"x"}}) == {"Error": "ReadOnlyIndex"}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"ExtendPCR": {"index": 32, "data": b""}}, "InvalidIndex"),
        ({"LockPCR": {"index": 32}}, "InvalidIndex"),
        ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
        ({"DescribePCR": {"index": -1}}, "InvalidOperation"),
        ({"DescribePCR": {"index": True}}, "InvalidOperation"),
        ({"DescribePCR": {}}, "InvalidOperation"),
        ({"ExtendPCR": {"index": 16}}, "InvalidOperation"),
        ({"ExtendPCR": {"index": 16, "data": "text"}}, "InvalidOperation"),
        ({"Attestation": {"nonce": "text"}}, "InvalidOperation"),
        ({"Attestation": {"nonce": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"user_data": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"public_key": bytes(1025)}}, "InputTooLarge"),
        ({"Shutdown": {}}, "InvalidOperation"),
        ("Shutdown", "InvalidOperation"),
        ("Attestation", "InvalidOperation"),
        ({"GetRandom": {}}, "InvalidOperation"),
        ({"DescribePCR": {"index": 1}, "LockPCR": {"index": 1}}, "InvalidOperation"),
        ([], "InvalidOperation"),
    ],
)
def test_wrong_requests_get_the_modules_error(nsm: SimulatedNsm, request_: object, error: str) -> None:
    """Every wrong request has the error that the real module gives."""
    assert ask(nsm, request_) == {"Error": error}


def test_a_request_over_the_drivers_limit_is_refused(nsm: SimulatedNsm) -> None:
    """4,096 bytes are answered, 4,097 are not."""
    overhead = len(cbor2.dumps({"ExtendPCR": {"index": 16, "data": bytes(4000)}})) - 4000
    assert "ExtendPCR" in str(ask(nsm, {"ExtendPCR": {"index": 16, "data": bytes(4096 - overhead)}}))
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": bytes(4097 - overhead)}}) == {"Error": "InputTooLarge"}


def test_random_is_256_bytes_and_never_the_same(nsm: SimulatedNsm) -> None:
    """GetRandom gives 256 fresh bytes a call."""
    values = [ask(nsm, "GetRandom") for _ in range(3)]
    parts = [value["GetRandom"]["random"] for value in values if isinstance(value, dict)]
    assert [len(part) for part in parts] == [256] * 3
    assert len(set(parts)) == 3


def test_documents_have_the_bytes_of_real_ones(nsm: SimulatedNsm) -> None:
    """Untagged, ES384, empty unprotected map, indefinite payload map, AWS's key order, nulls, 8-byte timestamp, 96-byte signature."""
    data = document(nsm, user_data=b"u")
    assert data.startswith(bytes.fromhex("8444a1013822a059"))
    body = payload(data)
    assert (body[0], body[-1]) == (0xBF, 0xFF)
    assert list(claims(data)) == ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce"]
    assert b"itimestamp\x1b" + int(START.timestamp() * 1000).to_bytes(8, "big") in body
    assert body.endswith(b"jpublic_key\xf6iuser_dataAuenonce\xf6\xff")
    assert len(cbor2.loads(data)[3]) == 96
    assert isinstance(decode_evidence(data), list)
    assert isinstance(decode_evidence(body), dict)


def test_documents_are_shaped_as_the_newest_genuine_one(nsm: SimulatedNsm, shared_vectors: Path) -> None:
    """Key order, item types and field sizes equal those of a genuine document of 2026."""
    genuine = (shared_vectors / "attestation/real/20260103T204107Z-base-prod-9e038c2d.bin").read_bytes()
    ours, theirs = claims(document(nsm, user_data=bytes(20))), claims(genuine)
    assert list(ours) == list(theirs)
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]
    assert ours["pcrs"].keys() == theirs["pcrs"].keys()  # type: ignore[attr-defined]
    assert len(ours["cabundle"]) == len(theirs["cabundle"])  # type: ignore[arg-type]
    assert document(nsm)[:7] == genuine[:7]


def test_the_signature_is_es384_of_the_leaf(nsm: SimulatedNsm) -> None:
    """Raw r || s over the Sig_structure verifies under the certificate in the payload."""
    data = document(nsm, nonce=b"n")
    protected, _, body, signature = cbor2.loads(data)
    key = x509.load_der_x509_certificate(claims(data)["certificate"]).public_key()  # type: ignore[arg-type]
    assert isinstance(key, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    key.verify(der, cbor2.dumps(["Signature1", protected, b"", body]), ec.ECDSA(hashes.SHA384()))


def test_only_locked_pcrs_stand_in_a_document(nsm: SimulatedNsm) -> None:
    """An unlocked PCR is absent, not zero; once locked it appears with its value."""
    ask(nsm, {"ExtendPCR": {"index": 17, "data": b"x"}})
    assert list(claims(document(nsm))["pcrs"]) == list(range(16))  # type: ignore[call-overload]
    ask(nsm, {"LockPCR": {"index": 17}})
    assert list(claims(document(nsm))["pcrs"]) == [*range(16), 17]  # type: ignore[call-overload]
    ask(nsm, {"LockPCRs": {"range": 32}})
    pcrs = claims(document(nsm))["pcrs"]
    assert isinstance(pcrs, dict)
    assert list(pcrs) == list(range(32))
    assert pcrs[17] == hashlib.sha384(ZERO + b"x").digest()
    assert (pcrs[0], pcrs[4]) == (b"\1" * 48, b"\4" * 48)


def test_the_leaf_is_reissued_fifteen_minutes_before_it_expires(nsm: SimulatedNsm, clock: SteppedClock) -> None:
    """One leaf serves for 2 h 45 min, then a new one stands in the documents, valid from that moment."""
    first = claims(document(nsm))["certificate"]
    clock.now = START + timedelta(hours=2, minutes=45, seconds=-1)
    assert claims(document(nsm))["certificate"] == first
    clock.now = START + timedelta(hours=2, minutes=45)
    second = claims(document(nsm))["certificate"]
    assert second != first
    assert x509.load_der_x509_certificate(second).not_valid_before_utc == clock.now  # type: ignore[arg-type]


def test_only_hardware_pcrs_have_initial_values(tmp_path: Path) -> None:
    """PCR16 and above start at zero, and no PCR has another length than 48 bytes."""
    pki = SimulatedPki.open(tmp_path, instance_id="i-0")
    for pcrs in ({16: ZERO}, {0: b"short"}):
        with pytest.raises(ValueError, match="initial values"):
            SimulatedNsm(pcrs=pcrs, module_id=MODULE, pki=pki)


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> SimulatedNsm:
    return SimulatedNsm(pcrs={}, module_id=MODULE, pki=SimulatedPki.open(tmp_path_factory.mktemp("state"), instance_id="i-0"))


@settings(max_examples=300, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers(-70000, 70000) | st.binary(max_size=8) | st.sampled_from(["index", "LockPCR", "nonce"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["ExtendPCR", "Attestation", "index", "data", "range"]), inner)
            ),
        ).map(cbor2.dumps),
    )
)
def test_any_bytes_have_an_answer(long_lived: SimulatedNsm, data: bytes) -> None:
    """Any request gets a CBOR answer within the response buffer: a result, or one of the eight errors."""
    response = long_lived.call(data)
    assert len(response) <= 0x3000
    answer = cbor2.loads(response)
    if isinstance(answer, dict) and "Error" in answer:
        assert answer["Error"] in ERRORS

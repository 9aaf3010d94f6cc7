"""One deployment for session tests: a genuine simulated module and PKI, its reference values, both session machines.

Evidence is verified and appraised for real; nothing here stands in for a check.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
import hashlib
from pathlib import Path
import tempfile

import cbor2

from attestation import evaluate
from attestation.appraise import AttestationResult, pcr4_of
from attestation.chain import Root
from attestation.values import Measurement, ReferenceValues, pcr16_of
from cloister.session import CallerIdentity, CallerSession
from enclave.session import EnclaveSession, Terms
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki, read_root
from tests.wire.examples import CALLER, ISSUER, NOW, OWNER, a_credential, key, public
from wire.credential import issue
from wire.evidence import CALLERS_ANYONE, CALLERS_ISSUERS, Config, encode_config
from wire.manifest import Anyone, Issuers, Limits, owner_measurement
from wire.record import Octets

INSTANCE = "i-0123456789abcdef0"
DIGEST = hashlib.sha384(b"manifest").digest()
REQUEST_BYTES = 64 * 1024
ANSWER_BYTES = 64 * 1024


def now() -> datetime:
    """The one moment at which all of this happens: sessions themselves have no clock."""
    return datetime.fromtimestamp(NOW, UTC)


@cache
def pki() -> tuple[SimulatedPki, Root]:
    """One PKI for all session tests and its pinned root, whose key stays in memory and in a directory that is gone at once."""
    with tempfile.TemporaryDirectory() as state:
        made = SimulatedPki.open(Path(state), instance_id=INSTANCE, clock=now)
        return made, Root(partition="aws", sha256=hashlib.sha256(read_root(Path(state))).digest())


def _measured(index: int) -> bytes:
    return hashlib.sha384(b"image %d" % index).digest()


REFERENCE = ReferenceValues(
    measurements=(Measurement(pcr0=_measured(0), pcr1=_measured(1), pcr2=_measured(2)),),
    pcr16=pcr16_of(public(OWNER)),
    min_sequence=3,
    accept_anyone=True,
)


@dataclass(kw_only=True)
class Enclave:
    """One enclave of the deployment: its module and its terms."""

    terms: Terms
    nsm: SimulatedNsm

    def document(self, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None = None) -> bytes:
        """A document of the module."""
        request = {"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": public_key}}
        document = cbor2.loads(self.nsm.call(cbor2.dumps(request)))["Attestation"]["document"]
        if not isinstance(document, bytes):
            raise TypeError("the module gives no document")
        return document


def an_enclave(*, callers: Issuers | Anyone | None = None, limits: Limits | None = None, request_bytes: int = REQUEST_BYTES) -> Enclave:
    """An enclave that booted the deployment; each call is another boot of the same image."""
    callers = Issuers(keys=(public(ISSUER),)) if callers is None else callers
    limits = Limits() if limits is None else limits
    nsm = SimulatedNsm(
        pcrs={0: _measured(0), 1: _measured(1), 2: _measured(2), 4: pcr4_of(INSTANCE)},
        module_id=f"{INSTANCE}-enc0123456789abcdef",
        pki=pki()[0],
        clock=now,
    )
    for index, data in ((16, owner_measurement(public(OWNER))), (17, DIGEST)):
        nsm.call(cbor2.dumps({"ExtendPCR": {"index": index, "data": data}}))
    nsm.call(cbor2.dumps({"LockPCRs": {"range": 32}}))
    config = Config(
        owner_key=public(OWNER),
        manifest_digest=DIGEST,
        sequence=3,
        not_after=1 << 40,
        callers=CALLERS_ANYONE if isinstance(callers, Anyone) else CALLERS_ISSUERS,
        audit_key=None,
        session_seconds=limits.session_seconds,
    )
    terms = Terms(
        config_raw=encode_config(config),
        deployment="clinic",
        owner_key=public(OWNER),
        callers=callers,
        limits=limits,
        request_bytes=request_bytes,
    )
    return Enclave(terms=terms, nsm=nsm)


def result(body: bytes, nonce: bytes) -> AttestationResult:
    """Verify and appraise as a caller does."""
    return evaluate(body, nonce=nonce, reference_values=REFERENCE, now=now(), roots=(pki()[1],))


def identity(**changes: object) -> CallerIdentity:
    """A caller with a credential that is valid now."""
    values: dict[str, object] = {"issued": NOW - 60, "not_before": NOW - 60, "expires": NOW + 600}
    return CallerIdentity(credential=issue(a_credential(**(values | changes)), key(ISSUER)), key=key(CALLER))


@dataclass(kw_only=True)
class Session:
    """Both machines after an honest handshake, and its frames in order."""

    caller: CallerSession
    enclave: EnclaveSession
    frames: dict[str, bytes] = field(default_factory=dict)


Allocate = Callable[[int], memoryview]


def offered(enclave: Enclave, caller: CallerSession, allocate: Allocate | None = None) -> tuple[EnclaveSession, bytes, bytes]:
    """The enclave's machine after its offer, with the challenge and evidence frames."""
    machine = EnclaveSession(enclave.terms, allocate=allocate)
    challenge = caller.challenge()
    return machine, challenge, machine.offer(enclave.document(*machine.challenge(challenge)))


def opened(
    enclave: Enclave, who: CallerIdentity | None = None, *, answer_bytes: int = ANSWER_BYTES, allocate: Allocate | None = None
) -> Session:
    """An honest handshake up to the opening's outcome; not yet accepted by the caller."""
    caller = CallerSession(answer_bytes=answer_bytes, allocate=allocate)
    machine, challenge, evidence = offered(enclave, caller, allocate)
    body = caller.evidence(evidence)
    opening = caller.open(result(body, caller.nonce), who)
    accept = machine.open(opening, now=NOW).frame
    return Session(caller=caller, enclave=machine, frames={"challenge": challenge, "evidence": evidence, "open": opening, "accept": accept})


def accepted(
    enclave: Enclave | None = None,
    who: CallerIdentity | None = None,
    *,
    answer_bytes: int = ANSWER_BYTES,
    allocate: Allocate | None = None,
) -> Session:
    """An open session of a caller with a genuine credential."""
    enclave, who = enclave or an_enclave(), who or identity()
    session = opened(enclave, who, answer_bytes=answer_bytes, allocate=allocate)
    session.caller.accept(session.frames["accept"])
    return session


def send(session: Session, pieces: list[Octets]) -> tuple[int, list[bytes]]:
    """One request's id and frames."""
    number, frames = session.caller.request(pieces)
    return number, [bytes(frame) for frame in frames]

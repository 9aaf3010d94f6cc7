"""What is fuzzed: each parser that reads bytes from outside, as a function that raises nothing but a defect, and its seeds."""

from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass
import io

from attestation import chain, document, eif, eif_signature, pack, reference_values, source, verify, withdrawn
from attestation.errors import AttestationError
from attestation.explain import Question, explain
from attestation.verify import Moment
from tests.attestation import forge, parties
from wire import cbor, cose
from wire import evidence as wire_evidence
from wire.errors import WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`run` takes any bytes; `seeds` are what it accepts, to start from."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _refusing(parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A refusal is an answer."""

    def run(data: bytes) -> object:
        with contextlib.suppress(AttestationError, WireError):
            return parse(data)
        return None

    return run


def _certificate(data: bytes) -> None:
    """As the leaf of an otherwise good chain, its signature included."""
    parsed = chain.parse((*forge.default_chain()[:4], data), forge.roots())
    chain.check_path(parsed, forge.DOCUMENT_TIME)


def _round_trip(data: bytes) -> object:
    """What deterministic decoding accepts encodes to the same bytes."""
    value = cbor.decode(data)
    if cbor.encode(value) != data:
        raise AssertionError("two encodings of one value")
    return value


def _report(data: bytes) -> object:
    question = Question(
        data=data, roots=forge.roots(), now=forge.NOW, moment=Moment.NOW, reference_values=parties.VALUES, nonce=forge.NONCE
    )
    return explain(question)


_IMAGE = eif.compose(kernel=b"k" * 20, cmdline=b"c", ramdisks=[b"one", b"two"], metadata=b"{}")
_PACK = pack.build(
    appraised_at=forge.NOW,
    members={
        "evidence.bin": parties.evidence_body(),
        "nonce.bin": forge.NONCE,
        "reference-values.json": reference_values.render(parties.VALUES),
    },
)
_SIGNED = reference_values.sign(parties.values(withdrawn=parties.withdrawals()), parties.OWNER)

TARGETS: Mapping[str, Target] = {
    "cbor": Target(run=_refusing(cbor.decode_evidence), seeds=(forge.indefinite(forge.fields()), b"\xbf\x61a\x9f\x01\xff\xff")),
    "deterministic-cbor": Target(run=_refusing(_round_trip), seeds=(wire_evidence.encode_config(parties.CONFIG),)),
    "cose": Target(run=_refusing(lambda data: cose.parse(data, typ=cose.WITHDRAWN, limit=65_536)), seeds=(parties.withdrawals().envelope,)),
    "document": Target(run=_refusing(document.parse), seeds=(forge.document(), b"\xd2" + forge.document())),
    "verify": Target(run=_refusing(lambda data: verify.verify_archive(data, roots=forge.roots())), seeds=(forge.document(),)),
    "certificate": Target(run=_refusing(_certificate), seeds=forge.default_chain()),
    "evidence": Target(run=_refusing(wire_evidence.parse_evidence_body), seeds=(parties.evidence_body(),)),
    "image": Target(run=_refusing(lambda data: eif.measure(io.BytesIO(data))), seeds=(_IMAGE,)),
    "image-signature": Target(run=_refusing(lambda data: eif_signature.check(data, bytes(48))), seeds=(b"\x81\xa2",)),
    "reference-values": Target(run=_refusing(reference_values.parse), seeds=(_SIGNED, reference_values.render(parties.VALUES))),
    "withdrawals": Target(run=_refusing(withdrawn.open_envelope), seeds=(parties.withdrawals().envelope,)),
    "pack": Target(run=_refusing(pack.read), seeds=(_PACK,)),
    "report": Target(run=_report, seeds=(parties.evidence_body(), forge.document())),
    "text": Target(run=source.decode, seeds=(forge.document().hex().encode(),)),
}

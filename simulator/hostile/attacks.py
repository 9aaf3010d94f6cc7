"""The registry of attacks: who tries what, which check refuses it, and that it succeeds where that check is missing.

`python -P -m simulator attack ID` runs one; `tests/hostile` runs all, each with its twin. An attack is entered here or it
does not count.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from simulator.hostile import evidence_attacks, model_attacks
from simulator.hostile.twins import Edit, Outcome


class Position(StrEnum):
    """Where the adversary stands."""

    CALLER = "caller"
    BETWEEN = "between caller and parent"
    PARENT = "parent"
    KMS = "KMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. `lie`: what the adversary pretends, for a person. `threat`: the row of docs/threat-model.md.

    `check`: the one check that refuses it, by name; `refused_by`: how the refusal shows; `twin`: the edits that take
    exactly that check out.
    """

    id: str
    lie: str
    threat: str
    position: Position
    check: str
    refused_by: str
    twin: tuple[Edit, ...]
    run: Callable[[], Awaitable[Outcome]]


_REGISTRY = (
    Attack(
        id="other-image",
        lie="another image answers, on genuine hardware",
        threat="T6",
        position=Position.PARENT,
        check="attestation.appraise: PCR0, PCR1 and PCR2 equal one accepted measurement",
        refused_by="caller: measurements",
        twin=(
            Edit(
                file="attestation/appraise.py",
                old="if all(pcrs.get(index) == value for index, value in item.pcrs.items())), None)",
                new="), None)",
            ),
        ),
        run=evidence_attacks.other_image,
    ),
    Attack(
        id="swapped-session-key",
        lie="the enclave's session key is one of the parent's",
        threat="T1",
        position=Position.PARENT,
        check="attestation.appraise: user_data binds config and session key",
        refused_by="caller: binding",
        twin=(
            Edit(
                file="attestation/appraise.py",
                old="    yield _equal(Check.BINDING, wire_evidence.user_data(evidence.config_raw, evidence.pk), claims.user_data)\n",
                new="",
            ),
        ),
        run=evidence_attacks.swapped_session_key,
    ),
    Attack(
        id="swapped-model-and-key",
        lie="model and data key are swapped together",
        threat="T9",
        position=Position.KMS,
        check="enclave.artifact: header, key commitment and digest are the manifest's",
        refused_by="enclave: ARTIFACT_HEADER",
        twin=(
            Edit(
                file="enclave/artifact.py",
                old="""        hashlib.sha256(header.raw).digest() != part.header_sha256
        or header.commitment != part.commitment
        or layout.length""",
                new="        layout.length",
            ),
            Edit(
                file="enclave/artifact.py",
                old="if not hmac.compare_digest(digest.digest(), part.artifact_sha256):",
                new="if not hmac.compare_digest(b'', b''):",
            ),
        ),
        run=model_attacks.swapped_model_and_key,
    ),
)

ATTACKS: dict[str, Attack] = {attack.id: attack for attack in _REGISTRY}

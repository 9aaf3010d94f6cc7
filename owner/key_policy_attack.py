"""The attacks on a key, as plans: calls that one after the other must all be allowed for the key to be released.

A plan is values only, so that this package judges it with `owner.policy`, and a test runs the same plan against a KMS
with real attestation documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from owner.key_policy_cast import Caller, Cast
from owner.key_policy_metadata import Metadata
from owner.key_policy_subject import ZERO, Subject


class Attack(StrEnum):
    """The rows of the matrix. The first is no attack: the right enclave, which must be let in."""

    RIGHT_ENCLAVE = "right-enclave"
    NO_ATTESTATION = "no-attestation"
    WRONG_PCR0 = "wrong-pcr0"
    WRONG_PCR1 = "wrong-pcr1"
    WRONG_PCR2 = "wrong-pcr2"
    WRONG_PCR16 = "wrong-pcr16"
    DEBUG = "debug"
    STALE = "stale"
    REPLAY = "replay"
    OTHER_OWNER = "other-owner"
    OTHER_MODEL = "other-model"
    OLD_EPOCH = "old-epoch"
    STRANGER = "stranger"
    ROOT_USER = "root-user"
    IAM_ADMIN = "iam-admin"
    GRANT_HOLDER = "grant-holder"
    PUT_KEY_POLICY = "put-key-policy"
    RE_ENCRYPT = "re-encrypt"
    REPLICA = "replica"
    DATA_KEY = "data-key"


WRONG_PCR = {Attack.WRONG_PCR0: 0, Attack.WRONG_PCR1: 1, Attack.WRONG_PCR2: 2, Attack.WRONG_PCR16: 16}


class Guard(StrEnum):
    """What KMS itself holds against a plan when the policy allows it; NONE: nothing."""

    NONE = ""
    STALE = "KMS accepts a document for five minutes"
    SEALED = "the answer is sealed to the enclave's own RSA key"
    CIPHERTEXT = "the ciphertext is bound to its whole encryption context"
    SINGLE_REGION = "the key is single-Region"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call. `pcrs` None: without a document. `context`: the encryption context. `keys`: further condition keys.

    `granted`: the caller holds a grant that an earlier step made. `elsewhere`: on a key or replica of the caller's own,
    where it is allowed without being asked.
    """

    caller: Caller
    action: str
    pcrs: Mapping[int, str] | None = None
    context: Mapping[str, str]
    keys: Mapping[str, tuple[str, ...]]
    granted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps that must all be allowed, and what of KMS's own stands in the way all the same."""

    steps: tuple[Step, ...]
    guard: Guard = Guard.NONE
    supposed: bool = False
    """It starts from something that nobody has checked, such as an existing grant."""


def _step(caller: Caller, action: str, context: Mapping[str, str], pcrs: Mapping[int, str] | None = None, **more: bool) -> Step:
    return Step(caller=caller, action=f"kms:{action}", context=context, pcrs=pcrs, keys={}, granted=more.get("granted", False))


def _keyed(caller: Caller, action: str, context: Mapping[str, str], **keys: str) -> Step:
    return Step(caller=caller, action=f"kms:{action}", context=context, keys={f"kms:{name}": (value,) for name, value in keys.items()})


def _decrypts(callers: tuple[Caller, ...], subject: Subject, changes: list[dict[int, str | None]], guard: Guard = Guard.NONE) -> list[Plan]:
    """Decrypt from an enclave that differs from a right one by each of `changes` (None: the PCR is not locked)."""
    plans = []
    for caller in callers:
        for enclave in subject.enclaves:
            for context in subject.contexts:
                for change in changes:
                    merged = {**enclave, **change}
                    pcrs = {index: value for index, value in merged.items() if value is not None}
                    plans.append(Plan(steps=(_step(caller, "Decrypt", context, pcrs),), guard=guard))
    return plans


def _wrong(callers: tuple[Caller, ...], subject: Subject, index: int) -> list[Plan]:
    return _decrypts(callers, subject, [{index: value} for value in subject.wrong_pcrs[index] if value != ZERO])


def _grants(callers: tuple[Caller, ...], stranger: Caller, context: Mapping[str, str]) -> list[Plan]:
    """Make a grant, to oneself or to an accomplice, then decrypt by it."""
    plans = []
    for caller in callers:
        for grantee in dict.fromkeys((caller, stranger)):
            keys = {
                "kms:grantoperations": ("Decrypt",),
                "kms:granteeprincipal": (grantee.principal.source_arn,),
                "kms:grantisforawsresource": ("false",),
            }
            create = Step(caller=caller, action="kms:CreateGrant", context={}, keys=keys)
            plans.append(Plan(steps=(create, _step(grantee, "Decrypt", context, granted=True))))
    return plans


def _re_encrypts(callers: tuple[Caller, ...], subject: Subject) -> list[Plan]:
    """Re-encrypt to a key of one's own; or under the same key to another owner's context, and unwrap as that owner."""
    plans = []
    for caller in callers:
        context = subject.contexts[0]
        plans.append(Plan(steps=(_keyed(caller, "ReEncryptFrom", context, reencryptonsamekey="false"),)))
        for owner in subject.other_owners:
            other = {**context, "cloister-owner": owner}
            same = tuple(
                _keyed(caller, action, ctx, reencryptonsamekey="true")
                for action, ctx in (("ReEncryptFrom", context), ("ReEncryptTo", other))
            )
            for wrong in subject.wrong_pcrs[16]:
                pcrs = {n: v for n, v in {**subject.enclaves[0], 16: wrong}.items() if v is not None}
                plans.append(Plan(steps=(*same, _step(caller, "Decrypt", other, pcrs))))
    return plans


def _put(callers: tuple[Caller, ...]) -> list[Plan]:
    return [
        Plan(steps=(_keyed(caller, "PutKeyPolicy", {}, bypasspolicylockoutsafetycheck=bypass),))
        for caller in callers
        for bypass in ("false", "true")
    ]


def _replicas(callers: tuple[Caller, ...], metadata: Metadata) -> list[Plan]:
    guard = Guard.SINGLE_REGION if metadata.multi_region is False else Guard.NONE
    plans = [Plan(steps=(_keyed(caller, "ReplicateKey", {}, replicaregion="us-west-2"),), guard=guard) for caller in callers]
    if metadata.replicas:  # a replica's own policy decides there, and nothing here holds it
        plans.insert(0, Plan(steps=()))
    return plans


def _insider(caller: Caller, cast: Cast, subject: Subject) -> list[Plan]:
    """Everything that someone with all identity policies of the key's account may try without attestation."""
    one = (caller,)
    direct = [Plan(steps=(_step(caller, "Decrypt", context),)) for context in subject.contexts]
    direct += [plan for index in WRONG_PCR.values() for plan in _wrong(one, subject, index)]
    return direct + _put(one) + _grants(one, cast.stranger, subject.contexts[0]) + _re_encrypts(one, subject)


def _other_owner(callers: tuple[Caller, ...], subject: Subject) -> list[Plan]:
    """The right image under another owner's manifest: PCR16 and the context are that owner's."""
    return [
        Plan(steps=(_step(caller, "Decrypt", {**context, "cloister-owner": owner}, {**enclave, 16: pcr16}),))
        for caller in callers
        for enclave in subject.enclaves
        for context in subject.contexts
        for owner in subject.other_owners
        for pcr16 in subject.wrong_pcrs[16]
        if pcr16 is not None
    ]


def _old_epoch(callers: tuple[Caller, ...], subject: Subject) -> list[Plan]:
    return [
        Plan(steps=(_step(caller, "Decrypt", {**context, "cloister-epoch": epoch}, enclave),))
        for caller in callers
        for enclave in subject.enclaves
        for context in subject.contexts
        for epoch in subject.old_epochs
    ]


def _grant_holders(cast: Cast, subject: Subject, metadata: Metadata) -> list[Plan]:
    """Grants that exist, or could: made long ago, they outlive every change of the policy."""
    context = subject.contexts[0]
    made = _grants((*cast.callers, cast.root, cast.iam_admin), cast.stranger, context)
    if metadata.grants is None:
        return [*made, Plan(steps=(_step(cast.stranger, "Decrypt", context, granted=True),), supposed=True)]
    return made


def plans(cast: Cast, trusted: tuple[Caller, ...], subject: Subject, metadata: Metadata) -> dict[Attack, list[Plan]]:
    """Every plan of every row. `trusted`: the one administrator, who may put a policy and nothing else."""
    insiders = (cast.root, cast.iam_admin)
    named = (*(caller for caller in cast.callers if caller is not cast.stranger), cast.iam_admin)
    everyone = (*cast.callers, *insiders)
    untrusted = tuple(caller for caller in cast.callers if caller not in trusted)
    context = subject.contexts[0]
    zeros: dict[int, str | None] = {**dict.fromkeys((0, 1, 2), ZERO), **({8: ZERO} if 8 in subject.wrong_pcrs else {})}
    rows = {
        Attack.RIGHT_ENCLAVE: _decrypts(named, subject, [{}]),
        Attack.NO_ATTESTATION: [Plan(steps=(_step(caller, "Decrypt", context),)) for caller in everyone for context in subject.contexts],
        **{attack: _wrong(everyone, subject, index) for attack, index in WRONG_PCR.items()},
        Attack.DEBUG: _decrypts(everyone, subject, [zeros]),
        Attack.STALE: _decrypts(everyone, subject, [{}], Guard.STALE),
        Attack.REPLAY: _decrypts(everyone, subject, [{}], Guard.SEALED),
        Attack.OTHER_OWNER: _other_owner(everyone, subject),
        Attack.OTHER_MODEL: [
            Plan(steps=(_step(caller, "Decrypt", {**context, "cloister-model": "another"}, subject.enclaves[0]),), guard=Guard.CIPHERTEXT)
            for caller in everyone
        ],
        Attack.OLD_EPOCH: _old_epoch(everyone, subject),
        Attack.STRANGER: _decrypts((cast.stranger,), subject, [{}]),
        Attack.ROOT_USER: _insider(cast.root, cast, subject),
        Attack.IAM_ADMIN: _insider(cast.iam_admin, cast, subject),
        Attack.GRANT_HOLDER: _grant_holders(cast, subject, metadata),
        Attack.PUT_KEY_POLICY: _put((*untrusted, cast.ci)),
        Attack.RE_ENCRYPT: _re_encrypts(everyone, subject),
        Attack.REPLICA: _replicas(everyone, metadata),
        Attack.DATA_KEY: [
            Plan(steps=(_step(caller, action, context),))
            for caller in (*everyone, *insiders)
            for action in ("GenerateDataKey", "GenerateDataKeyPair")
        ],
    }
    return {attack: rows[attack] for attack in Attack}

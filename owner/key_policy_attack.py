"""The attacks on a key, as plans: calls that one after the other must all be allowed for the key to be released.

A plan is values only, so that this package judges it with `owner.policy`, and a test runs the same plan against a KMS
with real attestation documents.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

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


Callers = tuple[Caller, ...]
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


def step(caller: Caller, action: str, context: Mapping[str, str], pcrs: Mapping[int, str] | None = None, *, granted: bool = False) -> Step:
    """A call without further condition keys."""
    return Step(caller=caller, action=f"kms:{action}", context=context, pcrs=pcrs, keys={}, granted=granted)


def keyed(caller: Caller, action: str, context: Mapping[str, str], *, granted: bool = False, **keys: str | tuple[str, ...]) -> Step:
    """A call with condition keys of KMS's."""
    values = {f"kms:{name}": (value,) if isinstance(value, str) else value for name, value in keys.items()}
    return Step(caller=caller, action=f"kms:{action}", context=context, keys=values, granted=granted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps that must all be allowed, and what of KMS's own stands in the way all the same."""

    steps: tuple[Step, ...]
    guard: Guard = Guard.NONE
    supposed: bool = False
    """It starts from something that nobody has checked, such as an existing grant."""


def _decrypts(
    callers: Callers,
    subject: Subject,
    changes: list[dict[int, str | None]],
    guard: Guard = Guard.NONE,
    contexts: Iterable[Mapping[str, str]] | None = None,
) -> list[Plan]:
    """Decrypt from an enclave that differs from a right one by each of `changes` (None: the PCR is not locked)."""
    plans = []
    for caller in callers:
        for enclave in subject.enclaves:
            for context in subject.targets if contexts is None else contexts:
                for change in changes:
                    merged = {**enclave, **change}
                    pcrs = {index: value for index, value in merged.items() if value is not None}
                    plans.append(Plan(steps=(step(caller, "Decrypt", context, pcrs),), guard=guard))
    return plans


def _changes(subject: Subject, index: int) -> list[dict[int, str | None]]:
    return [{index: value} for value in subject.wrong_pcrs[index] if value != ZERO]


def _zeros(subject: Subject) -> dict[int, str | None]:
    return {**dict.fromkeys((0, 1, 2), ZERO), **({8: ZERO} if 8 in subject.wrong_pcrs else {})}


def _mixtures(subject: Subject) -> list[dict[int, str | None]]:
    """Two PCRs wrong together, or more, up to all that the policy knows: locks may hold only while others do."""
    known = subject.wrong_pcrs
    subsets = (some for size in range(2, len(known) + 1) for some in combinations(known, size))
    return [{index: known[index][0] for index in some} for some in subsets]


def _wrong(callers: Callers, subject: Subject, index: int) -> list[Plan]:
    """One PCR is wrong, alone or with others; the latter also under a retired epoch."""
    mixed = [change for change in _mixtures(subject) if index in change]
    plans = _decrypts(callers, subject, [*_changes(subject, index), *mixed])
    retired = [{**context, "cloister-epoch": epoch} for context in subject.targets for epoch in subject.old_epochs]
    return plans + _decrypts(callers, subject, [*_changes(subject, index)[:1], *mixed], contexts=retired)


def thefts(caller: Caller, subject: Subject, contexts: Iterable[Mapping[str, str]], *, granted: bool = False) -> list[Step]:
    """Every Decrypt that nobody ought to get: without attestation, from enclaves that are wrong in any way."""
    wrong = [change for index in subject.wrong_pcrs for change in _changes(subject, index)]
    changed = [{**subject.enclaves[0], **change} for change in (*wrong, *_mixtures(subject), _zeros(subject))]
    evidence = [None, *({index: value for index, value in pcrs.items() if value is not None} for pcrs in changed)]
    return [step(caller, "Decrypt", context, pcrs, granted=granted) for context in contexts for pcrs in evidence]


# What a grant may be made for: to decrypt, to re-encrypt, to have data keys; each alone, beside something harmless, beside all of it.
_HARMLESS = ("Encrypt", "ReEncryptTo", "DescribeKey", "RetireGrant", "GetPublicKey", "Sign", "Verify", "GenerateMac", "VerifyMac")
_OPERATIONS = tuple(
    (wanted, *beside)
    for wanted in ("Decrypt", "ReEncryptFrom", "GenerateDataKey")
    for beside in ((), *((one,) for one in _HARMLESS), _HARMLESS)
)


def delegations(caller: Caller, cast: Cast, subject: Subject, operations: Iterable[tuple[str, ...]] = _OPERATIONS) -> list[Plan]:
    """Make a grant, to oneself or to an accomplice, then use it."""
    plans = []
    context = subject.contexts[0]
    for grantee in dict.fromkeys((caller, cast.stranger, *cast.accomplices)):
        for names in operations:
            arn = grantee.principal.source_arn
            create = keyed(caller, "CreateGrant", {}, grantoperations=names, granteeprincipal=arn, grantisforawsresource="false")
            if names[0] == "Decrypt":
                used = thefts(grantee, subject, (context,), granted=True)
            elif names[0] == "ReEncryptFrom":
                used = [keyed(grantee, "ReEncryptFrom", context, granted=True, reencryptonsamekey="false")]
            else:
                used = [step(grantee, names[0], context, granted=True)]
            plans += [Plan(steps=(create, one)) for one in used]
    return plans


def re_encrypts(callers: Callers, subject: Subject, contexts: Iterable[Mapping[str, str]]) -> list[Plan]:
    """Re-encrypt to a key of one's own; or under the same key to another owner's context, and unwrap as that owner."""
    plans = []
    for caller in callers:
        for context in contexts:
            plans.append(Plan(steps=(keyed(caller, "ReEncryptFrom", context, reencryptonsamekey="false"),)))
            for owner in subject.other_owners:
                other = {**context, "cloister-owner": owner}
                same = tuple(
                    keyed(caller, action, ctx, reencryptonsamekey="true")
                    for action, ctx in (("ReEncryptFrom", context), ("ReEncryptTo", other))
                )
                for wrong in subject.wrong_pcrs[16]:
                    pcrs = {n: v for n, v in {**subject.enclaves[0], 16: wrong}.items() if v is not None}
                    plans.append(Plan(steps=(*same, step(caller, "Decrypt", other, pcrs))))
    return plans


def _put(callers: Callers) -> list[Plan]:
    return [
        Plan(steps=(keyed(caller, "PutKeyPolicy", {}, bypasspolicylockoutsafetycheck=bypass),))
        for caller in callers
        for bypass in ("false", "true")
    ]


def _replicas(callers: Callers, metadata: Metadata) -> list[Plan]:
    guard = Guard.SINGLE_REGION if metadata.multi_region is False else Guard.NONE
    plans = [Plan(steps=(keyed(caller, "ReplicateKey", {}, replicaregion="us-west-2"),), guard=guard) for caller in callers]
    if metadata.replicas:  # a replica's own policy decides there, and nothing here holds it
        plans.insert(0, Plan(steps=()))
    return plans


def _insider(caller: Caller, cast: Cast, subject: Subject) -> list[Plan]:
    """Everything that someone with all identity policies of the key's account may try without attestation."""
    one = (caller,)
    direct = [Plan(steps=(theft,)) for theft in thefts(caller, subject, subject.targets)]
    return direct + _put(one) + delegations(caller, cast, subject) + re_encrypts(one, subject, subject.targets)


def _other_owner(callers: Callers, subject: Subject) -> list[Plan]:
    """The right image under another owner's manifest: PCR16 and the context are that owner's."""
    return [
        Plan(steps=(step(caller, "Decrypt", {**context, "cloister-owner": owner}, {**enclave, 16: pcr16}),))
        for caller in callers
        for enclave in subject.enclaves
        for context in subject.targets
        for owner in subject.other_owners
        for pcr16 in subject.wrong_pcrs[16]
        if pcr16 is not None
    ]


def _old_epoch(callers: Callers, subject: Subject) -> list[Plan]:
    return [
        Plan(steps=(step(caller, "Decrypt", {**context, "cloister-epoch": epoch}, enclave),))
        for caller in callers
        for enclave in subject.enclaves
        for context in subject.targets
        for epoch in subject.old_epochs
    ]


def _grant_holders(callers: Callers, cast: Cast, subject: Subject, metadata: Metadata) -> list[Plan]:
    """Grants that could be made, and, where nobody has looked, one made long ago: it outlives every change of the policy."""
    made = [plan for caller in callers for plan in delegations(caller, cast, subject)]
    if metadata.grants is not None:
        return made
    context = subject.contexts[0]
    held = thefts(cast.stranger, subject, (context,), granted=True)
    held.append(keyed(cast.stranger, "ReEncryptFrom", context, granted=True, reencryptonsamekey="false"))
    return [*made, *(Plan(steps=(theft,), supposed=True) for theft in held)]


def plans(cast: Cast, trusted: Callers, subject: Subject, metadata: Metadata) -> dict[Attack, list[Plan]]:
    """Every plan of every row. `trusted`: the one administrator, who may put a policy and nothing else."""
    insiders = (cast.root, cast.iam_admin)
    everyone = (*cast.apart, *insiders)
    known = (*(caller for caller in cast.apart if caller not in cast.strangers), cast.iam_admin)
    context = subject.contexts[0]
    rows = {
        Attack.RIGHT_ENCLAVE: _decrypts(known, subject, [{}]),
        Attack.NO_ATTESTATION: [Plan(steps=(step(caller, "Decrypt", target),)) for caller in everyone for target in subject.targets],
        **{attack: _wrong(everyone, subject, index) for attack, index in WRONG_PCR.items()},
        Attack.DEBUG: _decrypts(everyone, subject, [_zeros(subject)]),
        Attack.STALE: _decrypts(everyone, subject, [{}], Guard.STALE),
        Attack.REPLAY: _decrypts(everyone, subject, [{}], Guard.SEALED),
        Attack.OTHER_OWNER: _other_owner(everyone, subject),
        Attack.OTHER_MODEL: [
            Plan(steps=(step(caller, "Decrypt", {**context, "cloister-model": "another"}, subject.enclaves[0]),), guard=Guard.CIPHERTEXT)
            for caller in everyone
        ],
        Attack.OLD_EPOCH: _old_epoch(everyone, subject),
        Attack.STRANGER: _decrypts(cast.strangers, subject, [{}]),
        Attack.ROOT_USER: _insider(cast.root, cast, subject),
        Attack.IAM_ADMIN: _insider(cast.iam_admin, cast, subject),
        Attack.GRANT_HOLDER: _grant_holders(everyone, cast, subject, metadata),
        Attack.PUT_KEY_POLICY: _put((*(caller for caller in (*cast.callers, cast.ci) if caller not in trusted),)),
        Attack.RE_ENCRYPT: re_encrypts(everyone, subject, subject.targets),
        Attack.REPLICA: _replicas(everyone, metadata),
        Attack.DATA_KEY: [
            Plan(steps=(step(caller, action, context),)) for caller in everyone for action in ("GenerateDataKey", "GenerateDataKeyPair")
        ],
    }
    return {attack: rows[attack] for attack in Attack}

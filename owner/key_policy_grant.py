"""The grants that a key has, as plans: every operation that reveals the key or hands the right to it on, as the grant allows it.

A grant outlives every change of the policy, and only an explicit Deny holds it. Its constraint binds the encryption context,
so it is tried under the contexts of the owner's models, retired ones too, each completed by what the constraint demands.
"""

from collections.abc import Mapping

from owner.key_policy_attack import Plan, delegations, re_encrypts, step, thefts
from owner.key_policy_cast import Caller, Cast, grantee
from owner.key_policy_flaw import Flaw, unjudged
from owner.key_policy_subject import Subject
from owner.policy import Grant

# Grant operations that neither reveal anything wrapped under the key nor delegate: KMS API Reference, CreateGrant.
# Those of asymmetric and HMAC keys are none of a symmetric key's.
HARMLESS = frozenset(
    (
        *("DescribeKey", "Encrypt", "GetPublicKey", "RetireGrant", "ReEncryptTo", "Sign", "Verify", "GenerateMac", "VerifyMac"),
        *("GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPairWithoutPlaintext", "DeriveSharedSecret"),
    )
)
_DATA_KEYS = ("GenerateDataKey", "GenerateDataKeyPair")
_USES = ("Decrypt", "ReEncryptFrom", *_DATA_KEYS)


def _contexts(grant: Grant, subject: Subject) -> list[Mapping[str, str]]:
    """The contexts under which the grant would work."""
    if grant.context_equals is not None:
        return [grant.context_equals]
    changed = [{"cloister-epoch": epoch} for epoch in subject.old_epochs] + [{"cloister-owner": owner} for owner in subject.other_owners]
    wanted = [*subject.targets, *({**subject.contexts[0], **change} for change in changed)]
    merged = [{**context, **(grant.context_subset or {})} for context in wanted]
    return [dict(pairs) for pairs in dict.fromkeys(tuple(sorted(context.items())) for context in merged)]


def _plans(grant: Grant, holder: Caller, cast: Cast, subject: Subject) -> list[Plan]:
    contexts, found = _contexts(grant, subject), list[Plan]()
    if "Decrypt" in grant.operations:
        found += [Plan(steps=(theft,)) for theft in thefts(holder, subject, contexts)]
    if "ReEncryptFrom" in grant.operations:
        found += re_encrypts((holder,), subject, contexts)
    found += [Plan(steps=(step(holder, action, context),)) for action in _DATA_KEYS if action in grant.operations for context in contexts]
    if "CreateGrant" in grant.operations:  # for no more than what it allows itself
        found += delegations(holder, cast, subject, [(action,) for action in _USES if action in grant.operations])
    return found


def holdings(grants: tuple[Grant, ...], cast: Cast, subject: Subject) -> tuple[list[Plan], list[Flaw]]:
    """The plans of every grant's holder, and a flaw for each grant whose holder or operation this model does not have."""
    found, flaws = list[Plan](), list[Flaw]()
    for grant in grants:
        where = f"grant {grant.id}"
        try:
            holder = Caller(principal=grantee(grant.grantee), name=f"{grant.grantee} ({where})", identity=())
        except ValueError:
            flaws.append(unjudged(where, f"its holder {grant.grantee} is not modelled", "retire this grant"))
            continue
        unknown = sorted(grant.operations - HARMLESS - {*_USES, "CreateGrant"})
        flaws += [unjudged(where, f"the operation {operation} is not modelled", "retire this grant") for operation in unknown]
        found += _plans(grant, holder, cast, subject)
    return found, flaws

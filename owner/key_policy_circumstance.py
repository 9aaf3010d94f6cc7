"""What else a caller can arrange: condition keys that are neither its name nor evidence, and that it or a service may set.

A key policy may spare, or let in, whoever calls through an alias or another service, or who makes a grant of a certain kind.
Where a policy looks at such a key, every attack is also tried with a value of each kind that the policy tells apart.
"""

from collections.abc import Mapping
from itertools import product

from owner.key_policy_flaw import Flaw, entangled
from owner.patterns import DIGITS, HEX, PATH, Run, Shape, TooManyError, kinds, literal, some
from owner.policy_condition import patterns
from owner.policy_document import Policy

VARIANTS_MAX = 128
_TEXT = some(PATH)
_NITRO_TPM = "kms:recipientattestation:nitrotpmpcr"

FREE: Mapping[str, tuple[Shape, ...]] = {
    "kms:viaservice": (_TEXT,),
    "aws:viaawsservice": (literal("true"), literal("false")),
    **dict.fromkeys(("aws:calledvia", "aws:calledviafirst", "aws:calledvialast", "aws:sourcearn"), (_TEXT,)),
    "aws:sourceaccount": ((Run(characters=DIGITS),) * 12,),
    "kms:requestalias": (literal("alias/") + _TEXT,),
    "kms:grantconstrainttype": (literal("EncryptionContextEquals"), literal("EncryptionContextSubset")),
    "kms:grantisforawsresource": (literal("true"), literal("false")),
    "kms:retiringprincipal": (_TEXT,),
    "kms:replicaregion": (_TEXT,),
    **{f"{_NITRO_TPM}{index}": ((Run(characters=HEX),) * 96,) for index in range(32)},
}

Circumstance = Mapping[str, tuple[str, ...]]


def circumstances(policy: Policy) -> tuple[tuple[Circumstance, ...], tuple[Flaw, ...]]:
    """Condition keys to add to a request, in every combination that the policy may tell apart; the first adds none."""
    conditions = [one for statement in policy.statements for one in statement.conditions]
    options: dict[str, list[tuple[str, ...] | None]] = {}
    for key in dict.fromkeys(condition.key.lower() for condition in conditions):
        if key not in FREE:
            continue
        try:
            told = kinds(FREE[key], [pattern for one in conditions if one.key.lower() == key for pattern in patterns(one)])
        except TooManyError:
            return ({},), (entangled(key),)
        options[key] = [None, *((value,) for value in told.values())]
    count = 1
    for values in options.values():
        count *= len(values)
    if count > VARIANTS_MAX:
        return ({},), (entangled(", ".join(options)),)
    combined = [{key: value for key, value in zip(options, one, strict=True) if value is not None} for one in product(*options.values())]
    return tuple(combined), ()

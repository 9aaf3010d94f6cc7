"""Replace one measurement set by another without an hour in which nothing is served: the steps, in order, as a dry run.

Two verifiers must agree at every moment: KMS, by the key policy, and the callers, by their reference values. Callers go
first when a set is added and last when one is removed, so that whatever KMS lets start is also accepted.
"""

from dataclasses import dataclass, replace

from attestation.values import Measurement, ReferenceValues
from owner.key_policy import Inputs, generate


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """One step: what to do, why here, how to see that it is done, and the file that it needs, if it needs one."""

    title: str
    why: str
    check: str
    policy: str | None = None
    reference_values: ReferenceValues | None = None


def _same(one: Measurement, other: Measurement) -> bool:
    return dict(one.pcrs) == dict(other.pcrs)


def rollout(inputs: Inputs, values: ReferenceValues, new: Measurement) -> tuple[RolloutStep, ...]:
    """The steps from `values` and the policy of `inputs`, which hold one measurement set, to `new`.

    Raises: ValueError where there is more than one set to start from, or nothing to replace.
    """
    if len(inputs.measurements) != 1 or len(values.measurements) != 1:
        raise ValueError("a roll-out starts from one measurement set: finish the one under way first")
    if _same(inputs.measurements[0], new) or not _same(inputs.measurements[0], values.measurements[0]):
        raise ValueError("the new measurements are the old ones, or the reference values hold others than the policy")
    if values.pcr17 is not None:
        raise ValueError(
            "these reference values pin one manifest (PCR17): pin the new manifest's with a sequence floor instead, then roll out"
        )
    old = inputs.measurements[0]
    both_values = replace(values, measurements=(old, new), sequence=values.sequence + 1)
    new_values = replace(values, measurements=(new,), sequence=values.sequence + 2)
    return (
        RolloutStep(
            title="give every caller reference values with both sets",
            why="callers that know only the old set would refuse the new enclaves",
            check="cloister reference-values show: two measurements; wait until every caller has reloaded them",
            reference_values=both_values,
        ),
        RolloutStep(
            title="put the key policy with both sets",
            why="KMS would refuse the new image its data key",
            check="cloister key-policy lint exits 0; the new enclave boots to SERVING",
            policy=generate(replace(inputs, measurements=(old, new))),
        ),
        RolloutStep(
            title="start the new enclaves and send new sessions to them",
            why="both sets are accepted now, by KMS and by callers",
            check="cloister attestation fetch shows the new PCR2",
        ),
        RolloutStep(
            title="drain the old enclaves: no new session, wait for the session lifetime and 60 s, then terminate them",
            why="a session lives at most as long as its configuration says; open requests get 60 s more",
            check="the parent's session gauge of every old enclave is 0",
        ),
        RolloutStep(
            title="put the key policy with the new set alone",
            why="an old enclave that restarts would still get the key",
            check="cloister key-policy diff shows Decrypt from the old set as newly forbidden; an old enclave boots to KMS_REFUSED",
            policy=generate(replace(inputs, measurements=(new,))),
        ),
        RolloutStep(
            title="give every caller reference values with the new set alone; if the old one was bad, withdraw it too",
            why="an old enclave that still runs, wherever, would still be believed",
            check="cloister attestation fetch ENDPOINT --reference-values FILE, asked of an old enclave that still runs, exits 1",
            reference_values=new_values,
        ),
    )

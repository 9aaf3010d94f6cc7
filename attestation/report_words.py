"""The sentences of a report: what each register measures, what evidence cannot show, what an attacker could still do."""

from attestation.values import ReferenceValues

_MEANINGS = {
    0: "the whole image: kernel, command line, ramdisks",
    1: "what boots: kernel, command line, first ramdisk",
    2: "the application: the other ramdisks",
    3: "the IAM role of the parent instance",
    4: "the parent instance's id",
    8: "who signed the image",
    16: "in a Cloister image, the owner: whose key signed the manifest",
    17: "in a Cloister image, the manifest that was booted",
}


def meaning(index: int) -> str:
    """What register `index` measures, in a few words."""
    return _MEANINGS.get(index, "nothing that Nitro defines; zero unless the application extends it")


def cannot_know(*, live: bool, whole: bool, compared: bool) -> tuple[str, ...]:
    """What was not proven, for a judgement of this kind."""
    rows = []
    if not live:
        rows.append("anything about now: the document was judged at its own moment, its certificates may have expired long ago")
        rows.append("that it was made for you: a document of the past can be shown to anyone")
    if not whole:
        rows.append("which session key or service config belongs to it: a bare document binds neither")
    if not compared:
        rows.append("that it is an enclave you want: anyone with an AWS account gets authentic documents for any image")
    rows += [
        "that the image does what you think: a measurement is a hash; build the image yourself and compare (cloister image measure)",
        "that the enclave still runs, or will answer",
        "that the model's answers are right",
        "which bytes of kernel and command line are which: the registers do not bind where one section ends",
        "that AWS's Nitro hardware, hypervisor and PKI are honest: everything here rests on them",
    ]
    return tuple(rows)


def could_still(values: ReferenceValues | None, *, compared: bool) -> tuple[str, ...]:
    """What an attacker could still do to whoever relies on this judgement."""
    rows = []
    if not compared:
        rows.append("run any image of their own and show you its authentic documents: do not send anything to it")
    rows += [
        "refuse, delay or drop: the parent instance carries every byte",
        "see when and how much you send, in padded sizes, and whether it was you",
    ]
    if values is not None and values.pcr17 is None:
        rows.append("with the owner's stolen key: run another manifest on the accepted image, above your floor (pinning PCR17 prevents it)")
    if values is not None and values.withdrawn is None:
        rows.append("run an accepted image after its flaw is known: your reference values hold no list of withdrawals")
    if values is not None and values.accept_anyone:
        rows.append("ask the model as well: your reference values accept an enclave that authenticates no caller")
    rows.append("as a caller with a credential: learn about the model from its answers")
    return tuple(rows)

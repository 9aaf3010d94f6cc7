"""`simulator attack` says what both runs of an attack showed."""

import pytest

from simulator.hostile.attacks import ATTACKS
from simulator.hostile.run import main, report
from simulator.hostile.twins import Outcome

ATTACK = ATTACKS["kms-evidence"]
HONEST = Outcome(succeeded=False, refused_by="caller: purpose")
TWIN = Outcome(succeeded=True, refused_by=None)


def test_the_report_tells_both_runs() -> None:
    """The check, what was set aside beside it, how it refused, and that the attack succeeds without."""
    lines, as_said = report(ATTACK, HONEST, TWIN)
    assert as_said
    assert lines == [
        "kms-evidence: evidence made for KMS is shown to a caller [T10, parent]",
        "    the check       attestation.appraise: a session's document has no public_key",
        "    set aside       what else would end it, in attestation/appraise.py",
        "    with the check  refused as caller: purpose",
        "    without it      succeeded",
    ]


@pytest.mark.parametrize(
    ("honest", "twin"),
    [
        (Outcome(succeeded=True, refused_by=None), TWIN),
        (Outcome(succeeded=False, refused_by="caller: nonce, binding, purpose"), TWIN),
        (HONEST, Outcome(succeeded=False, refused_by="caller: purpose")),
    ],
    ids=["the attack succeeds", "another check refuses it", "the twin is refused"],
)
def test_what_the_registry_does_not_say_is_said_loudly(honest: Outcome, twin: Outcome) -> None:
    """A run that ends otherwise than the registry says is marked, and is no success of the command."""
    lines, as_said = report(ATTACK, honest, twin)
    assert not as_said
    assert "NOT AS EXPECTED" in lines[-1]


def test_the_list_names_every_attack(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` has each attack with the refusal that a run of it shows."""
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for attack in ATTACKS.values():
        assert f"{attack.id}: {attack.lie}" in said
        assert f"    as {attack.refused_by}\n" in said


@pytest.mark.parametrize("words", [[], ["kms-evidence", "--list"], ["--twin"], ["no-such-attack"]])
def test_what_names_no_one_attack_is_a_mistake(words: list[str]) -> None:
    """An id or --list, not both and not neither."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2

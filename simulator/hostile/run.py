"""`python -P -m simulator attack ID`: run one attack of the registry and its twin; `--list` names them all."""

import argparse
import asyncio
import json
import sys

from simulator.hostile.attacks import ATTACKS, Attack, attempt
from simulator.hostile.twins import Edit, Outcome


def _places(edits: tuple[Edit, ...]) -> str:
    return ", ".join(dict.fromkeys(edit.file for edit in edits))


def report(attack: Attack, honest: Outcome, twin: Outcome) -> tuple[list[str], bool]:
    """What both runs showed, for a person, and whether it is what the registry says."""
    as_said = honest == Outcome(succeeded=False, refused_by=attack.refused_by)
    lines = [f"{attack.id}: {attack.lie} [{attack.threat}, {attack.position.value}]", f"    the check       {attack.check}"]
    if attack.without:
        lines.append(f"    set aside       what else would end it, in {_places(attack.without)}")
    for label, outcome in (("with the check", honest), ("without it", twin)):
        ended = "succeeded" if outcome.succeeded else f"refused as {outcome.refused_by}"
        lines.append(f"    {label:<15} {ended}")
    if not as_said:
        lines.append(f"    NOT AS EXPECTED: refused as {attack.refused_by}")
    if not twin.succeeded:
        lines.append("    NOT AS EXPECTED: it should succeed without the check")
    return lines, as_said and twin.succeeded


def _listing(attack: Attack) -> str:
    lie = f"{attack.id}: {attack.lie} [{attack.threat}, {attack.position.value}]"
    return f"{lie}\n    refused by {attack.check}\n    as {attack.refused_by}"


def main(argv: list[str]) -> int:
    """Both runs as text, 0 if they ended as the registry says, else 1; one run as JSON {"succeeded", "refused_by"}, 1 if it succeeded."""
    parser = argparse.ArgumentParser(
        prog="python -P -m simulator attack", description="Run one attack of the registry with the check that refuses it, and without."
    )
    parser.add_argument("id", nargs="?", choices=sorted(ATTACKS), metavar="ID", help="an attack's id")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", action="store_true", help="name every attack, its check and its refusal")
    group.add_argument("--honest", action="store_true", help="only with the check, other locks set aside as the registry says; JSON")
    group.add_argument("--twin", action="store_true", help="only without the check, in which the attack must succeed; JSON")
    group.add_argument("--here", action="store_true", help="once against this very tree with every lock in place; JSON")
    arguments = parser.parse_args(argv)
    if arguments.list == (arguments.id is not None):
        parser.error("give an attack's id, or --list")
    if arguments.list:
        sys.stdout.write("\n".join(map(_listing, ATTACKS.values())) + "\n")
        return 0
    attack = ATTACKS[arguments.id]
    if arguments.here or arguments.honest or arguments.twin:
        outcome = asyncio.run(attack.run()) if arguments.here else attempt(attack, twin=arguments.twin)
        sys.stdout.write(json.dumps({"succeeded": outcome.succeeded, "refused_by": outcome.refused_by}) + "\n")
        return int(outcome.succeeded)
    lines, as_said = report(attack, attempt(attack, twin=False), attempt(attack, twin=True))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if as_said else 1

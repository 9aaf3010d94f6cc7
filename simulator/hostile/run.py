"""`python -P -m simulator attack ID [--twin]`: run one attack of the registry; `--list` names them all."""

import argparse
import asyncio
import json

from simulator.hostile.attacks import ATTACKS, attempt


def main(argv: list[str]) -> int:
    """Prints one JSON object {"succeeded", "refused_by"}; 0 if the attack was refused, 1 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -P -m simulator attack", description="Run one attack of the registry.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("id", nargs="?", choices=sorted(ATTACKS), metavar="ID", help="an attack's id")
    group.add_argument("--list", action="store_true", help="name every attack, its check and its refusal")
    parser.add_argument("--twin", action="store_true", help="without the one check, in which the attack must succeed")
    parser.add_argument("--honest", action="store_true", help="with the check, the other locks that the registry names taken out")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for attack in ATTACKS.values():
            print(f"{attack.id}: {attack.lie} [{attack.threat}, {attack.position.value}]")
            print(f"    refused by {attack.check}\n    as {attack.refused_by}")
        return 0
    attack = ATTACKS[arguments.id]
    aside = arguments.twin or arguments.honest
    outcome = attempt(attack, twin=arguments.twin) if aside else asyncio.run(attack.run())
    print(json.dumps({"succeeded": outcome.succeeded, "refused_by": outcome.refused_by}))
    return int(outcome.succeeded)

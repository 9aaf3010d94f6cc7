"""`python -P -m simulator NOUN ...`: the one door to everything that is pretend."""

from importlib import import_module
import sys

NOUNS = {
    "nsm": "simulator.nsm_process",
    "qemu-devices": "simulator.qemu.devices",
    "kms": "simulator.kms",
    "attack": "simulator.hostile.run",
    "demo": "simulator.demo",
    "up": "simulator.up",
    "down": "simulator.down",
    "cloister": "simulator.cloister",
}


def main(argv: list[str]) -> int:
    """Hand over to the noun's `main(argv) -> int`; 2 for an unknown noun."""
    noun = argv[0] if argv else ""
    if noun not in NOUNS:
        print(f"usage: python -P -m simulator {{{','.join(NOUNS)}}} ...", file=sys.stderr)
        return 2
    code: int = import_module(NOUNS[noun]).main(argv[1:])
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

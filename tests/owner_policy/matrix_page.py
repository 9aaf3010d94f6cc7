"""docs/key-policies.md: the matrix of every committed policy as one page. `python -m tests.owner_policy.matrix_page` writes it anew."""

from pathlib import Path

from owner.key_policy_attack import Attack
from owner.key_policy_lint import TEXTS
from owner.key_policy_matrix import Row, Verdict
from tests.owner_policy.vectors import CASES, FOLDER, Case
from tests.vectors_path import ROOT

PAGE = ROOT / "docs" / "key-policies.md"
TEN = (
    "default_fail",
    "allow-and-delegation_fail",
    "anded-deny_fail",
    "for-any-value_fail",
    "if-exists-on-allow_fail",
    "no-pcr1_fail",
    "ored-allows_fail",
    "create-grant_fail",
    "parent-kms-star_fail",
    "delegation-no-deny-on-put_fail",
)
INTRO = """\
# Key policies and who gets the key

Each attack was run through the policy engine (`cloister key-policy simulate`), and the telling calls of each against a simulated
KMS with real attestation documents; a test compares both with what was expected by hand. The policies are in
[tests/vectors/policies](../tests/vectors/policies). This page is written by `python -m tests.owner_policy.matrix_page`, and a test
says whether it is current.

R: the key is released. A point: refused. ?: depends on what was not told (grants). Only the first row may have an R in a policy that
holds: it is the right enclave.
"""


def _sign(row: Row) -> str:
    return {Verdict.RELEASED: "R", Verdict.REFUSED: "·", Verdict.NOT_CHECKED: "?", Verdict.NOT_MODELLED: "!"}[row.verdict]


def _matrix(cases: list[Case]) -> list[str]:
    names = [case.name.removesuffix("_fail") for case in cases]
    lines = ["| | " + " | ".join(str(number) for number in range(len(cases))) + " |", "|---" * (len(cases) + 1) + "|"]
    columns = [case.matrix().rows for case in cases]
    lines += [f"| {attack.value} | " + " | ".join(_sign(column[place]) for column in columns) + " |" for place, attack in enumerate(Attack)]
    return [*lines, "", *(f"{number}. `{name}`: {case.what}" for number, (name, case) in enumerate(zip(names, cases, strict=True)))]


def _by(row: Row) -> str:
    deciding = row.decisions[-1].deciding if row.decisions else None
    return deciding.statement if row.verdict is Verdict.RELEASED and deciding else row.why


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def page() -> str:
    """The whole page."""
    demo = _case("generated")
    lines = [
        INTRO,
        "## The policy that generate writes",
        "",
        "The demo's key has this policy.",
        "",
        "| attack | key | by |",
        "|---|---|---|",
    ]
    lines += [f"| {row.attack.value} | {_sign(row)} | {_by(row)} |" for row in demo.matrix().rows]
    lines += ["", "## Beside ten that do not hold", "", *_matrix([demo, *map(_case, TEN)]), "", "## Every committed policy", ""]
    lines += ["| policy | what it is | attacks that get the key |", "|---|---|---|"]
    for case in CASES:
        released = ", ".join(sorted(attack.value for attack in case.matrix().released))
        outcome = released or ("none" if case.admits else "none; the right enclave is refused as well")
        lines.append(f"| [{case.name}](../tests/vectors/policies/{case.name}.json) | {case.what} | {outcome} |")
    lines += ["", "## The attacks", "", "| row | the attack |", "|---|---|"]
    lines += [f"| {attack.value} | {TEXTS[attack]} |" for attack in Attack]
    return "\n".join(lines) + "\n"


def write(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(f"{len(list(FOLDER.glob('*.json'))) - 1} policies")

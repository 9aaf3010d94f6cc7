"""Find the checks of a module and make, for each, the module's syntax tree without it. Pure: source in, trees out.

A check is: an operand of a condition whose branch only raises, returns, continues or breaks; a match case or else branch
that only raises; a call whose result nobody uses and whose name says that it checks; a yielded comparison of the appraisal;
an operand of a conjunction or disjunction that a function returns.
"""

import ast
from collections import Counter
from collections.abc import Iterator
import copy
from dataclasses import dataclass
import re

CHECKING = re.compile(
    r"^_?(check|verify|verify1|judge|require|expect|refuse|ensure|demand|reject|assure|forbid|bound|limit|exhausted|finish|fail_unless|must)(_.*|\d*)?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One check taken out: where it was, what it said, and the syntax tree without it."""

    module: str
    function: str
    line: int
    check: str
    tree: ast.Module
    number: int = 1

    @property
    def key(self) -> str:
        """A name that outlives changes elsewhere in the file; `number` tells checks of one function apart that read alike."""
        return f"{self.module} {self.function} {self.check}" + (f" #{self.number}" if self.number > 1 else "")


def _leaves(body: list[ast.stmt]) -> bool:
    """Whether a branch only gets away: what its condition guards is a check."""
    return len(body) <= 3 and isinstance(body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break)


def _call_name(node: ast.expr) -> str:
    target = node.func if isinstance(node, ast.Call) else node
    return target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""


class _Replace(ast.NodeTransformer):
    """Replace the one node at a position in traversal order."""

    def __init__(self, wanted: int, new: ast.AST) -> None:
        self.wanted = wanted
        self.new = new

    def visit(self, node: ast.AST) -> ast.AST:
        if getattr(node, "_number", None) == self.wanted:
            return ast.copy_location(self.new, node)
        return self.generic_visit(node)


def _numbered(source: str) -> ast.Module:
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        node._number = number  # type: ignore[attr-defined]
    return tree


def _sites(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Pairs of a node to replace and what replaces it, of one statement or clause."""
    match node:
        case ast.If(test=test, body=body) if _leaves(body):
            for operand, constant in _conditions(test):
                yield operand, ast.Constant(value=constant)
        case ast.If(orelse=[ast.Raise() as only]):
            yield only, ast.Pass()
        case ast.match_case(body=[ast.Raise() as only]):
            yield only, ast.Pass()
        case ast.Expr(value=ast.Call() as call) if CHECKING.match(_call_name(call)):
            yield node, ast.Pass()
        case ast.Expr(value=ast.Yield(value=ast.Call(func=ast.Name()))):
            yield node, ast.Pass()
        case ast.Return(value=ast.BoolOp(op=op) as test):
            for value in test.values:
                yield value, ast.Constant(value=isinstance(op, ast.And))


def _conditions(test: ast.expr) -> Iterator[tuple[ast.expr, bool]]:
    """The operands of a guard. In a disjunction each one is a check; in a conjunction, taking out one widens the guard."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            if isinstance(test.op, ast.Or):
                yield from _conditions(value)
            else:
                yield value, True
        if isinstance(test.op, ast.And):
            yield test, False
        return
    yield test, False


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    tree = _numbered(source)
    found: list[tuple[int, int, str, str, ast.AST]] = []
    for function, node in _walk(tree, ""):
        for old, new in _sites(node):
            line = getattr(old, "lineno", 0)
            text = " ".join(ast.unparse(old).split())
            suffix = "" if not (isinstance(new, ast.Constant) and new.value) else " -> True"
            found.append((line, old._number, function, text + suffix, new))  # type: ignore[attr-defined]
    made = []
    alike: Counter[tuple[str, str]] = Counter()
    for line, node_number, function, text, new in sorted(found, key=lambda item: item[:2]):
        changed = copy.deepcopy(tree)
        _Replace(node_number, new).visit(changed)
        alike[function, text] += 1
        number = alike[function, text]
        made.append(Mutant(module=module, function=function, line=line, check=text, tree=ast.fix_missing_locations(changed), number=number))
    return made


def _walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        name = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{function}.{child.name}" if function else child.name
        yield name, child
        yield from _walk(child, name)

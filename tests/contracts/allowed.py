"""An import-linter contract by allow-list: every import of a package's modules is named, or it breaks the contract."""

import sys
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def _within(module: str, packages: "set[str]") -> bool:
    parts = module.split(".")
    return any(".".join(parts[:end]) in packages for end in range(1, len(parts) + 1))


class _Names(fields.Field):  # type: ignore[type-arg]
    """Names separated by spaces."""

    def parse(self, raw_data: "str | list[str]") -> "set[str]":
        return set(raw_data.split() if isinstance(raw_data, str) else raw_data)


class AllowedContract(Contract):
    """`package` (without `beside`) imports itself, `modules` (without `without`), `external` top-level packages, the standard library."""

    type_name = "allowed"

    package = _Names()
    beside = _Names(required=False)
    modules = _Names(required=False)
    without = _Names(required=False)
    external = _Names(required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Judge every direct import; what is imported is judged by its own contract."""
        named: dict[str, set[str]] = {
            name: getattr(self, name) or set() for name in ("package", "beside", "modules", "without", "external")
        }
        ours = {module.partition(".")[0] for module in graph.modules if not graph.is_module_squashed(module)}
        broken: list[tuple[str, str]] = []
        for module in sorted(graph.modules):
            if graph.is_module_squashed(module) or not _within(module, named["package"]) or _within(module, named["beside"]):
                continue
            imports = sorted(graph.find_modules_directly_imported_by(module))
            broken += [(module, imported) for imported in imports if not self._allows(imported, ours, named)]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def _allows(self, imported: str, ours: "set[str]", named: "dict[str, set[str]]") -> bool:
        top = imported.partition(".")[0]
        if top not in ours:
            return top in sys.stdlib_module_names or top in named["external"]
        if _within(imported, named["without"]) or _within(imported, named["beside"]):
            return False
        return _within(imported, named["package"] | named["modules"])

    def render_broken_contract(self, check: Any) -> None:
        """One line per import that is not allowed."""
        for module, imported in check.metadata["broken"]:
            output.print_error(f"{module} imports {imported}", bold=True)

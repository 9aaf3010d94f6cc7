"""Write enclave/allowed-modules.txt anew from what is loaded now: python tests/contracts/write_allowed_modules.py. Review the change."""

from pathlib import Path
import subprocess

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-enclave" / "bin" / "python"
HEAD = """\
# Every module that importing the enclave's modules loads, in an environment of requirements/enclave.lock alone
# (tests/contracts/test_allowed_modules.py). Ours by full name, others by their top-level package.
"""


def main() -> None:
    """Ours and third parties' first, then the standard library's."""

    def run(*arguments: str) -> set[str]:
        return set(subprocess.run([str(PYTHON), "-I", *arguments], capture_output=True, text=True, check=True).stdout.split())

    loaded = run(str(Path(__file__).with_name("imported_modules.py")), str(ROOT))
    standard = run("-c", "import sys; print(*sys.stdlib_module_names)") | {"_frozen_importlib", "_frozen_importlib_external"}
    names = [*sorted(loaded - standard), "# Standard library, Python 3.13", *sorted(loaded & standard)]
    (ROOT / "enclave" / "allowed-modules.txt").write_text(HEAD + "\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

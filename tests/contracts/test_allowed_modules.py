"""What runs in the enclave's process is listed: no module more, no module less."""

from pathlib import Path
import subprocess

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-enclave" / "bin" / "python"
LIST = ROOT / "enclave" / "allowed-modules.txt"


def listed() -> tuple[set[str], set[str]]:
    """Ours and third parties', and the standard library's of the image's Python."""
    ours, _, standard = LIST.read_text(encoding="utf-8").partition("# Standard library")
    return _names(ours), _names(standard.partition("\n")[2])


def _names(text: str) -> set[str]:
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def run(*arguments: str) -> str:
    assert PYTHON.exists(), "make .venv-enclave/installed"
    done = subprocess.run([str(PYTHON), "-I", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return set(run(str(Path(__file__).with_name("imported_modules.py")), str(ROOT)).split())


@pytest.fixture(scope="module")
def standard() -> set[str]:
    return set(run("-c", "import sys; print(*sys.stdlib_module_names)").split()) | {"_frozen_importlib", "_frozen_importlib_external"}


def test_ours_and_third_parties_modules_are_exactly_the_list(loaded: set[str], standard: set[str]) -> None:
    """An import that the list does not name, and a name that nothing imports, both fail; the list's change is the review."""
    assert loaded - standard == listed()[0]


def test_the_standard_librarys_modules_are_exactly_the_list(loaded: set[str], standard: set[str]) -> None:
    """The same for the standard library, by the image's Python."""
    if run("-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() != "3.13":
        pytest.skip("Python 3.13, the image's, absent")
    assert loaded & standard == listed()[1]


def test_the_enclaves_environment_lacks_what_it_must_not_have() -> None:
    """In an environment of the enclave's lock alone there is no HTTP library but botocore's, no verifier, no test tool."""
    for name in ("OpenSSL", "requests", "pytest", "sklearn", "rich", "attestation", "simulator", "owner", "cloister", "parent"):
        assert run("-c", f"import importlib.util; print(importlib.util.find_spec({name!r}))").strip() == "None", name

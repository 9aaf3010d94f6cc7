"""What each Dockerfile copies passes the ignore file that counts for it, and nothing else of the tree is sent to a build."""

from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
# Dockerfile: its ignore file. BuildKit and buildah take one beside the Dockerfile, named after it, before the root's.
IMAGES = {"Dockerfile.enclave": ".dockerignore", "deploy/sidecar/Dockerfile": "deploy/sidecar/Dockerfile.dockerignore"}
FETCHED = {"build/wheels"}  # not of the tree


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern matches a path or a folder above it; `*` stays within a name, `**/` is any folders."""
    parts = re.split(r"(\*\*/|\*)", text.removeprefix("/"))
    inner = "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.compile(rf"{inner}(?:/.*)?")


def rules(ignore: str) -> list[tuple[bool, re.Pattern[str]]]:
    """Each rule: whether it takes in, and what."""
    lines = [line.strip() for line in (ROOT / ignore).read_text(encoding="utf-8").splitlines()]
    return [(line.startswith("!"), _pattern(line.removeprefix("!"))) for line in lines if line and not line.startswith("#")]


def passes(path: str, found: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """The last rule that matches decides."""
    decided = [taken for taken, pattern in found if pattern.fullmatch(path)]
    return not decided or decided[-1]


def copied(dockerfile: str) -> list[tuple[str, str]]:
    """(source, target) of each COPY out of the tree."""
    found = []
    for line in (ROOT / dockerfile).read_text(encoding="utf-8").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            found += [(source, words[-1]) for source in words[1:-1]]
    return found


def files(source: str) -> list[str]:
    """The files of a source, without what Python leaves behind."""
    path = ROOT / source
    found = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]
    return [each.relative_to(ROOT).as_posix() for each in found]


@pytest.mark.parametrize(("dockerfile", "ignore"), IMAGES.items(), ids=IMAGES)
def test_what_is_copied_passes_the_ignore_file(dockerfile: str, ignore: str) -> None:
    """Every file below every source is sent to the build."""
    found = rules(ignore)
    sources = [source for source, _ in copied(dockerfile)]
    assert sources
    for source in sources:
        wanted = [f"{source}/some.whl"] if source in FETCHED else files(source)
        assert wanted, source
        assert [path for path in wanted if not passes(path, found)] == []


@pytest.mark.parametrize(("dockerfile", "ignore"), IMAGES.items(), ids=IMAGES)
def test_nothing_else_is_sent(dockerfile: str, ignore: str) -> None:
    """What no COPY names stays out: other packages, keys and worlds in the working tree, the history."""
    found = rules(ignore)
    sources = [source for source, _ in copied(dockerfile)]
    names = [path.name for path in ROOT.iterdir()]
    others = {
        "requirements/dev.lock",
        "build/image/report.json",
        "caller.pem",
        ".git/config",
        "tests/conftest.py",
        "wire/__pycache__/a.pyc",
    }
    for path in {*names, *others} - {"requirements", "build", "owner"}:
        assert passes(path, found) is any(
            path == source or path.startswith(f"{source}/") for source in sources if "__pycache__" not in path
        )


def test_the_sidecars_image_has_what_the_command_needs(tmp_path: Path) -> None:
    """What is copied into the sidecar's image is enough to run it, and no other package of ours is loaded."""
    for source, target in copied("deploy/sidecar/Dockerfile"):
        if target.startswith("/tmp/cloister"):
            for path in files(source):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, tmp_path / path)
    code = """
import sys
from cloister.command.main import main
status = main(["sidecar", "--config", "nothing.toml"])
import cloister.sidecar.serve
print(status, sorted({name.partition(".")[0] for name in sys.modules} & {"enclave", "owner", "parent", "simulator"}), cloister.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == f"3 [] {tmp_path / 'cloister/__init__.py'}\n", done.stderr

"""docs/architecture.md describes the tree that is there."""

from pathlib import Path
import re

from wire.errors import Stage

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_table_has_every_package_and_no_other() -> None:
    """Each top-level package, and the two parts of the SDK's that differ in trust."""
    rows = set(re.findall(r"^\| `([a-z.]+)` \|", TEXT, re.MULTILINE))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert rows == packages | {"cloister.sidecar", "cloister.command"}


def test_every_hop_of_the_stories_is_a_module() -> None:
    """The three stories name modules that exist, each once per story."""
    stories = ["".join(block) for block in re.findall(r"((?:^    .*\n)+)", TEXT, re.MULTILINE)]
    assert len(stories) == 3
    for story in stories:
        hops = re.findall(r"\b((?:wire|enclave|parent|attestation|owner|cloister)\.[a-z_]+)", story)
        for hop in hops:
            assert (ROOT / f"{hop.replace('.', '/')}.py").is_file(), hop
        assert len(set(hops)) == len(hops) - hops.count("cloister.session") + bool(hops.count("cloister.session"))


def test_the_stages_are_the_codes() -> None:
    """The boot table's stages, in order."""
    assert re.findall(r"^\| ([A-Z]+) \|", TEXT, re.MULTILINE) == [stage.name for stage in Stage]

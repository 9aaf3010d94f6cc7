"""docs/operate.md says what the parent does: its example parses, its tables are the code's, every boot failure is explained."""

import asyncio
from dataclasses import fields
from pathlib import Path
import re

import pytest

from parent.appliance import Appliance
from parent.config import Config, Limits, S3Feed, parse
from wire.errors import BOOT_TABLE, BootFailure

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_is_a_configuration_and_names_every_key() -> None:
    """The example parses, and each field of the configuration comes from it."""
    config = parse(example())
    assert config.launch is not None
    assert config.egress[0].private
    assert config.metrics_listen is not None
    said = {"session", "cid", "sessions", "feed", "status", "credentials", "metrics", "directory", "source", "listen", "to", "private"}
    said |= {"nitro_cli", "eif", "name", "cpus", "memory_mib"}
    assert said <= set(re.findall(r"^(\w+) = ", example(), re.MULTILINE))
    with_bucket = parse(example().replace("directory =", 'bucket = "b"\nregion = "r"\nprefix ='))
    assert isinstance(with_bucket.feed, S3Feed)
    for each in fields(S3Feed):
        assert f"`{each.name}`" in TEXT
    assert f"default `{with_bucket.feed.cache}`" in TEXT


def test_the_limits_table_is_the_codes() -> None:
    """Every limit with its default, and no other."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", TEXT, re.MULTILINE))
    assert rows == {each.name: f"{each.default:g}" for each in fields(Limits)}


@pytest.mark.parametrize("failure", BootFailure)
def test_every_boot_failure_is_explained(failure: BootFailure) -> None:
    """Heading as the log's anchor, then code, whether it was retried, the table's text, and what to do."""
    anchor = failure.name.lower().replace("_", "-")
    found = re.search(rf"^### {anchor}\n(.+)$", TEXT, re.MULTILINE)
    assert found is not None
    retried = ", retried" if BOOT_TABLE[failure].retried else ""
    start = f"Code {failure.value}{retried}: {BOOT_TABLE[failure].text}. "
    assert found[1].startswith(start)
    assert len(found[1]) > len(start) + 20


def test_no_boot_failure_is_explained_that_does_not_exist() -> None:
    """A heading without a code would send the operator astray."""
    anchors = set(re.findall(r"^### ([a-z-]+)$", TEXT, re.MULTILINE))
    assert anchors == {failure.name.lower().replace("_", "-") for failure in BootFailure}


def test_the_metrics_table_is_the_codes() -> None:
    """Every metric that the parent shows is in the table, and no other."""

    async def names(config: Config) -> set[str]:
        return {f"cloister_{metric.name}" for metric in Appliance(config).collect()}

    documented = {name for line in TEXT.splitlines() if line.startswith("| `cloister_") for name in re.findall(r"`(cloister_\w+)`", line)}
    assert asyncio.run(names(parse(example()))) == documented

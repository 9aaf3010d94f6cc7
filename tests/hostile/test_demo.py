"""The demo is what the README promises, and its search can fail."""

import subprocess
import sys

from simulator.demo import HEADING
from simulator.world import TREE


def test_demo() -> None:
    """It exits 0, says first that it is simulated, finds nothing in the parent's bytes, and stays under 60 lines."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "simulator", "demo"],
        cwd=TREE,
        env={"PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0] == HEADING
    assert len(lines) < 60
    assert any(line.endswith(": 0 found") for line in lines)
    assert lines[-1].startswith("Next: ")

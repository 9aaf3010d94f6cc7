"""ONNX Runtime's wheels hold a telemetry client since 1.29: it must not start, neither in workers nor in the enclave."""

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import os, sys
sys.path.insert(0, {root!r})
import {module}
import onnxruntime
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize("module", ["enclave.engine", "simulator"])
def test_importing_starts_no_thread(module: str) -> None:
    """The process that imports ONNX Runtime through our modules has one thread: no client was started."""
    code = LOOK.format(root=str(ROOT), module=module)
    environment = {"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ran.stdout.split()[:1] == ["1"], ran.stderr

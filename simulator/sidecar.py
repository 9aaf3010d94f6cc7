"""A sidecar in front of the world that `up` keeps: the unchanged `cloister sidecar`, as a process, under the world's root."""

from collections.abc import Sequence
import json
import os
from pathlib import Path
import secrets
import signal
import subprocess
import sys

from simulator import processes
from simulator.world import WorldError

CONFIG = """\
[appliance]
endpoint = {endpoint}
reference_values = "reference-values.json"
credential = "credential"
caller_key = "caller.pem"

[http]
listen = "tcp:127.0.0.1:0"
token_file = "token"

[grpc]
listen = "tcp:127.0.0.1:0"
token_file = "token"
"""


class Sidecar:
    """The process, its doors and its token."""

    def __init__(self, process: subprocess.Popen[str], lines: Sequence[str], token: str) -> None:
        self._process = process
        self._lines = tuple(lines)
        self._token = token

    @classmethod
    def start(cls, folder: Path, world: Path) -> "Sidecar":
        """Write its configuration into the folder of a standing world and start it as a process of that world. Raises: WorldError."""
        token = secrets.token_urlsafe(24)
        for name, text in (("token", token), ("sidecar.toml", CONFIG.format(endpoint=json.dumps(f"unix:{folder / 'endpoint'}")))):
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        words = ("simulator", "cloister", "sidecar", "--config", str(folder / "sidecar.toml"))
        process = subprocess.Popen(
            [*processes.interpreter(world), "-P", "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CLOISTER_WORLD": str(folder)},
        )
        lines: list[str] = []
        while process.stdout is not None and len(lines) < 2:
            line = process.stdout.readline()
            if not line:
                process.wait()
                raise WorldError("the sidecar does not start")
            if line.startswith("SIDECAR_"):
                lines.append(line.strip())
        return cls(process, lines, token)

    def tell(self, models: Sequence[str]) -> None:
        """Say on standard output where it is, in a form that a shell can read."""
        print("\n# a sidecar for unmodified clients of the Open Inference Protocol")
        for line in (*self._lines, f"TOKEN={self._token}", f"MODELS={','.join(models)}"):
            print(line)
        sys.stdout.flush()

    def close(self) -> None:
        """End it in order."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

"""nitro-cli as a child process: start, look at and stop the enclave. Never in debug mode; there is no argument for it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
import json
import logging
import time

from parent.config import Launch
from parent.errors import LaunchError

RUN_SECONDS = 120.0
ASK_SECONDS = 20.0
OUTPUT_MAX = 256 * 1024
WATCH_SECONDS = 10.0
SETTLED_SECONDS = 300.0  # an enclave that lived so long, or served, is no failed start
PAUSES = (1.0, 5.0, 15.0, 60.0)  # before each further start; the last one for all that follow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An enclave as `nitro-cli describe-enclaves` shows it."""

    id: str
    name: str
    cid: int
    state: str
    debug: bool


def parse_run(text: str) -> str:
    """The id of the enclave that `run-enclave` started. Raises: LaunchError."""
    value = _json(text)
    identity = value.get("EnclaveID") if isinstance(value, dict) else None
    if not isinstance(identity, str) or not identity:
        raise LaunchError("nitro-cli run-enclave gives no EnclaveID")
    return identity


def parse_describe(text: str) -> tuple[Running, ...]:
    """The enclaves of this instance. Raises: LaunchError."""
    value = _json(text)
    if not isinstance(value, list):
        raise LaunchError("nitro-cli describe-enclaves gives no list")
    return tuple(_running(item) for item in value)


def _running(item: object) -> Running:
    match item:
        case {"EnclaveID": str(identity), "EnclaveCID": int(cid), "State": str(state), "Flags": str(flags)}:
            name = item.get("EnclaveName", "") if isinstance(item, dict) else ""
            return Running(id=identity, name=str(name), cid=cid, state=state, debug=flags != "NONE")
    raise LaunchError("nitro-cli describe-enclaves gives an enclave without id, CID, state or flags")


def _json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise LaunchError("nitro-cli gives no JSON") from None
    return value


class Launcher:
    """Keeps one enclave running under the configured name and CID."""

    def __init__(
        self,
        launch: Launch,
        cid: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._launch = launch
        self._cid = cid
        self._now = now
        self._sleep = sleep
        self.starts = 0

    async def start(self) -> str:
        """Run the enclave; its id. Raises: LaunchError."""
        launch = self._launch
        self.starts += 1
        arguments = ["--eif-path", launch.eif, "--cpu-count", str(launch.cpus), "--memory", str(launch.memory_mib)]
        arguments += ["--enclave-cid", str(self._cid), "--enclave-name", launch.name]
        return parse_run(await self._call("run-enclave", *arguments, seconds=RUN_SECONDS))

    async def find(self) -> Running | None:
        """The enclave of this name, if it is there. Raises: LaunchError, also where it is not as configured."""
        for each in parse_describe(await self._call("describe-enclaves", seconds=ASK_SECONDS)):
            if each.name == self._launch.name:
                if each.cid != self._cid or each.debug:
                    raise LaunchError(f"an enclave {each.name} runs with another CID or in debug mode; terminate it first")
                return each
        return None

    async def stop(self) -> None:
        """Terminate the enclave of this name, if it is there. Raises: LaunchError."""
        found = await self.find()
        if found is not None:
            await self._call("terminate-enclave", "--enclave-id", found.id, seconds=ASK_SECONDS)

    async def keep(self, lost: "asyncio.Event", serving: Callable[[], bool]) -> None:
        """Start the enclave, and start it again whenever it is gone; sets `lost` each time. Never returns.

        Pauses grow with every start since the last enclave that served, as `serving` tells, or lived for SETTLED_SECONDS.
        """
        failures = 0
        since: float | None = None  # when the enclave was started or first seen; None while there is none
        while True:
            pause = WATCH_SECONDS
            try:
                if await self.find() is not None:
                    since = self._now() if since is None else since
                    if serving() or self._now() - since >= SETTLED_SECONDS:
                        failures = 0
                elif since is not None:
                    since, pause = None, _pause(failures)
                    lost.set()
                    log.warning("the enclave %s is gone; started again in %g s", self._launch.name, pause)
                else:
                    log.info("starting the enclave %s", self._launch.name)
                    await self.start()
                    failures += 1
                    since = self._now()
            except LaunchError as error:
                failures += 1
                pause = _pause(failures)
                log.error("%s", error)
            await self._sleep(pause)

    async def _call(self, verb: str, *arguments: str, seconds: float) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self._launch.nitro_cli,
                verb,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # it repeats paths and build facts; its own log has them
            )
        except OSError as error:
            raise LaunchError(f"{self._launch.nitro_cli}: {error.strerror}; is aws-nitro-enclaves-cli installed?") from None
        try:
            async with asyncio.timeout(seconds):
                output = await _read(process)
        except TimeoutError:
            raise LaunchError(f"nitro-cli {verb} does not end") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise LaunchError(f"nitro-cli {verb} fails with exit code {process.returncode}; see /var/log/nitro_enclaves")
        return output.decode("utf-8", "replace")


def _pause(failures: int) -> float:
    """Before the next start, after so many that came to nothing."""
    return PAUSES[min(max(failures, 1), len(PAUSES)) - 1]


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """All that the process says, up to a bound, and its end. Raises: LaunchError."""
    output = b""
    while process.stdout is not None and (data := await process.stdout.read(65_536)):
        output += data
        if len(output) > OUTPUT_MAX:
            raise LaunchError("nitro-cli says more than it should")
    await process.wait()
    return output

"""Lies about sessions: one replayed, one wired to another enclave, evidence for KMS shown to a caller, a simulated root."""

import asyncio
from contextlib import closing, suppress
from pathlib import Path

from attestation.chain import AWS_ROOTS
from cloister.api import connect
from cloister.errors import CloisterError
from simulator.hostile.evidence_attacks import steal, terms
from simulator.hostile.forging_kms import SEEN
from simulator.hostile.impostor import Impostor, evidence_of, read_frame
from simulator.hostile.small import INPUT, MODEL, booted, canary, prepared, refusal_of
from simulator.hostile.twins import Outcome
from simulator.world import World
from wire import handshake
from wire.evidence import parse_evidence_body
from wire.frame import FrameType

WAIT_SECONDS = 60.0  # for an answer or an end; silence is neither
CLOSED = "enclave: the opening does not open"  # it ends the session at once and says nothing


class InconclusiveError(Exception):
    """The enclave neither answered nor refused: nothing was shown."""


async def _recorded(world: World, through: Path) -> list[bytes]:
    """Let a caller make one sealed request through a relay; what it sent: challenge, open, and then records."""
    sent: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(world.endpoint.removeprefix("unix:"))

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: list[bytes] | None) -> None:
            with suppress(OSError):
                while chunk := await source.read(1 << 16):
                    if kept is not None:
                        kept.append(chunk)
                    target.write(chunk)
                    await target.drain()
                target.close()

        await asyncio.gather(pump(reader, up_writer, sent), pump(up_reader, writer, None))

    async with await asyncio.start_unix_server(relay, str(through)):
        values = world.owner.reference_values([world.measured()])
        async with await connect(f"unix:{through}", values, identity=world.owner.identity(), roots=world.roots) as client:
            await client.infer(MODEL, {INPUT: canary()})
    return sent


async def answered(path: str, challenge: bytes, rest: bytes, *, seconds: float = WAIT_SECONDS) -> Outcome:
    """What comes of `rest`, sent after the appliance's evidence: a record, or the stream's end while others are served.

    The registry's runs take out the enclave's time limit of the handshake, so that only the opening ends it.
    Raises: InconclusiveError for silence.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(seconds):
            writer.write(challenge)
            await read_frame(reader, FrameType.EVIDENCE)
            writer.write(rest)
            try:
                await read_frame(reader, FrameType.RECORD)
            except (EOFError, ConnectionError):
                await evidence_of(path, challenge)  # the enclave is still there, and so is the parent: it is this session that ended
                return Outcome(succeeded=False, refused_by=CLOSED)
    except (OSError, EOFError, TimeoutError) as error:
        raise InconclusiveError(f"no answer and no refusal: {error!r}") from None
    finally:
        writer.close()
    return Outcome(succeeded=True, refused_by=None)


async def replayed() -> Outcome:
    """A whole recorded session sent again, byte for byte; success is any answer."""
    with closing(booted(prepared(World.create()))) as world:
        sent = b"".join(await _recorded(world, world.directory / "relay"))
        challenge, rest = sent[:38], sent[38:]
        return await answered(world.endpoint.removeprefix("unix:"), challenge, rest)


async def cross_wired() -> Outcome:
    """Two genuine enclaves of one deployment; a session opened to the first is continued at the second."""
    with closing(booted(prepared(World.create()))) as world:
        first, first_parent, first_enclave = world.endpoint.removeprefix("unix:"), world.parent, world.enclave
        booted(world)
        second = world.endpoint.removeprefix("unix:")
        try:
            return await _wire(world, first, second)
        finally:
            if first_enclave is not None:
                first_enclave.terminate()
            if first_parent is not None:
                first_parent.stop()


async def _wire(world: World, first: str, second: str) -> Outcome:
    """Challenge and evidence with the first enclave, everything after that with the second. Raises: InconclusiveError."""
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            challenge = await read_frame(reader, FrameType.CHALLENGE)
            one_reader, one_writer = await asyncio.open_unix_connection(first)
            one_writer.write(challenge)
            writer.write(await read_frame(one_reader, FrameType.EVIDENCE))
            outcome.set_result(await answered(second, challenge, await read_frame(reader, FrameType.OPEN)))
            one_writer.close()
        except (OSError, EOFError, InconclusiveError) as error:
            outcome.set_exception(InconclusiveError(f"the session was not wired: {error!r}"))
        writer.close()

    path = world.directory / "cross"
    async with await asyncio.start_unix_server(relay, str(path)):
        values = world.owner.reference_values([world.measured()])
        with suppress(CloisterError):
            client = await connect(f"unix:{path}", values, identity=world.owner.identity(), roots=world.roots)
            await client.close()
        async with asyncio.timeout(2 * WAIT_SECONDS):
            return await outcome


async def kms_evidence() -> Outcome:
    """The document that the enclave made for KMS, shown to a caller beside a session key of the parent's."""
    with closing(booted(prepared(World.create(), kms_module="simulator.hostile.forging_kms"))) as world:
        upstream = world.endpoint.removeprefix("unix:")
        genuine = parse_evidence_body(await evidence_of(upstream, handshake.encode_challenge(bytes(32))))
        seen = (world.state / SEEN).read_bytes()

        async def document(_: bytes, __: bytes, ___: bytes) -> bytes:
            return seen

        return await steal(world, Impostor(terms(world, genuine.config_raw), document), world.directory / "impostor")


async def simulated_root() -> Outcome:
    """Flawless evidence under the simulator's root, for a caller who trusts AWS's roots."""
    with closing(booted(prepared(World.create()))) as world:
        values = world.owner.reference_values([world.measured()])
        try:
            async with await connect(world.endpoint, values, identity=world.owner.identity(), roots=AWS_ROOTS) as client:
                await client.infer(MODEL, {INPUT: canary()})
        except CloisterError as error:
            return Outcome(succeeded=False, refused_by=refusal_of(error))
        return Outcome(succeeded=True, refused_by=None)

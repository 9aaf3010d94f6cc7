"""Lies about evidence: another image, a swapped session key."""

from contextlib import closing
from pathlib import Path

from attestation.eif import Measurements
from attestation.values import ReferenceValues
from cloister.api import connect
from cloister.errors import CloisterError
from enclave.session import Terms
from simulator import hypervisor
from simulator.enclave_entry import SocketNsm
from simulator.hostile.impostor import Impostor, evidence_of
from simulator.hostile.small import INPUT, MODEL, booted, canary, prepared, refusal_of
from simulator.hostile.twins import Outcome
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from simulator.world import World
from wire import handshake, manifest
from wire.evidence import CALLERS_ISSUERS, Config, encode_config, parse_evidence_body
from wire.manifest import Issuers, Limits

INSTANCE = "i-0123456789abcdef0"


def backdoored(world: World) -> Measurements:
    """What the image measures to after one changed line in the enclave."""
    archive = hypervisor.pack(world.tree)
    changed = archive.replace(b"Answers messages of one deployment", b"answers messages of one deployment")
    if changed == archive:
        raise RuntimeError("the line to change is gone")
    return hypervisor.measure(changed)


async def steal(world: World, impostor: Impostor, socket: Path, values: ReferenceValues | None = None) -> Outcome:
    """Let a caller with honest reference values meet the impostor; succeeded if the impostor read its canary."""
    data = canary()
    refused: str | None = None
    server = await impostor.serve(str(socket))
    async with server:
        try:
            values = values or world.owner.reference_values([world.measured()])
            async with await connect(f"unix:{socket}", values, identity=world.owner.identity(), roots=world.roots) as client:
                await client.infer(MODEL, {INPUT: data}, timeout=10.0)
        except CloisterError as error:
            refused = refusal_of(error)
    stolen = any(data.tobytes() in content for content in impostor.stolen)
    return Outcome(succeeded=stolen, refused_by=None if stolen else refused)


def config(world: World, digest: bytes, sequence: int | None = None) -> bytes:
    """The service config of this deployment's genuine enclave, or one that only differs in the sequence."""
    return encode_config(
        Config(
            owner_key=world.owner.public,
            manifest_digest=digest,
            sequence=world.owner.sequence if sequence is None else sequence,
            not_after=1 << 40,
            callers=CALLERS_ISSUERS,
            audit_key=None,
            session_seconds=3600,
        )
    )


def terms(world: World, config_raw: bytes) -> Terms:
    """What an impostor pretends: all that is public is as in the genuine deployment."""
    return Terms(
        config_raw=config_raw,
        deployment="demo",
        owner_key=world.owner.public,
        callers=Issuers(keys=(world.owner.issuer.public_key().public_bytes_raw(),)),
        limits=Limits(),
        request_bytes=1 << 20,
    )


async def other_image(world: World | None = None) -> Outcome:
    """An enclave of the adversary's own, on genuine hardware, with the owner's public values in PCR16 and PCR17."""
    with closing(world or prepared(World.create())) as stage:
        signed = manifest.open_envelope((stage.feed / "manifest.cose").read_bytes())
        pki = SimulatedPki.open(stage.state, instance_id=INSTANCE)
        pcrs = dict(backdoored(stage).pcrs) | {4: hypervisor.initial_pcr4(f"{INSTANCE}-enc0123456789abcdef")}
        nsm = SocketNsm(SimulatedNsm(pcrs=pcrs, module_id=f"{INSTANCE}-enc0123456789abcdef", pki=pki).call)
        nsm.extend_pcr(16, manifest.owner_measurement(signed.owner_key))
        nsm.extend_pcr(17, signed.digest)
        nsm.lock_pcrs(32)

        async def document(_: bytes, nonce: bytes, user_data: bytes) -> bytes:
            return nsm.attest(user_data=user_data, nonce=nonce, public_key=None)

        return await steal(stage, Impostor(terms(stage, config(stage, signed.digest)), document), stage.directory / "impostor")


async def swapped_session_key(world: World | None = None) -> Outcome:
    """Fresh genuine evidence of the real enclave for the caller's own nonce, with the parent's session key beside it."""
    with closing(world or booted(prepared(World.create()))) as stage:
        upstream = stage.endpoint.removeprefix("unix:")
        genuine = parse_evidence_body(await evidence_of(upstream, handshake.encode_challenge(bytes(32))))

        async def document(challenge: bytes, _: bytes, __: bytes) -> bytes:
            return parse_evidence_body(await evidence_of(upstream, challenge)).document

        return await steal(stage, Impostor(terms(stage, genuine.config_raw), document), stage.directory / "impostor")

"""Lies about the manifest: changed, signed again by another key, older than what is in force."""

import asyncio
from collections.abc import Callable
from contextlib import closing
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.values import pcr16_of
from cloister.api import connect
from cloister.errors import CloisterError
from cloister.session import CallerIdentity
from simulator.hostile.small import INPUT, MODEL, canary, prepared, refusal_of
from simulator.hostile.twins import Outcome
from simulator.world import World, WorldError
from wire import cbor, manifest
from wire.manifest import Issuers


async def try_boot(world: World) -> str | None:
    """Boot on what the feed holds now; the refusal, or None once the enclave serves."""
    world.new_run()
    world.start_parent()
    world.start_enclave()
    try:
        await asyncio.to_thread(world.wait_serving)
    except WorldError:
        return f"enclave: {world.wait_stopped()}"
    return None


async def try_call(world: World, values: Any, identity: CallerIdentity | None) -> str | None:
    """One inference as a caller; the refusal, or None for an answer."""
    try:
        async with await connect(world.endpoint, values, identity=identity, roots=world.roots) as client:
            await client.infer(MODEL, {INPUT: canary()})
    except CloisterError as error:
        return refusal_of(error)
    return None


def _outcome(refused: str | None) -> Outcome:
    return Outcome(succeeded=refused is None, refused_by=refused)


async def _with_own_issuer(forge: Callable[[World, Ed25519PrivateKey], None]) -> Outcome:
    """Make the enclave accept the adversary's own issuer, then call the owner's model with a credential of it."""
    with closing(prepared(World.create())) as world:
        issuer = Ed25519PrivateKey.generate()
        forge(world, issuer)
        refused = await try_boot(world)
        if refused is None:
            world.owner.issuer = issuer
            values = world.owner.reference_values([world.measured()], pcr16=_served_pcr16(world), owner_key=None)
            refused = await try_call(world, values, world.owner.identity("adversary"))
        return _outcome(refused)


def _served_pcr16(world: World) -> bytes:
    """The adversary as a caller pins whatever key is in the envelope: it attacks the model, not itself."""
    return pcr16_of(cbor_kid((world.feed / "manifest.cose").read_bytes()))


def cbor_kid(envelope: bytes) -> bytes:
    """The kid of an envelope, unverified."""
    outer = cbor.decode(envelope)
    protected = cbor.decode(outer[0]) if isinstance(outer, list) and isinstance(outer[0], bytes) else None
    kid = protected.get(4) if isinstance(protected, dict) else None
    if not isinstance(kid, bytes):
        raise RuntimeError("the manifest has no kid")
    return kid


def _open_to(world: World, issuer: Ed25519PrivateKey) -> bytes:
    """The current manifest's payload with the adversary's issuer in it."""
    content = world.owner.manifest(callers=Issuers(keys=(issuer.public_key().public_bytes_raw(),)))
    return manifest.encode(content)


def _tamper(world: World, issuer: Ed25519PrivateKey) -> None:
    path = world.feed / "manifest.cose"
    outer = cbor.decode(path.read_bytes())
    if isinstance(outer, list):
        path.write_bytes(cbor.encode([outer[0], outer[1], _open_to(world, issuer), outer[3]]))


def _sign_again(world: World, issuer: Ed25519PrivateKey) -> None:
    (world.feed / "manifest.cose").write_bytes(manifest.sign(_open_to(world, issuer), Ed25519PrivateKey.generate()))


async def tampered() -> Outcome:
    """The owner's manifest with the adversary's issuer in place of the owner's, under the old signature."""
    return await _with_own_issuer(_tamper)


async def resigned() -> Outcome:
    """The same manifest signed by a key of the adversary's, whose name its envelope then carries."""
    return await _with_own_issuer(_sign_again)


async def below_floor() -> Outcome:
    """An older manifest of the owner's, validly signed, for callers who know that there is a newer one."""
    with closing(prepared(World.create())) as world:
        refused = await try_boot(world)
        if refused is None:
            values = world.owner.reference_values([world.measured()], min_sequence=world.owner.sequence + 1)
            refused = await try_call(world, values, world.owner.identity())
        return _outcome(refused)


async def expired() -> Outcome:
    """A manifest of the owner's whose not_after has passed; success is an enclave that serves it."""
    with closing(prepared(World.create())) as world:
        world.owner.publish(world.owner.manifest(not_after=int(time.time()) - 60))
        return _outcome(await try_boot(world))


async def old_epoch() -> Outcome:
    """Manifest and artifacts of an epoch that the key policy has retired; success is an enclave that serves them."""
    with closing(prepared(World.create())) as world:
        world.owner.epoch += 1
        world.owner.put_policy([world.measured()])
        return _outcome(await try_boot(world))


async def changed_line() -> Outcome:
    """One changed line in the enclave, everything else genuine; success is a model key for that image."""
    with closing(prepared(World.create())) as world:
        archive = world.archive()
        changed = archive.replace(b"Answers messages of one deployment", b"answers messages of one deployment")
        if changed == archive:
            raise RuntimeError("the line to change is gone")
        world.new_run()
        world.start_parent()
        world.start_enclave(changed)
        try:
            await asyncio.to_thread(world.wait_serving)
        except WorldError:
            return _outcome(f"enclave: {world.wait_stopped()}")
        return _outcome(None)


async def debug_enclave() -> Outcome:
    """The owner's own image in debug mode, whose memory its operator can read; success is a model key for it."""
    with closing(prepared(World.create())) as world:
        world.new_run()
        world.start_parent()
        world.start_enclave(debug=True)
        try:
            await asyncio.to_thread(world.wait_serving)
        except WorldError:
            return _outcome(f"enclave: {world.wait_stopped()}")
        return _outcome(None)


async def other_kms_host() -> Outcome:
    """KMS's name is not in the certificate of who answers, though the manifest's authority signed it."""
    with closing(World.create()) as world:
        world.kms_name = "kms.elsewhere.example"
        return _outcome(await try_boot(prepared(world)))


async def expired_credential() -> Outcome:
    """A caller whose credential ended two minutes ago."""
    with closing(prepared(World.create())) as world:
        refused = await try_boot(world)
        now = int(time.time())
        identity = world.owner.identity(issued=now - 600, not_before=now - 600, expires=now - 120)
        return _outcome(refused or await try_call(world, world.owner.reference_values([world.measured()]), identity))


async def unauthorised_model() -> Outcome:
    """A caller whose credential names another model."""
    with closing(prepared(World.create())) as world:
        refused = await try_boot(world)
        identity = world.owner.identity(models=("another",))
        return _outcome(refused or await try_call(world, world.owner.reference_values([world.measured()]), identity))

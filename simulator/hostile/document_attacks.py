"""Lies about documents: old, edited, grafted, debug, of a mixed or a withdrawn image; the caller alone is there to notice.

The adversary has an enclave of its own on genuine hardware (the simulated module answers it) and shows callers what that
says, or what became of it.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
import time

from attestation.values import ReferenceValues
from attestation.withdrawn import SignedWithdrawals, Withdrawal, Withdrawals, open_envelope, sign
from simulator import hypervisor
from simulator.enclave_entry import SocketNsm
from simulator.hostile.evidence_attacks import INSTANCE, backdoored, config, steal, terms
from simulator.hostile.impostor import Impostor
from simulator.hostile.twins import Outcome
from simulator.nsm import SimulatedNsm
from simulator.owner import Owner
from simulator.pki import Clock, Leaf, SimulatedPki, read_root, system_clock
from simulator.world import World
from wire import manifest

MODULE = f"{INSTANCE}-enc0123456789abcdef"
MANIFEST_DIGEST = bytes(48)


class _Grafted(SimulatedPki):
    """A hierarchy of the adversary's own, presented under the genuine root certificate."""

    genuine = b""

    def leaf(self, module_id: str) -> Leaf:
        leaf = super().leaf(module_id)
        return replace(leaf, cabundle=(self.genuine, *leaf.cabundle[1:]))


def _world() -> World:
    """An owner and a measured image; nothing of theirs runs, for the caller never gets that far."""
    world = World.create()
    world.owner = Owner(state=world.state, feed=world.feed, kms_url="")
    return world


def _registers(world: World, changes: Mapping[int, bytes]) -> dict[int, bytes]:
    return dict(world.measured().pcrs) | {4: hypervisor.initial_pcr4(MODULE)} | dict(changes)


async def _shown(
    world: World,
    *,
    changes: Mapping[int, bytes] | None = None,
    pki: SimulatedPki | None = None,
    clock: Clock = system_clock,
    nonce: bytes | None = None,
    edit: Callable[[bytes], bytes] = bytes,
    values: ReferenceValues | None = None,
) -> Outcome:
    """Show a caller a document of these registers, made at `clock`, for `nonce` instead of its own, edited afterwards."""
    pki = pki or SimulatedPki.open(world.state, instance_id=INSTANCE, clock=clock)
    module = SimulatedNsm(pcrs=_registers(world, changes or {}), module_id=MODULE, pki=pki, clock=clock)
    nsm = SocketNsm(module.call)
    nsm.extend_pcr(16, manifest.owner_measurement(world.owner.public))
    nsm.extend_pcr(17, MANIFEST_DIGEST)
    nsm.lock_pcrs(32)

    async def document(_: bytes, asked: bytes, user_data: bytes) -> bytes:
        return edit(nsm.attest(user_data=user_data, nonce=asked if nonce is None else nonce, public_key=None))

    impostor = Impostor(terms(world, config(world, MANIFEST_DIGEST, sequence=1)), document)
    return await steal(world, impostor, world.directory / "impostor", values)


def _shifted(seconds: int) -> Clock:
    return lambda: datetime.now(UTC) + timedelta(seconds=seconds)


async def debug() -> Outcome:
    """The registers of a debug enclave, whose memory the parent reads."""
    with closing(_world()) as world:
        return await _shown(world, changes=dict.fromkeys((0, 1, 2), bytes(48)))


async def mixed_image() -> Outcome:
    """PCR0 of the accepted image, PCR1 and PCR2 of another: bytes moved between kernel and ramdisk keep PCR0."""
    with closing(_world()) as world:
        return await _shown(world, changes={1: b"\x11" * 48, 2: b"\x22" * 48})


async def other_nonce() -> Outcome:
    """A recorded document whose session key has leaked since: it carries the nonce of whoever asked then."""
    with closing(_world()) as world:
        return await _shown(world, nonce=bytes(32))


async def old_document() -> Outcome:
    """A document of an hour ago."""
    with closing(_world()) as world:
        return await _shown(world, clock=_shifted(-3600))


async def future_document() -> Outcome:
    """A document of the next hour, made in advance."""
    with closing(_world()) as world:
        return await _shown(world, clock=_shifted(3600))


async def expired_module() -> Outcome:
    """A security module whose certificate ended an hour ago."""
    with closing(_world()) as world:
        return await _shown(world, clock=_shifted(-4 * 3600))


async def edited_document() -> Outcome:
    """The adversary's own enclave's document with the accepted image's registers written over its own."""
    with closing(_world()) as world:
        own, wanted = backdoored(world).pcrs, world.measured().pcrs

        def edit(document: bytes) -> bytes:
            for index in (0, 1, 2):
                document = document.replace(own[index], wanted[index])
            return document

        return await _shown(world, changes=own, edit=edit)


async def grafted_chain() -> Outcome:
    """A hierarchy of the adversary's own, with the genuine root certificate put in front of it."""
    with closing(_world()) as world:
        own = SimulatedPki.open(world.directory / "own", instance_id=INSTANCE)
        pki = _Grafted(own.root, instance_id=INSTANCE)
        pki.genuine = read_root(world.state)
        return await _shown(world, pki=pki)


def _listed(world: World, *entries: Withdrawal, not_after: int) -> SignedWithdrawals:
    now = int(time.time())
    listed = Withdrawals(owner_key=world.owner.public, sequence=1, issued=now - 3600, not_after=now + not_after, entries=entries)
    return open_envelope(sign(listed, world.owner.key))


async def withdrawn_image() -> Outcome:
    """An accepted image whose flaw is known, and which its owner has withdrawn."""
    with closing(_world()) as world:
        entry = Withdrawal(pcrs={0: world.measured().pcr0}, reason="its session keys leak")
        values = world.owner.reference_values([world.measured()], withdrawn=_listed(world, entry, not_after=3600))
        return await _shown(world, values=values)


async def withheld_withdrawals() -> Outcome:
    """The same, the caller being kept from the list that would say so: the one it holds has run out."""
    with closing(_world()) as world:
        values = world.owner.reference_values([world.measured()], withdrawn=_listed(world, not_after=-60))
        return await _shown(world, values=values)

"""`python -P -m simulator demo`: the whole appliance on one machine, on real measurements, with five lies at the end."""

import argparse
import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnxruntime

from attestation import AttestationResult
from cloister.api import Answer, Client, connect
from simulator.hostile.attacks import ATTACKS, attempt
from simulator.hostile.tap import Tap
from simulator.hostile.twins import Outcome, TwinError
from simulator.owner import ModelSpec
from simulator.patients import INPUT, MODEL, VERSION, Patients, train
from simulator.world import World, WorldError

HEADING = "SIMULATED WORLD: proves the protocol, not the hardware"
LIES = ("other-image", "swapped-session-key", "swapped-model-and-key", "manifest-below-floor", "old-epoch")
ROUNDS = 60


def say(text: str = "") -> None:
    """One line, at once."""
    print(text, flush=True)


def _build(world: World, patients: Patients) -> Tap:
    world.start_kms()
    world.owner.create_key([world.measured()])
    world.owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=patients.onnx)])
    world.owner.publish(world.owner.manifest())
    run = world.new_run()
    tap = Tap(run=run, side=run / "parent").start()
    world.start_parent(enclave_side=tap.side)
    world.start_enclave()
    world.wait_serving()
    return tap


def _verdict(result: AttestationResult) -> None:
    claims, measured = result.claims, result.measurement
    rows = (
        ("signed by", f"the {claims.partition} root, chain of five, for {claims.module_id}"),
        ("image", f"PCR0 {measured.pcr0.hex()[:16]}.. PCR1 {measured.pcr1.hex()[:16]}.. PCR2 {measured.pcr2.hex()[:16]}.. as built here"),
        ("owner", f"PCR16 is that of owner key {result.config.owner_key.hex()[:16]}.."),
        ("manifest", f"PCR17 is that of manifest {result.config.manifest_digest.hex()[:16]}.., sequence {result.config.sequence}"),
        ("fresh", "the document carries this session's nonce, and is not a debug enclave's"),
        ("session key", "bound to the document; the request is sealed to it and to nothing else"),
    )
    say("Verdict of the caller, before it seals one byte: ACCEPTED")
    for name, text in rows:
        say(f"  {name:<12} {text}")


def _needles(patients: Patients, answer: Answer) -> list[bytes]:
    """Inputs row by row, outputs, labels, and the model's weights, as bytes that would show if anything leaked."""
    inputs = [row.tobytes() for row in patients.measurements]
    outputs = [row.tobytes() for row in answer.outputs["probabilities"]] + [answer.outputs["label"].tobytes(), patients.labels.tobytes()]
    weights = [patients.onnx[at : at + 32] for at in range(0, len(patients.onnx) - 32, 512)]
    return inputs + outputs + [window for window in weights if len(set(window)) > 8]


def _plain(patients: Patients) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(patients.onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: patients.measurements}), strict=True))


async def _latency(client: Client, row: NDArray[np.float32]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds of single requests, one after the other."""
    took = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        await client.infer(MODEL, {INPUT: row})
        took.append((time.perf_counter() - before) * 1000)
    return statistics.median(took), statistics.quantiles(took, n=20)[18]


def _predictions(patients: Patients, answer: Answer) -> None:
    labels, probabilities = answer.outputs["label"], answer.outputs["probabilities"]
    say("Three held-out patients (scikit-learn's breast-cancer measurements):")
    for at in range(3):
        said, true = patients.names[labels[at]], patients.names[patients.labels[at]]
        say(f"  patient {at + 1}: predicted {said:<9} (p={probabilities[at][labels[at]]:.3f})  true label {true}")


async def _score(world: World, patients: Patients, tap: Tap) -> bool:
    """Attest, score every held-out patient, compare, search what the parent saw; whether all of it is as it should be."""
    values = world.owner.reference_values([world.measured()])
    async with await connect(world.endpoint, values, identity=world.owner.identity(), roots=world.roots) as client:
        _verdict(client.attestation)
        answer = await client.infer(MODEL, {INPUT: patients.measurements})
        median, slow = await _latency(client, patients.measurements[:1])
    say()
    _predictions(patients, answer)
    plain = _plain(patients)
    equal = all(np.array_equal(plain[name], answer.outputs[name]) for name in plain)
    accuracy = float((answer.outputs["label"] == patients.labels).mean())
    needles = _needles(patients, answer)
    found = tap.found(needles)
    say(f"  accuracy over {len(patients.labels)} patients: {accuracy:.3f}")
    say(f"  equal to plain onnxruntime, bit for bit: {'yes' if equal else 'NO'}")
    control = tap.found([(world.feed / "manifest.cose").read_bytes()[:200]])
    say(f"The parent forwarded {tap.forwarded:,} bytes. Searched for {len(needles)} inputs, outputs, labels, weights: {found} found")
    say(f"  (the same search for the manifest, which is public: {'found' if control else 'NOT FOUND'})")
    say(f"Latency of one sealed request, caller to caller: median {median:.2f} ms, 95 % below {slow:.2f} ms (no vsock on this path)")
    return equal and found == 0 and control == 1


def _attempt(attack: str, twin: bool) -> Outcome | str:
    try:
        return attempt(ATTACKS[attack], twin=twin)
    except TwinError as error:
        return str(error)


def _lies(ids: Sequence[str]) -> bool:
    """Every lie and its twin; whether each was refused as registered and succeeded without the check."""
    say("Lies, each in a world of its own, then again with only the check that refused it taken out:")
    say(f"  {'lie':<52} {'refused by':<28} succeeds without that check")
    good = True
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        runs = [(attack, pool.submit(_attempt, attack, False), pool.submit(_attempt, attack, True)) for attack in ids]
        for attack, honest, twin in runs:
            refused, without = honest.result(), twin.result()
            by = refused.refused_by or "NOTHING" if isinstance(refused, Outcome) else refused
            succeeded = without.succeeded if isinstance(without, Outcome) else without
            good &= by == ATTACKS[attack].refused_by and succeeded is True
            say(f"  {ATTACKS[attack].lie:<52} {by:<28} {'yes' if succeeded is True else f'NO: {succeeded}'}")
    return good


def main(argv: Sequence[str]) -> int:
    """0 when everything was as it should be, 1 otherwise."""
    argparse.ArgumentParser(prog="python -P -m simulator demo", description=__doc__).parse_args(argv)
    say(HEADING)
    say("Training gradient boosting on 455 tumours; then KMS, security module, enclave and parent start as processes.")
    started = time.monotonic()
    patients = train()
    try:
        with closing(World.create()) as world:
            tap = _build(world, patients)
            say(f"Sealed, booted and serving after {time.monotonic() - started:.1f} s: KMS released the data key to the measured enclave.")
            say()
            good = asyncio.run(_score(world, patients, tap))
            tap.stop()
    except WorldError as error:
        print(f"the simulated world broke: {error}", file=sys.stderr)
        return 1
    say()
    good = _lies(LIES) and good
    say()
    if not good:
        say("SOMETHING IS NOT AS IT SHOULD BE: see NO, NOTHING or a count that is not 0 above")
        return 1
    say("Next: docs/architecture.md says which process did what, and README.md what this does not protect")
    return 0

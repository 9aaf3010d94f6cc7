"""`python -P -m simulator up`: a whole simulated appliance that stays, with commands to try on it; ends on SIGTERM or Ctrl-C.

It serves the demo's model of breast-cancer measurements. Beside it lie, in one folder, what its owner and a caller have:
reference values, an issuer's key, a caller's key and credential, and the measurements of the held-out patients.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
import os
from pathlib import Path
import shutil
import signal
import sys
import threading

import numpy as np

from attestation import reference_values
from cloister.identity import write_key
from owner import keys
from simulator.owner import DEPLOYMENT, ModelSpec
from simulator.patients import MODEL, VERSION, Patients, train
from simulator.sidecar import Sidecar
from simulator.standing import Standing, StandingError, default_folder
from simulator.world import World, WorldError

HEADING = "SIMULATED WORLD: proves the protocol, not the hardware"
PASSPHRASE = b"a simulated issuer's passphrase"
COMMAND = "python -P -m simulator cloister"


def _furnish(folder: Path, world: World, patients: Patients) -> None:
    """Put down what the commands need; secrets are of this world alone and readable by its user alone."""
    owner = world.owner
    values = owner.reference_values([world.measured()])
    (folder / "reference-values.json").write_bytes(reference_values.render(values))
    keys.write_private(folder / "issuer.pem", owner.issuer, PASSPHRASE)
    (folder / "issuer.pub").write_bytes(keys.public_pem(owner.issuer.public_key()))
    with os.fdopen(os.open(folder / "passphrase", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(PASSPHRASE + b"\n")
    identity = owner.identity()
    write_key(folder / "caller.pem", identity.key)
    (folder / "credential").write_bytes(identity.credential)
    np.save(folder / "patients.npy", patients.measurements, allow_pickle=False)
    np.savetxt(folder / "patients.csv", patients.measurements[:5], delimiter=",")
    (folder / "endpoint").symlink_to(world.endpoint.removeprefix("unix:"))
    (folder / "root").write_text(world.roots[0].sha256.hex(), encoding="ascii")


def commands(folder: Path) -> tuple[tuple[str, str], ...]:
    """(what it shows, the command line), in an order in which all of them work."""
    w, mine = folder, "unix:" + str(folder / "endpoint")
    as_caller = f"--reference-values {w}/reference-values.json --credential {w}/credential --key {w}/caller.pem"
    second = f"--reference-values {w}/reference-values.json --credential {w}/second-credential --key {w}/second.pem"
    issue = (
        f"{COMMAND} credential issue {w}/second-credential --issuer-key {w}/issuer.pem --passphrase-file {w}/passphrase "
        f"--issuer demo-issuer --subject second --deployment {DEPLOYMENT} --model {MODEL} --lifetime 1h --caller-key {w}/second.pub"
    )
    return (
        ("who answers, and why it is believed", f"{COMMAND} attestation fetch {mine} --reference-values {w}/reference-values.json"),
        ("what the model takes and gives", f"{COMMAND} model metadata {mine} {MODEL} {as_caller}"),
        ("score the held-out patients", f"{COMMAND} infer {mine} {MODEL} {w}/patients.npy {as_caller}"),
        ("the same from a spreadsheet, for machines", f"{COMMAND} --json infer {mine} {MODEL} {w}/patients.csv {as_caller}"),
        ("read a credential", f"{COMMAND} credential show {w}/credential --issuer-key {w}/issuer.pub"),
        ("a second caller: its key", f"{COMMAND} caller-key new {w}/second.pem"),
        ("its credential, issued offline", issue),
        ("its first request", f"{COMMAND} infer {mine} {MODEL} {w}/patients.csv {second}"),
    )


def _start(world: World, patients: Patients) -> None:
    world.start_kms()
    world.owner.create_key([world.measured()])
    world.owner.seal([ModelSpec(id=MODEL, version=VERSION, onnx=patients.onnx)])
    world.owner.publish(world.owner.manifest())
    world.new_run()
    world.start_parent()
    world.start_enclave()
    world.wait_serving()


def _tell(folder: Path) -> None:
    print("The world is up. In another terminal, in this directory:\n", flush=True)
    for text, line in commands(folder):
        print(f"# {text}\n{line}\n")
    print("# end it (or Ctrl-C here)\npython -P -m simulator down", flush=True)


def _keep(standing: Standing, ended: threading.Event, *, sidecar: bool) -> int:
    with ExitStack() as stack:
        world = stack.enter_context(closing(World.create()))
        standing.world.write_text(str(world.directory), encoding="utf-8")
        patients = train()
        _start(world, patients)
        _furnish(standing.folder, world, patients)
        _tell(standing.folder)
        if sidecar:
            stack.enter_context(closing(Sidecar.start(standing.folder))).tell((MODEL,))
        while not ended.wait(0.5):
            if world.enclave is not None and world.enclave.process.poll() is not None:
                print(f"the enclave has ended: {world.boot_failure() or 'killed'}", file=sys.stderr)
                return 1
    return 0


def main(argv: Sequence[str]) -> int:
    """0 after an orderly end, 1 where the world broke, 3 where one is up already."""
    parser = argparse.ArgumentParser(prog="python -P -m simulator up", description=__doc__)
    parser.add_argument("--sidecar", action="store_true", help="with a sidecar in front: SIDECAR_HTTP, SIDECAR_GRPC and TOKEN on stdout")
    args = parser.parse_args(argv)
    print(f"{HEADING}\nTraining the model; then KMS, security module, enclave and parent start as processes.", flush=True)
    standing, ended = Standing(folder=default_folder()), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        with closing(standing.claim()):
            standing.sweep()
            try:
                return _keep(standing, ended, sidecar=args.sidecar)
            finally:
                shutil.rmtree(standing.folder, ignore_errors=True)
    except StandingError as error:
        print(error, file=sys.stderr)
        return 3
    except WorldError as error:
        print(f"the simulated world broke: {error}", file=sys.stderr)
        return 1

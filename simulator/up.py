"""`python -P -m simulator up`: a whole simulated appliance that stays, with commands to try on it; ends on SIGTERM or Ctrl-C.

It serves the demo's model of breast-cancer measurements. Beside it lie, in one folder, what its owner and a caller have:
reference values, an issuer's key, a caller's key and credential (renewed while the world is up), and the measurements of
the held-out patients.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
import os
from pathlib import Path
import shutil
import signal
import sys
import threading
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
import numpy as np

from attestation import reference_values
from cloister.identity import write_key
from owner import keys
from simulator import typed
from simulator.owner import CREDENTIAL_SECONDS, DEPLOYMENT, ModelSpec, Owner
from simulator.patients import MODEL, VERSION, Patients, train
from simulator.sidecar import Sidecar
from simulator.standing import Standing, StandingError, default_folder
from simulator.world import World, WorldError
from wire import credential as credentials

HEADING = "SIMULATED WORLD: proves the protocol, not the hardware"
PASSPHRASE = b"a simulated issuer's passphrase"
RENEWED_LEFT = CREDENTIAL_SECONDS / 2


def _furnish(folder: Path, world: World, patients: Patients) -> bytes:
    """Put down what the commands need; secrets are of this world alone and readable by its user alone. The caller's public key."""
    owner = world.owner
    values = owner.reference_values([world.measured()])
    (folder / "reference-values.json").write_bytes(reference_values.render(values))
    keys.write_private(folder / "issuer.pem", owner.issuer, PASSPHRASE)
    (folder / "issuer.pub").write_bytes(keys.public_pem(owner.issuer.public_key()))
    with os.fdopen(os.open(folder / "passphrase", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(PASSPHRASE + b"\n")
    caller = Ed25519PrivateKey.generate()
    write_key(folder / "caller.pem", caller)
    renew(folder, owner, public := caller.public_key().public_bytes_raw(), time.time())
    np.save(folder / "patients.npy", patients.measurements, allow_pickle=False)
    np.savetxt(folder / "patients.csv", patients.measurements[:5], delimiter=",")
    (folder / "endpoint").symlink_to(world.endpoint.removeprefix("unix:"))
    (folder / "root").write_text(world.roots[0].sha256.hex(), encoding="ascii")
    return public


def renew(folder: Path, owner: Owner, key: bytes, now: float) -> bool:
    """Issue the credential for the caller's public key anew where less than half of its time is left, or none is there."""
    held = folder / "credential"
    with suppress(OSError, credentials.CredentialError):
        claims = credentials.parse(held.read_bytes())
        if claims.not_before <= now <= claims.expires - RENEWED_LEFT:
            return False
    draft = folder / "credential.new"
    draft.write_bytes(owner.credential(key, now=now))
    draft.replace(held)  # a command or the sidecar may be reading it
    return True


def commands(folder: Path) -> tuple[tuple[str, str], ...]:
    """(what it shows, the command line), in an order in which all of them work."""
    mine = f"unix:{folder / 'endpoint'}"

    def at(name: str) -> str:
        return str(folder / name)

    def line(*words: str) -> str:
        return typed.line("cloister", *words)

    values = ("--reference-values", at("reference-values.json"))
    as_caller = (*values, "--credential", at("credential"), "--key", at("caller.pem"))
    second = (*values, "--credential", at("second-credential"), "--key", at("second.pem"))
    issuer = ("--issuer-key", at("issuer.pem"), "--passphrase-file", at("passphrase"), "--issuer", "demo-issuer")
    claims = ("--subject", "second", "--deployment", DEPLOYMENT, "--model", MODEL, "--caller-key", at("second.pub"))
    return (
        ("who answers, and why it is believed", line("attestation", "fetch", mine, *values)),
        ("what the model takes and gives", line("model", "metadata", mine, MODEL, *as_caller)),
        ("score the held-out patients", line("infer", mine, MODEL, at("patients.npy"), *as_caller)),
        ("the same from a spreadsheet, for machines", line("--json", "infer", mine, MODEL, at("patients.csv"), *as_caller)),
        ("read a credential", line("credential", "show", at("credential"), "--issuer-key", at("issuer.pub"))),
        ("a second caller: its key", line("caller-key", "new", at("second.pem"))),
        ("its credential, issued offline", line("credential", "issue", at("second-credential"), *issuer, *claims)),
        ("its first request", line("infer", mine, MODEL, at("patients.csv"), *second)),
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
    print(f"# end it (or Ctrl-C here)\n{typed.line('down')}", flush=True)


def _keep(standing: Standing, ended: threading.Event, *, sidecar: bool) -> int:
    with ExitStack() as stack:
        world = stack.enter_context(closing(World.create()))
        standing.world.write_text(str(world.directory), encoding="utf-8")
        patients = train()
        _start(world, patients)
        caller = _furnish(standing.folder, world, patients)
        _tell(standing.folder)
        if sidecar:
            stack.enter_context(closing(Sidecar.start(standing.folder, world.directory))).tell((MODEL,))
        while not ended.wait(0.5):
            if world.enclave is not None and world.enclave.process.poll() is not None:
                print(f"the enclave has ended: {world.boot_failure() or 'killed'}{world.console()}", file=sys.stderr)
                return 1
            renew(standing.folder, world.owner, caller, time.time())
    return 0


def main(argv: Sequence[str]) -> int:
    """0 after an orderly end, 1 where the world broke, 3 where one is up already."""
    parser = argparse.ArgumentParser(prog="python -P -m simulator up", description=__doc__)
    parser.add_argument("--sidecar", action="store_true", help="with a sidecar in front: SIDECAR_HTTP, SIDECAR_GRPC and TOKEN on stdout")
    args = parser.parse_args(argv)
    print(f"{HEADING}\nTraining the model; then KMS, security module, enclave and parent start as processes.", flush=True)
    standing, ended = Standing(folder=default_folder()), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    try:
        with closing(standing.claim()):
            if (swept := standing.sweep()).world is not None:
                print(swept, flush=True)
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

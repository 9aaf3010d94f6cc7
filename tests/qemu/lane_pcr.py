"""An oracle for our image files: QEMU's own nitro-enclave machine, compiled from Debian's source, measures them by itself."""

from collections.abc import Iterator
import datetime
import hashlib
import json
from pathlib import Path
import socket
import subprocess
import tempfile

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
import pytest

from attestation.errors import AttestationError
from attestation.verify import verify
from owner import cpio, image, oci
from owner.image import Bootstrap, Signer
from simulator.qemu import machine
from simulator.qemu.machine import Heartbeat
from simulator.world import memory_folder
from tests.qemu import lane
from tests.vectors_path import ROOT

MACHINE = ROOT / "build/qemu-pcr/qemu"
KERNEL = ROOT / "build/kernel-own/bzImage"
ROLE, INSTANCE = "arn:aws:iam::111122223333:role/parent", "i-0123456789abcdef0"

# Asks the machine's module for six PCRs and a document and tells them to the host.
PROBE = """
import json, socket
import aws_nsm_interface as nsm
device = open("/dev/nsm", "rb", buffering=0)
pcrs = {index: nsm.describe_pcr(device, index)["data"].hex() for index in (0, 1, 2, 3, 4, 8)}
document = nsm.get_attestation_doc(device, nonce=bytes(32))["document"].hex()
stream = socket.socket(socket.AF_VSOCK)
stream.connect((3, 7777))
stream.sendall(json.dumps({"pcrs": pcrs, "document": document}).encode())
"""


def signer() -> Signer:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "image signer")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return key, builder.sign(key, hashes.SHA384())


def booted(path: Path) -> dict[str, object]:
    """What the probe in this image file says from inside the machine."""
    with tempfile.TemporaryDirectory(prefix="p-", dir=memory_folder()) as directory:
        run = Path(directory)
        devices = machine.start_devices(lane.settings(), run, [])
        beat = Heartbeat(run)
        words = [str(MACHINE), "-L", str(lane.QEMU / "usr/share/qemu"), "-L", str(lane.QEMU / "usr/share/seabios")]
        words += [
            "-M",
            f"nitro-enclave,vsock=v,id=probe,parent-role={ROLE},parent-id={INSTANCE}",
            "-chardev",
            f"socket,id=v,path={run / 'v'}",
        ]
        words += ["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1G", "-nographic", "-no-reboot", "-kernel", str(path)]
        words += ["-append", f"quiet reboot=t tsc_early_khz={machine.tsc_khz()} tsc=reliable"]
        with socket.socket(socket.AF_UNIX) as listener, (run / "console").open("wb") as console:
            listener.bind(str(run / "parent_7777"))
            listener.listen(1)
            listener.settimeout(120)
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
            try:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as stream:
                    value: dict[str, object] = json.loads(stream.read())
                    return value
            except TimeoutError:
                pytest.fail((run / "console").read_text(errors="replace")[-2000:])
            finally:
                beat.close()
                for child in (process, devices):
                    child.kill()
                    child.wait()


@pytest.fixture(scope="module", params=["unsigned", "signed"])
def answer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, object], image.Image]]:
    entries = [*oci.read(ROOT / "build/image/oci"), cpio.file("probe.py", PROBE.encode())]
    bootstrap = Bootstrap(kernel=KERNEL.read_bytes(), cmdline=image.OWN_CMDLINE.encode(), init=(ROOT / "build/init/init").read_bytes())
    command = ("/usr/bin/python3", "-I", "/probe.py")
    built = image.build(bootstrap, entries, signer=signer() if request.param == "signed" else None, command=command)
    path = tmp_path_factory.mktemp("image") / "probe.eif"
    path.write_bytes(built.eif)
    yield booted(path), built


def test_six_pcrs_equal_ours(answer: tuple[dict[str, object], image.Image]) -> None:
    """PCR0, 1, 2, 3, 4 and 8 as the machine computes them are those that we predict from the file, role and instance."""
    seen, built = answer
    measured = image.measure(built)
    expected = {index: bytes(48) for index in (0, 1, 2, 3, 4, 8)} | dict(measured.pcrs)
    expected |= {index: hashlib.sha384(bytes(48) + text.encode()).digest() for index, text in ((3, ROLE), (4, INSTANCE))}
    print({f"PCR{index}": value.hex()[:16] for index, value in expected.items()})
    assert seen["pcrs"] == {str(index): value.hex() for index, value in expected.items()}


def test_its_unsigned_document_is_refused(answer: tuple[dict[str, object], image.Image]) -> None:
    """The machine's document bears no signature; verification refuses it."""
    document = bytes.fromhex(str(answer[0]["document"]))
    assert cbor2.loads(document)
    with pytest.raises(AttestationError):
        verify(document, now=datetime.datetime.now(datetime.UTC))

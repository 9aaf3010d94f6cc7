"""`cloister image build`: its arguments, its report, its refusals; what it writes `image measure` agrees with."""

import datetime
import hashlib
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
import pytest

from cloister.command.main import main
from owner import image


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A root, a kernel, an init and a module."""
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "usr").chmod(0o755)
    (root / "usr/python3").write_bytes(b"#!")
    (root / "usr/python3").chmod(0o755)
    for name in ("kernel", "init", "nsm.ko"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def arguments(parts: Path, *more: object) -> list[str]:
    words = (
        "image",
        "build",
        "--rootfs",
        parts / "root",
        "--kernel",
        parts / "kernel",
        "--init",
        parts / "init",
        "--out",
        parts / "out.eif",
        *more,
    )
    return [str(word) for word in words]


def test_the_file_measures_to_what_the_report_says(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PCRs on the terminal, in the report and by `image measure` are the same; the report names each part's hash."""
    assert main(arguments(parts, "--module", parts / "nsm.ko", "--report", parts / "report.json", "--json")) == 0
    shown, report = json.loads(capsys.readouterr().out), json.loads((parts / "report.json").read_text())
    assert shown == report
    assert report["sha256"] == hashlib.sha256((parts / "out.eif").read_bytes()).hexdigest()
    assert report["parts"]["init"] == hashlib.sha256(b"init").hexdigest()
    assert report["parts"]["nsm.ko"] == hashlib.sha256(b"nsm.ko").hexdigest()
    assert main(["image", "measure", "--json", str(parts / "out.eif")]) == 0
    measured = json.loads(capsys.readouterr().out)["pcrs"]
    assert report["pcrs"] == {f"PCR{index}": measured[index] for index in ("0", "1", "2")}


def test_a_signed_image_has_pcr8_and_the_same_pcr0_to_pcr2(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PCR8 is SHA-384(48 zeros || SHA-384(certificate DER)); signing moves nothing else."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA384())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (parts / "key.pem").write_bytes(private)
    (parts / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert main(arguments(parts, "--json")) == 0
    unsigned = json.loads(capsys.readouterr().out)["pcrs"]
    signing = ("--signing-key", parts / "key.pem", "--signing-certificate", parts / "cert.pem")
    assert main(arguments(parts, "--json", *signing)) == 0
    signed = json.loads(capsys.readouterr().out)["pcrs"]
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert signed == unsigned | {"PCR8": hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()}
    (parts / "key.pem").write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert main(arguments(parts, *signing)) == 1
    assert main(arguments(parts, *signing[:2])) == 2


def test_another_list_of_files_is_rejected(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file more, a file less or another mode than the list: rejected with the differences; nothing is written."""
    listed = parts / "files"
    assert main(arguments(parts, "--files", listed, "--write-files")) == 0
    assert listed.read_text() == image.FILES_HEADING + "040755 usr\n100755 usr/python3\n"
    assert main(arguments(parts, "--files", listed)) == 0
    (parts / "out.eif").unlink()
    for change in ("100755 usr/more\n", None, "mode"):
        text = image.FILES_HEADING + "040755 usr\n100755 usr/python3\n"
        text = (
            text + change
            if change == "100755 usr/more\n"
            else text.replace("100755", "100644")
            if change
            else text.replace("040755 usr\n", "")
        )
        listed.write_text(text)
        capsys.readouterr()
        assert main(arguments(parts, "--files", listed, "--json")) == 1
        assert json.loads(capsys.readouterr().out)["differences"]
        assert not (parts / "out.eif").exists()


def test_blobs_that_are_not_in_the_lock_are_rejected(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line to compare and add is printed; with it the image builds."""
    blobs, lock = parts / "blobs", parts / "lock"
    blobs.mkdir()
    for name in image.BLOBS:
        (blobs / name).write_bytes(name.encode())
    lock.write_text("")
    words = [
        "image",
        "build",
        "--rootfs",
        parts / "root",
        "--blobs",
        blobs,
        "--blobs-lock",
        lock,
        "--architecture",
        "x86_64",
        "--out",
        parts / "o",
    ]
    command = [str(word) for word in words]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"x86_64 init {hashlib.sha256(b'init').hexdigest()}" in error
    lock.write_text("".join(f"x86_64 {name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in image.BLOBS))
    assert main(command) == 0


@pytest.mark.parametrize("left_out", ["--kernel", "--init", "--rootfs"])
def test_half_of_an_image_is_a_question_of_usage(parts: Path, left_out: str) -> None:
    """Kernel and init go together, a root there must be."""
    words = arguments(parts)
    at = words.index(left_out)
    assert main(words[:at] + words[at + 2 :]) == 2
    assert main([*arguments(parts), "--blobs", str(parts)]) == 2


def test_a_missing_file_could_not_be_asked(parts: Path) -> None:
    """Exit 3, as everywhere."""
    (parts / "kernel").unlink()
    assert main(arguments(parts)) == 3

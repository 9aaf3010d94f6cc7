"""The simulated service on its socket: TLS under its own authority, bounded requests, the command line."""

import http.client
import json
import os
from pathlib import Path
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from simulator.kms import Access, KmsServer, main, server_context
from simulator.kms.service import BODY_MAX
from simulator.pki import SimulatedPki
from tests.kms.world import ALLOW_ALL, CONTEXT, OWNER_ACCOUNT, Clock, callers, client
from tests.vectors_path import ROOT


def connection(server: KmsServer, state: Path) -> http.client.HTTPSConnection:
    """A connection that trusts the state directory's authority."""
    return http.client.HTTPSConnection(
        "localhost", server.port, context=ssl.create_default_context(cafile=str(state / "ca.pem")), timeout=10
    )


def test_the_certificate_is_for_the_names_asked_for(server: KmsServer, tmp_path: Path) -> None:
    """A client that verifies under the authority accepts the name, and no other name or authority."""
    trusting = ssl.create_default_context(cafile=str(tmp_path / "kms" / "ca.pem"))
    for context, name, good in (
        (trusting, "localhost", True),
        (trusting, "kms.example", False),
        (ssl.create_default_context(), "localhost", False),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            if good:
                with context.wrap_socket(plain, server_hostname=name) as secure:
                    assert secure.version() in ("TLSv1.2", "TLSv1.3")
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(plain, server_hostname=name)


@pytest.mark.parametrize(
    "headers", [{"Content-Length": str(BODY_MAX + 1)}, {"Content-Length": "x"}, {"Transfer-Encoding": "chunked", "Content-Length": "2"}]
)
def test_bodies_over_the_limit_or_of_unknown_length_are_refused(server: KmsServer, tmp_path: Path, headers: dict[str, str]) -> None:
    """A length that is too large, missing or chunked is refused before the body is read."""
    here = connection(server, tmp_path / "kms")
    here.putrequest("POST", "/", skip_accept_encoding=True)
    for name, value in headers.items():
        here.putheader(name, value)
    here.endheaders()
    assert here.getresponse().status == 413
    here.close()


def test_other_methods_are_refused(server: KmsServer, tmp_path: Path) -> None:
    """Only POST is spoken."""
    here = connection(server, tmp_path / "kms")
    here.request("GET", "/")
    assert here.getresponse().status == 501
    here.close()


def test_boto3_sees_modelled_errors(server: KmsServer, tmp_path: Path) -> None:
    """An unmodified client raises the exceptions of its own model, by class."""
    people = callers(tmp_path / "kms")
    admin = client(people.admin, server.port, tmp_path / "kms")
    with pytest.raises(admin.exceptions.NotFoundException):
        admin.describe_key(KeyId="alias/none")
    key = admin.create_key(Description="d")["KeyMetadata"]
    assert key["CreationDate"].tzinfo is not None
    with pytest.raises(admin.exceptions.InvalidCiphertextException):
        client(people.parent, server.port, tmp_path / "kms").decrypt(CiphertextBlob=b"x" * 64, EncryptionContext=CONTEXT)


def _run(arguments: list[str], **more: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "simulator", "kms", *arguments], stdout=subprocess.PIPE, text=True, env=environment, **more
    )


def test_the_command_serves_until_it_is_terminated(tmp_path: Path, clock: Clock) -> None:
    """`python -P -m simulator kms` prints its address, serves callers issued meanwhile, and ends cleanly."""
    SimulatedPki.open(tmp_path, instance_id="i-0123456789abcdef0", clock=clock)
    process = _run(["--state", str(tmp_path)])
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        (tmp_path / "identity.json").write_text(ALLOW_ALL)
        issued = _run(
            [
                "issue",
                "--state",
                str(tmp_path),
                "--arn",
                f"arn:aws:iam::{OWNER_ACCOUNT}:root",
                "--identity-policy",
                str(tmp_path / "identity.json"),
            ]
        )
        made = json.loads(issued.communicate(timeout=60)[0])
        access = Access(access_key_id=made["AccessKeyId"], secret_access_key=made["SecretAccessKey"], arn="")
        assert client(access, port, tmp_path).create_key()["KeyMetadata"]["Enabled"]
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--state", "{}", "--listen", "0.0.0.0:0"],
        ["--state", "{}", "--listen", "127.0.0.1:x"],
        ["--state", "{}"],
        ["--state", "{}", "--root", "{}/none"],
        [],
        ["issue", "--state", "{}", "--arn", "x"],
        ["issue", "--state", "{}", "--arn", "arn:aws:iam::111122223333:root", "--identity-policy", "{}/none"],
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Loopback alone, a root that is there, callers that are callers: exit 2 and a sentence otherwise."""
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    assert capsys.readouterr().err


def test_issue_prints_what_credential_process_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output is the AWS CLI's credential_process format, with an expiry for a lifetime."""
    assert main(["issue", "--state", str(tmp_path), "--arn", "arn:aws:iam::111122223333:role/R", "--lifetime", "60"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["Version"], sorted(made)) == (1, ["AccessKeyId", "Expiration", "SecretAccessKey", "SessionToken", "Version"])


def test_the_authority_outlives_the_server_certificate(tmp_path: Path) -> None:
    """A new certificate is made for each start under the same authority; its key is private."""
    server_context(tmp_path, ("a.example",))
    authority, certificate = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server.pem").read_bytes()
    server_context(tmp_path, ("a.example", "127.0.0.1"))
    assert ((tmp_path / "ca.pem").read_bytes() == authority, (tmp_path / "server.pem").read_bytes() == certificate) == (True, False)
    assert {(tmp_path / name).stat().st_mode & 0o077 for name in ("ca.key", "server.pem")} == {0}

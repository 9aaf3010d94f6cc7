"""A small world for the enclave's KMS client: simulated module, simulated KMS over real TLS, one key under the generated policy."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
import hashlib
from pathlib import Path
import socket
import ssl
import threading
from typing import Any

import boto3

from attestation.chain import Root
from attestation.values import Measurement
from enclave.kms import KmsClient
from owner import key_policy
from simulator.enclave_entry import SocketNsm
from simulator.kms import accounts
from simulator.kms.keys import new_key
from simulator.kms.server import KmsServer
from simulator.kms.service import SimulatedKms
from simulator.kms.tls import CA, server_context
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki
from wire.feed import AwsCredentials
from wire.manifest import encryption_context, owner_measurement

REGION = "eu-west-1"
HOST = f"kms.{REGION}.amazonaws.com"
OWNER_KEY = hashlib.sha256(b"an owner").digest()
OWNER_ACCOUNT, PARENT_ACCOUNT = "111122223333", "444455556666"
CONTEXT = encryption_context(OWNER_KEY, "m", 1)
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
SEALER = f"arn:aws:iam::{OWNER_ACCOUNT}:role/sealer"
PARENT = f"arn:aws:iam::{PARENT_ACCOUNT}:role/parent"


def policy() -> str:
    """The generated key policy for this world's image and owner, epoch 1."""
    return key_policy.generate(
        key_policy.Inputs(
            measurements=(Measurement(pcr0=PCRS[0], pcr1=PCRS[1], pcr2=PCRS[2]),),
            owner_key=OWNER_KEY,
            epochs=(1,),
            admin=f"arn:aws:iam::{OWNER_ACCOUNT}:role/admin",
            sealer=SEALER,
            parent=PARENT,
        )
    )


def nsm(pki: SimulatedPki, *, owner_key: bytes = OWNER_KEY) -> SocketNsm:
    """A module of the accepted image after its owner was measured and everything locked."""
    module = SocketNsm(SimulatedNsm(pcrs=PCRS, module_id="i-0123456789abcdef0-enc0123456789abcdef", pki=pki).call)
    module.extend_pcr(16, owner_measurement(owner_key))
    module.lock_pcrs(32)
    return module


def issued(state: Path, arn: str, *, expires: datetime | None = None) -> AwsCredentials:
    """Credentials of a role's session, as the parent hands them over; `expires` is what KMS thinks, we are told an hour."""
    access = accounts.issue(
        state,
        arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/session",
        identity=('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}',),
        expires=expires,
    )
    return AwsCredentials(
        access_key_id=access.access_key_id,
        secret_access_key=access.secret_access_key,
        session_token=access.session_token or "",
        expires=int((datetime.now(UTC) + timedelta(hours=1)).timestamp()),
    )


@dataclass(slots=True, kw_only=True)
class World:
    """What the tests need; `log` has one CloudTrail-shaped line per call."""

    state: Path
    pki: SimulatedPki
    server: KmsServer
    key_arn: str
    log: list[str] = field(default_factory=list)

    @property
    def ca_pem(self) -> bytes:
        return (self.state / CA).read_bytes()

    def dial(self) -> socket.socket:
        """A connection to the simulated KMS, as the parent's egress would forward it."""
        return socket.create_connection(("127.0.0.1", self.server.port), 10)

    def sealer(self) -> Any:
        """An ordinary boto3 client of the owner's sealing role."""
        mine = issued(self.state, SEALER)
        host = f"https://127.0.0.1:{self.server.port}"
        return boto3.client(
            "kms",
            region_name=REGION,
            endpoint_url=host,
            verify=str(self.state / CA),
            aws_access_key_id=mine.access_key_id,
            aws_secret_access_key=mine.secret_access_key,
            aws_session_token=mine.session_token,
        )

    def client(self, **changes: Any) -> KmsClient:
        """A client of the accepted image with the parent's credentials, but for `changes`."""
        arguments: dict[str, Any] = {
            "key_arn": self.key_arn,
            "host": HOST,
            "ca_pem": self.ca_pem,
            "region": REGION,
            "nsm": nsm(self.pki),
            "dial": self.dial,
            "credentials": lambda: issued(self.state, PARENT),
            "now": lambda: datetime.now(UTC),
        }
        return KmsClient(**arguments | changes)

    def wrap(self, data_key: bytes, context: dict[str, str] = CONTEXT) -> bytes:
        """The data key as KMS encrypts it."""
        blob: bytes = self.sealer().encrypt(KeyId=self.key_arn, Plaintext=data_key, EncryptionContext=context)["CiphertextBlob"]
        return blob


def start(state: Path, *, names: tuple[str, ...] = (HOST, "127.0.0.1")) -> World:
    """A running world in `state`; `world.server.stop()` ends it."""
    pki = SimulatedPki.open(state / "pki", instance_id="i-0123456789abcdef0")
    log: list[str] = []
    roots = (Root(partition="simulated", sha256=hashlib.sha256(pki.root.der).digest()),)
    kms_state = state / "kms"
    context = server_context(kms_state, names)
    kms = SimulatedKms(state=kms_state, region=REGION, roots=roots, clock=lambda: datetime.now(UTC), log=log.append)
    key = new_key(account=OWNER_ACCOUNT, region=REGION, policy=policy(), description="", now=datetime.now(UTC))
    kms.keys.put(key)
    return World(state=kms_state, pki=pki, server=KmsServer(kms, context).start(), key_arn=key.arn, log=log)


def scripted(context: ssl.SSLContext, answer: Callable[[bytes], bytes]) -> Callable[[], socket.socket]:
    """A dial whose peer speaks TLS, reads one request and writes whatever `answer` makes of it."""

    def serve(stream: socket.socket) -> None:
        with closing(stream):
            try:
                with context.wrap_socket(stream, server_side=True) as tls:
                    request = b""
                    while b"\r\n\r\n" not in request or len(request) < request.index(b"\r\n\r\n") + 4 + _length(request):
                        if not (data := tls.recv(65536)):
                            return
                        request += data
                    tls.sendall(answer(request))
            except OSError:
                return

    def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        threading.Thread(target=serve, args=(theirs,), daemon=True).start()
        return ours

    return dial


def _length(request: bytes) -> int:
    for line in request.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def http(status: int, body: bytes, *, headers: str = "") -> bytes:
    """An HTTP answer."""
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
    )

"""A simulated KMS with its world in a directory: the owner's roles, the parent's, and enclaves with documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import cbor2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.chain import Root
from attestation.values import Measurement
from owner.key_policy import Inputs, generate
from simulator.kms import Access, SimulatedKms, issue
from simulator.kms.service import HttpRequest
from simulator.kms.shapes import write
from simulator.kms.signature import Signed, compute
from simulator.nsm import SimulatedNsm
from simulator.pki import SimulatedPki, read_root
from wire.manifest import encryption_context, extended, owner_measurement

REGION = "eu-central-1"
OWNER_ACCOUNT, PARENT_ACCOUNT = "111122223333", "444455556666"
ADMIN, SEALER = f"arn:aws:iam::{OWNER_ACCOUNT}:role/KeyAdmin", f"arn:aws:iam::{OWNER_ACCOUNT}:role/Sealer"
PARENT = f"arn:aws:iam::{PARENT_ACCOUNT}:role/Parent"
ALLOW_ALL = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'
ALLOW_DECRYPT = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}'
ALLOW_CREATE = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:CreateKey","Resource":"*"}]}'

OWNER_KEY = bytes(range(32))
MEASUREMENT = Measurement(pcr0=b"\x10" * 48, pcr1=b"\x11" * 48, pcr2=b"\x12" * 48)
PCR16 = extended(owner_measurement(OWNER_KEY))
CONTEXT = encryption_context(OWNER_KEY, "model", 1)
INPUTS = Inputs(measurements=(MEASUREMENT,), owner_key=OWNER_KEY, epochs=(1,), admin=ADMIN, sealer=SEALER, parent=PARENT)
POLICY = generate(INPUTS)
ENCLAVE_KEY = rsa.generate_private_key(65537, 2048)


def spki(key: rsa.RSAPrivateKey) -> bytes:
    """The public half as an enclave attests it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pcrs(**changed: bytes) -> dict[int, bytes]:
    """The right enclave's PCRs, some of them changed: `pcr2=...`."""
    values = {**MEASUREMENT.pcrs, 16: PCR16}
    return {**values, **{int(name.removeprefix("pcr")): value for name, value in changed.items()}}


class FixedNsm(SimulatedNsm):
    """A module whose PCRs, 16 and above too, are what a test wants; zero and unlocked ones stay away from documents."""

    def __init__(self, values: Mapping[int, bytes], pki: SimulatedPki, clock: Any) -> None:
        super().__init__(
            pcrs={n: v for n, v in values.items() if n < 16}, module_id="i-0123456789abcdef0-enc0123456789abcdef", pki=pki, clock=clock
        )
        for index, value in values.items():
            if index >= 16:
                self._pcrs[index] = value
                self._locked.add(index)

    def document(self, public_key: bytes | None) -> bytes:
        """A document over the module's PCRs."""
        answer = cbor2.loads(self.call(cbor2.dumps({"Attestation": {"public_key": public_key, "user_data": None, "nonce": None}})))
        document = answer["Attestation"]["document"]
        assert isinstance(document, bytes)
        return document


@dataclass(slots=True, kw_only=True)
class Clock:
    """A clock that a test moves."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """The access keys of a usual world."""

    admin: Access
    sealer: Access
    parent: Access


def callers(state: Path) -> Callers:
    """The owner's administrator and sealer, the parent's role."""
    return Callers(
        admin=issue(state, ADMIN, identity=[ALLOW_CREATE]),
        sealer=issue(state, SEALER),
        parent=issue(state, PARENT, identity=[ALLOW_DECRYPT]),
    )


def root_of(state: Path) -> Root:
    """The simulated root that a PKI made in this directory."""
    return Root(partition="simulated", sha256=hashlib.sha256(read_root(state)).digest())


_SESSION = boto3.session.Session()


def client(access: Access, port: int, state: Path, **config: Any) -> Any:
    """An unmodified boto3 client for the service on a port of loopback."""
    options = botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=10, **config)
    return _SESSION.client(
        "kms",
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        aws_session_token=access.session_token,
        region_name=REGION,
        endpoint_url=f"https://localhost:{port}",
        verify=str(state / "ca.pem"),
        config=options,
    )


def signed(kms: SimulatedKms, access: Access, operation: str, members: dict[str, Any], now: datetime, **headers: str) -> tuple[int, Any]:
    """One signed request handed to the service without a socket: status and JSON of the answer. `headers` replace what is sent."""
    body = json.dumps(write(members)).encode()
    sent = {"host": "kms", "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"), "x-amz-target": f"TrentService.{operation}"}
    if access.session_token is not None:
        sent["x-amz-security-token"] = access.session_token
    sent.update(headers)
    date = sent["x-amz-date"][:8]
    shape = Signed(
        access_key_id=access.access_key_id, date=date, region=REGION, service="kms", headers=tuple(sorted(sent)), signature="0" * 64
    )
    value = compute(shape, sent, body, access.secret_access_key)
    scope = f"{access.access_key_id}/{date}/{REGION}/kms/aws4_request"
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(shape.headers)}, Signature={value}"
    response = kms.handle(HttpRequest(method="POST", path="/", headers=sent, body=body))
    return response.status, json.loads(response.body or b"{}")

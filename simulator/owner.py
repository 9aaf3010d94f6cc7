"""The simulated world's model owner: accounts, KMS key, sealed models, manifest, key policy, credentials, reference values.

Everything here is done by the product's own owner code, against a KMS that is simulated.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
import hashlib
import io
import json
from pathlib import Path
import time
from typing import Any

import boto3
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.eif import Measurements
from attestation.values import Measurement, ReferenceValues, pcr16_of
from cloister.session import CallerIdentity
from owner import key_policy, onnx_file, seal
from simulator.kms import accounts, tls
from simulator.kms.accounts import Access
from wire import credential, manifest
from wire.manifest import Anyone, Issuers, Kms, Manifest, Model, Pipeline, Quota
from wire.manifest_values import CREDENTIAL_LIFETIME_DEFAULT

OWNER_ACCOUNT, PARENT_ACCOUNT = "111122223333", "444455556666"
ADMIN = f"arn:aws:iam::{OWNER_ACCOUNT}:role/key-admin"
SEALER = f"arn:aws:iam::{OWNER_ACCOUNT}:role/model-sealer"
PARENT = f"arn:aws:iam::{PARENT_ACCOUNT}:role/cloister-parent"
REGION = "eu-central-1"
HOST = f"kms.{REGION}.amazonaws.com"
DEPLOYMENT = "demo"
WEEK_SECONDS = 7 * 86_400
CREDENTIAL_SECONDS = CREDENTIAL_LIFETIME_DEFAULT
QUOTA = Quota(requests=100_000, bytes=1 << 40)


def session_arn(role: str) -> str:
    """The assumed-role session that a role's access key belongs to."""
    account, name = role.split(":")[4], role.rpartition("/")[2]
    return f"arn:aws:sts::{account}:assumed-role/{name}/simulated"


def _allow(action: str) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]})


def measurement_of(measured: Measurements, label: str = "") -> Measurement:
    """The accepted image that a measured one is."""
    return Measurement(pcr0=measured.pcrs[0], pcr1=measured.pcrs[1], pcr2=measured.pcrs[2], label=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model to seal: the ONNX file's bytes, and fields of `wire.manifest.Model` that are not read from it."""

    id: str
    version: str
    onnx: bytes = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Owner:
    """Keys of one owner and its account; `state` is the simulated KMS's directory, `feed` where sealed models go."""

    state: Path
    feed: Path
    kms_url: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    issuer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    key_arn: str = ""
    epoch: int = 1
    sequence: int = 0
    models: tuple[Model, ...] = ()

    @property
    def public(self) -> bytes:
        """The raw owner key."""
        return self.key.public_key().public_bytes_raw()

    def client(self, role: str, identity: Sequence[str] = ()) -> Any:
        """A boto3 KMS client with a fresh session of `role`."""
        access = accounts.issue(self.state, session_arn(role), identity=identity)
        return boto3.client(
            "kms",
            region_name=REGION,
            endpoint_url=self.kms_url,
            aws_access_key_id=access.access_key_id,
            aws_secret_access_key=access.secret_access_key,
            aws_session_token=access.session_token,
            verify=str(self.state / tls.CA),
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def parent_access(self) -> Access:
        """What the instance's role would get from its metadata service."""
        return accounts.issue(self.state, session_arn(PARENT), identity=(_allow("kms:Decrypt"),))

    def policy(self, measured: Sequence[Measurements]) -> str:
        """The key policy for these images, this owner and this epoch."""
        images = tuple(measurement_of(one) for one in measured)
        inputs = key_policy.Inputs(
            measurements=images, owner_key=self.public, epochs=(self.epoch,), admin=ADMIN, sealer=SEALER, parent=PARENT
        )
        return key_policy.generate(inputs)

    def create_key(self, measured: Sequence[Measurements]) -> None:
        """The model's key, with its policy from the first moment on."""
        with closing(self.client(ADMIN, (_allow("kms:CreateKey"),))) as client:
            self.key_arn = client.create_key(Policy=self.policy(measured))["KeyMetadata"]["Arn"]

    def put_policy(self, measured: Sequence[Measurements]) -> None:
        """Replace the key policy, as the key's administrator."""
        with closing(self.client(ADMIN)) as client:
            client.put_key_policy(KeyId=self.key_arn, PolicyName="default", Policy=self.policy(measured))

    def seal(self, specs: Sequence[ModelSpec]) -> None:
        """Seal models into the feed directory; they become the next manifest's."""
        self.models = tuple(self._seal(spec) for spec in specs)

    def _seal(self, spec: ModelSpec) -> Model:
        judged = onnx_file.judge(spec.onnx, Path("/nonexistent"))
        sealed: dict[str, _Kept] = {}

        def out(name: str) -> io.BytesIO:
            return sealed.setdefault(name, _Kept())

        with closing(self.client(SEALER)) as kms:
            sealing = seal.sealing(kms, key_arn=self.key_arn, owner_key=self.public, model=spec.id, epoch=self.epoch)
            parts = seal.seal_model(judged, sealing, out)
        for part in parts:
            (self.feed / hashlib.sha256(sealed[part.name].content).hexdigest()).write_bytes(sealed[part.name].content)
        return Model(id=spec.id, version=spec.version, parts=parts, inputs=judged.inputs, outputs=judged.outputs, **spec.settings)

    def manifest(self, *, callers: Issuers | Anyone | None = None, pipelines: tuple[Pipeline, ...] = (), **fields: Any) -> Manifest:
        """The next manifest: sequence one higher, valid for a week, for the sealed models."""
        self.sequence += 1
        issuers = Issuers(keys=(self.issuer.public_key().public_bytes_raw(),))
        values: dict[str, Any] = {
            "deployment": DEPLOYMENT,
            "sequence": self.sequence,
            "not_after": int(time.time()) + WEEK_SECONDS,
            "epoch": self.epoch,
            "models": self.models,
            "pipelines": pipelines,
            "kms": Kms(key_arn=self.key_arn, host=HOST, ca_bundle=(self.state / tls.CA).read_bytes()),
            "callers": issuers if callers is None else callers,
        }
        return Manifest(**{**values, **fields})

    def publish(self, content: Manifest) -> bytes:
        """Sign a manifest into the feed directory; the envelope."""
        envelope = manifest.sign(manifest.encode(content), self.key)
        draft = self.feed / "manifest.cose.new"
        draft.write_bytes(envelope)
        draft.replace(self.feed / "manifest.cose")
        return envelope

    def reference_values(self, measured: Sequence[Measurements], **fields: Any) -> ReferenceValues:
        """What callers are told to accept: these images, this owner, manifests from the current sequence on."""
        values: dict[str, Any] = {
            "measurements": tuple(measurement_of(one) for one in measured),
            "pcr16": pcr16_of(self.public),
            "min_sequence": max(1, self.sequence),
            "owner_key": self.public,
            "partition": "simulated",
        }
        return ReferenceValues(**{**values, **fields})

    def credential(self, key: bytes, subject: str = "demo-caller", *, now: float | None = None, **claims: Any) -> bytes:
        """A credential for this public key, every model, and the longest time from `now` on that the manifest allows."""
        start = int(time.time() if now is None else now)
        values: dict[str, Any] = {
            "issuer": "demo-issuer",
            "subject": subject,
            "audience": DEPLOYMENT,
            "issued": start,
            "not_before": start,
            "expires": start + CREDENTIAL_SECONDS,
            "key": key,
            "models": tuple(dict.fromkeys(model.id for model in self.models)) or ("none",),
            "quota": QUOTA,
        }
        return credential.issue(credential.Credential(**{**values, **claims}), self.issuer)

    def identity(self, subject: str = "demo-caller", **claims: Any) -> CallerIdentity:
        """A caller with a fresh key and a credential for every model."""
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        return CallerIdentity(credential=self.credential(claims.pop("key", public), subject, **claims), key=key)


class _Kept(io.BytesIO):
    """Keeps its content when it is closed."""

    content: bytes = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()

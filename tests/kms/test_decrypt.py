"""Decrypt with Recipient, end to end with unmodified boto3 over TLS: only the right enclave gets the data key, and only it can read it."""

import base64
from datetime import timedelta
import json
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
import pytest

from enclave.cms import CmsError, open_envelope
from simulator.kms import KmsServer
from simulator.pki import SimulatedPki
from tests.kms.world import CONTEXT, ENCLAVE_KEY, POLICY, Callers, Clock, FixedNsm, callers, client, pcrs, spki

DATA_KEY = b"the data key of a model, 32 long"


@pytest.fixture
def world(server: KmsServer, pki: SimulatedPki, clock: Clock, tmp_path: Path) -> "World":
    """A key with the generated policy, a sealed data key."""
    return World(server, pki, clock, tmp_path / "kms")


class World:
    """What the tests below share."""

    def __init__(self, server: KmsServer, pki: SimulatedPki, clock: Clock, state: Path) -> None:
        self.pki, self.clock, self.state, self.port = pki, clock, state, server.port
        self.callers: Callers = callers(state)
        self.admin = client(self.callers.admin, self.port, state)
        self.parent = client(self.callers.parent, self.port, state)
        sealer = client(self.callers.sealer, self.port, state)
        self.key = self.admin.create_key(Policy=POLICY)["KeyMetadata"]["Arn"]
        self.sealer = sealer
        self.blob = sealer.encrypt(KeyId=self.key, Plaintext=DATA_KEY, EncryptionContext=CONTEXT)["CiphertextBlob"]

    def document(
        self, values: dict[int, bytes] | None = None, key: rsa.RSAPrivateKey = ENCLAVE_KEY, pki: SimulatedPki | None = None
    ) -> bytes:
        """A document of the enclave with these PCRs, by default the right one."""
        return FixedNsm(values or pcrs(), pki or self.pki, self.clock).document(spki(key))

    def decrypt(self, document: bytes | None, **changed: Any) -> dict[str, Any]:
        """Decrypt as the enclave does it, with the parent's credentials."""
        request: dict[str, Any] = {"KeyId": self.key, "CiphertextBlob": self.blob, "EncryptionContext": CONTEXT, **changed}
        if document is not None:
            request["Recipient"] = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
        answer: dict[str, Any] = self.parent.decrypt(**request)
        return answer

    def refused(self, document: bytes | None, **changed: Any) -> tuple[str, str]:
        """Code and message of the refusal."""
        with pytest.raises(ClientError) as caught:
            self.decrypt(document, **changed)
        error = caught.value.response["Error"]
        return error["Code"], error["Message"]

    def trail(self) -> list[dict[str, Any]]:
        """The events logged so far."""
        return [json.loads(line) for line in (self.state / "trail.jsonl").read_text().splitlines()]


def test_the_right_enclave_gets_the_data_key_sealed_to_it(world: World) -> None:
    """The measured image under the right owner and epoch gets the data key, as an envelope that only its RSA key opens."""
    answer = world.decrypt(world.document())
    assert (world.key, "SYMMETRIC_DEFAULT") == (answer["KeyId"], answer["EncryptionAlgorithm"])
    assert "Plaintext" not in answer
    assert open_envelope(answer["CiphertextForRecipient"], ENCLAVE_KEY) == DATA_KEY
    with pytest.raises(CmsError):
        open_envelope(answer["CiphertextForRecipient"], rsa.generate_private_key(65537, 2048))


OTHER = b"\x99" * 48
WRONG = {
    "PCR0": (pcrs(pcr0=OTHER), "UnlessPCR0"),
    "PCR1": (pcrs(pcr1=OTHER), "UnlessPCR1"),
    "PCR2": (pcrs(pcr2=OTHER), "UnlessPCR2"),
    "PCR16": (pcrs(pcr16=OTHER), "UnlessPCR16"),
    "PCR16 not locked": ({n: v for n, v in pcrs().items() if n != 16}, "UnlessPCR16"),
    "debug": ({16: pcrs()[16]}, "UnlessPCR0"),
}


@pytest.mark.parametrize(("values", "statement"), WRONG.values(), ids=WRONG.keys())
def test_another_enclave_is_refused(world: World, values: dict[int, bytes], statement: str) -> None:
    """Any single wrong measurement, and a debug enclave, is denied by the statement made for it."""
    code, message = world.refused(world.document(values))
    assert code == "AccessDeniedException"
    assert f"({statement})" in message


def test_no_document_is_refused(world: World) -> None:
    """Without attestation the parent's role decrypts nothing: a Deny is fulfilled by an absent key."""
    assert world.refused(None)[0] == "AccessDeniedException"


@pytest.mark.parametrize(("name", "statement"), [("cloister-owner", "UnlessOwner"), ("cloister-epoch", "UnlessEpoch")])
def test_another_owner_or_epoch_is_refused_by_the_context_alone(world: World, name: str, statement: str) -> None:
    """Right measurements do not help against a wrong owner or epoch in the encryption context."""
    code, message = world.refused(world.document(), EncryptionContext={**CONTEXT, name: "0"})
    assert code == "AccessDeniedException"
    assert f"({statement})" in message


def test_another_model_is_refused_by_the_ciphertext(world: World) -> None:
    """What the policy leaves open in the context the ciphertext does not: it is bound to all of it."""
    assert world.refused(world.document(), EncryptionContext={**CONTEXT, "cloister-model": "other"})[0] == "InvalidCiphertextException"


def test_a_document_under_another_root_is_refused(world: World, tmp_path: Path) -> None:
    """A document that the root does not vouch for is refused, whatever it claims."""
    stranger = SimulatedPki.open(tmp_path / "stranger", instance_id="i-0123456789abcdef0", clock=world.clock)
    assert world.refused(world.document(pki=stranger))[0] == "AccessDeniedException"


@pytest.mark.parametrize(("age", "code"), [(0, None), (299, None), (302, "ValidationException"), (-302, "ValidationException")])
def test_a_document_is_accepted_for_five_minutes_and_no_longer(world: World, age: int, code: str | None) -> None:
    """A document can be replayed for five minutes, as at AWS; then it is stale, and one from the future never counts."""
    now = world.clock.now
    world.clock.now = now - timedelta(seconds=age)
    document = world.document()
    world.clock.now = now
    if code is None:
        assert open_envelope(world.decrypt(document)["CiphertextForRecipient"], ENCLAVE_KEY) == DATA_KEY
    else:
        assert world.refused(document)[0] == code


@pytest.mark.parametrize(
    "key", [None, b"", b"no key", spki(rsa.generate_private_key(65537, 3072))], ids=["null", "empty", "bytes", "RSA-3072"]
)
def test_a_document_without_an_rsa_2048_key_is_refused(world: World, key: bytes | None) -> None:
    """A genuine document that attests no RSA-2048 key, such as a caller's evidence, is refused."""
    assert world.refused(FixedNsm(pcrs(), world.pki, world.clock).document(key))[0] == "ValidationException"


def test_a_recipient_names_its_algorithm(world: World) -> None:
    """A genuine document without the one algorithm, or without a document, is refused."""
    for recipient in ({"AttestationDocument": world.document()}, {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}):
        with pytest.raises(ClientError) as caught:
            world.parent.decrypt(KeyId=world.key, CiphertextBlob=world.blob, EncryptionContext=CONTEXT, Recipient=recipient)
        assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_refusals_say_who_may_not_what_and_why(world: World) -> None:
    """A refusal names the caller, the action and the key, and tells an explicit Deny from nothing that allows."""
    explicit = world.refused(None)[1]
    assert explicit.startswith("User: arn:aws:sts::444455556666:assumed-role/Parent/session is not authorized to perform: kms:Decrypt")
    assert explicit.endswith("with an explicit deny (key policy, statement 5 (UnlessPCR0))")
    with pytest.raises(ClientError) as caught:
        world.parent.generate_data_key(KeyId=world.key, KeySpec="AES_256")
    assert "because no resource-based policy allows the kms:GenerateDataKey action" in caught.value.response["Error"]["Message"]


def test_a_malformed_document_is_refused(world: World) -> None:
    """Bytes that are no document are refused, never taken for an absent one."""
    assert world.refused(b"no document")[0] == "ValidationException"


def test_the_log_shows_what_cloudtrail_shows_and_no_secret(world: World) -> None:
    """The log has the shape of CloudTrail's event for an attested Decrypt, names the deciding statement, holds no key material."""
    world.decrypt(world.document())
    world.refused(None)
    granted, denied = world.trail()[-2:]
    recipient = granted["additionalEventData"]["recipient"]
    assert (recipient["attestationDocumentEnclaveImageDigest"], "attestationDocumentEnclavePCR16" in recipient) == (
        _base64(b"\x10" * 48),
        False,
    )
    assert granted["requestParameters"]["encryptionContext"] == CONTEXT
    assert granted["resources"] == [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": world.key}]
    assert denied["errorCode"] == "AccessDenied"
    assert denied["simulator"]["decisions"][0]["by"] == "key policy, statement 5 (UnlessPCR0)"
    text = (world.state / "trail.jsonl").read_text()
    assert not [secret for secret in (_base64(DATA_KEY), _base64(world.blob), DATA_KEY.decode()) if secret in text]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

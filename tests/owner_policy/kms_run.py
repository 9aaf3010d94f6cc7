"""Run an attack's plan against the simulated KMS with real attestation documents, and see whether the key comes out.

`owner.key_policy_matrix` asks the engine alone. Here the same steps are signed requests: documents are verified,
ciphertexts are bound to their context, grants are created, policies are put; and what comes back is opened.
"""

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave.cms import CmsError, open_envelope
from owner.key_policy_attack import Attack, Plan, Step
from owner.key_policy_cast import Cast
from owner.key_policy_metadata import Metadata
from owner.policy import Grant
from simulator.kms import Access, SimulatedKms, issue
from simulator.kms.keys import Key, StoredGrant, encrypt
from simulator.pki import SimulatedPki
from tests.kms.world import ENCLAVE_KEY, REGION, Clock, FixedNsm, root_of, signed, spki

DATA_KEY = b"the data key of a model, 32 long"
ATTACKER_KEY = rsa.generate_private_key(65537, 2048)
EVERYTHING = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
PUT = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:PutKeyPolicy","Resource":"*"}]}'
OPEN_POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}'
# Rows in which the document is the right enclave's own, so that the answer is sealed to its key, not to the attacker's.
GENUINE = (Attack.RIGHT_ENCLAVE, Attack.STALE, Attack.REPLAY, Attack.OLD_EPOCH, Attack.STRANGER)


class Lab:
    """One service, one key that is laid anew for every plan."""

    def __init__(self, state: Path, now: datetime) -> None:
        self.now = now
        self._clock = Clock(now=now)
        self._pki = SimulatedPki.open(state / "pki", instance_id="i-0123456789abcdef0", clock=self._clock)
        self._clock.now = now - timedelta(seconds=301)
        self._old_pki = SimulatedPki.open(state / "pki", instance_id="i-0123456789abcdef0", clock=Clock(now=now - timedelta(seconds=301)))
        self._clock.now = now
        (state / "kms").mkdir()
        self._state = state / "kms"
        self._kms = SimulatedKms(state=self._state, region=REGION, roots=(root_of(state / "pki"),), clock=self._clock)
        self._access: dict[tuple[str, str], Access] = {}
        self._documents: dict[tuple[object, ...], bytes] = {}

    def lay(self, arn: str, policy: str, metadata: Metadata, cast: Cast, context: dict[str, str]) -> None:
        """The key, its policy and its grants."""
        self._cast, self._context = cast, context
        grants = tuple(StoredGrant(grant=grant, created=0.0, issuing_account=cast.account) for grant in metadata.grants or ())
        self._key = Key(
            arn=arn, material=bytes(32), policy=policy, created=0.0, multi_region=metadata.multi_region is not False, grants=grants
        )
        self._blob = encrypt(self._key, DATA_KEY, context)

    def releases(self, attack: Attack, plan: Plan) -> bool:
        """Whether the plan ends in the plaintext of the data key (for `data-key`: of a new one)."""
        self._kms.keys.put(self._key)
        if plan.supposed:
            step = plan.steps[-1]
            operations = frozenset((step.action.removeprefix("kms:"),))
            grant = Grant(id="a" * 64, grantee=step.caller.principal.source_arn, operations=operations)
            self._kms.keys.put(replace(self._key, grants=(StoredGrant(grant=grant, created=0.0, issuing_account=self._cast.account),)))
        return all(self._call(attack, step) for step in plan.steps)

    def _call(self, attack: Attack, step: Step) -> bool:
        operation = {"ReEncryptFrom": "ReEncrypt", "ReEncryptTo": None}.get(
            step.action.removeprefix("kms:"), step.action.removeprefix("kms:")
        )
        if operation is None:
            return True  # one call, judged with ReEncryptFrom's step
        match operation:
            case "Decrypt":
                return self._decrypt(attack, step)
            case "PutKeyPolicy":
                bypass = step.keys["kms:bypasspolicylockoutsafetycheck"] == ("true",)
                members: dict[str, Any] = {"Policy": OPEN_POLICY, "BypassPolicyLockoutSafetyCheck": bypass}
                return self._sent(step, operation, members)[0] and self._opened(
                    attack, self._sent(step, "Decrypt", self._decrypt_members(attack, step))[1]
                )
            case "CreateGrant":
                grant = {"GranteePrincipal": step.keys["kms:granteeprincipal"][0], "Operations": list(step.keys["kms:grantoperations"])}
                return self._sent(step, operation, grant)[0]
            case "GenerateDataKey":
                answered, answer = self._sent(step, operation, {"KeySpec": "AES_256", "EncryptionContext": dict(step.context)})
                return answered and "Plaintext" in answer
            case "GenerateDataKeyPair":
                return self._sent(step, operation, {"KeyPairSpec": "ECC_NIST_P256", "EncryptionContext": dict(step.context)})[0]
            case "ReEncrypt":
                return self._re_encrypt(step)
            case "ReplicateKey":
                return self._sent(step, operation, {"ReplicaRegion": "us-west-2"})[0] and self._key.multi_region
            case _:
                raise NotImplementedError(operation)

    def _decrypt_members(self, attack: Attack, step: Step) -> dict[str, Any]:
        blob = self._blob if attack is Attack.OTHER_MODEL else encrypt(self._key, DATA_KEY, dict(step.context or self._context))
        members: dict[str, Any] = {"CiphertextBlob": blob, "EncryptionContext": dict(step.context or self._context)}
        if step.pcrs is not None:
            document = self._document(attack, step)
            members["Recipient"] = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
        return members

    def _document(self, attack: Attack, step: Step) -> bytes:
        values = {index: bytes.fromhex(value) for index, value in (step.pcrs or {}).items()}
        stale = attack is Attack.STALE
        key = ENCLAVE_KEY if attack in GENUINE else ATTACKER_KEY
        name = (tuple(sorted(values.items())), stale, attack in GENUINE)
        if name not in self._documents:
            clock = Clock(now=self.now - timedelta(seconds=301)) if stale else self._clock
            self._documents[name] = FixedNsm(values, self._old_pki if stale else self._pki, clock).document(spki(key))
        return self._documents[name]

    def _decrypt(self, attack: Attack, step: Step) -> bool:
        answered, answer = self._sent(step, "Decrypt", self._decrypt_members(attack, step))
        return answered and self._opened(attack, answer)

    def _opened(self, attack: Attack, answer: dict[str, Any]) -> bool:
        """What who holds the answer can read in it: the attacker with his own key, except where the enclave itself is the thief."""
        if "Plaintext" in answer:
            return base64.b64decode(answer["Plaintext"]) == DATA_KEY
        key = ENCLAVE_KEY if attack in GENUINE and attack is not Attack.REPLAY else ATTACKER_KEY
        try:
            return open_envelope(base64.b64decode(answer["CiphertextForRecipient"]), key) == DATA_KEY
        except CmsError:
            return False

    def _sent(self, step: Step, operation: str, members: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether the call was allowed: answered, or refused only because the simulator does not do it."""
        status, answer = signed(self._kms, self._caller(step), operation, {"KeyId": self._key.arn, **members}, self.now)
        return status == 200 or answer["__type"] == "UnsupportedOperationException", answer

    def _re_encrypt(self, step: Step) -> bool:
        """To the same key, or to one of the attacker's own, which allows everyone everything."""
        own = replace(self._key, arn=f"arn:aws:kms:{REGION}:999999999999:key/11111111-1111-1111-1111-111111111111", policy=OPEN_POLICY)
        self._kms.keys.put(own)
        same = step.keys["kms:reencryptonsamekey"] == ("true",)
        context = dict(step.context)
        members = {
            "SourceKeyId": self._key.arn,
            "CiphertextBlob": self._blob,
            "SourceEncryptionContext": context,
            "DestinationKeyId": self._key.arn if same else own.arn,
            "DestinationEncryptionContext": {**context, "cloister-owner": "e" * 96},
        }
        status, answer = signed(self._kms, self._caller(step), "ReEncrypt", members, self.now)
        return status == 200 or answer["__type"] == "UnsupportedOperationException"

    def _caller(self, step: Step) -> Access:
        identity = PUT if step.caller is self._cast.ci else EVERYTHING if step.caller.identity else ""
        name = (step.caller.principal.arn, identity)
        if name not in self._access:
            arn = step.caller.principal.source_arn
            self._access[name] = issue(self._state, arn, identity=[identity] if identity else [])
        return self._access[name]

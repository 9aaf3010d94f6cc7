"""The registry of attacks: who tries what, which check refuses it, and that it succeeds where that check is missing.

`python -P -m simulator attack ID` runs one and its twin; `tests/hostile` runs all. An attack is entered here or it
does not count.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum

from simulator.hostile import (
    artifact_attacks,
    document_attacks,
    evidence_attacks,
    kms_attacks,
    manifest_attacks,
    model_attacks,
    session_attacks,
)
from simulator.hostile.twins import Edit, Outcome, run_with


class Position(StrEnum):
    """Where the adversary stands."""

    CALLER = "caller"
    BETWEEN = "between caller and parent"
    PARENT = "parent"
    KMS = "KMS"
    OWNER = "model owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. `lie`: what the adversary pretends, for a person. `threat`: the row of docs/threat-model.md.

    `check`: the one check that refuses it, by name; `refused_by`: how the refusal shows; `twin`: the edits that take
    exactly that check out. `without`: edits of both runs, which take out other locks that would refuse first, or a time
    limit that would end the attack in the check's place.
    """

    id: str
    lie: str
    threat: str
    position: Position
    check: str
    refused_by: str
    twin: tuple[Edit, ...]
    run: Callable[[], Coroutine[None, None, Outcome]]
    without: tuple[Edit, ...] = ()


_NO_CONTEXT = (
    Edit(file="enclave/artifact.py", old="        or dict(header.context) != dict(context)\n", new=""),
    Edit(
        file="enclave/load.py",
        old="client.decrypt(header.data_keys[0].ciphertext, context)",
        new="client.decrypt(header.data_keys[0].ciphertext, dict(header.context))",
    ),
)
_NO_PCR16_IN_POLICY = (
    Edit(file="owner/key_policy.py", old="    values[16] = [extended(owner_measurement(inputs.owner_key)).hex()]\n", new=""),
)
_NO_TRANSCRIPT = (
    Edit(
        file="wire/handshake.py",
        old='return hashlib.sha384(b"cloister/1 th1\\0" + challenge_frame + evidence_frame).digest()',
        new='return hashlib.sha384(b"cloister/1 th1\\0").digest()',
    ),
)
_NO_HANDSHAKE_LIMIT = (
    Edit(
        file="enclave/connection.py",
        old="        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self._handshake_over)\n",
        new="",
    ),
)
_NO_INTAKE = (
    Edit(
        file="enclave/load.py",
        old="    intake.judge(graph, intake=model.intake, weights=total - len(graph))\n",
        new="",
    ),
)
_ONE_KEY_PAIR = (
    Edit(
        file="wire/seal.py",
        old="mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()",
        new="mlkem, x25519 = MLKEM768PrivateKey.from_seed_bytes(bytes(64)), X25519PrivateKey.from_private_bytes(bytes(32))",
    ),
)
_NO_BINDING = Edit(
    file="attestation/appraise.py",
    old="    yield _equal(Check.BINDING, wire_evidence.user_data(evidence.config_raw, evidence.pk), claims.user_data)\n",
    new="",
)
_NO_NONCE = Edit(file="attestation/appraise.py", old="    yield _nonce(nonce, claims.nonce)\n", new="")
_ANY_IMAGE = Edit(
    file="attestation/appraise.py",
    old="if all(pcrs.get(index) == value for index, value in item.pcrs.items())), None)",
    new="), None)",
)
_ANY_AGE = Edit(file="attestation/appraise.py", old="    if age > max_age:\n", new="    if False:\n")
_NO_CLOCK_AHEAD = Edit(file="attestation/verify.py", old="    if now - at > TOLERANCE:\n", new="    if False:\n")

_NO_PINS = (
    Edit(
        file="enclave/artifact.py",
        old="""        hashlib.sha256(header.raw).digest() != part.header_sha256
        or header.commitment != part.commitment
        or layout.length""",
        new="        layout.length",
    ),
    Edit(
        file="enclave/artifact.py",
        old="if not hmac.compare_digest(digest.digest(), part.artifact_sha256):",
        new="if not hmac.compare_digest(b'', b''):",
    ),
)

_REGISTRY = (
    Attack(
        id="other-image",
        lie="another image answers, on genuine hardware",
        threat="T6",
        position=Position.PARENT,
        check="attestation.appraise: PCR0, PCR1 and PCR2 equal one accepted measurement",
        refused_by="caller: measurements",
        twin=(
            Edit(
                file="attestation/appraise.py",
                old="if all(pcrs.get(index) == value for index, value in item.pcrs.items())), None)",
                new="), None)",
            ),
        ),
        run=evidence_attacks.other_image,
    ),
    Attack(
        id="swapped-session-key",
        lie="the enclave's session key is one of the parent's",
        threat="T1",
        position=Position.PARENT,
        check="attestation.appraise: user_data binds config and session key",
        refused_by="caller: binding",
        twin=(_NO_BINDING,),
        run=evidence_attacks.swapped_session_key,
    ),
    Attack(
        id="swapped-model-and-key",
        lie="model and data key are swapped together",
        threat="T9",
        position=Position.KMS,
        check="enclave.artifact: header, key commitment and digest are the manifest's",
        refused_by="enclave: ARTIFACT_HEADER",
        twin=_NO_PINS,
        run=model_attacks.swapped_model_and_key,
    ),
    Attack(
        id="older-version",
        lie="the older version of a model is handed out as the current one",
        threat="T9b",
        position=Position.PARENT,
        check="enclave.artifact: header, key commitment and digest are the manifest's",
        refused_by="enclave: ARTIFACT_HEADER",
        twin=_NO_PINS,
        run=artifact_attacks.older_version,
    ),
    Attack(
        id="other-model",
        lie="another model of the owner's is handed out; only what the manifest pins is left to see it",
        threat="T9",
        position=Position.PARENT,
        check="enclave.artifact: header, key commitment and digest are the manifest's",
        refused_by="enclave: ARTIFACT_HEADER",
        without=_NO_CONTEXT,
        twin=_NO_PINS,
        run=artifact_attacks.other_model,
    ),
    Attack(
        id="other-model-context",
        lie="another model of the owner's is handed out; only the encryption context is left to see it",
        threat="T8",
        position=Position.PARENT,
        check="enclave.load: the encryption context names the model",
        refused_by="enclave: ARTIFACT_HEADER",
        without=_NO_PINS,
        twin=_NO_CONTEXT,
        run=artifact_attacks.other_model,
    ),
    Attack(
        id="mixed-parts",
        lie="the weights of the older version are handed out with the current graph",
        threat="T9",
        position=Position.PARENT,
        check="enclave.artifact: header, key commitment and digest are the manifest's, for each part",
        refused_by="enclave: ARTIFACT_HEADER",
        twin=_NO_PINS,
        run=artifact_attacks.mixed_parts,
    ),
    Attack(
        id="truncated-artifact",
        lie="the end of the weights is withheld, zeros stand in its place",
        threat="T12",
        position=Position.PARENT,
        check="enclave.artifact: every frame opens, and the digest is the manifest's",
        refused_by="enclave: ARTIFACT_DAMAGED",
        twin=(
            _NO_PINS[1],
            Edit(
                file="enclave/artifact.py",
                old="                raise ArtifactError(BootFailure.ARTIFACT_DAMAGED) from None\n",
                new="                room[:] = bytes(len(room))\n",
            ),
        ),
        run=artifact_attacks.truncated,
    ),
    Attack(
        id="swapped-data-key",
        lie="another data key is released: is it noticed before the model's gigabytes flow?",
        threat="T9",
        position=Position.KMS,
        check="wire.artifact: the data key fits the key commitment, before the first frame is fetched",
        refused_by="enclave: ARTIFACT_COMMITMENT",
        twin=(
            Edit(
                file="wire/artifact.py",
                old="    if not hmac.compare_digest(_commitment(data_key, header.message_id), header.commitment):",
                new="    if False:",
            ),
            Edit(file="wire/artifact.py", old="        key.decrypt(bytes(IV_BYTES), header.tag, header.body)\n", new="        pass\n"),
        ),
        run=artifact_attacks.swapped_data_key,
    ),
    Attack(
        id="other-owner",
        lie="the owner's image serves a model, key and manifest of the parent's own",
        threat="T9a",
        position=Position.PARENT,
        check="attestation.appraise: PCR16 is the owner's",
        refused_by="caller: owner",
        twin=(Edit(file="attestation/appraise.py", old="    yield _equal(Check.OWNER, values.pcr16, pcrs.get(16))\n", new=""),),
        run=artifact_attacks.other_owner,
    ),
    Attack(
        id="tampered-manifest",
        lie="the manifest's issuers are replaced under the old signature",
        threat="T15",
        position=Position.PARENT,
        check="wire.manifest: the owner's signature verifies over the raw payload",
        refused_by="enclave: MANIFEST_SIGNATURE",
        twin=(Edit(file="wire/manifest.py", old="    cose.verify(envelope, load_public(envelope.kid))\n", new=""),),
        run=manifest_attacks.tampered,
    ),
    Attack(
        id="resigned-manifest-pcr16",
        lie="the manifest is signed by the parent's key; only PCR16 in the key policy is left to see it",
        threat="T9a",
        position=Position.PARENT,
        check="owner.key_policy: Deny unless PCR16 is the owner's",
        refused_by="enclave: KMS_REFUSED",
        without=_NO_CONTEXT,
        twin=_NO_PCR16_IN_POLICY,
        run=manifest_attacks.resigned,
    ),
    Attack(
        id="resigned-manifest-context",
        lie="the manifest is signed by the parent's key; only the encryption context is left to see it",
        threat="T9a",
        position=Position.PARENT,
        check="enclave.load: the encryption context is computed from the key that verified the manifest",
        refused_by="enclave: ARTIFACT_HEADER",
        without=_NO_PCR16_IN_POLICY,
        twin=_NO_CONTEXT,
        run=manifest_attacks.resigned,
    ),
    Attack(
        id="manifest-below-floor",
        lie="an older manifest of the owner's is booted",
        threat="T9b",
        position=Position.PARENT,
        check="attestation.appraise: the config's sequence is at least min_sequence",
        refused_by="caller: sequence",
        twin=(
            Edit(
                file="attestation/appraise.py",
                old="if values.min_sequence is not None and config.sequence < values.min_sequence:",
                new="if False:",
            ),
        ),
        run=manifest_attacks.below_floor,
    ),
    Attack(
        id="expired-manifest",
        lie="a manifest past its not_after is booted",
        threat="T9b",
        position=Position.PARENT,
        check="enclave.boot: not_after lies ahead of trusted time, by at most 90 days",
        refused_by="enclave: MANIFEST_EXPIRED",
        twin=(Edit(file="enclave/boot.py", old="if not 0 < left <= manifest.NOT_AFTER_MAX_SECONDS:", new="if False:"),),
        run=manifest_attacks.expired,
    ),
    Attack(
        id="old-epoch",
        lie="artifacts of a retired epoch are booted",
        threat="T9b",
        position=Position.PARENT,
        check="owner.key_policy: Deny unless the encryption context has the current epoch",
        refused_by="enclave: KMS_REFUSED",
        twin=(
            Edit(
                file="owner/key_policy.py",
                old='        _deny("UnlessEpoch", ("kms:Decrypt",), _unless(f"{CONTEXT_KEY}cloister-epoch", epochs)),\n',
                new="",
            ),
        ),
        run=manifest_attacks.old_epoch,
    ),
    Attack(
        id="changed-line",
        lie="one line of the enclave is changed",
        threat="T6",
        position=Position.PARENT,
        check="owner.key_policy: Deny unless PCR0, PCR1 and PCR2 are the measured image's",
        refused_by="enclave: KMS_REFUSED",
        twin=(Edit(file="owner/key_policy.py", old="indices = [0, 1, 2] +", new="indices: list[int] = [] +"),),
        run=manifest_attacks.changed_line,
    ),
    Attack(
        id="debug-enclave",
        lie="the owner's image runs in debug mode",
        threat="T5",
        position=Position.PARENT,
        check="owner.key_policy: Deny unless PCR0, PCR1 and PCR2 are the measured image's, which zeros never are",
        refused_by="enclave: KMS_REFUSED",
        twin=(Edit(file="owner/key_policy.py", old="indices = [0, 1, 2] +", new="indices: list[int] = [] +"),),
        run=manifest_attacks.debug_enclave,
    ),
    Attack(
        id="other-kms-host",
        lie="another host answers for KMS, with a certificate of the same authority",
        threat="T11",
        position=Position.PARENT,
        check="enclave.tls: the certificate names the manifest's KMS host",
        refused_by="enclave: KMS_UNTRUSTED_HOST",
        twin=(
            Edit(
                file="enclave/tls.py",
                old="    tls.minimum_version = ssl.TLSVersion.TLSv1_3\n",
                new="    tls.minimum_version = ssl.TLSVersion.TLSv1_3\n    tls.check_hostname = False\n",
            ),
        ),
        run=manifest_attacks.other_kms_host,
    ),
    Attack(
        id="expired-credential",
        lie="a caller's credential has ended",
        threat="T30",
        position=Position.CALLER,
        check="wire.credential: trusted time is before exp",
        refused_by="caller: CREDENTIAL_EXPIRED",
        twin=(Edit(file="wire/credential.py", old="if now >= credential.expires + SKEW_SECONDS:", new="if False:"),),
        run=manifest_attacks.expired_credential,
    ),
    Attack(
        id="unauthorised-model",
        lie="a caller asks for a model that its credential does not name",
        threat="T30",
        position=Position.CALLER,
        check="enclave.service: the credential names the model",
        refused_by="caller: MODEL_NOT_AUTHORISED",
        twin=(Edit(file="enclave/service.py", old="if caller.models is not None and name not in caller.models:", new="if False:"),),
        run=manifest_attacks.unauthorised_model,
    ),
    Attack(
        id="replayed-session",
        lie="a recorded session is sent again",
        threat="T7",
        position=Position.BETWEEN,
        check="wire.seal: every session has a key pair of its own",
        refused_by="enclave: the opening does not open",
        without=_NO_TRANSCRIPT + _NO_HANDSHAKE_LIMIT,
        twin=_ONE_KEY_PAIR,
        run=session_attacks.replayed,
    ),
    Attack(
        id="replayed-session-transcript",
        lie="a recorded session is sent again; only the transcript is left to see it",
        threat="T7",
        position=Position.BETWEEN,
        check="wire.handshake: the opening is bound to challenge and evidence",
        refused_by="enclave: the opening does not open",
        without=_ONE_KEY_PAIR + _NO_HANDSHAKE_LIMIT,
        twin=_NO_TRANSCRIPT,
        run=session_attacks.replayed,
    ),
    Attack(
        id="cross-wired-enclaves",
        lie="a session with one enclave goes on at another",
        threat="T7",
        position=Position.PARENT,
        check="wire.seal: every session has a key pair of its own",
        refused_by="enclave: the opening does not open",
        without=_NO_TRANSCRIPT + _NO_HANDSHAKE_LIMIT,
        twin=_ONE_KEY_PAIR,
        run=session_attacks.cross_wired,
    ),
    Attack(
        id="kms-evidence",
        lie="evidence made for KMS is shown to a caller",
        threat="T10",
        position=Position.PARENT,
        check="attestation.appraise: a session's document has no public_key",
        refused_by="caller: purpose",
        without=(_NO_BINDING, Edit(file="attestation/appraise.py", old="    yield _nonce(nonce, claims.nonce)\n", new="")),
        twin=(Edit(file="attestation/appraise.py", old="    if claims.public_key is not None:\n", new="    if False:\n"),),
        run=session_attacks.kms_evidence,
    ),
    Attack(
        id="caller-evidence",
        lie="evidence made for a caller is shown to KMS",
        threat="T10",
        position=Position.PARENT,
        check="simulator.kms.recipient, as AWS says of KMS: a Recipient's document holds an RSA-2048 public key",
        refused_by="KMS: ValidationException, the attestation document holds no RSA-2048 public key",
        twin=(
            Edit(
                file="simulator/kms/recipient.py",
                old="public_key=_rsa(claims.public_key))",
                new="public_key=_rsa(claims.public_key) if claims.public_key else None)",
            ),
            Edit(
                file="simulator/kms/operations.py",
                old="    if call.recipient is None:\n",
                new="    if call.recipient is None or call.recipient.public_key is None:\n",
            ),
        ),
        run=kms_attacks.caller_evidence,
    ),
    Attack(
        id="simulated-root",
        lie="a simulated enclave is shown to a caller who trusts AWS",
        threat="T2",
        position=Position.PARENT,
        check="attestation.chain: the root is a pinned one, byte for byte",
        refused_by="caller: root",
        twin=(
            Edit(
                file="attestation/chain.py",
                old="root = next((root for root in roots if root.sha256 == fingerprint), None)",
                new='root = Root(partition="simulated", sha256=fingerprint)',
            ),
        ),
        run=session_attacks.simulated_root,
    ),
    Attack(
        id="debug-evidence",
        lie="a debug enclave is shown to a caller",
        threat="T5",
        position=Position.PARENT,
        check="attestation.appraise: PCR0, PCR1 and PCR2 are not zero",
        refused_by="caller: debug",
        without=(_ANY_IMAGE,),
        twin=(Edit(file="attestation/appraise.py", old="    yield debug(pcrs)\n", new=""),),
        run=document_attacks.debug,
    ),
    Attack(
        id="mixed-image",
        lie="an image with the accepted PCR0 and other PCR1 and PCR2",
        threat="T6",
        position=Position.PARENT,
        check="attestation.appraise: PCR0, PCR1 and PCR2 match as a whole",
        refused_by="caller: measurements",
        twin=(
            Edit(
                file="attestation/appraise.py",
                old="if all(pcrs.get(index) == value for index, value in item.pcrs.items())), None)",
                new="if any(pcrs.get(index) == value for index, value in item.pcrs.items())), None)",
            ),
        ),
        run=document_attacks.mixed_image,
    ),
    Attack(
        id="other-nonce",
        lie="a recorded document is shown again, its session key having leaked",
        threat="T4",
        position=Position.BETWEEN,
        check="attestation.appraise: the document carries the caller's own nonce",
        refused_by="caller: nonce",
        twin=(_NO_NONCE,),
        run=document_attacks.other_nonce,
    ),
    Attack(
        id="old-document",
        lie="a document of an hour ago",
        threat="T3",
        position=Position.PARENT,
        check="attestation.verify: the document is at most 300 s behind the caller's clock",
        refused_by="caller: clock-ahead",
        without=(_ANY_AGE,),
        twin=(_NO_CLOCK_AHEAD,),
        run=document_attacks.old_document,
    ),
    Attack(
        id="future-document",
        lie="a document made in advance, of the next hour",
        threat="T3",
        position=Position.PARENT,
        check="attestation.verify: the document is at most 300 s ahead of the caller's clock",
        refused_by="caller: clock-behind",
        twin=(Edit(file="attestation/verify.py", old="    if at - now > TOLERANCE:\n", new="    if False:\n"),),
        run=document_attacks.future_document,
    ),
    Attack(
        id="expired-module",
        lie="a security module whose certificate has ended",
        threat="T3",
        position=Position.PARENT,
        check="attestation.verify: no certificate has expired by the caller's clock",
        refused_by="caller: expired",
        without=(_ANY_AGE, _NO_CLOCK_AHEAD),
        twin=(Edit(file="attestation/verify.py", old="        if now > certificate.ends:\n", new="        if False:\n"),),
        run=document_attacks.expired_module,
    ),
    Attack(
        id="edited-document",
        lie="the accepted image's registers are written over those of a genuine document",
        threat="T2",
        position=Position.PARENT,
        check="attestation.verify: the leaf's key signed the document's bytes",
        refused_by="caller: cose-signature",
        twin=(Edit(file="attestation/verify.py", old="    _check_signature(document, chain)\n", new=""),),
        run=document_attacks.edited_document,
    ),
    Attack(
        id="grafted-chain",
        lie="the genuine root certificate stands in front of a hierarchy of the adversary's own",
        threat="T2",
        position=Position.PARENT,
        check="attestation.chain: each certificate signed the next",
        refused_by="caller: chain-signatures",
        twin=(Edit(file="attestation/verify.py", old="    chains.check_path(chain, at, _CACHE)\n", new=""),),
        run=document_attacks.grafted_chain,
    ),
    Attack(
        id="withdrawn-image",
        lie="an accepted image that its owner has withdrawn",
        threat="T33",
        position=Position.PARENT,
        check="attestation.appraise: no withdrawal names the registers",
        refused_by="caller: withdrawn",
        twin=(Edit(file="attestation/appraise.py", old="    if entry is not None:\n", new="    if False:\n"),),
        run=document_attacks.withdrawn_image,
    ),
    Attack(
        id="withheld-withdrawals",
        lie="the caller is kept from the current list of withdrawals",
        threat="T33",
        position=Position.BETWEEN,
        check="attestation.appraise: the list of withdrawals has not expired",
        refused_by="caller: withdrawals-expired",
        twin=(Edit(file="attestation/appraise.py", old="    if now.timestamp() > withdrawals.not_after:\n", new="    if False:\n"),),
        run=document_attacks.withheld_withdrawals,
    ),
    Attack(
        id="unchecked-operator",
        lie="a model that nobody checked has an operator of its own library",
        threat="T14",
        position=Position.OWNER,
        check="enclave.load: the opened graph is judged by enclave.intake before ONNX Runtime gets it",
        refused_by="enclave: MODEL_REFUSED",
        twin=_NO_INTAKE,
        run=model_attacks.unchecked_operator,
    ),
    Attack(
        id="unchecked-nodes",
        lie="a model that nobody checked has more nodes than its manifest allows",
        threat="T14",
        position=Position.OWNER,
        check="enclave.load: the opened graph is judged by enclave.intake before ONNX Runtime gets it",
        refused_by="enclave: MODEL_REFUSED",
        twin=_NO_INTAKE,
        run=model_attacks.unchecked_nodes,
    ),
    Attack(
        id="unchecked-elements",
        lie="a model that nobody checked unfolds to more elements than its manifest allows",
        threat="T14",
        position=Position.OWNER,
        check="enclave.load: the opened graph is judged by enclave.intake before ONNX Runtime gets it",
        refused_by="enclave: MODEL_REFUSED",
        twin=_NO_INTAKE,
        run=model_attacks.unchecked_elements,
    ),
    Attack(
        id="unchecked-file",
        lie="a model that nobody checked has its weights in a file of the enclave",
        threat="T14",
        position=Position.OWNER,
        check="enclave.load: the opened graph is judged by enclave.intake before ONNX Runtime gets it",
        refused_by="enclave: MODEL_REFUSED",
        twin=_NO_INTAKE,
        run=model_attacks.unchecked_file,
    ),
    Attack(
        id="unchecked-bytes",
        lie="a model that nobody checked is larger than its manifest allows: is memory given for it?",
        threat="T14",
        position=Position.OWNER,
        check="enclave.load: the parts' lengths are within the manifest's intake, before anything is opened",
        refused_by="enclave: MODEL_REFUSED",
        without=_NO_INTAKE,
        twin=(Edit(file="enclave/load.py", old="    if total > model.intake.max_bytes:\n", new="    if False:\n"),),
        run=model_attacks.unchecked_bytes,
    ),
)

ATTACKS: dict[str, Attack] = {attack.id: attack for attack in _REGISTRY}


def attempt(attack: Attack, *, twin: bool) -> Outcome:
    """Run the attack in a process of its own, with its check or without. Raises: TwinError."""
    return run_with(attack.id, attack.without + (attack.twin if twin else ()))

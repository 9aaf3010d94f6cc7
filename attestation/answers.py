"""The answers of `cloister attestation` for machines: values of docs/schemas/attestation-answers.schema.json. Pure."""

from collections.abc import Mapping
from datetime import datetime
import hashlib
import json

from attestation.appraise import AttestationResult
from attestation.document import AttestationDocument
from attestation.errors import Mismatch
from attestation.report import Report, links
from attestation.verify import Claims
from wire.evidence import CALLERS_ANYONE, Config


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _pcrs(pcrs: Mapping[int, bytes]) -> dict[str, str]:
    return {str(index): value.hex() for index, value in pcrs.items()}


def _moment(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _chain(certificates: tuple[bytes, ...]) -> list[dict[str, str]]:
    return [
        {"place": link.place, "subject": link.subject, "begins": _moment(link.begins), "ends": _moment(link.ends)}
        for link in links(certificates)
    ]


def document(value: AttestationDocument) -> dict[str, object]:
    """What a document says, unverified."""
    return {
        "module_id": value.module_id,
        "digest": value.digest,
        "timestamp_ms": value.timestamp,
        "pcrs": _pcrs(value.pcrs),
        "public_key": _hex(value.public_key),
        "user_data": _hex(value.user_data),
        "nonce": _hex(value.nonce),
        "unknown_keys": list(value.unknown_keys),
        "chain": _chain(value.chain),
    }


def claims(value: Claims) -> dict[str, object]:
    """What an authentic document says."""
    return {
        "partition": value.partition,
        "module_id": value.module_id,
        "timestamp": _moment(value.timestamp),
        "pcrs": _pcrs(value.pcrs),
        "public_key": _hex(value.public_key),
        "user_data": _hex(value.user_data),
        "nonce": _hex(value.nonce),
        "unknown_keys": list(value.unknown_keys),
        "chain": _chain(value.certificates),
        "expires": _moment(value.expires),
        "document_sha256": value.digest.hex(),
        "at": value.moment.value,
    }


def config(value: Config) -> dict[str, object]:
    """The service config that the document binds."""
    return {
        "owner_key": value.owner_key.hex(),
        "manifest_sha384": value.manifest_digest.hex(),
        "sequence": value.sequence,
        "not_after": value.not_after,
        "callers": "anyone" if value.callers == CALLERS_ANYONE else "issuers",
        "audit_key": _hex(value.audit_key),
        "session_seconds": value.session_seconds,
    }


def result(value: AttestationResult) -> dict[str, object]:
    """Accepted evidence."""
    return {
        "claims": claims(value.claims),
        "config": config(value.config),
        "session_key_sha256": hashlib.sha256(value.pk).hexdigest(),
        "measurement": {"label": value.measurement.label, "pcrs": _pcrs(value.measurement.pcrs)},
        "nonce": value.nonce.hex(),
        "evidence_sha256": value.evidence_digest.hex(),
        "appraised_at": _moment(value.appraised_at),
    }


def mismatch(value: Mismatch) -> dict[str, object]:
    """One refusal."""
    return {"check": value.check.value, "reason": value.check.reason, "expected": value.expected, "actual": value.actual}


def report(value: Report) -> dict[str, object]:
    """A whole report."""
    return {
        "verdict": value.verdict.value,
        "at": value.moment.value,
        "judged_at": _moment(value.judged_at),
        "mismatches": [mismatch(item) for item in value.refusals],
        "proven": [
            {"statement": proof.statement, "by": proof.by, "checks": [check.value for check in proof.checks]} for proof in value.proofs
        ],
        "registers": [
            {
                "pcr": row.index,
                "measures": row.measures,
                "value": _hex(row.value),
                "expected": [item.hex() for item in row.expected],
                "verdict": row.verdict or "not compared",
            }
            for row in value.registers
        ],
        "claims": None if value.claims is None else claims(value.claims),
        "document": None if value.document is None else document(value.document),
        "config": None if value.evidence is None else config(value.evidence.config),
        "not_proven": list(value.unknown),
        "attacker": list(value.attacker),
    }


def text(value: Mapping[str, object]) -> bytes:
    """An answer as a file."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()

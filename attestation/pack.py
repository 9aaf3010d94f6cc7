"""An evidence pack: everything that one appraisal rested on in one ZIP file that can be judged again years later.

Written deterministically; every member's SHA-256 stands in `index.json`. The pack proves nothing by being whole: checking
it verifies the evidence at the document's own moment and compares everything anew. That the nonce was a fresh one only
the packer knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
import hashlib
import io
import json
import zipfile
import zlib

from attestation import appraise, reference_values, strict_json, verify
from attestation.chain import Root
from attestation.checks import Check
from attestation.errors import AppraisalError, AttestationError, MalformedEvidenceError, Mismatch
from attestation.explain import Question, explain
from attestation.report import Report
from attestation.strict_json import Json
from attestation.verify import TOLERANCE, Moment
from wire import evidence as wire_evidence

FORMAT = "cloister-evidence-pack/1"
PACK_MAX = 8 << 20
MEMBER_MAX = 1 << 20
REQUIRED = ("evidence.bin", "nonce.bin", "reference-values.json")
OPTIONAL = ("measurements.json", "key-policy.json", "report.html", "versions.json")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class MalformedPackError(AttestationError):
    """The file is no evidence pack, or one of its members is not what its index says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack whose members fit its index: bytes of each, and when it says that it was appraised."""

    appraised_at: datetime
    members: Mapping[str, bytes]


def build(*, appraised_at: datetime, members: Mapping[str, bytes]) -> bytes:
    """The file. Raises ValueError where a required member is missing or an unknown one is there."""
    if not set(REQUIRED) <= set(members) <= {*REQUIRED, *OPTIONAL}:
        raise ValueError("a pack holds evidence, nonce, reference values and what goes with them")
    index = {
        "format": FORMAT,
        "appraised_at": int(appraised_at.timestamp()),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(members.items())},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [("index.json", json.dumps(index, indent=2).encode()), *sorted(members.items())]:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    if len(data) > PACK_MAX:
        raise MalformedPackError(f"a pack has at most {PACK_MAX} bytes")
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.filename in members or info.filename not in ("index.json", *REQUIRED, *OPTIONAL):
                    raise MalformedPackError(f"{info.filename[:60]!a} does not belong into a pack, or not twice")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise MalformedPackError(f"{info.filename} is neither stored nor deflated")
                with archive.open(info) as member:
                    members[info.filename] = member.read(MEMBER_MAX + 1)
                if len(members[info.filename]) > MEMBER_MAX:
                    raise MalformedPackError(f"{info.filename} is larger than {MEMBER_MAX} bytes")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError):
        raise MalformedPackError("not a ZIP file of the kind that is written here") from None
    return members


def _index(data: bytes) -> tuple[datetime, dict[str, Json]]:
    try:
        index = strict_json.parse(data)
    except strict_json.MalformedJsonError as error:
        raise MalformedPackError(f"index.json: {error}") from None
    match index:
        case {"format": str() as format_, "appraised_at": int() as seconds, "sha256": dict() as digests, **rest} if not rest:
            if format_ != FORMAT or isinstance(seconds, bool) or not 0 < seconds < 1 << 33:
                raise MalformedPackError("index.json is of another format")
            return datetime.fromtimestamp(seconds, UTC), digests
        case _:
            raise MalformedPackError("index.json has not the members of this format")


def read(data: bytes) -> Pack:
    """Raises: MalformedPackError. Nothing in the pack is judged yet."""
    members = _members(data)
    appraised_at, digests = _index(members.pop("index.json", b""))
    if digests != {name: hashlib.sha256(member).hexdigest() for name, member in members.items()}:
        raise MalformedPackError("a member is missing, extra or not what the index says")
    if not set(REQUIRED) <= set(members):
        raise MalformedPackError("evidence, nonce or reference values are missing")
    return Pack(appraised_at=appraised_at, members=members)


def _accepted_image(members: Mapping[str, bytes], pcrs: Mapping[int, bytes]) -> Mismatch | None:
    """Whether the packed EIF measurements are of the image that ran."""
    if "measurements.json" not in members:
        return None
    try:
        measured = reference_values.measurement_of(strict_json.parse(members["measurements.json"]))
    except (strict_json.MalformedJsonError, AttestationError) as error:
        raise MalformedPackError(f"measurements.json: {error}") from None
    if appraise.matching(pcrs, (measured,)) is not None:
        return None
    return Mismatch(check=Check.MEASUREMENTS, expected="the packed image measurements", actual="the registers are of another image")


def check(pack: Pack, *, roots: tuple[Root, ...]) -> Report:
    """Judge the evidence again, at the moment at which the pack says that it was appraised.

    Raises: AttestationError as verification does, AppraisalError with every mismatch, MalformedPackError.
    The report is of the document's own moment: nothing here is about now.
    """
    members = pack.members
    try:
        evidence = wire_evidence.parse_evidence_body(members["evidence.bin"])
    except wire_evidence.MalformedEvidenceBodyError as error:
        raise MalformedEvidenceError(Check.EVIDENCE_BODY, str(error)) from None
    claims = verify.verify_archive(evidence.document, roots=roots)
    values = reference_values.parse(members["reference-values.json"])
    nonce = members["nonce.bin"]
    if len(nonce) != wire_evidence.NONCE_BYTES:
        raise MalformedPackError("nonce.bin has not 32 bytes")
    found = list(appraise.mismatches(claims, evidence, nonce=nonce, reference_values=values, now=pack.appraised_at))
    if claims.timestamp - pack.appraised_at > TOLERANCE:
        found.append(Mismatch(check=Check.CLOCK_BEHIND, expected="an appraisal after the document", actual=f"{pack.appraised_at}"))
    image = _accepted_image(members, claims.pcrs)
    if image is not None:
        found.append(image)
    if found:
        raise AppraisalError(tuple(found))
    return explain(
        Question(
            data=members["evidence.bin"],
            roots=roots,
            now=pack.appraised_at,
            moment=Moment.DOCUMENT,
            reference_values=values,
            nonce=nonce,
        )
    )

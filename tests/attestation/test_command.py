"""`cloister attestation`, `image`, `reference-values` and `python -m attestation`: exit codes, headings, answers."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
import hashlib
import io
import json
from pathlib import Path
import subprocess
import sys
from typing import Any
import zipfile

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
import pytest

from attestation import __main__ as alone
from attestation import command, eif, pack, reference_values, withdrawn
from attestation.errors import AttestationError
from attestation.withdrawn import Withdrawal, Withdrawals
from cloister.command import withdrawals
from cloister.command.main import main
from owner import keys
from tests.attestation import forge, parties
from tests.vectors_path import ROOT
from tests.wire import examples
from wire import evidence as wire_evidence
from wire import manifest as manifests

PEM_PUBLIC = parties.OWNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Ran:
    """What one run of the command did."""

    exit: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one answer of --json."""
        (line,) = self.out.splitlines()
        return json.loads(line)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command at NOW under the tests' root."""
    monkeypatch.setattr(command, "_now", lambda: forge.NOW)

    def invoke(*arguments: object, product: bool = False) -> Ran:
        capsys.readouterr()
        argv = [str(argument) for argument in arguments]
        code = main(argv) if product else main(argv, forge.roots())
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return invoke


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """A good evidence body as a file."""
    path = tmp_path / "evidence.bin"
    path.write_bytes(parties.evidence_body())
    return path


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """Reference values that it meets."""
    path = tmp_path / "reference-values.json"
    path.write_bytes(reference_values.render(parties.VALUES))
    return path


NONCE = forge.NONCE.hex()


def test_inspect_reads_every_encoding_and_believes_nothing(run: Run, tmp_path: Path) -> None:
    """Raw, hex, base64 and base64url; headed UNVERIFIED; a document that nobody signed is shown all the same."""
    raw = forge.envelope(forge.indefinite(forge.fields(module_id="i-1\x1b[2J")), signature=bytes(96))
    texts = (raw, raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"="), base64.encodebytes(raw))
    for text in texts:
        path = tmp_path / "document"
        path.write_bytes(text)
        ran = run("attestation", "inspect", path)
        assert (ran.exit, ran.out.splitlines()[1].partition(":")[0]) == (0, "UNVERIFIED")
        assert "\x1b" not in ran.out
        answer = run("attestation", "inspect", path, "--json").json
        assert (answer["status"], answer["document"]["pcrs"]["0"]) == ("UNVERIFIED", forge.pcrs()[0].hex())


def test_verify_says_authentic_and_not_appraised(run: Run, tmp_path: Path) -> None:
    """Claims under a heading; the archive says that it speaks of another moment."""
    path = tmp_path / "document"
    path.write_bytes(forge.document())
    live, old = run("attestation", "verify", path), run("attestation", "verify", path, "--at", "document")
    assert (live.exit, old.exit) == (0, 0)
    assert "NOT APPRAISED" in live.out
    assert "AT THE DOCUMENT'S OWN MOMENT" not in live.out
    assert "AT THE DOCUMENT'S OWN MOMENT" in old.out
    answer = run("attestation", "verify", path, "--json").json
    assert (answer["status"], answer["claims"]["module_id"], answer["claims"]["at"]) == ("NOT APPRAISED", forge.MODULE_ID, "now")


def test_another_root_is_only_for_forensics_and_said_so(run: Run, tmp_path: Path) -> None:
    """--root takes PEM or DER, heads the answer UNTRUSTED ROOT, and appraise has no such option."""
    document, root = tmp_path / "document", tmp_path / "root"
    document.write_bytes(forge.document())
    assert run("attestation", "verify", document, product=True).exit == 1
    for encoded in (forge.root_der(), forge.root_pem()):
        root.write_bytes(encoded)
        ran = run("attestation", "verify", document, "--root", root, product=True)
        assert (ran.exit, ran.out.splitlines()[0].partition(":")[0]) == (0, "UNTRUSTED ROOT")
        assert run("attestation", "verify", document, "--root", root, "--json", product=True).json["status"].startswith("UNTRUSTED ROOT")
    for bad in (b"text", forge.root_pem() + forge.root_pem()):
        root.write_bytes(bad)
        assert run("attestation", "verify", document, "--root", root, product=True).exit == 2
    assert run("attestation", "appraise", document, "--root", root, "--reference-values", "x", "--nonce", NONCE).exit == 2


def test_appraise_accepts_the_whole_body_alone(run: Run, evidence: Path, values: Path, tmp_path: Path) -> None:
    """The body, or the document with config and key; a bare document is binding-missing."""
    arguments = ("--reference-values", values, "--nonce", NONCE)
    ran = run("attestation", "appraise", evidence, *arguments)
    assert (ran.exit, ran.out.splitlines()[1]) == (0, "ACCEPTED")
    parsed = wire_evidence.parse_evidence_body(evidence.read_bytes())
    parts = {"document": parsed.document, "config": parsed.config_raw, "pk": parsed.pk}
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    whole = run(
        "attestation", "appraise", tmp_path / "document", "--config", tmp_path / "config", "--pk", tmp_path / "pk", *arguments, "--json"
    )
    assert whole.json["evidence_sha256"] == hashlib.sha256(evidence.read_bytes()).hexdigest()
    bare = run("attestation", "appraise", tmp_path / "document", *arguments, "--json")
    assert (bare.exit, [item["reason"] for item in bare.json["mismatches"]]) == (1, ["binding-missing"])
    for name in ("config", "pk"):
        assert run("attestation", "appraise", tmp_path / "document", f"--{name}", tmp_path / name, *arguments).exit == 2


def test_every_mismatch_is_said_at_once(run: Run, tmp_path: Path, values: Path) -> None:
    """By number and reason, with what was wanted and found; exit 1."""
    path = tmp_path / "evidence"
    path.write_bytes(parties.evidence_body(nonce=bytes(32), public_key=b"k"))
    ran = run("attestation", "appraise", path, "--reference-values", values, "--nonce", NONCE, "--json")
    assert (ran.exit, ran.json["accepted"]) == (1, False)
    assert [(item["check"], item["reason"]) for item in ran.json["mismatches"]] == [(602, "nonce"), (614, "purpose")]
    assert ran.json["mismatches"][0] == {"check": 602, "reason": "nonce", "expected": NONCE, "actual": bytes(32).hex()}


def test_a_tighter_age_is_an_argument(run: Run, evidence: Path, values: Path) -> None:
    """--max-age 10 refuses a document of 30 seconds."""
    arguments = ("attestation", "appraise", evidence, "--reference-values", values, "--nonce", NONCE, "--max-age")
    assert [run(*arguments, seconds).exit for seconds in (30, 29)] == [0, 1]


def test_what_cannot_be_asked_is_not_a_refusal(run: Run, evidence: Path, values: Path, tmp_path: Path) -> None:
    """2 for arguments, 3 for files; nothing but 1 means rejected."""
    arguments = ("--reference-values", values)
    assert run("attestation", "appraise", evidence, *arguments, "--nonce", "00").exit == 2
    assert run("attestation", "appraise", evidence, *arguments).exit == 2
    assert run("attestation", "appraise", tmp_path / "absent", *arguments, "--nonce", NONCE).exit == 3
    assert run("attestation", "fetch", f"unix:{tmp_path}/nobody", *arguments).exit == 3
    assert run("attestation", "fetch", "nonsense", *arguments).exit == 2
    large = tmp_path / "large"
    large.write_bytes(bytes((1 << 20) + 1))
    assert run("attestation", "inspect", large).exit == 2
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"{}")
    assert run("attestation", "appraise", evidence, "--reference-values", broken, "--nonce", NONCE).exit == 1


def test_explain_tells_and_writes_one_page(run: Run, evidence: Path, values: Path, tmp_path: Path) -> None:
    """The verdict on terminal and page; rejected evidence is explained too, with exit 1."""
    page = tmp_path / "page.html"
    arguments = ("--reference-values", values, "--html", page, "--nonce")
    ran = run("attestation", "explain", evidence, *arguments, NONCE)
    assert (ran.exit, ran.out.splitlines()[1]) == (0, f"ACCEPTED at {forge.NOW:%Y-%m-%d %H:%M:%S} UTC")
    assert "<h1>ACCEPTED at" in page.read_text()
    assert "SIMULATED" in page.read_text()
    refused = run("attestation", "explain", evidence, *arguments, bytes(32).hex(), "--json")
    assert (refused.exit, refused.json["verdict"], refused.json["mismatches"][0]["reason"]) == (1, "REJECTED", "nonce")
    assert "<h1>REJECTED at" in page.read_text()


def test_a_pack_is_checked_years_later(run: Run, evidence: Path, values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed only where accepted; judged again offline, at the document's own moment, whatever the day."""
    out = tmp_path / "out.zip"
    image = tmp_path / "image.json"
    image.write_text(json.dumps({"pcrs": {str(index): value.hex() for index, value in parties.MEASUREMENT.pcrs.items()}}))
    arguments = ("attestation", "pack", out, "--evidence", evidence, "--reference-values", values, "--image", image)
    assert run(*arguments, "--nonce", bytes(32).hex()).exit == 1
    assert not out.exists()
    assert run(*arguments, "--nonce", NONCE).exit == 0
    monkeypatch.setattr(command, "_now", lambda: datetime.fromisoformat("2046-01-01T00:00:00+00:00"))
    ran = run("attestation", "pack", out, "--check")
    assert ran.exit == 0
    assert "ACCEPTED as of then" in ran.out
    assert "AT THE DOCUMENT'S OWN MOMENT" in ran.out
    answer = run("attestation", "pack", out, "--check", "--json").json
    assert (answer["verdict"], answer["appraised_at"]) == ("AUTHENTIC, NOT APPRAISED", int(forge.NOW.timestamp()))
    assert run("attestation", "pack", out, "--check", product=True).exit == 1
    assert run("attestation", "pack", out).exit == 2


@pytest.mark.parametrize("age", ["0", "301", "1000000000000000", "-1", "1.5", "x"])
def test_an_age_is_within_what_reference_values_may_say(run: Run, evidence: Path, values: Path, age: str) -> None:
    """Anything but whole seconds up to five minutes is misuse."""
    ran = run("attestation", "appraise", evidence, "--reference-values", values, "--nonce", NONCE, f"--max-age={age}")
    assert ran.exit == 2
    assert "from 1 to 300" in ran.err


@pytest.mark.parametrize("left_out", ["--evidence", "--reference-values", "--nonce"])
def test_packing_says_what_it_needs(run: Run, evidence: Path, values: Path, tmp_path: Path, left_out: str) -> None:
    """Without any one of the three nothing is written, and the answer says which are needed."""
    given = {"--evidence": evidence, "--reference-values": values, "--nonce": NONCE}
    ran = run(
        "attestation", "pack", tmp_path / "out.zip", *(word for name, value in given.items() if name != left_out for word in (name, value))
    )
    assert ran.exit == 2
    assert "packing needs --evidence, --reference-values and --nonce" in ran.err
    assert not (tmp_path / "out.zip").exists()


def _packed(**changes: bytes) -> dict[str, bytes]:
    members = {
        "evidence.bin": parties.evidence_body(),
        "nonce.bin": forge.NONCE,
        "reference-values.json": reference_values.render(parties.VALUES),
    }
    return members | {name.replace("__", "-").replace("_", "."): data for name, data in changes.items()}


def refused(data: bytes) -> str:
    """Why a pack does not pass: the class of the error."""
    try:
        pack.check(pack.read(data), roots=forge.roots())
    except AttestationError as error:
        return ",".join(check.reason for check in error.checks) or type(error).__name__
    return "accepted"


def test_a_pack_rests_on_nothing_but_its_members() -> None:
    """Every member that decides is judged anew: evidence, nonce, reference values, image, and the time that it claims."""
    image = json.dumps({"pcrs": {str(index): "11" * 48 for index in (0, 1, 2)}}).encode()
    cases = {
        "accepted": (forge.NOW, _packed()),
        "nonce": (forge.NOW, _packed(nonce_bin=bytes(32))),
        "MalformedPackError": (forge.NOW, _packed(nonce_bin=b"")),
        "sequence": (forge.NOW, _packed(reference__values_json=reference_values.render(parties.values(min_sequence=8)))),
        "measurements": (forge.NOW, _packed(measurements_json=image)),
        "age": (forge.NOW + timedelta(seconds=60), _packed(reference__values_json=reference_values.render(parties.values(max_age=10)))),
        "clock-behind": (forge.NOW.replace(hour=11), _packed()),
        "reference-values": (forge.NOW, _packed(reference__values_json=b"{}")),
        "evidence-body": (forge.NOW, _packed(evidence_bin=b"")),
        "cose-signature": (forge.NOW, _packed(evidence_bin=parties.evidence_body()[:-1] + b"!")),
    }
    assert {name: refused(pack.build(appraised_at=at, members=members)) for name, (at, members) in cases.items()} == {
        name: name for name in cases
    }


def _zip(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_pack_is_whole_and_bounded() -> None:
    """A missing, foreign, changed, double or huge member, another format and no ZIP at all are refused; bombs stay small."""
    good = pack.build(appraised_at=forge.NOW, members=_packed())
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = json.loads(dict(members)["index.json"])
    changed = [(name, data if name != "nonce.bin" else bytes(32)) for name, data in members]
    other = [("index.json", json.dumps({**index, "format": "x"}).encode()), *members[1:]]
    late = [("index.json", json.dumps({**index, "appraised_at": 1 << 40}).encode()), *members[1:]]
    more = [("index.json", json.dumps({**index, "x": 1}).encode()), *members[1:]]
    bomb = [*members, ("report.html", bytes((1 << 20) + 1))]
    fewer = {name: digest for name, digest in index["sha256"].items() if name != "nonce.bin"}
    short = [("index.json", json.dumps({**index, "sha256": fewer}).encode()), *[item for item in members[1:] if item[0] != "nonce.bin"]]
    alien = {**index, "sha256": {**index["sha256"], "alien": hashlib.sha256(b"").hexdigest()}}
    foreign = [("index.json", json.dumps(alien).encode()), *members[1:], ("alien", b"")]
    flag = _zip([("index.json", json.dumps({**index, "appraised_at": True}).encode()), *members[1:]])
    with pytest.raises(pack.MalformedPackError):
        pack.read(flag)
    for bad in (
        foreign,
        changed,
        other,
        late,
        more,
        bomb,
        short,
        members[1:],
        members[:-1],
        [*members, ("../x", b"")],
        [*members, members[-1]],
    ):
        assert refused(_zip(bad)) == "MalformedPackError"
    huge = bytes((1 << 20) + 1)
    listed = {**index, "sha256": {**index["sha256"], "report.html": hashlib.sha256(huge).hexdigest()}}
    assert refused(_zip([("index.json", json.dumps(listed).encode()), *members[1:], ("report.html", huge)])) == "MalformedPackError"
    fits = {**index, "sha256": {**index["sha256"], "report.html": hashlib.sha256(huge[1:]).hexdigest()}}
    assert refused(_zip([("index.json", json.dumps(fits).encode()), *members[1:], ("report.html", huge[1:])])) == "accepted"
    assert refused(bytes((8 << 20) - len(good)) + good) == "accepted"  # ZIP takes what stands before it
    for bad in (b"", b"[]", b"{}"):
        assert refused(pack.build(appraised_at=forge.NOW, members=_packed(measurements_json=bad))) in (
            "MalformedPackError",
            "reference-values",
        )
    for data in (
        _zip(members, zipfile.ZIP_LZMA),
        _zip(members, zipfile.ZIP_BZIP2),
        b"",
        good[:-30],
        bytes((8 << 20) + 1),
        bytes((8 << 20) - len(good) + 1) + good,
    ):
        assert refused(data) == "MalformedPackError"
    assert pack.build(appraised_at=forge.NOW, members=pack.read(good).members) == good
    with pytest.raises(ValueError, match="pack"):
        pack.build(appraised_at=forge.NOW, members={"evidence.bin": b""})


def test_the_verifier_alone_has_the_same_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m attestation` judges under AWS's roots, has no fetch, and says so."""
    document = tmp_path / "document"
    document.write_bytes(forge.document())
    assert alone.main(["inspect", str(document)]) == 0
    assert alone.main(["verify", str(document), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["checks"] == [{"check": 401, "reason": "root"}]
    assert alone.main(["fetch", "--out", "x", "tcp:parent:1", "--reference-values", "y"]) == 2
    assert "cloister[client]" in capsys.readouterr().err
    assert alone.main(["verify"]) == 2
    assert alone.main(["--help"]) == 0


def test_the_verifier_alone_imports_base_dependencies_alone(tmp_path: Path) -> None:
    """Neither numpy nor rich nor the SDK; a stray attestation.py where it is started never runs."""
    (tmp_path / "attestation.py").write_text("raise SystemExit(77)")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['x', '--help']\n"
        "import runpy\n"
        "try: runpy.run_module('attestation', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "ours = {'cloister', 'owner', 'enclave', 'parent', 'simulator'}\n"
        "print(sorted(ours & set(sys.modules)), sorted({'numpy', 'rich', 'boto3', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


IMAGE = eif.compose(kernel=b"k" * 40, cmdline=b"reboot=k", ramdisks=[b"boot", b"app"])


def test_image_measure_gives_what_reference_values_take(run: Run, tmp_path: Path) -> None:
    """The JSON of one is an argument of the other."""
    image, measured, values = tmp_path / "image.eif", tmp_path / "image.json", tmp_path / "values.json"
    image.write_bytes(IMAGE)
    ran = run("image", "measure", image, "--json", product=True)
    assert ran.json["pcrs"]["8"] is None
    assert [section["kind"] for section in ran.json["sections"]] == ["kernel", "cmdline", "ramdisk", "ramdisk"]
    measured.write_text(ran.out)
    public = tmp_path / "owner.pem"
    public.write_bytes(PEM_PUBLIC)
    assert run("reference-values", "new", values, "--image", measured, "--owner-key", public, "--min-sequence", 4).exit == 0
    made = reference_values.parse(values.read_bytes())
    assert made.measurements[0].pcr0 == eif.measure(io.BytesIO(IMAGE)).pcr0
    assert (made.min_sequence, made.owner_key) == (4, parties.OWNER_KEY)
    image.write_bytes(IMAGE[:-1])
    refused = run("image", "measure", image, "--json")
    assert (refused.exit, refused.json["checks"]) == (1, [{"check": 901, "reason": "eif-truncated"}])


def test_image_diff_says_which_section_moved_which_register(run: Run, tmp_path: Path) -> None:
    """And that bytes moved across a boundary where every register is equal."""
    first, second = tmp_path / "a.eif", tmp_path / "b.eif"
    first.write_bytes(IMAGE)

    def compared(image: bytes) -> Any:
        second.write_bytes(image)
        ran = run("image", "diff", first, second, "--json")
        assert ran.exit == (0 if image == IMAGE else 1)
        answer = ran.json
        return [(item["section"], item["change"]) for item in answer["sections"]], answer["pcrs"], answer["equal_all_the_same"]

    assert compared(IMAGE) == ([], [], [])
    application = eif.compose(kernel=b"k" * 40, cmdline=b"reboot=k", ramdisks=[b"boot", b"other"])
    assert compared(application) == ([("ramdisk 1", "changed")], [0, 2], [])
    shifted = eif.compose(kernel=b"k" * 40 + b"reboot=", cmdline=b"k", ramdisks=[b"boot", b"app"])
    assert compared(shifted) == ([("kernel", "changed"), ("cmdline", "changed")], [], [0, 1])
    described = eif.compose(kernel=b"k" * 40, cmdline=b"reboot=k", ramdisks=[b"boot", b"app", b"more"], metadata=b"{}")
    assert compared(described) == ([("metadata", "added"), ("ramdisk 2", "added")], [0, 2], [])


def _new(run: Run, path: Path, *more: object) -> Ran:
    pcrs = [argument for index in (0, 1, 2) for argument in (f"--pcr{index}", forge.pcrs()[index].hex())]
    key = path.parent / "owner.hex"
    key.write_text(parties.OWNER_KEY.hex() + "\n")
    return run("reference-values", "new", path, *pcrs, "--owner-key", key, *more)


def _owner_key(folder: Path) -> tuple[object, ...]:
    """The owner's key as `owner-key new` writes it, and the arguments that open it."""
    path, passphrase = folder / "owner-key.pem", folder / "passphrase"
    keys.write_private(path, parties.OWNER, b"correct horse battery staple")
    passphrase.write_bytes(b"correct horse battery staple\n")
    passphrase.chmod(0o600)
    return ("--key", path, "--passphrase-file", passphrase)


def test_reference_values_are_made_signed_and_followed(run: Run, tmp_path: Path) -> None:
    """By hand; then signed; then replaced by a newer signed version, never by an older or another owner's."""
    held, newer = tmp_path / "held.json", tmp_path / "newer.json"
    key = _owner_key(tmp_path)
    assert _new(run, held, "--min-sequence", 1).exit == 0
    assert _new(run, newer, "--min-sequence", 2).exit == 0
    update = ("reference-values", "update", held, "--from", newer)
    assert run(*update, "--json").json["checks"][0]["reason"] == "reference-values-signature"
    assert run("reference-values", "sign", newer, *key).exit == 0
    assert run(*update, "--json").json["checks"][0]["reason"] == "reference-values-sequence"
    assert run("reference-values", "sign", newer, *key, "--sequence", 2).exit == 0
    assert run(*update).exit == 0
    assert held.read_bytes() == newer.read_bytes()
    shown = run("reference-values", "show", held, "--json").json
    assert (shown["signed"], shown["reference_values"]["sequence"]) == (True, 2)
    theirs = parties.values(owner_key=parties.OTHER_KEY, pcr16=reference_values.pcr16_of(parties.OTHER_KEY), sequence=9)
    newer.write_bytes(reference_values.sign(theirs, parties.OTHER_OWNER))
    assert run(*update, "--json").json["checks"][0]["reason"] == "reference-values-owner"
    held.write_text(held.read_text().replace('"min_sequence": 2', '"min_sequence": 1'))
    assert run("reference-values", "show", held).exit == 1


def test_withdrawals_reach_the_relying_party(run: Run, tmp_path: Path, evidence: Path) -> None:
    """A newer list is taken into the file, an older one or another owner's is not, and what it withdraws is refused (T33)."""
    held, listed = tmp_path / "held.json", tmp_path / "withdrawn.cbor"
    held.write_bytes(reference_values.render(parties.VALUES))
    update = ("reference-values", "update", held, "--withdrawn", listed)
    appraise = ("attestation", "appraise", evidence, "--reference-values", held, "--nonce", NONCE)
    assert run(*appraise).exit == 0
    entry = Withdrawal(pcrs={0: parties.pcrs()[0]}, reason="leaked")
    listed.write_bytes(parties.withdrawals(entry, sequence=2).envelope)
    assert run(*update).exit == 0
    assert [item["reason"] for item in run(*appraise, "--json").json["mismatches"]] == ["withdrawn"]
    listed.write_bytes(parties.withdrawals(sequence=1).envelope)
    assert run(*update, "--json").json["checks"][0]["reason"] == "withdrawals-sequence"
    listed.write_bytes(parties.withdrawals(owner=parties.OTHER_OWNER, sequence=3).envelope)
    assert run(*update, "--json").json["checks"][0]["reason"] == "withdrawals-signature"
    assert "withdrawn" in run("reference-values", "show", held).out


def test_following_a_withdrawal_keeps_the_owners_signature(run: Run, tmp_path: Path, evidence: Path) -> None:
    """Signed values follow lists and versions in any order, are still the owner's for who pins its key, and refuse the image (T33)."""
    held, newer, listed = tmp_path / "held.json", tmp_path / "newer.json", tmp_path / "withdrawn.cbor"
    held.write_bytes(reference_values.sign(parties.VALUES, parties.OWNER))
    newer.write_bytes(reference_values.sign(parties.values(sequence=parties.VALUES.sequence + 1), parties.OWNER))
    listed.write_bytes(parties.withdrawals(Withdrawal(pcrs={0: parties.pcrs()[0]}, reason="leaked"), sequence=2).envelope)
    appraise = ("attestation", "appraise", evidence, "--reference-values", held, "--nonce", NONCE)
    assert run(*appraise).exit == 0
    for source in (("--withdrawn", listed), ("--from", newer)):
        assert run("reference-values", "update", held, *source).exit == 0
        assert reference_values.open_signed(held.read_bytes(), owner_key=parties.OWNER_KEY).withdrawn is not None
        assert run("reference-values", "show", held, "--json").json["signed"] is True
        assert [item["reason"] for item in run(*appraise, "--json").json["mismatches"]] == ["withdrawn"]


def test_a_newer_version_never_brings_an_older_list_back(run: Run, tmp_path: Path) -> None:
    """The list held survives an update whose own list is older."""
    held, newer = tmp_path / "held.json", tmp_path / "newer.json"
    held.write_bytes(reference_values.render(parties.values(withdrawn=parties.withdrawals(sequence=5))))
    for sequence, kept in ((4, 5), (6, 6)):
        offered = parties.values(sequence=parties.VALUES.sequence + sequence, withdrawn=parties.withdrawals(sequence=sequence))
        newer.write_bytes(reference_values.sign(offered, parties.OWNER))
        assert run("reference-values", "update", held, "--from", newer).exit == 0
        now_held = reference_values.parse(held.read_bytes()).withdrawn
        assert now_held is not None
        assert now_held.withdrawals.sequence == kept


def test_a_manifest_can_be_pinned(run: Run, tmp_path: Path) -> None:
    """--manifest gives PCR17; another owner's manifest is refused."""
    manifest, values = tmp_path / "manifest.cose", tmp_path / "values.json"
    signed_manifest = manifests.sign(manifests.encode(examples.a_manifest()), parties.OWNER)
    manifest.write_bytes(signed_manifest)
    assert _new(run, values, "--manifest", manifest).exit == 0
    made = reference_values.parse(values.read_bytes())
    opened = manifests.open_envelope(signed_manifest)
    assert (made.pcr17, made.min_sequence) == (reference_values.pcr17_of(opened.digest), None)
    foreign = manifests.sign(opened.payload, parties.OTHER_OWNER)
    manifest.write_bytes(foreign)
    assert _new(run, values, "--manifest", manifest).exit == 2
    assert _new(run, values).exit == 2


SENSELESS: list[tuple[object, ...]] = [
    ("--max-age", 301),
    ("--partition", "AWS"),
    ("--sequence", 0),
    ("--pcr3", "00"),
    ("--label", "a", "--label", "b"),
]


@pytest.mark.parametrize("more", SENSELESS)
def test_reference_values_that_make_no_sense_are_usage(run: Run, tmp_path: Path, more: tuple[object, ...]) -> None:
    """They are not written."""
    path = tmp_path / "values.json"
    assert _new(run, path, "--min-sequence", 1, *more).exit == 2
    assert not path.exists()


def test_every_member_reaches_the_file(run: Run, tmp_path: Path) -> None:
    """Role, instance, partition, age, anyone, sequence, list."""
    path, listed = tmp_path / "values.json", tmp_path / "withdrawn.cbor"
    empty = Withdrawals(owner_key=parties.OWNER_KEY, sequence=1, issued=1, not_after=2, entries=())
    listed.write_bytes(withdrawn.sign(empty, parties.OWNER))
    pinned = "22" * 48
    options = ("--pcr3", pinned, "--pcr4", pinned, "--partition", "aws-us-gov", "--max-age", 9, "--accept-anyone", "--sequence", 4)
    assert _new(run, path, "--min-sequence", 1, "--pcr8", pinned, "--label", "one", "--withdrawn", listed, *options).exit == 0
    made = reference_values.parse(path.read_bytes())
    assert (made.pcr3, made.pcr4, made.measurements[0].pcr8) == ((bytes.fromhex(pinned),),) * 2 + (bytes.fromhex(pinned),)
    assert (made.partition, made.max_age, made.accept_anyone, made.sequence) == ("aws-us-gov", 9, True, 4)
    assert (made.measurements[0].label, made.withdrawn is not None) == ("one", True)


def test_an_owner_withdraws_an_image_and_callers_refuse_it(
    run: Run, tmp_path: Path, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is made, renewed with a higher sequence and all it held, taken in, and then refuses the evidence (T33)."""
    monkeypatch.setattr(withdrawals, "_now", lambda: forge.NOW)
    listed, held, image = tmp_path / "withdrawn.cbor", tmp_path / "held.json", tmp_path / "image.json"
    held.write_bytes(reference_values.render(parties.VALUES))
    image.write_text(json.dumps({"pcrs": {str(index): value.hex() for index, value in parties.MEASUREMENT.pcrs.items()}}))
    withdraw = ("reference-values", "withdraw", listed, *_owner_key(tmp_path))
    assert run(*withdraw, "--json").json["entries"] == 0
    assert run(*withdraw, "--image", image, "--reason", "its keys leak", "--days", 7, "--json").json["sequence"] == 2
    manifest = tmp_path / "manifest.cose"
    manifest.write_bytes(manifests.sign(manifests.encode(examples.a_manifest()), parties.OWNER))
    answer = run(*withdraw, "--manifest", manifest, "--image", image, "--reason", "its keys leak", "--json").json
    assert (answer["sequence"], answer["entries"]) == (3, 2)
    assert run("reference-values", "update", held, "--withdrawn", listed).exit == 0
    refused = run("attestation", "appraise", evidence, "--reference-values", held, "--nonce", NONCE, "--json").json
    assert [item["reason"] for item in refused["mismatches"]] == ["withdrawn"]
    assert run(*withdraw, "--days", 91).exit == 2
    listed.write_bytes(parties.withdrawals(owner=parties.OTHER_OWNER).envelope)
    assert run(*withdraw).exit == 2

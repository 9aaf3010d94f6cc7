"""A sidecar that pins the owner key starts with values that followed a withdrawal, and with no others'."""

import io
from pathlib import Path

import pytest

from attestation import reference_values
from attestation.errors import MalformedReferenceValuesError
from attestation.output import Context
from attestation.withdrawn import Withdrawal
from cloister.command import sidecar
from cloister.command.main import main
from tests.attestation import forge, parties


def settings(folder: Path, data: bytes) -> sidecar.Settings:
    """What the sidecar would serve with, its reference values being `data`."""
    (folder / "values.json").write_bytes(data)
    config = folder / "sidecar.toml"
    owner = f'owner_key = "{parties.OWNER_KEY.hex()}"'
    config.write_text(
        f'[appliance]\nendpoint = "unix:parent.sock"\nreference_values = "values.json"\n{owner}\n[http]\nlisten = "unix:http.sock"\n'
    )
    context = Context(roots=forge.roots(), json=False, stdout=io.StringIO(), stderr=io.StringIO())
    return sidecar._settings(config, context)


def test_a_withdrawal_is_followed_as_advised(tmp_path: Path) -> None:
    """After `reference-values update --withdrawn` the signature is still the owner's, and the list is in force."""
    signed, listed = reference_values.sign(parties.VALUES, parties.OWNER), tmp_path / "withdrawn.cose"
    assert settings(tmp_path, signed).target.reference_values.withdrawn is None
    listed.write_bytes(parties.withdrawals(Withdrawal(pcrs={0: parties.pcrs()[0]}, reason="leaked")).envelope)
    assert main(["reference-values", "update", str(tmp_path / "values.json"), "--withdrawn", str(listed)]) == 0
    followed = settings(tmp_path, (tmp_path / "values.json").read_bytes()).target.reference_values
    assert followed.withdrawn is not None and followed.withdrawn.envelope == listed.read_bytes()


def test_values_that_the_owner_did_not_sign_do_not_start_it(tmp_path: Path) -> None:
    """With an owner key in the configuration an unsigned file is refused, whatever list stands in it."""
    for data in (
        reference_values.render(parties.VALUES),
        reference_values.take_in(reference_values.render(parties.VALUES), parties.withdrawals()),
    ):
        with pytest.raises(MalformedReferenceValuesError):
            settings(tmp_path, data)

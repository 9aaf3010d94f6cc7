"""The image's own files: what the Dockerfile copies, what its context may hold, how its locks look."""

from pathlib import Path
import re
import subprocess

import pytest

from owner import rootfs
from tests.vectors_path import ROOT


def test_the_dockerfile_copies_our_two_packages_and_nothing_else_of_ours() -> None:
    """Wheels, the script that assembles, wire/ and enclave/ into a stage that is thrown away; the last stage is from scratch."""
    lines = (ROOT / "Dockerfile.enclave").read_text().splitlines()
    build, last = lines[: lines.index("FROM scratch")], lines[lines.index("FROM scratch") :]
    copied = [line.split()[1] for line in build if line.startswith("COPY")]
    assert copied == ["build/wheels", "owner/rootfs.py", "wire", "enclave"]
    assert [line for line in last if line] == [
        "FROM scratch",
        "COPY --from=build /rootfs /",
        'ENTRYPOINT ["/usr/bin/python3", "-I", "-m", "enclave"]',
    ]


def test_the_context_holds_nothing_that_is_not_named() -> None:
    """.dockerignore begins by leaving out everything."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert {line for line in lines if line.startswith("!")} == {
        "!build",
        "!build/wheels",
        "!enclave",
        "!owner",
        "!owner/rootfs.py",
        "!wire",
    }


def test_the_base_is_locked_by_hash() -> None:
    """Name, version and SHA-256 in every line, sorted; Python 3.13 and OpenSSL 3.5 among them."""
    lines = [line for line in (ROOT / "base.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.+-]+ \S+ [0-9a-f]{64}", line) for line in lines)
    assert lines == sorted(lines)
    versions = dict(line.split()[:2] for line in lines)
    assert versions["python3.13-minimal"].startswith("3.13.")
    assert versions["libssl3t64"].startswith("3.5.")


def test_the_image_has_no_shell_and_no_tool() -> None:
    """The committed list of files: two names of one interpreter in bin, no set-uid file, nothing that others may write."""
    lines = [line.split(" ", 1) for line in (ROOT / "enclave.files").read_text().splitlines() if not line.startswith("#")]
    programs = [path for mode, path in lines if path.startswith(("usr/bin/", "usr/sbin/"))]
    assert programs == ["usr/bin/python3 -> python3.13", "usr/bin/python3.13"]
    assert [path for mode, path in lines if int(mode, 8) & 0o6022 and not mode.startswith("12")] == []
    forbidden = re.compile(r"(^|/)(sh|bash|dash|busybox|apt|dpkg|pip|perl|gcc|ensurepip)(/|$| )")
    assert [path for _, path in lines if forbidden.search(path)] == []


def test_of_botocore_only_kms_is_there() -> None:
    """No other service's description is in the image."""
    paths = (ROOT / "enclave.files").read_text()
    services = set(re.findall(r"botocore/data/([^/\s]+)/", paths))
    assert services == {"kms"}


def test_the_first_process_is_short() -> None:
    """At most 200 lines, to be read at a sitting."""
    assert len((ROOT / "deploy/init/init.c").read_text().splitlines()) <= 200


def test_no_address_of_a_mirror_stands_in_the_scripts() -> None:
    """The archive is the one that the machine's apt knows."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-lE", r"(deb|pypi|files|archive)\.[a-z]+\.(org|com)"], capture_output=True, text=True, check=False
    )
    assert [path for path in found.stdout.split() if path.startswith(("deploy/", "simulator/qemu/", "Dockerfile", "base.lock"))] == []


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("test", True),
        ("test/support/__init__.py", True),
        ("testing.py", False),
        ("lib-dynload/_sqlite3.cpython-313-x86_64-linux-gnu.so", True),
        ("lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so", False),
        ("ensurepip/_bundled/pip.whl", True),
        ("asyncio/base_events.py", False),
    ],
)
def test_what_is_left_out_of_the_library(path: str, left_out: bool) -> None:
    """A pattern takes a file or a whole folder, never a name that merely begins like it."""
    assert rootfs.left_out(Path(path), rootfs.STDLIB_LEFT_OUT) is left_out

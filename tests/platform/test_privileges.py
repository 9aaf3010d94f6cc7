"""What a process gives up: each test gives it up in a child and looks from there."""

import os
import resource
import subprocess
import sys
import textwrap

import pytest

from enclave import privileges
from tests.vectors_path import ROOT

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

GONE = textwrap.dedent(
    """\
    Name:\tpython
    Uid:\t7001\t7001\t7001\t7001
    Gid:\t7001\t7001\t7001\t7001
    Groups:\t
    CapInh:\t0000000000000000
    CapPrm:\t0000000000000000
    CapEff:\t0000000000000000
    CapBnd:\t0000000000000000
    CapAmb:\t0000000000000000
    NoNewPrivs:\t1
    """
)


def child(code: str) -> str:
    """Output of a child that imported everything as root first; its interpreter may be unreadable after the drop."""
    head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport ctypes, os, resource\nfrom enclave import platform, privileges\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", head + textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_status_of_a_dropped_process_has_no_fault() -> None:
    """With the right user, no groups, no capability and no_new_privs nothing is found."""
    assert privileges.fault(GONE, 7001) is None


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("Uid:\t7001\t7001\t7001\t7001", "Uid:\t7001\t7001\t0\t7001", "Uid"),
        ("Uid:\t7001\t7001\t7001\t7001", "Uid:\t0\t0\t0\t0", "Uid"),
        ("Uid:\t7001\t7001\t7001\t7001\n", "", "Uid"),
        ("Gid:\t7001\t7001\t7001\t7001", "Gid:\t7001\t7001\t7001\t0", "Gid"),
        ("Groups:\t", "Groups:\t0 27", "Groups"),
        ("Groups:\t\n", "", "Groups"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400", "CapBnd"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000000001", "CapEff"),
        ("CapAmb:\t0000000000000000\n", "", "CapAmb"),
        ("CapPrm:\t0000000000000000", "CapPrm:\t", "CapPrm"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
        ("NoNewPrivs:\t1\n", "", "NoNewPrivs"),
    ],
)
def test_every_kept_privilege_is_found(old: str, new: str, fault: str) -> None:
    """Each line that shows a privilege, or is missing, is named."""
    assert old in GONE
    assert privileges.fault(GONE.replace(old, new), 7001) == fault


def test_another_users_status_is_a_fault() -> None:
    """Unprivileged, but not the user that was asked for."""
    assert privileges.fault(GONE, 7002) == "Uid"


@needs_root
@pytest.mark.parametrize(("method", "uid"), [("become_server", 7001), ("become_worker", 7002)])
def test_the_image_platform_drops_everything(method: str, uid: int) -> None:
    """From root, the image's platform ends as its own user with nothing to regain, in the kernel's own words."""
    out = child(f"platform.NitroPlatform().{method}(); print(open('/proc/self/status', encoding='utf-8').read())")
    assert privileges.fault(out, uid) is None


@needs_root
def test_no_core_dump_and_no_tracing() -> None:
    """The core limit is 0 and the process is not dumpable."""
    out = child("platform.NitroPlatform().become_server(); print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3))")
    assert out == "(0, 0) 0\n"


@needs_root
@pytest.mark.parametrize("broken", ["become", "no_new_privileges", "no_core_dumps"])
def test_a_drop_that_does_nothing_is_found(broken: str) -> None:
    """With one of the steps turned into nothing the platform refuses: PRIVILEGES_KEPT."""
    out = child(
        f"""
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (1, -1 if os.getuid() == 0 else hard))
        privileges.{broken} = lambda *_: None
        try:
            platform.NitroPlatform().become_server()
        except platform.PlatformError as error:
            print(error.boot_failure.name)
        """
    )
    assert out == "PRIVILEGES_KEPT\n"


def test_without_root_the_drop_is_refused() -> None:
    """A process that is not root cannot become the server's user: PRIVILEGES_KEPT, not a silent pass."""
    out = child(
        """
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            platform.NitroPlatform().become_server()
        except platform.PlatformError as error:
            print(error.boot_failure.name)
        """
    )
    assert out == "PRIVILEGES_KEPT\n"


@pytest.mark.parametrize("step", ["no_core_dumps", "no_new_privileges"])
def test_a_refusal_of_the_kernel_is_an_error(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prctl(2) fails the step says so."""
    monkeypatch.setattr(privileges, "_prctl", lambda *_: False)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(OSError, match="prctl"):
        getattr(privileges, step)()

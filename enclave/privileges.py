"""What the enclave's processes give up at boot, for good: identity, capabilities, new privileges, core dumps.

Linux only, through prctl(2). Call while the process has one thread: capabilities are per thread in the kernel.
"""

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_MAX = 64


def _prctl(option: int, argument: int) -> bool:
    """Whether the call succeeded."""
    zero = ctypes.c_ulong(0)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return int(prctl(option, ctypes.c_ulong(argument), zero, zero, zero)) == 0


def _demand(done: bool) -> None:
    if not done:
        raise OSError(ctypes.get_errno(), "prctl")


def become(uid: int) -> None:
    """From root to user and group `uid`, with no groups and no capability, not even to be had again. Raises: OSError."""
    for capability in range(_CAPABILITIES_MAX):
        if not _prctl(_PR_CAPBSET_DROP, capability):
            break  # EINVAL past the last one that the kernel knows; `fault` sees any that remain
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def no_core_dumps() -> None:
    """No core file, no tracing by the same user. Raises: OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _demand(_prctl(_PR_SET_DUMPABLE, 0))


def no_new_privileges() -> None:
    """No program that this process executes gains anything by it. Raises: OSError."""
    _demand(_prctl(_PR_SET_NO_NEW_PRIVS, 1))


def fault(status: str, uid: int) -> str | None:
    """The first field of /proc/self/status (proc_pid_status(5)) that shows a privilege kept; None where all are gone."""
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    same = [str(uid)] * 4
    checks = {
        "Uid": fields.get("Uid", "").split() == same,
        "Gid": fields.get("Gid", "").split() == same,
        "Groups": fields.get("Groups", "0").split() == [],
        "NoNewPrivs": fields.get("NoNewPrivs", "").split() == ["1"],
    }
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        value = fields.get(name, "").strip()
        checks[name] = value != "" and value.strip("0") == ""
    return next((name for name, passed in checks.items() if not passed), None)

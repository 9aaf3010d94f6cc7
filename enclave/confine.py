"""What a model worker may still ask of the kernel once its model is loaded: compute, and talk on the socket it has.

A seccomp filter as an allow-list: every other system call fails with EPERM. So native code that a caller's tensor took
over opens no file and no device (`/dev/nsm` is world-accessible), makes no socket (vsock needs no privilege), starts no
process or thread, signals and traces nobody, and maps no memory as executable. Applied to all threads at once; where
it cannot be applied the worker does not serve.
"""

import ctypes
import errno
import os
import platform
import resource
import struct

_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 4, 1, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM
# struct seccomp_data: nr at 0, arch at 4, args at 16; classic BPF opcodes.
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_PROT_EXEC = 4
_PROTECTION_ARGUMENT = 16 + 8 * 2

# name: (x86_64, aarch64)
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "exit": (60, 93),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    # What the C library does first in a thread that was created before the filter and begins after it; it aborts without.
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
}
_UNLESS_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
# machine: (AUDIT_ARCH, column above, number of seccomp(2))
_MACHINES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}


def program(machine: str) -> bytes:
    """The filter for a machine, as an array of `struct sock_filter`. Raises ValueError for a machine without one."""
    if machine not in _MACHINES:
        raise ValueError("no filter for this machine")
    architecture, column, _ = _MACHINES[machine]
    lines = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _EPERM), (_LOAD, 0, 0, 0)]
    for numbers in _ALLOWED.values():
        lines += [(_JUMP_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for numbers in _UNLESS_EXECUTABLE.values():
        lines += [
            (_JUMP_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, _PROTECTION_ARGUMENT),
            (_JUMP_SET, 1, 0, _PROT_EXEC),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM),
        ]
    lines.append((_RETURN, 0, 0, _EPERM))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the process could not be confined")


def restrict_process() -> None:
    """Before anything else in a zygote or worker: no new privileges, no core dump, not traceable. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent ends. Raises OSError, also if the parent is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0))
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the parent is gone")


def limit_memory(further: int) -> None:
    """Let this process have at most `further` bytes of private memory beyond what it has now.

    RLIMIT_DATA counts private writable mappings (Linux >= 4.7); shared areas and libraries do not count.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        held = next(int(line.split()[1]) for line in status if line.startswith("VmData:"))
    limit = held * 1024 + further
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def filter_system_calls() -> None:
    """Apply the filter to every thread of this process, for good. Raises OSError, ValueError."""
    machine = platform.machine()
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    argument = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _MACHINES[machine][2]
    _check(libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(argument)))

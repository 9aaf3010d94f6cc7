"""The caller's SDK: attest an appliance, then send it sealed requests. `connect` is where to begin, `sync.connect` without a loop.

The names below are imported when they are first used, so that the command and the verifier run without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister import sync
    from cloister.api import Answer, Client, connect
    from cloister.errors import (
        CloisterError,
        DeadlineError,
        EvidenceRefusedError,
        IdentityError,
        MalformedAnswerError,
        RequestRefusedError,
        SessionLostError,
        SessionRefusedError,
        UnreachableError,
    )
    from cloister.identity import load_identity
    from cloister.session import CallerIdentity
    from cloister.tensors import Raw

__all__ = [
    "Answer",
    "CallerIdentity",
    "Client",
    "CloisterError",
    "DeadlineError",
    "EvidenceRefusedError",
    "IdentityError",
    "MalformedAnswerError",
    "Raw",
    "RequestRefusedError",
    "SessionLostError",
    "SessionRefusedError",
    "UnreachableError",
    "connect",
    "load_identity",
    "sync",
]

_MODULES = {
    "Answer": "api",
    "CallerIdentity": "session",
    "Client": "api",
    "Raw": "tensors",
    "connect": "api",
    "load_identity": "identity",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cloister' has no attribute {name!r}")
    if name == "sync":
        return import_module("cloister.sync")
    return getattr(import_module(f"cloister.{_MODULES.get(name, 'errors')}"), name)

"""The simulated Nitro Security Module: PCR and lock semantics, errors, limits and documents as the real one's.

`SimulatedNsm.call` takes the CBOR request that a guest's driver would hand over and gives the CBOR response. Run
`python -P -m simulator nsm` for a process of its own on a Unix socket (u32be length, then the bytes, both ways): its
signing keys never are in the enclave's process.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
import hashlib
import os
import threading

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from simulator.pki import Clock, Leaf, SimulatedPki, due, system_clock

REQUEST_MAX = 4096  # NSM_REQUEST_MAX_SIZE of the Linux driver
RESPONSE_MAX = 0x3000
PCR_COUNT = 32
PCR_BYTES = 48
HARDWARE_PCRS = 16  # 0-15 are locked at start
FIELD_MAX = 1024
RANDOM_BYTES = 256
ZERO_PCR = bytes(PCR_BYTES)
SIGNATURE_HALF = 48
PROTECTED = bytes.fromhex("a1013822")  # {1: -35}, ES384


class _Refusal(Exception):
    """An `Error` answer of the module."""


def _index(fields: Mapping[str, object], name: str = "index", most: int = PCR_COUNT - 1) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise _Refusal("InvalidOperation")  # the module's field is a u16: anything else does not decode
    if value > most:
        raise _Refusal("InvalidIndex")
    return value


def _optional_bytes(fields: Mapping[str, object], name: str) -> bytes | None:
    value = fields.get(name)
    if value is not None and type(value) is not bytes:
        raise _Refusal("InvalidOperation")
    if value is not None and len(value) > FIELD_MAX:
        raise _Refusal("InputTooLarge")
    return value


def _es384(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """Raw r || s over the Sig_structure (RFC 9052, 4.4)."""
    signed = cbor2.dumps(["Signature1", PROTECTED, b"", payload])
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(SIGNATURE_HALF, "big") + s.to_bytes(SIGNATURE_HALF, "big")


def _indefinite_map(entries: Mapping[str, object]) -> bytes:
    """A map as AWS has emitted the payload since 2025-08: `bf .. ff` around definite items."""
    return b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in entries.items()) + b"\xff"


class SimulatedNsm:
    """One module, for one boot of one enclave. Calls may come from several threads; they run one at a time.

    `pcrs` gives PCR0 to PCR15 where they are not zero; those are locked. Debug enclaves have PCR0-2 zero on EC2: that is
    for the simulated hypervisor to say, here it is no special case.
    """

    def __init__(self, *, pcrs: Mapping[int, bytes], module_id: str, pki: SimulatedPki, clock: Clock = system_clock) -> None:
        if any(not 0 <= index < HARDWARE_PCRS or len(value) != PCR_BYTES for index, value in pcrs.items()):
            raise ValueError("initial values are 48 bytes each, for PCR0 to PCR15")
        self._pcrs = [bytes(pcrs.get(index, ZERO_PCR)) for index in range(PCR_COUNT)]
        self._locked = set(range(HARDWARE_PCRS))
        self._module_id = module_id
        self._pki = pki
        self._clock = clock
        self._leaf: Leaf | None = None
        self._one_call = threading.Lock()
        self._operations: dict[str, Callable[[Mapping[str, object]], object]] = {
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend_pcr,
            "LockPCR": self._lock_pcr,
            "LockPCRs": self._lock_pcrs,
            "DescribeNSM": self._describe_nsm,
            "Attestation": self._attestation,
            "GetRandom": self._get_random,
        }

    def call(self, request: bytes) -> bytes:
        """The response to one request, errors included; any bytes have one."""
        with self._one_call:
            try:
                return self._answer(request)
            except _Refusal as refusal:
                return cbor2.dumps({"Error": refusal.args[0]})

    def _answer(self, request: bytes) -> bytes:
        if len(request) > REQUEST_MAX:
            raise _Refusal("InputTooLarge")
        name, fields = self._parse(request)
        operation = self._operations.get(name)
        if operation is None:
            raise _Refusal("InvalidOperation")
        result = operation(fields)
        response = cbor2.dumps(name if result is None else {name: result})
        if len(response) > RESPONSE_MAX:
            raise _Refusal("BufferTooSmall")
        return response

    def _parse(self, request: bytes) -> tuple[str, Mapping[str, object]]:
        """A request is a bare name, or a map of one name to the map of its fields."""
        try:
            match cbor2.loads(request):
                case str(name) if name in ("DescribeNSM", "GetRandom"):
                    return name, {}
                case dict(operations) if len(operations) == 1:
                    name, fields = next(iter(operations.items()))
                    if isinstance(name, str) and isinstance(fields, dict) and name not in ("DescribeNSM", "GetRandom"):
                        return name, fields
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
            pass
        raise _Refusal("InvalidOperation")

    def _describe_pcr(self, fields: Mapping[str, object]) -> object:
        index = _index(fields)
        return {"lock": index in self._locked, "data": self._pcrs[index]}

    def _extend_pcr(self, fields: Mapping[str, object]) -> object:
        data = fields.get("data")
        if type(data) is not bytes:
            raise _Refusal("InvalidOperation")
        index = _index(fields)
        if index in self._locked:
            raise _Refusal("ReadOnlyIndex")
        self._pcrs[index] = hashlib.sha384(self._pcrs[index] + data).digest()
        return {"data": self._pcrs[index]}

    def _lock_pcr(self, fields: Mapping[str, object]) -> None:
        index = _index(fields)
        if index in self._locked:
            raise _Refusal("ReadOnlyIndex")
        self._locked.add(index)

    def _lock_pcrs(self, fields: Mapping[str, object]) -> None:
        self._locked.update(range(_index(fields, "range", PCR_COUNT)))

    def _describe_nsm(self, fields: Mapping[str, object]) -> object:
        del fields
        return {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": self._module_id,
            "max_pcrs": PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _get_random(self, fields: Mapping[str, object]) -> object:
        del fields
        return {"random": os.urandom(RANDOM_BYTES)}

    def _attestation(self, fields: Mapping[str, object]) -> object:
        public_key, user_data, nonce = (_optional_bytes(fields, name) for name in ("public_key", "user_data", "nonce"))
        now = self._clock()
        leaf = self._current_leaf(now)
        payload = _indefinite_map(
            {
                "module_id": self._module_id,
                "digest": "SHA384",
                "timestamp": int(now.timestamp() * 1000),
                "pcrs": {index: self._pcrs[index] for index in sorted(self._locked)},
                "certificate": leaf.issued.der,
                "cabundle": list(leaf.cabundle),
                "public_key": public_key,
                "user_data": user_data,
                "nonce": nonce,
            }
        )
        return {"document": cbor2.dumps([PROTECTED, {}, payload, _es384(leaf.issued.key, payload)])}

    def _current_leaf(self, now: datetime) -> Leaf:
        if self._leaf is None or due(self._leaf, now):
            self._leaf = self._pki.leaf(self._module_id)
        return self._leaf

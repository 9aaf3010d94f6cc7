"""Answering messages: what a request holds in memory while it is answered is counted, whatever becomes of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
import json
from typing import Any, cast

import pytest

from enclave import connection
from enclave.connection import Connection, Desk
from enclave.errors import RequestError
from enclave.limits import Memory, Quotas
from enclave.model import ModelHost
from enclave.service import Service, memory_of, terms_of
from enclave.session import Caller
from enclave.tensor import TensorView
from tests.model import graphs
from tests.session.world import an_enclave
from tests.wire.examples import OWNER, a_manifest, key
from wire.errors import Code
from wire.manifest import Limits, Model, encode, open_envelope, sign
from wire.message import Message, decode, padded

ANYONE = Caller(account=None, models=None, quota=None, seconds=60)


class Watching:
    """A model's host that notes what is left of the memory while it runs, and fails or answers."""

    def __init__(self, memory: Memory, outcome: Code) -> None:
        self.memory = memory
        self.outcome = outcome
        self.left = -1

    async def infer(
        self, model: Model, inputs: Sequence[TensorView], outputs: Sequence[int], *, deadline: float | None
    ) -> list[TensorView]:
        self.left = room(self.memory)
        if self.outcome is not Code.OK:
            raise RequestError(self.outcome)
        return [TensorView(name="y", datatype="FP64", shape=(1,), data=bytes(8))]


def room(memory: Memory) -> int:
    """The most that can be taken at once."""
    low, high = Memory.FREE, 1 << 30
    while low < high:
        middle = (low + high + 1) // 2
        if memory.take(middle):
            memory.give(middle)
            low = middle
        else:
            high = middle - 1
    return low


def answered(outcome: Code, limit: int, count: int) -> tuple[int, int, Memory]:
    """The status of a request whose JSON holds `count` zeros, what its run found left (-1: it did not run), the memory afterwards."""
    memory = Memory(limit)
    model = graphs.model((graphs.tensor("x", "FP64"),), (graphs.tensor("y", "FP64", (1,)),))
    host = Watching(memory, outcome)
    service = Service(
        manifest=a_manifest(models=(model,), pipelines=()),
        host=cast("ModelHost", host),
        quotas=Quotas(clock=lambda: 0.0),
        memory=memory,
        count=lambda _: None,
    )
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [count], "data": [0] * count}]}, separators=(",", ":"))
    message = Message(id=1, status=0, path="/v2/models/m/infer", json=memoryview(body.encode()), tensors=memoryview(b""), deadline_ms=0)
    pieces = asyncio.run(service.answer(message, ANYONE))
    return decode(1, memoryview(b"".join(bytes(piece) for piece in pieces))).status, host.left, memory


@pytest.mark.parametrize("outcome", [Code.OK, Code.MODEL_FAILED])
def test_what_json_grows_to_is_counted(outcome: Code) -> None:
    """Two bytes of JSON become eight of a tensor: they are reserved while the model runs and given back, even where it fails."""
    count, limit = 20_000, 1 << 20
    status, left, memory = answered(outcome, limit, count)
    assert (status, left) == (outcome, limit - 8 * count)
    assert room(memory) == limit


def test_json_that_would_grow_too_large_is_refused() -> None:
    """One byte less than it needs: busy, and the model is not run."""
    count = 20_000
    assert answered(Code.OK, 8 * count, count)[:2] == (Code.OK, Memory.FREE)
    *refused, memory = answered(Code.OK, 8 * count - 1, count)
    assert refused == [Code.BUSY, -1]
    assert room(memory) == 8 * count - 1


def test_any_one_request_fits() -> None:
    """What all sessions may hold is enough for the largest request and all that its pipeline keeps, twice."""
    manifest = a_manifest(limits=Limits(unsent_bytes=1 << 20))
    terms = terms_of(open_envelope(sign(encode(manifest), key(OWNER))))
    alone = memory_of(replace(manifest, pipelines=()), terms)
    assert alone >= 2 * terms.request_bytes
    assert memory_of(manifest, terms) >= 2 * (terms.request_bytes + sum(model.runtime.answer_bytes for model in manifest.models)) > alone


def test_any_one_answer_fits() -> None:
    """Neither the largest answer of a model nor the widest padding is ever refused for want of memory on an idle enclave."""
    manifest = a_manifest(limits=Limits(unsent_bytes=1 << 20), pipelines=())
    small = replace(manifest.models[0], runtime=replace(manifest.models[0].runtime, request_bytes=1 << 20, answer_bytes=1 << 20))
    for changes in ({"answer_padding": 64 << 20}, {"runtime": replace(small.runtime, answer_bytes=64 << 20)}):
        made = replace(manifest, models=(replace(small, **changes),))
        assert Memory(memory_of(made, terms_of(open_envelope(sign(encode(made), key(OWNER)))))).take(padded(65 << 20))


def test_what_belongs_to_no_model_is_padded_within_reason() -> None:
    """Up to a mebibyte, whatever a model's padding is: no quota pays for it."""
    manifest = a_manifest(pipelines=())
    wide = replace(manifest, models=(replace(manifest.models[0], answer_padding=64 << 20),))
    memory = Memory(1 << 30)
    service = Service(
        manifest=wide,
        host=cast("ModelHost", Watching(memory, Code.OK)),
        quotas=Quotas(clock=lambda: 0.0),
        memory=memory,
        count=lambda _: None,
    )
    message = Message(id=1, status=0, path="/v2/health/live", json=memoryview(b""), tensors=memoryview(b""), deadline_ms=0)
    pieces = asyncio.run(service.answer(message, ANYONE))
    assert 1 << 19 < sum(memoryview(piece).nbytes for piece in pieces) <= padded(1 << 20)


def test_a_buffer_that_the_machine_refuses_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message for which there is no memory leaves what all sessions share as it was."""

    def none(size: int) -> memoryview:
        raise MemoryError

    async def refuse(desk: Desk) -> None:
        with pytest.raises(MemoryError):
            Connection(desk)._allocate(1 << 19)

    monkeypatch.setattr(connection, "aligned", none)
    memory = Memory(1 << 20)
    nothing: Any = None
    asyncio.run(refuse(Desk(terms=an_enclave().terms, evidence=nothing, answer=nothing, now=lambda: 0.0, counters={}, memory=memory)))
    assert room(memory) == 1 << 20

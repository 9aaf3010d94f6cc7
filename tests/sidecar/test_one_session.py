"""What can be wrong with a request alone, one after the other on one session: each has its code, and the session lives on."""

import asyncio
from collections.abc import Awaitable, Callable
import json
from typing import Any

import numpy as np
import pytest

from attestation import AttestationResult
from cloister.connection import Connection, Opening, open_session
from cloister.sidecar.appliance import Appliance, Target
from cloister.sidecar.metrics import Metrics
from tests.sidecar.test_doors import BAD
from wire.errors import TABLE, Code
from wire.message import Message, encode

GOOD = json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [1], "data": [1]} for n in "ab"]}).encode()
SPIN = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [2_000_000]}]}).encode()
ENDLESS = SPIN.replace(b"2000000", b"%d" % (1 << 40))
MANY = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [(1 << 18) + 1]}]}).encode()


async def ask(session: Connection, path: str, body: bytes, parts: list[bytes], deadline_ms: int = 0) -> tuple[Code, str]:
    """The code and field of the answer."""
    answer = await session.request(encode(path=path, json=body, tensors=parts, deadline_ms=deadline_ms))
    assert isinstance(answer, Message)
    if answer.status == Code.OK:
        return Code.OK, ""
    said = json.loads(bytes(answer.json))
    row = TABLE[Code(answer.status)]
    assert said["error"] == (f"{row.text}: {said['field']}" if "field" in said else row.text)
    return Code(answer.status), said.get("field", "")


async def _large(session: Connection) -> tuple[Code, str]:
    size = (64 << 20) + 4
    root = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [size // 4], "parameters": {"binary_data_size": size}}]}
    return await ask(session, "/v2/models/same-fp32/infer", json.dumps(root).encode(), [bytes(size)])


async def _larger_than_any(session: Connection) -> tuple[Code, str]:
    return await ask(session, "/v2/models/same-fp32/infer", b"{}", [bytes(80 << 20)])


async def _malformed(session: Connection) -> tuple[Code, str]:
    whole = bytearray(b"".join(bytes(piece) for piece in encode(path="/v2/models/sum/infer", json=GOOD)))
    whole[-1] = 1  # in the padding
    answer = await session.request([whole])
    assert isinstance(answer, Message)
    return Code(answer.status), ""


async def _cancelled(session: Connection) -> tuple[Code, str]:
    task = asyncio.create_task(session.request(encode(path="/v2/models/spin/infer", json=SPIN)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return Code.CANCELLED, ""


def sending(path: str, body: bytes, parts: list[bytes] | None = None, deadline_ms: int = 0) -> Callable[[Connection], Awaitable[Any]]:
    return lambda session: ask(session, path, body, parts or [], deadline_ms)


CASES: dict[str, tuple[Callable[[Connection], Awaitable[tuple[Code, str]]], Code]] = {
    **{
        name: (
            sending(f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer", json.dumps(root).encode(), raw),
            code,
        )
        for name, (model, version, root, raw, code) in BAD.items()
        if code is not Code.UNKNOWN_MODEL
    },
    "absent model": (sending("/v2/models/absent/infer", GOOD), Code.UNKNOWN_MODEL),
    "malformed message": (_malformed, Code.MALFORMED_MESSAGE),
    "no inputs at all": (sending("/v2/models/sum/infer", b"{}"), Code.MISSING_FIELD),
    "the model's time limit": (sending("/v2/models/hurried/infer", ENDLESS), Code.DEADLINE_EXPIRED),
    "long answer": (sending("/v2/models/long/infer", MANY), Code.ANSWER_TOO_LARGE),
    "unknown path": (sending("/v2/nothing", b""), Code.UNKNOWN_PATH),
    "malformed JSON": (sending("/v2/models/sum/infer", b"{"), Code.MALFORMED_JSON),
    "duplicate key": (sending("/v2/models/sum/infer", b'{"inputs":[],"inputs":[]}'), Code.MALFORMED_JSON),
    "long JSON": (sending("/v2/models/sum/infer", b" " * (2 << 20) + GOOD), Code.REQUEST_TOO_LARGE),
    "beyond the model's limit": (_large, Code.REQUEST_TOO_LARGE),
    "beyond every model's limit": (_larger_than_any, Code.REQUEST_TOO_LARGE),
    "deadline": (sending("/v2/models/spin/infer", SPIN, deadline_ms=30), Code.DEADLINE_EXPIRED),
    "cancelled": (_cancelled, Code.CANCELLED),
}


def test_the_session_outlives_every_bad_request(target: Target) -> None:
    """Each bad request has its code, in the table's words; between them, on the same session, good ones are answered."""

    def judge(body: bytes, nonce: bytes) -> AttestationResult:
        return Appliance(target, Metrics())._judge(body, nonce)

    async def run() -> dict[str, Code]:
        opening = Opening(endpoint=target.endpoint, judge=judge, identity=target.identity, answer_bytes=128 << 20)
        session, _ = await open_session(opening)
        seen: dict[str, Code] = {}
        for name, (send, _) in CASES.items():
            seen[name], field = await send(session)
            assert bool(field) is (TABLE[seen[name]].field and seen[name] is not Code.OK), name
            assert await ask(session, "/v2/models/sum/infer", GOOD, []) == (Code.OK, ""), name
        await session.close()
        return seen

    assert asyncio.run(run()) == {name: code for name, (_, code) in CASES.items()}


def test_requests_in_flight_do_not_see_each_other(target: Target) -> None:
    """Bad, slow, cancelled and good requests at once on one session: each good one gets its own answer."""

    async def run() -> list[float]:
        appliance = Appliance(target, Metrics())

        async def good(number: int) -> float:
            value = np.array([number], np.float32).tobytes()
            root = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}
            body = json.dumps({**root, "parameters": {"binary_data_output": True}}).encode()
            answer = await appliance.call("/v2/models/same-fp32/infer", body, [value], seconds=30)
            return float(np.frombuffer(answer.tensors, np.float32)[0])

        bad = [asyncio.create_task(appliance.call("/v2/models/sum/infer", b"{", seconds=30)) for _ in range(20)]
        slow = [asyncio.create_task(appliance.call("/v2/models/spin/infer", SPIN, seconds=30)) for _ in range(3)]
        found = [asyncio.create_task(good(number)) for number in range(20)]
        await asyncio.sleep(0.01)
        for task in slow:
            task.cancel()
        values = await asyncio.gather(*found)
        await asyncio.gather(*bad, *slow, return_exceptions=True)
        await appliance.close()
        return values

    assert asyncio.run(run()) == [float(number) for number in range(20)]


def test_a_request_that_is_cancelled_at_once_is_over(target: Target) -> None:
    """Requests whose cancel comes right behind them are answered too: more of them than may be open at once leave room for others."""

    def judge(body: bytes, nonce: bytes) -> AttestationResult:
        return Appliance(target, Metrics())._judge(body, nonce)

    async def run() -> Code:
        opening = Opening(endpoint=target.endpoint, judge=judge, identity=target.identity, answer_bytes=1 << 20)
        session, accepted = await open_session(opening)
        for _ in range(2 * accepted.open_messages):
            task = asyncio.create_task(session.request(encode(path="/v2/models/sum/infer", json=GOOD)))
            for _ in range(3):  # far enough for the frames, not for an answer
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(20):
            code, _ = await ask(session, "/v2/models/sum/infer", GOOD, [])
        await session.close()
        return code

    assert asyncio.run(run()) is Code.OK

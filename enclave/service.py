"""SERVING: what each path of a sealed message means, and the loop that serves until the enclave ends.

Paths and JSON are the Open Inference Protocol's (v2). A caller sees the models that its credential names and no others:
the rest do not exist for it in listings, and are refused by a code of their own when asked for.
"""

import asyncio
from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import logging
import re
import signal

from enclave import feed, pipeline, request
from enclave.answers import error_answer
from enclave.clock import REFRESH_SECONDS, TrustedClock, boottime
from enclave.connection import Desk
from enclave.dial import dialler
from enclave.errors import BootError, RequestError
from enclave.evidence import EvidenceSource
from enclave.limits import Memory, Quotas
from enclave.machine import Machine, tell
from enclave.model import ModelHost
from enclave.nsm import NsmError
from enclave.serve import ListenError, Server, listen
from enclave.session import Caller, Terms
from enclave.tensor import TensorView
from wire.counters import Counter
from wire.errors import BootFailure, Code, Stage
from wire.evidence import CALLERS_ANYONE, CALLERS_ISSUERS, Config, encode_config
from wire.feed import encode_counters
from wire.manifest import Anyone, Manifest, Model, Pipeline, SignedManifest
from wire.message import Message, Refused, encode, padded
from wire.record import Octets

COUNTERS_SECONDS = 15.0
DRAIN_SECONDS = 10.0
# What all sessions together may hold: as much as so many that do not read their answers, or so many of the largest requests.
BUFFERED_SESSIONS = 8
BUFFERED_REQUESTS = 2
PADDING_MAX = 1 << 20  # of answers that belong to no model: nobody pays a quota for those
JSON_ALLOWANCE = 1 << 20  # header, path and JSON beside the tensors of the largest request
_MODEL_PATH = re.compile(r"/v2/models/(?P<id>[^/]+)(/versions/(?P<version>[^/]+))?(/(?P<action>infer|ready))?")

Served = Model | Pipeline


@dataclass(kw_only=True)
class Service:
    """Answers messages of one deployment; never raises but when cancelled."""

    manifest: Manifest
    host: ModelHost
    quotas: Quotas
    memory: Memory
    count: Callable[[Counter], None]

    async def answer(self, message: Message | Refused, caller: Caller) -> list[Octets]:
        """The pieces of the answer to one message."""
        least = self._largest_padding  # of what belongs to no model
        try:
            if isinstance(message, Refused):
                raise RequestError(Code.REQUEST_TOO_LARGE if message.too_large else Code.MALFORMED_MESSAGE)
            named = _MODEL_PATH.fullmatch(message.path)
            served = None if named is None else self._find(named["id"], named["version"], caller)
            least = least if served is None else served.answer_padding or 0
            pieces = await self._route(message, caller, served, "" if named is None else named["action"] or "metadata", least)
        except RequestError as error:
            self.count(Counter.ERRORS)
            pieces = error_answer(error.code, error.field, least=least)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - a defect of ours is one code to the caller and no text anywhere (T25)
            self.count(Counter.ERRORS)
            pieces = error_answer(Code.INTERNAL, least=least)
        self.count(Counter.REQUESTS)
        return pieces

    def _find(self, name: str, version: str | None, caller: Caller) -> Served:
        """The model or pipeline asked for; without a version the last one that the manifest lists. Raises: RequestError."""
        if caller.models is not None and name not in caller.models:
            raise RequestError(Code.MODEL_NOT_AUTHORISED)
        entries = [entry for entry in self._entries if entry.id == name]
        if not entries:
            raise RequestError(Code.UNKNOWN_MODEL)
        found = [entry for entry in entries if version in (None, entry.version)]
        if not found:
            raise RequestError(Code.UNKNOWN_VERSION)
        return found[-1]

    async def _route(self, message: Message, caller: Caller, served: Served | None, action: str, least: int) -> list[Octets]:
        if served is not None and action == "infer":
            if not self.quotas.charge(caller.account, caller.quota, len(message.json) + len(message.tensors)):
                self.count(Counter.QUOTA_REFUSALS)
                raise RequestError(Code.QUOTA_EXHAUSTED)
            return await self._infer(message, served, least)
        if served is not None and action == "ready":
            if not self._ready(served):
                raise RequestError(Code.MODEL_NOT_READY)
            return encode(json=b"{}", least=least)
        if served is not None:
            return encode(json=request.render_metadata(served, self._versions(served.id)), least=least)
        match message.path:
            case "/v2":
                return encode(json=request.render_server_metadata(), least=least)
            case "/v2/health/live":
                return encode(json=b"{}", least=least)
            case "/v2/health/ready":
                if not all(self.host.ready(model) for model in self.manifest.models):
                    raise RequestError(Code.MODEL_NOT_READY)
                return encode(json=b"{}", least=least)
            case "/v2/repository/index":
                return encode(json=request.render_index(self._visible(caller), self._ready), least=least)
        raise RequestError(Code.UNKNOWN_PATH)

    @property
    def _entries(self) -> list[Served]:
        return [*self.manifest.models, *self.manifest.pipelines]

    @property
    def _largest_padding(self) -> int:
        return min(PADDING_MAX, max(entry.answer_padding or 0 for entry in self._entries))

    def _visible(self, caller: Caller) -> list[Served]:
        return [entry for entry in self._entries if caller.models is None or entry.id in caller.models]

    def _versions(self, name: str) -> tuple[str, ...]:
        return tuple(entry.version for entry in self._entries if entry.id == name)

    def _ready(self, served: Served) -> bool:
        if isinstance(served, Model):
            return self.host.ready(served)
        steps = {(step.model, step.version) for step in served.steps}
        return all(self.host.ready(model) for model in self.manifest.models if (model.id, model.version) in steps)

    def _model(self, name: str, version: str) -> Model:
        return next(model for model in self.manifest.models if (model.id, model.version) == (name, version))

    async def _infer(self, message: Message, served: Served, least: int) -> list[Octets]:
        loop = asyncio.get_running_loop()
        asked = request.parse_infer(message.json, message.tensors, served)
        seconds = message.deadline_ms / 1000 if message.deadline_ms else None
        deadline = None if seconds is None else loop.time() + seconds
        try:
            with self.memory.hold() as reserve:
                reserve(sum(len(tensor.data) for tensor in asked.inputs) - len(message.tensors))  # what JSON grew to
                async with asyncio.timeout(seconds):
                    outputs = await self._outputs(served, asked, deadline, reserve)
        except TimeoutError:
            raise RequestError(Code.DEADLINE_EXPIRED) from None
        body, buffers = request.render_infer(served, asked, outputs)
        return encode(json=body, tensors=buffers, least=least)

    async def _outputs(
        self, served: Served, asked: request.InferRequest, deadline: float | None, reserve: Callable[[int], None]
    ) -> list[TensorView]:
        places = [wanted.at for wanted in asked.outputs]
        if isinstance(served, Model):
            return await self.host.infer(served, asked.inputs, places, deadline=deadline)
        return await pipeline.infer(self.host, served, self._model, asked.inputs, places, deadline=deadline, reserve=reserve)


def config_of(signed: SignedManifest) -> Config:
    """The service config, the same for all callers."""
    manifest = signed.manifest
    return Config(
        owner_key=signed.owner_key,
        manifest_digest=signed.digest,
        sequence=manifest.sequence,
        not_after=manifest.not_after,
        callers=CALLERS_ANYONE if isinstance(manifest.callers, Anyone) else CALLERS_ISSUERS,
        audit_key=None,
        session_seconds=manifest.limits.session_seconds,
    )


def terms_of(signed: SignedManifest) -> Terms:
    """What every session is offered."""
    manifest = signed.manifest
    largest = max(model.runtime.request_bytes for model in manifest.models)
    return Terms(
        config_raw=encode_config(config_of(signed)),
        deployment=manifest.deployment,
        owner_key=signed.owner_key,
        callers=manifest.callers,
        limits=manifest.limits,
        request_bytes=padded(largest + JSON_ALLOWANCE),
        quota=manifest.quota,
    )


def memory_of(manifest: Manifest, terms: Terms) -> int:
    """Bytes that all sessions together may hold: enough for any one request, what its pipeline keeps, and its answer."""
    answers = {(model.id, model.version): model.runtime.answer_bytes for model in manifest.models}
    kept = max((sum(answers[step.model, step.version] for step in pipeline.steps) for pipeline in manifest.pipelines), default=0)
    served: list[Served] = [*manifest.models, *manifest.pipelines]
    answer = padded(max(*answers.values(), *(entry.answer_padding or 0 for entry in served)) + JSON_ALLOWANCE)
    one = terms.request_bytes + kept
    return max(BUFFERED_SESSIONS * terms.limits.unsent_bytes, BUFFERED_REQUESTS * one, one + answer)


async def _refresh_clock(clock: TrustedClock) -> None:
    """Ask the NSM for the time every ten minutes; where it does not answer the old base goes on."""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        with contextlib.suppress(NsmError):
            await asyncio.to_thread(clock.refresh)


async def _push_counters(machine: Machine, counters: dict[Counter, int]) -> None:
    while True:
        await asyncio.sleep(COUNTERS_SECONDS)
        await asyncio.to_thread(feed.report, dialler(machine.endpoints.status), encode_counters(dict(counters)))


async def _serve(machine: Machine, clock: TrustedClock, signed: SignedManifest, host: ModelHost, counters: dict[Counter, int]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio would write a traceback, with content, to the console
    terms = terms_of(signed)
    evidence = EvidenceSource(machine.nsm, waiting=terms.limits.handshakes)
    memory = Memory(memory_of(signed.manifest, terms))
    desk = Desk(terms=terms, evidence=evidence, answer=_unserved, now=clock.now, counters=counters, memory=memory)
    desk.answer = Service(manifest=signed.manifest, host=host, quotas=Quotas(clock=boottime), memory=memory, count=desk.count).answer
    try:
        server = Server(listen(machine.endpoints.session), desk)
    except ListenError:
        raise BootError(BootFailure.LISTEN_FAILED) from None
    await asyncio.to_thread(tell, machine, Stage.SERVING)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    tasks = [
        loop.create_task(work)
        for work in (server.serve(), _refresh_clock(clock), _push_counters(machine, counters), host.watch(), _wait(ended))
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await server.close(DRAIN_SECONDS)
    evidence.close()
    if any(not task.cancelled() and task.exception() is not None for task in done):  # no workers to be had any more, or a defect of ours
        raise BootError(BootFailure.INTERNAL)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _unserved(message: Message | Refused, caller: Caller) -> list[Octets]:
    return error_answer(Code.MODEL_NOT_READY)


def serve(machine: Machine, clock: TrustedClock, signed: SignedManifest, host: ModelHost, counters: dict[Counter, int]) -> None:
    """Serve until SIGTERM or until workers can no longer be had. Raises: BootError."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.run(_serve(machine, clock, signed, host, counters))

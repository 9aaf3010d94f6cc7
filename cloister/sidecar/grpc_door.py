"""The gRPC door: Triton's GRPCInferenceService on grpcio's own asyncio server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from grpc import aio

from cloister.sidecar import grpc_messages as messages
from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar.access import Access
from cloister.sidecar.appliance import Appliance
from cloister.sidecar.http_service import HEALTH_SECONDS
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.refusal import Refusal, RefusedError, refusal_of
from cloister.sidecar.room import Room
from cloister.sidecar.routes import model_path
from wire.errors import Code

SERVICE = "inference.GRPCInferenceService"
CODE_METADATA = "cloister-code"
CALLS_MAX = 512
CONNECTIONS_MAX = 512
# A message is in memory before its size is known: besides the room these many may be of the full size.
READING_MAX = 8
STREAMS_MAX = 16
REQUEST_SECONDS = 60.0  # for a call's message, or a stream's first one
IDLE_SECONDS = 600.0  # between a stream's messages
_STATUS = {status.value[0]: status for status in grpc.StatusCode}

Q = TypeVar("Q", bound="Sized")
S = TypeVar("S", bound="Sized")


class Sized(Protocol):
    """A protobuf message."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Its encoded length."""


class Context(Protocol):
    """What of grpcio's servicer context is used here."""

    async def read(self) -> Any:
        """The call's next message, EOF after the last one."""

    async def write(self, message: Any) -> None:
        """Send one answer of a stream."""

    async def abort(self, code: Any, details: str, trailing_metadata: Sequence[tuple[str, str]]) -> NoReturn:
        """End the call with a status."""


class Details(Protocol):
    """What grpcio knows of a call before anything of its messages is read."""

    method: str
    invocation_metadata: Iterable[tuple[str, str | bytes]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcDoor:
    """What the calls of one listener share. `message_max` bounds a message in either direction, `room` all requests together."""

    access: Access
    message_max: int
    room: Room
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READING_MAX))
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STREAMS_MAX))


class GrpcService:
    """The calls of the service; `service` makes it a handler of grpcio's. `seconds`: how long one inference request may take in all."""

    def __init__(self, appliance: Appliance, counts: Metrics, door: GrpcDoor, *, seconds: float) -> None:
        self.door = door
        self._appliance = appliance
        self._metrics = counts
        self._seconds = seconds
        self._methods = {f"/{SERVICE}/{name}": handler for name, handler in self._handlers()}

    def _handlers(self) -> Iterator[tuple[str, Any]]:
        unary: dict[str, tuple[str, Callable[[Any], Awaitable[Any]], Any, Any]] = {
            "ServerLive": ("live", self._live, pb.ServerLiveRequest, pb.ServerLiveResponse),
            "ServerReady": ("ready", self._ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
            "ModelReady": ("ready", self._model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
            "ServerMetadata": ("metadata", self._metadata, pb.ServerMetadataRequest, pb.ServerMetadataResponse),
            "ModelMetadata": ("metadata", self._model_metadata, pb.ModelMetadataRequest, pb.ModelMetadataResponse),
            "ModelInfer": ("infer", self._infer, pb.ModelInferRequest, pb.ModelInferResponse),
            "RepositoryIndex": ("index", self._index, pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
            "RepositoryModelLoad": ("other", self._no, pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse),
            "RepositoryModelUnload": ("other", self._no, pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse),
        }
        # A unary call is a stream of one message to grpcio: the message is read when this side is ready for it.
        for name, (operation, call, asked, given) in unary.items():
            yield (
                name,
                grpc.stream_unary_rpc_method_handler(
                    self._unary(operation, call), request_deserializer=asked.FromString, response_serializer=given.SerializeToString
                ),
            )
        yield (
            "ModelStreamInfer",
            grpc.stream_stream_rpc_method_handler(
                self._stream,
                request_deserializer=pb.ModelInferRequest.FromString,
                response_serializer=pb.ModelStreamInferResponse.SerializeToString,
            ),
        )

    def service(self, details: Details) -> Any:
        """Who handles a call: judged by its metadata, before anything of its messages is read.

        gRPC needs no Host check: a browser cannot make its requests.
        """
        given = dict(details.invocation_metadata or ())
        authorization = given.get("authorization")
        try:
            self.door.access.check_token(authorization if isinstance(authorization, str) else None)
        except RefusedError as error:
            return grpc.stream_unary_rpc_method_handler(self._refusing(refusal_of(error)))
        return self._methods.get(details.method)

    def _refusing(self, refusal: Refusal) -> Callable[[object, Context], Awaitable[None]]:
        async def answer(_: object, context: Context) -> None:
            self._metrics.answered("grpc", "other", refusal.name, 0.0, (0, 0))
            await _end(refusal, context)

        return answer

    def _not_begun(self, operation: str, error: Exception) -> Refusal:
        refusal = refusal_of(error)
        self._metrics.answered("grpc", operation, refusal.name, 0.0, (0, 0))
        return refusal

    async def _counted(self, operation: str, call: Callable[[Q], Awaitable[S]], request: Q) -> S:
        loop = asyncio.get_running_loop()
        began, code, size = loop.time(), "ok", 0
        self._metrics.in_flight += 1
        try:
            answer = await call(request)
            size = answer.ByteSize()
        except BaseException as error:
            code = "cancelled" if isinstance(error, asyncio.CancelledError) else refusal_of(error).name
            raise
        finally:
            self._metrics.in_flight -= 1
            asked = request.ByteSize()
            self._metrics.answered("grpc", operation, code, loop.time() - began, (asked, size))
        return answer

    async def _received(self, context: Context) -> tuple[Any, int] | None:
        """The next message and the room taken for it, None after the last one. Raises: RefusedError.

        Not from grpcio's iterator of requests: suspended, that keeps the last message until cycles are collected.
        """
        request = await context.read()
        if request is aio.EOF:
            return None
        size = request.ByteSize()
        await self.door.room.take(size)
        return request, size

    def _unary(self, operation: str, call: Callable[[Any], Awaitable[Any]]) -> Callable[[object, Context], Awaitable[Any]]:
        async def answer(_: object, context: Context) -> Any:
            found = await self._answered(operation, call, context)
            if isinstance(found, Refusal):
                await _end(found, context)
            return found

        return answer

    async def _answered(self, operation: str, call: Callable[[Any], Awaitable[Any]], context: Context) -> Any:
        """The answer to a call's message, or its refusal: a value, for grpcio keeps what it is given to raise, and the frames below."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS), self.door.reading:
                found = await self._received(context)
            if found is None:
                raise RefusedError(Code.MALFORMED_HTTP)
        except Exception as error:  # noqa: BLE001 - the table's text is all that leaves
            return self._not_begun(operation, error)
        request, size = found
        try:
            return await self._counted(operation, call, request)
        except Exception as error:  # noqa: BLE001 - as above
            return refusal_of(error)
        finally:
            self.door.room.give(size)

    async def _stream(self, _: object, context: Context) -> None:
        """One answer per request, in order; an error is an answer and the stream goes on."""
        if self.door.streams.locked():
            await _end(self._not_begun("infer", RefusedError(Code.BUSY)), context)
        seconds = REQUEST_SECONDS
        async with self.door.streams:
            while True:
                answer = await self._turn(context, seconds)
                if isinstance(answer, Refusal):
                    await _end(answer, context)
                if answer is None:
                    return
                await context.write(answer)
                del answer  # nothing is kept while the stream is idle
                seconds = IDLE_SECONDS

    async def _turn(self, context: Context, seconds: float) -> pb.ModelStreamInferResponse | Refusal | None:
        """The answer to a stream's next message, which has `seconds` to come; a refusal ends the stream, None is its end."""
        try:
            async with asyncio.timeout(seconds):
                found = await self._received(context)
        except Exception as error:  # noqa: BLE001 - as above
            return self._not_begun("infer", error)
        if found is None:
            return None
        request, size = found
        try:
            return pb.ModelStreamInferResponse(infer_response=await self._counted("infer", self._infer, request))
        except Exception as error:  # noqa: BLE001 - as above
            failed = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
            return pb.ModelStreamInferResponse(error_message=refusal_of(error).text, infer_response=failed)
        finally:
            self.door.room.give(size)

    async def _live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _asks_ready(self, path: str) -> bool:
        try:
            await self._appliance.call(path, seconds=HEALTH_SECONDS)
        except Exception as error:
            if refusal_of(error).code in (Code.MODEL_NOT_READY, Code.APPLIANCE_UNREACHABLE):
                return False
            raise
        return True

    async def _ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._asks_ready("/v2/health/ready"))

    async def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=await self._asks_ready(model_path(request.name, request.version, "ready")))

    async def _metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        root = messages.decode_json(await self._appliance.call("/v2", seconds=HEALTH_SECONDS))
        return pb.ServerMetadataResponse(name=root["name"], version=root["version"], extensions=root["extensions"])

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        path = model_path(request.name, request.version)
        return messages.decode_metadata(await self._appliance.call(path, seconds=HEALTH_SECONDS))

    async def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        path, body, parts = messages.encode_infer(request)
        return messages.decode_infer(await self._appliance.call(path, body, parts, seconds=self._seconds))

    async def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        answer = await self._appliance.call("/v2/repository/index", seconds=HEALTH_SECONDS)
        return messages.decode_index(answer, ready=request.ready)

    async def _no(self, _: object) -> NoReturn:
        raise RefusedError(Code.NOT_IMPLEMENTED)


async def _end(refusal: Refusal, context: Context) -> NoReturn:
    """End a call with its refusal."""
    reasons = "".join(f" [check {reason['check']}]" for reason in refusal.reasons)
    await context.abort(_STATUS[refusal.grpc], refusal.text + reasons, ((CODE_METADATA, refusal.name),))


def server(service: GrpcService) -> aio.Server:
    """A server without a port; messages, calls and connections are bounded."""
    made = aio.server(
        maximum_concurrent_rpcs=CALLS_MAX,
        options=(
            ("grpc.max_receive_message_length", service.door.message_max),
            ("grpc.max_send_message_length", service.door.message_max),
            ("grpc.max_concurrent_streams", CALLS_MAX),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
            ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
            ("grpc.so_reuseport", 0),  # another process must not share the port
        ),
    )
    made.add_generic_rpc_handlers((service,))
    return made

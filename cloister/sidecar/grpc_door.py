"""The gRPC door: Triton's GRPCInferenceService on grpcio's own asyncio server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from grpc import aio

from cloister.sidecar import grpc_messages as messages
from cloister.sidecar import inference_pb2 as pb
from cloister.sidecar.access import Access
from cloister.sidecar.appliance import Appliance
from cloister.sidecar.http_service import HEALTH_SECONDS
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.refusal import RefusedError, refusal_of
from cloister.sidecar.routes import model_path
from wire.errors import Code

SERVICE = "inference.GRPCInferenceService"
CODE_METADATA = "cloister-code"
_STATUS = {status.value[0]: status for status in grpc.StatusCode}

Q = TypeVar("Q", bound="Sized")
S = TypeVar("S", bound="Sized")


class Sized(Protocol):
    """A protobuf message."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Its encoded length."""


class Context(Protocol):
    """What of grpcio's servicer context is used here."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The call's metadata."""

    async def abort(self, code: Any, details: str, trailing_metadata: Sequence[tuple[str, str]]) -> NoReturn:
        """End the call with a status."""


class GrpcService:
    """The calls of the service. `seconds`: how long one inference request may take in all."""

    def __init__(self, appliance: Appliance, counts: Metrics, access: Access, *, seconds: float) -> None:
        self._appliance = appliance
        self._metrics = counts
        self._access = access
        self._seconds = seconds

    def handlers(self) -> grpc.GenericRpcHandler:
        """What grpcio's server is given."""
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
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(operation, call), request_deserializer=asked.FromString, response_serializer=given.SerializeToString
            )
            for name, (operation, call, asked, given) in unary.items()
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _check(self, context: Context) -> None:
        """gRPC needs no Host check: a browser cannot make its requests. Raises: RefusedError."""
        given = dict(context.invocation_metadata() or ())
        authorization = given.get("authorization")
        self._access.check_token(authorization if isinstance(authorization, str) else None)

    async def _counted(self, operation: str, call: Callable[[Q], Awaitable[S]], request: Q, context: Context) -> S:
        loop = asyncio.get_running_loop()
        began, code, size = loop.time(), "ok", 0
        self._metrics.in_flight += 1
        try:
            self._check(context)
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

    def _unary(self, operation: str, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            try:
                return await self._counted(operation, call, request, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - the table's text is all that leaves
                refusal = refusal_of(error)
                reasons = "".join(f" [check {reason['check']}]" for reason in refusal.reasons)
                await context.abort(_STATUS[refusal.grpc], refusal.text + reasons, ((CODE_METADATA, refusal.name),))

        return answer

    async def _stream(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """One answer per request, in order; an error is an answer and the stream goes on."""
        async for request in requests:
            try:
                answer = await self._counted("infer", self._infer, request, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                failed = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
                yield pb.ModelStreamInferResponse(error_message=refusal_of(error).text, infer_response=failed)
            else:
                yield pb.ModelStreamInferResponse(infer_response=answer)

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


def server(service: GrpcService, *, message_max: int) -> aio.Server:
    """A server without a port; messages are bounded in both directions."""
    made = aio.server(
        options=(
            ("grpc.max_receive_message_length", message_max),
            ("grpc.max_send_message_length", message_max),
            ("grpc.so_reuseport", 0),  # another process must not share the port
        )
    )
    made.add_generic_rpc_handlers((service.handlers(),))
    return made

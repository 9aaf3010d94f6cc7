"""What each HTTP request of the protocol is answered: passed to the enclave as it is, or answered from the last verdict."""

import asyncio
import contextlib
import json
from typing import Any

from attestation import explain, report_html
from attestation.verify import Moment
from cloister.errors import EvidenceRefusedError
from cloister.sidecar import http_body, metrics
from cloister.sidecar.appliance import Appliance, Verdict
from cloister.sidecar.http_messages import HttpAnswer, HttpRequest, refused
from cloister.sidecar.metrics import Metrics
from cloister.sidecar.refusal import RefusedError, refusal_of
from cloister.sidecar.routes import Route, route
from wire.errors import Code
from wire.message import Message

HEALTH_SECONDS = 5.0


class HttpService:
    """The handler of HTTP doors. `seconds`: how long one inference request may take in all."""

    def __init__(self, appliance: Appliance, counts: Metrics, *, seconds: float, banner: str | None = None) -> None:
        self._appliance = appliance
        self._metrics = counts
        self._seconds = seconds
        self._banner = banner

    async def handle(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request; raises nothing but CancelledError."""
        loop = asyncio.get_running_loop()
        began, operation, code = loop.time(), "other", "ok"
        self._metrics.in_flight += 1
        try:
            asked = route(request.method, request.target)
            operation = asked.operation
            answer = await self._route(asked, request)
        except asyncio.CancelledError:
            code = Code.CANCELLED.name.lower()
            answer = HttpAnswer(pieces=())
            raise
        except Exception as error:  # noqa: BLE001 - the table's text is all that leaves
            code = refusal_of(error).name
            answer = refused(error)
        finally:
            self._metrics.in_flight -= 1
            self._metrics.answered("http", operation, code, loop.time() - began, (len(request.body), answer.size))
        return answer

    async def _route(self, asked: Route, request: HttpRequest) -> HttpAnswer:
        match asked.operation:
            case "live":
                return HttpAnswer(pieces=(b"{}",))
            case "metrics":
                return HttpAnswer(pieces=(self._metrics.render(),), content_type=metrics.CONTENT_TYPE)
            case "attestation":
                return await self._attestation(html="text/html" in request.headers.get("accept", ""))
            case "infer":
                body, tensors = http_body.split(request.body, request.headers.get(http_body.JSON_LENGTH))
                return _passed(await self._appliance.call(asked.path, body, (tensors,), seconds=self._seconds))
        return _passed(await self._appliance.call(asked.path, seconds=HEALTH_SECONDS))

    async def _attestation(self, *, html: bool) -> HttpAnswer:
        """The verdict on the evidence in use; where there is none yet, the appliance is asked."""
        if self._appliance.verdict is None:
            with contextlib.suppress(Exception):  # a refusal is a verdict; that nobody answers is told below
                await self._appliance.call("/v2/health/live", seconds=HEALTH_SECONDS)
        verdict = self._appliance.verdict
        if verdict is None:
            raise RefusedError(Code.APPLIANCE_UNREACHABLE)
        if html:
            page = await asyncio.to_thread(self._page, verdict)
            return HttpAnswer(pieces=(page.encode(),), content_type="text/html; charset=utf-8")
        return HttpAnswer(pieces=(json.dumps(_described(verdict), indent=2).encode(),))

    def _page(self, verdict: Verdict) -> str:
        target = self._appliance.target
        question = explain.Question(
            data=verdict.evidence,
            roots=target.roots,
            now=verdict.judged_at,
            moment=Moment.NOW,
            reference_values=target.reference_values,
            nonce=verdict.nonce,
        )
        return report_html.render(explain.explain(question), banner=self._banner)


def _passed(message: Message) -> HttpAnswer:
    """The enclave's answer as it came: JSON, and tensors behind it if there are any."""
    if not message.tensors:
        return HttpAnswer(pieces=(message.json,))
    return HttpAnswer(pieces=(message.json, message.tensors), content_type="application/octet-stream", json_length=len(message.json))


def _described(verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {"verdict": "rejected", "judged_at": verdict.judged_at.isoformat()}
    if verdict.error is not None:
        return found | {"reasons": list(refusal_of(EvidenceRefusedError(verdict.error)).reasons)}
    if verdict.result is not None:
        result = verdict.result
        found |= {
            "verdict": "accepted",
            "partition": result.claims.partition,
            "module_id": result.claims.module_id,
            "timestamp": result.claims.timestamp.isoformat(),
            "pcrs": {str(index): value.hex() for index, value in result.claims.pcrs.items()},
            "owner_key": result.config.owner_key.hex(),
            "manifest_sha384": result.config.manifest_digest.hex(),
            "sequence": result.config.sequence,
            "evidence_sha256": result.evidence_digest.hex(),
        }
    return found

"""The enclave's voice: stages and boot failures reach the operator's log, once each, with where to read on."""

import asyncio
import logging
import socket

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from parent.status import StatusService, explain
from tests.parent.streams import rest, run, send, served
from wire.counters import Counter
from wire.errors import BOOT_TABLE, BootFailure, Stage
from wire.feed import BootReport, FeedType, encode_boot_report, encode_counters, encode_get_manifest
from wire.frame import encode


@pytest.mark.parametrize("failure", BootFailure)
def test_every_boot_failure_is_logged_with_name_code_text_and_anchor(failure: BootFailure, caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a boot failure says which, what it means and where it is explained."""

    async def body() -> StatusService:
        service = StatusService(idle_seconds=20)
        stream, task = await served(service.handle)
        for _ in range(3):
            await send(stream, encode_boot_report(BootReport(stage=Stage.COLD, failure=failure)))
        stream.close()
        await task
        return service

    service = run(body())
    assert service.failure is failure
    assert not service.serving
    (line,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert f"boot_failure={failure.name} code={failure.value}: {BOOT_TABLE[failure].text}" in line
    assert f"docs/operate.md#{failure.name.lower().replace('_', '-')}" in line
    assert ("ten minutes" in explain(failure)) is BOOT_TABLE[failure].retried


def test_what_a_dead_enclave_said_revives_nothing() -> None:
    """Counters read after their enclave was found gone leave stage and last failure as they are."""

    async def body() -> StatusService:
        service = StatusService(idle_seconds=20)
        stream, task = await served(service.handle)
        await send(stream, encode_boot_report(BootReport(stage=Stage.COLD, failure=BootFailure.INTERNAL)))
        while service.reports < 1:
            await asyncio.sleep(0)
        service.reset()
        await send(stream, encode_counters({Counter.REQUESTS: 1}))
        stream.close()
        await task
        return service

    service = run(body())
    assert (service.stage, service.serving, service.last_failure) == (None, False, BootFailure.INTERNAL)


def test_stages_and_counters_are_kept() -> None:
    """Serving is what the last report says; counters are the last ones; a lost enclave says nothing any more."""

    async def body() -> None:
        service = StatusService(idle_seconds=20)
        stream, task = await served(service.handle)
        for stage in Stage:
            await send(stream, encode_boot_report(BootReport(stage=stage)))
        await send(stream, encode_counters({Counter.REQUESTS: 1 << 60}))
        stream.close()
        await task
        assert service.serving
        assert service.counters[Counter.REQUESTS] == 1 << 60
        service.failure = BootFailure.INTERNAL
        assert not service.serving
        service.reset()
        assert service.stage is None
        assert not service.serving

    run(body())


def test_a_parent_started_later_learns_that_the_enclave_serves(caplog: pytest.LogCaptureFixture) -> None:
    """Stages are said once, counters again and again, and only while serving; they tell nothing where a boot has reported."""

    async def body(*before: BootReport) -> StatusService:
        service = StatusService(idle_seconds=20)
        stream, task = await served(service.handle)
        for report in before:
            await send(stream, encode_boot_report(report))
        await send(stream, encode_counters({Counter.REQUESTS: 7}))
        await send(stream, encode_counters({Counter.REQUESTS: 8}))
        stream.close()
        await task
        return service

    caplog.set_level(logging.INFO)
    assert run(body()).serving
    assert ["enclave reached stage 5 SERVING"] == [record.message for record in caplog.records]
    booting = run(body(BootReport(stage=Stage.MEASURED)))
    assert Stage.MEASURED is booting.stage and not booting.serving
    failed = run(body(BootReport(stage=Stage.LOADED, failure=BootFailure.INTERNAL)))
    assert BootFailure.INTERNAL is failed.failure and not failed.serving


def test_a_boot_failure_is_shown_until_a_boot_succeeds() -> None:
    """Neither the loss of the enclave nor the next boot's first stages hide it; SERVING does; each failed boot is counted."""

    async def body() -> None:
        service = StatusService(idle_seconds=20)
        for failed in (1, 2):
            for stage in (Stage.COLD, Stage.MEASURED):
                await told(service, BootReport(stage=stage))
                assert service.last_failure is (BootFailure.KMS_REFUSED if failed == 2 else None)
            await told(service, BootReport(stage=Stage.MEASURED, failure=BootFailure.KMS_REFUSED))
            assert (failed, BootFailure.KMS_REFUSED) == (service.boot_failures, service.last_failure)
            service.reset()
            assert (None, BootFailure.KMS_REFUSED) == (service.failure, service.last_failure)
        await told(service, BootReport(stage=Stage.SERVING))
        assert (2, None) == (service.boot_failures, service.last_failure)

    async def told(service: StatusService, report: BootReport) -> None:
        stream, task = await served(service.handle)
        await send(stream, encode_boot_report(report))
        stream.close()
        await task

    run(body())


@pytest.mark.parametrize("frame", [encode_get_manifest(), encode(FeedType.BOOT_REPORT, bytes(4)), encode(FeedType.COUNTERS, bytes(8))])
def test_what_is_no_report_ends_the_connection(frame: bytes) -> None:
    """Other frames, unknown stages and short counters are refused, and nothing of them is kept."""

    async def body() -> None:
        service = StatusService(idle_seconds=20)
        stream, task = await served(service.handle)
        await send(stream, frame)
        assert await rest(stream) == b""
        await task
        assert service.stage is None

    run(body())


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_end_in_silence(data: bytes) -> None:
    """Whatever a broken enclave says, the handler ends without an exception and sends nothing."""

    async def body() -> None:
        stream, task = await served(StatusService(idle_seconds=20).handle)
        await send(stream, data)
        stream.shutdown(socket.SHUT_WR)
        assert await rest(stream) == b""
        await task
        stream.close()

    run(body())

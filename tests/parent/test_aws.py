"""Role credentials: IMDSv2 alone, cached while fresh, in no log or error."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import logging
from pathlib import Path
import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent.aws import FileSource, ImdsSource, _parse
from parent.credentials import CredentialsService
from parent.errors import CredentialsError
from tests.parent.streams import receive, rest, run, send, served
from wire.feed import AwsCredentials, FeedError, FeedType, decode_credentials, encode_error, encode_get_credentials
from wire.frame import HEADER_BYTES, encode

CANARY = "canary-5d41402abc4b"
ANSWER = {"AccessKeyId": "AKIA", "SecretAccessKey": CANARY, "Token": CANARY + "t", "Expiration": "2026-11-21T12:00:00Z", "Code": "Success"}
EXPIRES = 1795262400
CREDENTIALS = AwsCredentials(access_key_id="AKIA", secret_access_key=CANARY, session_token=CANARY + "t", expires=EXPIRES)


class Imds:
    """A metadata service as EC2's with IMDSv1 off."""

    def __init__(self) -> None:
        self.role = "role"
        self.answer = json.dumps(ANSWER)
        self.status = 200
        self.token = "token"
        self.asked: list[str] = []
        self.address = ("", 0)


@contextmanager
def metadata() -> Iterator[Imds]:
    state = Imds()

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            state.asked.append("PUT")
            good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.reply(200 if good else 400, state.token)

        def do_GET(self) -> None:
            state.asked.append(self.path)
            base = "/latest/meta-data/iam/security-credentials/"
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                self.reply(401, "")
            elif self.path == base:
                self.reply(200 if state.role else 404, state.role)
            else:
                self.reply(state.status if self.path == base + state.role else 404, state.answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = ("127.0.0.1", server.server_address[1])
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_credentials_come_by_a_token_and_are_kept_while_fresh() -> None:
    """Three requests, a token first; none while more than five minutes are left, three again after."""

    async def body() -> None:
        now = [EXPIRES - 3600.0]
        with metadata() as imds:
            source = ImdsSource(address=imds.address, now=lambda: now[0])
            assert await source.fetch() == CREDENTIALS
            assert [asked.rpartition("/")[2] for asked in imds.asked] == ["PUT", "", "role"]
            now[0] = EXPIRES - 301.0
            await source.fetch()
            assert len(imds.asked) == 3
            now[0] = EXPIRES - 299.0
            await source.fetch()
            assert len(imds.asked) == 6

    run(body())


def test_credentials_at_hand_outlast_a_silent_metadata_service(caplog: pytest.LogCaptureFixture) -> None:
    """Where no fresh ones come, those at hand are handed out until they expire, and the log says so and shows nothing of them."""

    async def body() -> None:
        now = [EXPIRES - 3600.0]
        with metadata() as imds:
            source = ImdsSource(address=imds.address, now=lambda: now[0])
            await source.fetch()
            imds.status = 500
            for left in (299.0, 1.0):
                now[0] = EXPIRES - left
                assert CREDENTIALS == await source.fetch()
            now[0] = float(EXPIRES)
            with pytest.raises(CredentialsError):
                await source.fetch()
            imds.status = 200
            assert CREDENTIALS == await source.fetch()

    run(body())
    assert [record.message.partition("; ")[2] for record in caplog.records] == [
        f"the credentials at hand hold for another {left} s" for left in (299, 1)
    ]
    assert CANARY not in caplog.text


@pytest.mark.parametrize("role", ["", " ", "a/b"])
def test_an_instance_without_a_role_is_told(role: str) -> None:
    """No instance profile: an error that says so."""

    async def body() -> None:
        with metadata() as imds:
            imds.role = role
            with pytest.raises(CredentialsError, match="no role"):
                await ImdsSource(address=imds.address).fetch()

    run(body())


@pytest.mark.parametrize(
    "answer", ["", "[]", "{}", json.dumps({**ANSWER, "Expiration": CANARY}), json.dumps({**ANSWER, "Token": ""}), "[" * 5000]
)
def test_malformed_answers_are_refused_and_nothing_of_them_shown(answer: str) -> None:
    """What is no credentials document is an error without a byte of it."""

    async def body() -> None:
        with metadata() as imds:
            imds.answer = answer
            with pytest.raises(CredentialsError) as caught:
                await ImdsSource(address=imds.address).fetch()
            assert CANARY not in str(caught.value)

    run(body())


@given(st.text(max_size=100))
def test_any_answer_is_credentials_or_our_error(text: str) -> None:
    """The parser raises nothing else."""
    with suppress(CredentialsError):
        _parse(text)


@pytest.mark.parametrize(
    ("status", "token", "answer"), [(500, "token", None), (404, "token", None), (200, "a\nb", None), (200, "token", "{\u00e9}")]
)
def test_other_answers_are_refused(status: int, token: str, answer: str | None) -> None:
    """An error status, a token that is no header's value, and bytes beyond ASCII are errors of ours, whatever else is good."""

    async def body() -> None:
        with metadata() as imds:
            imds.status, imds.token, imds.answer = status, token, answer or imds.answer
            with pytest.raises(CredentialsError) as caught:
                await ImdsSource(address=imds.address).fetch()
            assert "no role" not in str(caught.value)

    run(body())


def test_the_services_own_layout_is_read() -> None:
    """Its document has many lines, whatever a token may not have."""

    async def body() -> None:
        with metadata() as imds:
            imds.answer = json.dumps(ANSWER, indent=2)
            assert CREDENTIALS == await ImdsSource(address=imds.address).fetch()

    run(body())


def test_no_metadata_service_is_an_error() -> None:
    """A machine that is no instance: CredentialsError, not a hang."""
    with metadata() as imds:
        address = imds.address
    with pytest.raises(CredentialsError):
        run(ImdsSource(address=address).fetch())


def test_the_port_hands_out_credentials_and_logs_nothing_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The enclave gets the file's credentials; with the file gone or broken, an error; the log holds no secret."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "credentials.json"
    fields = {"access_key_id": "AKIA", "secret_access_key": CANARY, "session_token": CANARY + "t", "expires": EXPIRES}

    async def body() -> None:
        service = CredentialsService(FileSource(str(path)), seconds=20)
        stream, task = await served(service.handle)
        for text in (None, json.dumps({**fields, "extra": CANARY})):
            if text is not None:
                path.write_text(text)
            await send(stream, encode_get_credentials())
            assert await receive(stream, 7) == encode_error(FeedError.UNAVAILABLE)
        path.write_text(json.dumps(fields))
        await send(stream, encode_get_credentials())
        head = await receive(stream, HEADER_BYTES)
        assert head[4] == FeedType.CREDENTIALS
        assert decode_credentials(await receive(stream, int.from_bytes(head[:4], "big") - 1)) == CREDENTIALS
        await send(stream, encode(FeedType.GET_MANIFEST, b""))
        assert await rest(stream) == b""
        await task
        assert (service.handed_out, service.errors) == (1, 2)

    run(body())
    assert caplog.records
    assert CANARY not in caplog.text

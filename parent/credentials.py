"""The credentials port: hands the role's credentials to the enclave, and to nobody else; never logs them."""

import logging
import socket

from parent.aws import CredentialSource
from parent.errors import CredentialsError
from parent.frames import FrameStream
from wire.errors import WireError
from wire.feed import FeedError, FeedType, encode_credentials, encode_error

log = logging.getLogger(__name__)


class CredentialsService:
    """Answers the credentials port; failures are logged without any part of what was found."""

    def __init__(self, source: CredentialSource, *, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self.handed_out = 0
        self.errors = 0

    async def handle(self, stream: socket.socket) -> None:
        """Serve one connection until the enclave closes it."""
        frames = FrameStream(stream, seconds=self._seconds)
        try:
            while await frames.next(FeedType.GET_CREDENTIALS) is not None:
                try:
                    answer = encode_credentials(await self._source.fetch())
                    self.handed_out += 1
                except CredentialsError as error:
                    log.error("no credentials for the enclave: %s", error)
                    self.errors += 1
                    answer = encode_error(FeedError.UNAVAILABLE)
                await frames.send(answer)
        except (WireError, TimeoutError):
            return

"""Evidence for sessions: one NSM call each, off the event loop, one at a time, with a bounded number waiting (T21)."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from enclave.nsm import Nsm


class EvidenceBusy(Exception):
    """As many handshakes wait for the NSM as the manifest allows."""


class EvidenceSource:
    """Documents from the NSM for the sessions of one enclave.

    A permit is held until the NSM has answered, also where its session is gone by then: a flood of abandoned
    challenges cannot queue more calls than `waiting` (the driver serialises them, 120 s each at worst).
    """

    def __init__(self, nsm: Nsm, *, waiting: int) -> None:
        self._nsm = nsm
        self._permits = waiting
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nsm")

    async def document(self, *, nonce: bytes, user_data: bytes) -> bytes:
        """A document with this nonce and user_data. Raises: EvidenceBusy, NsmError."""
        if self._permits == 0:
            raise EvidenceBusy
        self._permits -= 1
        loop = asyncio.get_running_loop()
        call = self._thread.submit(self._nsm.attest, user_data=user_data, nonce=nonce, public_key=None)
        call.add_done_callback(lambda done: self._return(loop, done))
        return await asyncio.wrap_future(call)

    def _return(self, loop: asyncio.AbstractEventLoop, _: "Future[bytes]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._give_back)

    def _give_back(self) -> None:
        self._permits += 1

    def close(self) -> None:
        """Take no more calls."""
        self._thread.shutdown(wait=False, cancel_futures=True)

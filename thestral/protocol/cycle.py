"""HTTPCycle: receive() and send() of one http scope as a state machine (ASGI 2.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thestral.errors import ClientDisconnected, LocalProtocolError
from thestral.logging import error_logger
from thestral.protocol.connection import Cycle

if TYPE_CHECKING:
    from thestral.protocol.connection import Stream
    from thestral.protocol.context import WorkerContext

# What send() expects next.
EXPECT_START = 0
EXPECT_FIRST_BODY = 1  # the head is held: it leaves together with the first part of the body
EXPECT_BODY = 2
COMPLETE = 3

LOWEST_STATUS = 200  # 1xx is interim: not a response
HIGHEST_STATUS = 999
INTERNAL_SERVER_ERROR = [(b"content-type", b"text/plain; charset=utf-8")]


class HTTPCycle(Cycle):
    """One request and its response, as the application sees them."""

    def __init__(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        self.scope = scope
        self.stream = stream
        self.context = context
        self.task = None
        self._state = EXPECT_START
        self._status = 0
        self._headers: Any = None
        self._body: bytes | None = None
        self._more_body: list[bytes] | None = None
        self._body_size = 0
        self._request_complete = False
        self._body_delivered = False
        self._disconnected = False  # receive() says so
        self._gone = False  # send() says so
        self._readers: list[asyncio.Future[None]] | None = None
        self._writers: list[asyncio.Future[None]] | None = None

    # --- The application's side ---------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """http.request with what has come of the body, then http.disconnect."""
        while True:
            if self._state == COMPLETE:
                return {"type": "http.disconnect"}
            if not self._body_delivered:
                if self._body is not None or self._request_complete:
                    self._body_delivered = self._request_complete
                    body = self._take_body()
                    return {
                        "type": "http.request",
                        "body": body,
                        "more_body": not self._body_delivered,
                    }
                if not self._disconnected:
                    self.stream.want_body()
            if self._disconnected:
                return {"type": "http.disconnect"}
            if self._readers is None:
                self._readers = []
            await self._wait(self._readers)

    async def send(self, message: dict[str, Any]) -> None:
        """Take http.response.start and http.response.body; wait while the client does not read.

        Raises:
            LocalProtocolError: not a message that may come now; it says why.
            ClientDisconnected: an OSError; the client is gone.
        """
        if type(message) is not dict:
            message = dict(message)
        if self._state == EXPECT_START:
            self._start(message)
            return
        self._continue(message)
        while not self._gone and self._state != COMPLETE and not self.stream.is_writable():
            if self._writers is None:
                self._writers = []
            await self._wait(self._writers)
            if self._gone:
                raise ClientDisconnected("the client is gone")

    def _start(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind != "http.response.start":
            raise LocalProtocolError(f"expected 'http.response.start', got {kind!r:.100}")
        if self._gone:
            raise ClientDisconnected("the client is gone")
        status = message.get("status")
        if not isinstance(status, int) or not LOWEST_STATUS <= status <= HIGHEST_STATUS:
            raise LocalProtocolError(
                f"http.response.start: status {status!r:.100} is not an int of"
                f" {LOWEST_STATUS} to {HIGHEST_STATUS}"
            )
        headers = message.get("headers")
        self._status = status
        self._headers = () if headers is None else headers
        self._state = EXPECT_FIRST_BODY

    def _continue(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind != "http.response.body":
            raise LocalProtocolError(
                f"got {kind!r:.100} after the response was complete"
                if self._state == COMPLETE
                else f"expected 'http.response.body', got {kind!r:.100}"
            )
        if self._state == COMPLETE:
            raise LocalProtocolError("got 'http.response.body' after the response was complete")
        if self._gone:
            raise ClientDisconnected("the client is gone")
        body = message.get("body", b"")
        if type(body) is not bytes:
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise LocalProtocolError(
                    f"http.response.body: body is {type(body).__name__}, expected bytes"
                )
            body = bytes(body)
        end = not message.get("more_body", False)
        try:
            if self._state == EXPECT_FIRST_BODY:
                self.stream.respond(self._status, self._headers, body, end)
                self._headers = None
            else:
                self.stream.write(body, end)
            self._state = COMPLETE if end else EXPECT_BODY
        except LocalProtocolError:
            # A head that could not be sent leaves room for a 500; a body of the wrong length does
            # not.
            if self.stream.status:
                self._state = COMPLETE
                if self._readers is not None:
                    self._wake(self._readers)
            raise
        if end and self._readers is not None:
            self._wake(self._readers)

    # --- The stream's side --------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self._body is None:
            self._body = data
        elif self._more_body is None:
            self._more_body = [data]
        else:
            self._more_body.append(data)
        self._body_size += len(data)
        if self._readers is not None:
            self._wake(self._readers)

    def on_end(self) -> None:
        self._request_complete = True
        if self._readers is not None:
            self._wake(self._readers)

    def on_disconnect(self) -> None:
        self._disconnected = True
        if self._readers is not None:
            self._wake(self._readers)

    def on_closed(self) -> None:
        self._gone = True
        self._disconnected = True
        if self._readers is not None:
            self._wake(self._readers)
        if self._writers is not None:
            self._wake(self._writers)

    def on_writable(self) -> None:
        if self._writers is not None:
            self._wake(self._writers)

    def on_return(self, exc: BaseException | None) -> None:
        if exc is not None and not self._is_disconnect(exc):
            self._log_raised(exc)
        if self._state == COMPLETE or self._gone:
            return
        if exc is None:
            error_logger.error(
                "ASGI application returned without %s response (%s %s)",
                "starting a" if self._state < EXPECT_BODY else "completing its",
                self.scope["method"],
                self.scope["path"],
            )
        self._fail()

    # --- Parts --------------------------------------------------------------------------------

    def _take_body(self) -> bytes:
        if self._body is None:
            return b""
        body = self._body
        if self._more_body is not None:
            body = b"".join([body, *self._more_body])
            self._more_body = None
        self._body = None
        size = self._body_size
        self._body_size = 0
        self.stream.consumed(size)
        return body

    async def _wait(self, waiters: list[asyncio.Future[None]]) -> None:
        """Wait to be woken; polling with a time limit must not leave a future each time."""
        waiter = self.context.loop.create_future()
        waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in waiters:
                waiters.remove(waiter)
            raise

    def _wake(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    def _fail(self) -> None:
        """The application did not finish: 500 while nothing has been sent, else the client sees it
        cut.
        """
        state = self._state
        self._state = COMPLETE
        if state < EXPECT_BODY:
            self.stream.respond(500, INTERNAL_SERVER_ERROR, b"Internal Server Error", True)
        else:
            self.stream.reset()
        if self._readers is not None:
            self._wake(self._readers)

    def _is_disconnect(self, exc: BaseException) -> bool:
        """Whether an exception only says that the client is gone: ours, or a framework's word for
        it.
        """
        if not self._disconnected:
            return False
        if isinstance(exc, BaseExceptionGroup):
            return all(self._is_disconnect(member) for member in exc.exceptions)
        return isinstance(exc, ClientDisconnected) or type(exc).__name__ == "ClientDisconnect"

    def _log_raised(self, exc: BaseException) -> None:
        if isinstance(exc, asyncio.CancelledError) and self.context.draining:
            return  # the server's own doing, which it has logged
        error_logger.error(
            "Exception in ASGI application (%s %s)",
            self.scope["method"],
            self.scope["path"],
            exc_info=exc,
        )

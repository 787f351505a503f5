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
PLAIN_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]


class HTTPCycle(Cycle):
    """One request and its response, as the application sees them."""

    def begin(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        """As HTTP1Stream.begin(): in place of __init__."""
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
        self.counted = True
        self.deadline = 0.0
        self._timed_out = False
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
            await self.until_readable()

    def take(self, message: Any) -> bool:
        """Of http.response.start and http.response.body."""
        if type(message) is not dict:
            message = dict(message)
        if self._state == EXPECT_START:
            self._start(message)
            return True
        self._continue(message)
        return self._state == COMPLETE or self._gone or self.stream.is_writable()

    def _start(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind != "http.response.start":
            raise LocalProtocolError(f"expected 'http.response.start', got {kind!r:.100}")
        if self._gone:
            raise ClientDisconnected("the client is gone")
        self._status = status_of(message)
        self._headers = headers_of(message)
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
        body = body_of(message)
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
                self.wake_readers()
            raise
        if end:
            self.wake_readers()
            self.on_writable()  # another task that waited to send

    # --- The stream's side --------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self._body is None:
            self._body = data
        elif self._more_body is None:
            self._more_body = [data]
        else:
            self._more_body.append(data)
        self._body_size += len(data)
        self.wake_readers()

    def on_end(self) -> None:
        self._request_complete = True
        self.wake_readers()

    def on_drain(self) -> None:
        # A stream may have no end of its own. What it still sends is sent.
        if self._state == EXPECT_BODY:
            self.on_disconnect()

    def on_return(self, exc: BaseException | None) -> None:
        if exc is not None:
            self.log_raised(exc)
        if self._state == COMPLETE or self._gone:
            return
        if self._state == EXPECT_BODY and self._disconnected and self.context.draining:
            # It was told to end. What it has sent is sent; that it is not all, the client can see.
            self._state = COMPLETE
            self.stream.cut()
            return
        if exc is None:
            error_logger.error(
                "ASGI application returned without %s response (%s)",
                "starting a" if self._state < EXPECT_BODY else "completing its",
                self.title(),
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

    def _fail(self) -> None:
        """The application did not finish: 500 while nothing has been sent, else the client sees it
        cut.
        """
        state = self._state
        self._state = COMPLETE
        if state < EXPECT_BODY and self._timed_out:
            self.stream.respond(504, PLAIN_TEXT, b"Gateway Timeout", True)
        elif state < EXPECT_BODY:
            self.stream.respond(500, PLAIN_TEXT, b"Internal Server Error", True)
        else:
            self.stream.reset()
        self.wake_readers()


# --- Fields of messages, also those of a WebSocket's denial -------------------------------------


def status_of(message: dict[str, Any]) -> int:
    """The final status that a start message holds.

    Raises:
        LocalProtocolError: it holds none.
    """
    status = message.get("status")
    if not isinstance(status, int) or not LOWEST_STATUS <= status <= HIGHEST_STATUS:
        raise LocalProtocolError(
            f"{message['type']}: status {status!r:.100} is not an int of"
            f" {LOWEST_STATUS} to {HIGHEST_STATUS}"
        )
    return status


def headers_of(message: dict[str, Any]) -> Any:
    """The headers of a message, unchecked."""
    headers = message.get("headers")
    return () if headers is None else headers


def body_of(message: dict[str, Any]) -> bytes:
    """The body that a body message holds.

    Raises:
        LocalProtocolError: it is no bytes.
    """
    body = message.get("body", b"")
    if type(body) is bytes:
        return body
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise LocalProtocolError(f"{message['type']}: body is {type(body).__name__}, expected bytes")

# cython: binding=True
# A built-in function would not be taken for a coroutine function: receive().
"""HTTPCycle: receive() and send() for one http scope, as a state machine (ASGI 2.3 to 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thestral._core.log import monotonic
from thestral.errors import ClientDisconnected, LocalProtocolError
from thestral.logging.loggers import error_logger
from thestral.protocol.connection import Cycle
from thestral.protocol.exchange import PLAIN_TEXT
from thestral.protocol.filebody import FileBody, open_duplicate, open_path
from thestral.protocol.messages import (
    announced_by,
    as_dict,
    body_of,
    headers_of,
    is_event_stream,
    list_of,
    status_of,
    trailers_of,
)

if TYPE_CHECKING:
    from thestral.protocol.connection import Stream
    from thestral.protocol.context import WorkerContext

# What send() expects next.
EXPECT_START = 0
# The head is held: it leaves with the first part of the body, or at the end of the turn.
EXPECT_FIRST_BODY = 1
EXPECT_BODY = 2
COMPLETE = 3
EXPECT_FILE = 4  # no message until the file has been sent
EXPECT_TRAILERS = 5

# Smaller pieces of a body that wait for the application are joined, up to about this size: as
# objects of their own they would take far more memory than bytes.
SMALL_PIECE = 64  # bytes
JOIN_MAX = 4 * 1024  # bytes
# How much an application may still send once its client is gone, and for how long. It may send a
# longer body that it has announced. Frameworks send parts of 64 KiB: an application that sends more
# is not finishing what it was doing when the client left.
DROPPED_MAX = 64 * 1024  # bytes
DROPPED_TIME = 1.0  # seconds, from the first part of the body that is dropped


class HTTPCycle(Cycle):
    """One request and its response, as the application sees them."""

    if TYPE_CHECKING:  # what begin() does not set begins as None, 0 or False
        _state: int  # EXPECT_START at first
        _headers: list[Any] | None  # while the head is held
        _streams_events: bool
        _body_begun: bool
        _trailers: list[Any] | None  # received so far; None if none are due
        _file: FileBody | None  # while it is being sent
        _body: bytes | None
        _more_body: list[bytes] | None
        _body_size: int
        _request_complete: bool
        _body_delivered: bool
        _droppable: int  # bytes that may still be sent once the client is gone
        _dropping_since: float

    def begin(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        Cycle.begin(self, scope, stream, context)
        self.counted = True
        self._droppable = DROPPED_MAX

    # --- The application's side ---------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """Return http.request with the body that has arrived, later http.disconnect."""
        self.context.expect_own_thread()
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
        """Accept http.response.start and http.response.body, and early_hint, pathsend, zerocopysend
        and trailers of the extensions.
        """
        fields: dict[str, Any] = message if type(message) is dict else as_dict(message)
        if self._gone and self._state != COMPLETE:
            self._drop(fields)
            return self._state == COMPLETE or self.may_go_on()
        if self._state == EXPECT_START:
            self._start(fields)
            return True
        if fields.get("type") != "http.response.body":
            return self._send_extension(fields)
        self._send_body(fields)
        return self._state == COMPLETE or self.may_go_on()

    def _send_extension(self, message: dict[str, Any]) -> bool:
        """Accept a message of an extension, which replaces a body message or follows the body."""
        kind = message.get("type")
        expects_body = self._state == EXPECT_FIRST_BODY or self._state == EXPECT_BODY
        if kind == "http.response.early_hint" and expects_body:
            self._hint(message)
            return True
        if kind == "http.response.pathsend" and expects_body and not self._body_begun:
            self._require_offered(kind)
            self._begin_file(open_path(message))
            return self.proceed(False)
        if kind == "http.response.zerocopysend" and expects_body:
            self._require_offered(kind)
            self._begin_file(open_duplicate(message))
            return self.proceed(False)
        if kind == "http.response.trailers" and self._state == EXPECT_TRAILERS:
            self._end_with_trailers(message)
            return True
        raise LocalProtocolError(self._unexpected(kind))

    def _require_offered(self, kind: str) -> None:
        """Check that the scope offers an extension.

        Raises:
            LocalProtocolError: it does not.
        """
        if kind not in self.context.settings.offered:
            option = kind.removeprefix("http.response.")
            raise LocalProtocolError(f"{kind!r} is not offered: it needs the option --{option}")

    def _unexpected(self, kind: Any) -> str:
        if self._state == COMPLETE:
            return f"got {kind!r:.100} after the response was complete"
        if self._state == EXPECT_FILE:
            return f"got {kind!r:.100} while a file is being sent"
        part = "trailers" if self._state == EXPECT_TRAILERS else "body"
        return f"expected 'http.response.{part}', got {kind!r:.100}"

    def proceed(self, waited: bool) -> bool:
        """Send the next pieces of the file, if one is being sent."""
        if self._gone:
            self._close_file()
            self._report_disconnect()
            return True
        if self._file is None:
            return self.stream.is_writable()
        done = False
        try:
            done = self._send_pieces()
        finally:
            if done or self._state == COMPLETE:
                self._close_file()
        return done and (self._state == COMPLETE or self.may_go_on())

    def _start(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind != "http.response.start":
            if kind != "http.response.early_hint":
                raise LocalProtocolError(f"expected 'http.response.start', got {kind!r:.100}")
            self._hint(message)
            return
        status = status_of(message)
        headers = headers_of(message)
        self.stream.start(status, headers)
        self._trailers = trailers_of(message)
        self._headers = headers
        self._state = EXPECT_FIRST_BODY

    def _hint(self, message: dict[str, Any]) -> None:
        """Send 103 Early Hints (RFC 8297), unless the final response has begun."""
        links = list_of(message, "links")
        if links:
            self.stream.inform(103, [(b"link", link) for link in links])

    def _send_body(self, message: dict[str, Any]) -> None:
        if self._state >= COMPLETE:
            raise LocalProtocolError(self._unexpected("http.response.body"))
        body = body_of(message)
        end = not message.get("more_body", False)
        before_trailers = end and self._trailers is not None
        cut = end and self._cancelled and self._state == EXPECT_BODY
        if before_trailers or cut:
            end = False
        if self._state == EXPECT_FIRST_BODY and not end:
            self._begin_body()
        self._body_begun = True
        self.stream.write(body, end)
        self.count(len(body))
        if end:
            self.on_over()
        elif cut:
            self._cut()
        elif before_trailers:
            self._state = EXPECT_TRAILERS

    def _begin_body(self) -> None:
        """Note that the head leaves before the body is complete."""
        self._state = EXPECT_BODY
        self._streams_events = is_event_stream(self._headers or [])
        self._headers = None
        if self.context.draining:
            self.on_drain()

    def _cut(self) -> None:
        """End an incomplete response so that the client can see that it is incomplete."""
        self._state = COMPLETE
        self.stream.cut()
        self.on_over()

    def _end_with_trailers(self, message: dict[str, Any]) -> None:
        """Collect trailer fields; the last trailers message ends the response."""
        assert self._trailers is not None
        trailers = [*self._trailers, *headers_of(message)]
        if message.get("more_trailers", False):
            self._trailers = trailers
            return
        self.stream.write_trailers(trailers)
        self.on_over()

    # --- A client that is gone ----------------------------------------------------------------

    def _report_disconnect(self) -> None:
        """Raise for a client that is gone, if the offered version of ASGI has send() do so.

        Raises:
            ClientDisconnected: the version is 2.4 or later.
        """
        if self.context.settings.raises_when_gone:
            raise ClientDisconnected("the client is gone")

    def _drop(self, message: dict[str, Any]) -> None:
        """Drop a message for a client that is gone. The application may finish its response, but
        not go on for ever.

        Raises:
            ClientDisconnected: the application has sent more than it may, or for too long.
        """
        self._report_disconnect()
        kind = message.get("type")
        if kind == "http.response.start":
            self._trailers = trailers_of(message)
            self._droppable = max(DROPPED_MAX, announced_by(headers_of(message)))
        elif kind == "http.response.trailers":
            if not message.get("more_trailers", False):
                self._state = COMPLETE
        elif kind != "http.response.early_hint":
            if not message.get("more_body", False):
                self._state = COMPLETE if self._trailers is None else EXPECT_TRAILERS
                return
            now = monotonic()
            if self._dropping_since == 0.0:
                self._dropping_since = now
            elif self._droppable <= 0 or now - self._dropping_since > DROPPED_TIME:
                raise ClientDisconnected("the client is gone")
            size = len(body_of(message))
            self._droppable -= size
            self.count(size)

    # --- A file as the body -------------------------------------------------------------------

    def _begin_file(self, file: FileBody) -> None:
        """Send the head if it has not been sent; _send_pieces() sends the file."""
        self._file = file
        try:
            length = self.stream.announced()
            if file.is_whole and length >= 0:
                file.left = length
            if self._state == EXPECT_FIRST_BODY:
                if file.is_last and length < 0 and self._trailers is None:
                    self.stream.announce(file.left)
                self._begin_body()
                self.stream.write(b"", False)
        except BaseException:
            self._close_file()
            raise
        self._body_begun = True
        self._state = EXPECT_FILE

    def _send_pieces(self) -> bool:
        """Send as much of the file as may be sent now; return whether all of it has been sent."""
        file = self._file
        assert file is not None
        while file.left > 0:
            if not self.may_go_on():
                return False
            sent = file.send_piece(self.stream)
            if self._gone:
                self._report_disconnect()
                return True
            self.count(sent)
            if sent == 0 and self.stream.is_writable():
                break  # the file has become shorter
        file.advance_original()
        self._state = EXPECT_BODY
        if file.is_last:
            if self._trailers is not None:
                self._state = EXPECT_TRAILERS
                return True
            self._state = COMPLETE
            self.stream.write(b"", True)
            self.on_over()
        return True

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- The stream's side --------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self._body is None:
            self._body = data
        elif self._more_body is None:
            self._more_body = [data]
        else:
            more = self._more_body
            last = len(more) - 1
            if len(data) < SMALL_PIECE and len(more[last]) < JOIN_MAX:
                more[last] += data
            else:
                more.append(data)
        self._body_size += len(data)
        self.wake_readers()

    def on_end(self) -> None:
        self._request_complete = True
        self.wake_readers()

    def on_closed(self) -> None:
        self._droppable = max(DROPPED_MAX, self.stream.announced())
        self._close_file()
        Cycle.on_closed(self)

    def on_over(self) -> None:
        self._state = COMPLETE
        self.wake_readers()
        self.on_writable()  # wakes other tasks that wait to send

    def on_turn_end(self) -> None:
        Cycle.on_turn_end(self)
        if self._state == EXPECT_FIRST_BODY:
            self._begin_body()
            self.stream.write(b"", False)

    def on_drain(self) -> None:
        # An event stream never ends by itself. Events that it still sends reach the client.
        if self._state == EXPECT_BODY and self._streams_events:
            self.on_disconnect()

    def on_return(self, exc: BaseException | None) -> None:
        self._close_file()
        if exc is not None:
            self.log_raised(exc)
        if self._state == COMPLETE or self._gone:
            return
        if self._state == EXPECT_BODY and self._was_told_to_end(exc):
            # The client gets everything that was sent, and can see that it is incomplete.
            self._cut()
            return
        if exc is None and self._disconnected and self._state < EXPECT_BODY:
            # receive() has told the application that nobody waits for a response.
            self._state = COMPLETE
            self.stream.reset()
            return
        if exc is None:
            error_logger.error(
                "ASGI application returned without %s response (%s)",
                "starting a" if self._state < EXPECT_BODY else "completing its",
                self.title(),
            )
        self._fail()

    # --- Parts --------------------------------------------------------------------------------

    def _was_told_to_end(self, exc: BaseException | None) -> bool:
        """Whether the application returned or raised because its client is gone or the server shuts
        down.
        """
        if self.context.draining and (self._disconnected or self._streams_events):
            return True  # thestral.shutdown_event() may have told an event stream
        return self._disconnected and (exc is None or self.is_disconnect(exc))

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
        """End a response that the application did not complete: 500, or 504 after timeout_request,
        if nothing has been sent. Otherwise the client gets what was sent, and can see that it is
        incomplete.
        """
        if self._state >= EXPECT_BODY:
            self._cut()
            return
        self._state = COMPLETE
        if self._timed_out:
            self.stream.respond(504, PLAIN_TEXT, b"Gateway Timeout")
        else:
            self.stream.respond(500, PLAIN_TEXT, b"Internal Server Error")
        self.wake_readers()

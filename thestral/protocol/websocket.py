# cython: binding=True
# A built-in function would not be taken for a coroutine function: receive().
"""WebSocketCycle: receive() and send() for one websocket scope (ASGI 2.5), over a stream's tunnel
(RFC 6455).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from thestral._core.websocket import Event, FrameParser, FrameWriter, is_close_code
from thestral.errors import ClientDisconnected, LocalProtocolError, RemoteProtocolError
from thestral.logging.loggers import error_logger
from thestral.logging.names import client_address, with_id
from thestral.logging.running import about
from thestral.protocol.connection import Cycle
from thestral.protocol.exchange import PLAIN_TEXT
from thestral.protocol.handshake import agree_on_deflate
from thestral.protocol.messages import as_dict, body_of, headers_of, status_of
from thestral.protocol.scope import websocket_scope

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral.protocol.connection import Stream
    from thestral.protocol.context import WorkerContext
    from thestral.protocol.handshake import Deflate

MESSAGE = int(Event.MESSAGE)
PING = int(Event.PING)
CLOSE = int(Event.CLOSE)

# States of the connection.
CONNECTING = 0  # the application has not answered
DENYING = 1  # the denial's head is held until the first part of its body, or the end of the turn
DENIED = 2  # the denial's head has been sent
OPEN = 3
CLOSING = 4  # the server has sent its Close, and waits for the client's
CLOSED = 5

# Close codes, RFC 6455 section 7.4.1.
NORMAL = 1000
ABNORMAL = 1006
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
LONGEST_REASON = 123  # bytes
# How long the application may answer messages that arrived before a faulty frame. Then the server
# sends Close with the fault's code.
ANSWER_GRACE = 1.0  # seconds
# In a shutdown, how long the server waits for a client to answer its Close.
DRAIN_CLOSE_TIMEOUT = 2.0  # seconds
# With more applications than this running in a worker, each message is compressed independently: a
# window of the server is 32 KiB with the default options, and a compressor may start a new one at
# any time. Connections are not counted, because one of HTTP/2 carries many WebSockets.
MANY = 1000

# Fields of the response to a handshake that only the server may send.
RESERVED_FIELDS = (b"upgrade", b"connection", b"content-length", b"transfer-encoding")


class WebSocketCycle(Cycle):
    """One WebSocket, as the application sees it.

    Messages are read ahead of receive() until ws_max_queue or ws_max_queue_size is reached; then
    further frames wait as bytes, and the stream stops reading.
    """

    def __init__(
        self,
        scope: dict[str, Any],
        stream: Stream,
        context: WorkerContext,
        deflate: Deflate | None,
    ) -> None:
        super().__init__(scope, stream, context)
        settings = context.settings.websocket
        assert settings is not None
        self._parser = FrameParser(settings.max_size)
        self._writer = FrameWriter()
        self._deflate = deflate
        self._max_queue = settings.max_queue
        self._max_queue_size = settings.max_queue_size
        self._state = CONNECTING
        self._counted = False  # as open, by the metrics
        self._queue: deque[str | bytes] = deque()
        self._queue_size = 0  # bytes, or characters of text
        self._held = 0  # bytes received that have not been read as frames
        self._fault: RemoteProtocolError | None = None  # fails the connection after the answers
        self._pong: bytes | None = None  # payload of the newest Ping that has no Pong yet
        self._code = ABNORMAL
        self._reason = ""
        self._connect_delivered = False
        self._disconnect_delivered = False
        self._heard = True  # the client has sent something since the last Ping
        self._sent = False  # the application has sent something since the last Ping
        self._ping_at = 0.0
        self._dead_at = 0.0  # the deadline for the client to send anything; 0.0 for none
        self._close_by = 0.0  # the deadline for the client to answer the server's Close

    # --- The application's side ---------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """Return websocket.connect, then messages, then websocket.disconnect, once.

        Raises:
            LocalProtocolError: receive() has already returned websocket.disconnect.
        """
        self.context.expect_own_thread()
        if not self._connect_delivered:
            self._connect_delivered = True
            return {"type": "websocket.connect"}
        while not self._queue:
            if self._fault is not None:
                self._fail_late()
            if self._disconnected:
                if self._disconnect_delivered:
                    raise LocalProtocolError("receive() called after 'websocket.disconnect'")
                self._disconnect_delivered = True
                return {
                    "type": "websocket.disconnect",
                    "code": self._code,
                    "reason": self._reason,
                }
            await self.until_readable()
        message = self._queue.popleft()
        self._queue_size -= len(message)
        if self._held:
            self._read(True)
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    def take(self, message: Any) -> bool:
        """Accept websocket.accept, send and close, and the two messages of a denial response."""
        if type(message) is not dict:
            message = as_dict(message)
        kind = message.get("type")
        if self._gone:
            if kind == "websocket.close":
                return True  # the connection is already closed
            raise ClientDisconnected("the client is gone")
        if self._state == OPEN and kind == "websocket.send":
            self._send_message(message)
        elif self._state == OPEN and kind == "websocket.close":
            self._close_by_app(message)
        elif self._state == CONNECTING and kind == "websocket.accept":
            self._accept(message)
        elif self._state == CONNECTING and kind == "websocket.close":
            self._refuse(403, [], b"")
        elif self._state == CONNECTING and kind == "websocket.http.response.start":
            self.stream.start(status_of(message), headers_of(message))
            self._state = DENYING
        elif self._state in (DENYING, DENIED) and kind == "websocket.http.response.body":
            self._deny(message)
        else:
            raise LocalProtocolError(self._unexpected(kind))
        return self._state >= CLOSING or self._gone or self.may_go_on()

    def _unexpected(self, kind: Any) -> str:
        if self._state >= CLOSING:
            return f"got {kind!r:.100} after the connection was closed"
        expected = {
            CONNECTING: "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'",
            OPEN: "'websocket.send' or 'websocket.close'",
        }.get(self._state, "'websocket.http.response.body'")
        return f"expected {expected}, got {kind!r:.100}"

    def _send_message(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        data = message.get("bytes")
        if (text is None) == (data is None):
            raise LocalProtocolError("websocket.send: expected exactly one of 'text' and 'bytes'")
        if data is None:
            if not isinstance(text, str):
                raise LocalProtocolError(
                    f"websocket.send: text is {type(text).__name__}, expected str"
                )
            data = text
        elif type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise LocalProtocolError(
                    f"websocket.send: bytes is {type(data).__name__}, expected bytes"
                )
            data = bytes(data)
        self._sent = True
        self.stream.write(self._writer.message(data), False)
        self.count(len(data))
        if self._counted and self.context.metrics is not None:
            self.context.metrics.send_message(data)
        if len(self.context.cycles) > MANY:
            self._writer.forget()

    def _accept(self, message: dict[str, Any]) -> None:
        """Switch protocols (RFC 6455 section 4.2.2)."""
        fields = []
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if not isinstance(subprotocol, str):
                raise LocalProtocolError(
                    f"websocket.accept: subprotocol is {type(subprotocol).__name__}, expected str"
                )
            if subprotocol in self.scope["subprotocols"]:
                fields.append((b"sec-websocket-protocol", subprotocol.encode()))
            else:  # the client would have to fail the connection (section 4.1)
                self.context.refusals.warn_once(
                    "websocket.accept: the client did not offer subprotocol %.100r: accepted"
                    " without one (%s). This is logged once.",
                    subprotocol,
                    self.title(),
                )
        deflate = self._deflate
        if deflate is not None:
            fields.append((b"sec-websocket-extensions", deflate.response))
        for pair in headers_of(message):
            fields.append(allowed_field(pair))
        self.stream.open_tunnel(fields)
        settings = self.context.settings.websocket
        assert settings is not None
        if deflate is not None:
            self._parser.use_deflate(deflate.client_window_bits, deflate.client_takeover)
            self._writer.use_deflate(
                deflate.server_window_bits,
                deflate.server_takeover,
                deflate.settings.level,
                deflate.settings.memory_level,
                deflate.settings.min_size,
            )
        self._state = OPEN
        if self.context.metrics is not None:
            self._counted = True
            self.context.metrics.open_websocket()
        if self.context.timeouts.ws_ping_interval:
            self._ping_at = self.context.clock.after(self.context.timeouts.ws_ping_interval)
            self._set_deadline()
        if self._held:  # frames that the client has sent without waiting for the answer
            self._read(False)
        if self.context.draining:
            self.on_drain()

    def _deny(self, message: dict[str, Any]) -> None:
        """Send a part of the body of a denial response."""
        body = body_of(message)
        end = not message.get("more_body", False)
        self._state = DENIED
        try:
            self.stream.write(body, end)
        except LocalProtocolError:  # the body does not have the announced length
            self._state = CLOSED
            self._disconnect(ABNORMAL, "")
            raise
        if end:
            self._state = CLOSED
            self._disconnect(ABNORMAL, "")

    def _close_by_app(self, message: dict[str, Any]) -> None:
        code = message.get("code", NORMAL)
        code = NORMAL if code is None else code
        reason = message.get("reason")
        reason = "" if reason is None else reason
        if not isinstance(code, int) or not -1 < code < 65536 or not is_close_code(code):
            raise LocalProtocolError(f"websocket.close: code {code!r:.100} may not be sent")
        if not isinstance(reason, str):
            raise LocalProtocolError(f"websocket.close: reason {reason!r:.100} is not a str")
        reason = str.__str__(reason)  # the value, also of a member of a string enumeration
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as error:
            raise LocalProtocolError(
                f"websocket.close: reason cannot be sent as UTF-8: {error.reason}"
            ) from None
        if size > LONGEST_REASON:
            raise LocalProtocolError(
                f"websocket.close: reason has {size} bytes, expected at most {LONGEST_REASON}"
            )
        self._start_close(code, reason)

    # --- The stream's side --------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        self._heard = True
        if self._fault is not None:
            self.stream.consumed(len(data))
            return
        self._held += len(data)
        self._parser.feed(data)
        if self._state >= OPEN:
            self._read(False)

    def on_end(self) -> None:
        """Do nothing: the handshake has no body."""

    def on_disconnect(self) -> None:
        """End the handshake: a client that has closed its side will never send a frame."""
        self.on_closed()
        self.stream.reset()

    def on_closed(self) -> None:
        opened = self._state >= OPEN
        self._state = CLOSED
        self._gone = True
        if self._fault is not None:
            self._fail_late()
        elif not (self._held and opened):
            self._disconnect(ABNORMAL, "")
        Cycle.on_writable(self)

    def on_turn_end(self) -> None:
        Cycle.on_turn_end(self)
        if self._state == DENYING:
            self._state = DENIED
            self.stream.write(b"", False)

    def on_writable(self) -> None:
        if self._pong is not None and self._state == OPEN:
            self.stream.write(self._writer.pong(self._pong), False)
        self._pong = None
        Cycle.on_writable(self)

    def on_deadline(self) -> None:
        """Handle the earliest deadline: a Ping is due, the client has sent nothing since the last
        Ping, the client has not answered the server's Close, or the application's time to answer
        before a fault is over.
        """
        context = self.context
        now = context.clock.now
        if self._state == CLOSING:
            context.count_timeout("ws_close")
            self._state = CLOSED
            self.stream.reset()
            return
        if self._state != OPEN:
            return
        if self._fault is not None:
            self._fail_late()
            return
        if self._heard or self._held:
            self._dead_at = 0.0
        if 0.0 < self._dead_at <= now:
            context.count_timeout("ws_ping")
            self._fail(INTERNAL_ERROR, "keepalive ping timeout")
            return
        if self._ping_at <= now:
            self._ping_at = context.clock.after(context.timeouts.ws_ping_interval)
            if not self._sent:
                self._writer.forget()  # the window is the largest part of an idle connection
            self._sent = False
            if self.stream.is_writable():
                self.stream.write(self._writer.ping(), False)
                if context.timeouts.ws_ping_timeout and self._dead_at == 0.0:
                    self._heard = False
                    self._dead_at = context.clock.after(context.timeouts.ws_ping_timeout)
        self._set_deadline()

    def on_drain(self) -> None:
        if self._state == OPEN:
            self._gone = True
            self._start_close(SERVICE_RESTART, "")
            Cycle.on_writable(self)
        if self._state == CLOSING:
            latest = self.context.clock.after(DRAIN_CLOSE_TIMEOUT)
            self._await_close(min(self._close_by, latest))

    def on_return(self, exc: BaseException | None) -> None:
        if exc is not None:
            self.log_raised(exc)
        if self._state == CLOSED:
            self._count_end(self._code)  # if the application has not read what came before the end
        if self._state < DENIED:
            if exc is None:
                error_logger.error(
                    "ASGI application returned without answering the handshake (%s)", self.title()
                )
            self._refuse(500, PLAIN_TEXT, b"Internal Server Error")
        elif self._state == DENIED:
            if exc is None:
                error_logger.error(
                    "ASGI application returned without completing its response (%s)", self.title()
                )
            self._state = CLOSED
            self.stream.cut()
        elif self._state == OPEN:
            self._start_close(NORMAL if exc is None else INTERNAL_ERROR, "")

    # --- Reading ------------------------------------------------------------------------------

    def _read(self, answering: bool) -> None:
        """Read frames while the queue has room for their messages.

        Args:
            answering: whether the application is about to get a message that it may answer.
        """
        parser = self._parser
        try:
            while len(self._queue) < self._max_queue and self._queue_size < self._max_queue_size:
                event = parser.next_event()
                if event == MESSAGE:
                    self._queue_message(parser.read_message())
                elif event == PING:
                    self._answer_ping(parser.read_control())
                elif event == CLOSE:
                    code = parser.close_code
                    reason = parser.read_control()
                    self._end(code, reason.decode(), self._writer.close(code, reason))
                else:
                    break
        except RemoteProtocolError as error:
            self._on_fault(error, answering or bool(self._queue))
        left = 0 if self._fault is not None else parser.left()
        taken = self._held - left
        self._held -= taken
        self.stream.consumed(taken)
        if self._gone and not self._held:
            self._disconnect(ABNORMAL, "")

    def _queue_message(self, message: Any) -> None:
        if self._disconnected:
            return  # the connection is closing: drop the message
        if self.context.metrics is not None:
            self.context.metrics.receive_message(message)
        self._queue.append(message)
        self._queue_size += len(message)
        self.wake_readers()

    def _on_fault(self, error: RemoteProtocolError, answering: bool) -> None:
        """Fail the connection for a faulty frame, but let the application first answer the complete
        messages in front of it.

        Args:
            answering: whether the application has such messages, or is about to get one.
        """
        context = self.context
        if self._state == OPEN:
            trace = self.stream.trace
            context.refusals.info(
                context.clock.now,
                "Closed the WebSocket of %s with %d: %s%s",
                client_address(self.stream.connection) or "a client",
                error.status,
                error.reason,
                with_id(trace),
                extra=about(trace),
            )
            if answering:
                self._fault = error
                self.stream.wake_at(context.clock.after(ANSWER_GRACE))
                return
        self._fail(error.status, error.reason)

    def _answer_ping(self, payload: bytes) -> None:
        """Send a Pong, or keep its payload until the client reads again: then only the newest Ping
        is answered (section 5.5.3).
        """
        if self._state != OPEN:
            return
        if self.stream.is_writable():
            self.stream.write(self._writer.pong(payload), False)
        else:
            self._pong = payload

    # --- Ending -------------------------------------------------------------------------------

    def _refuse(self, status: int, headers: Any, body: bytes) -> None:
        """Answer the handshake with a complete response instead of a 101."""
        self._state = CLOSED
        self._disconnect(ABNORMAL, "")
        self.stream.respond(status, headers, body)

    def _start_close(self, code: int, reason: str) -> None:
        """Send Close, and wait for the client's for ws_close_timeout (section 7.1.2)."""
        if self._fault is not None:
            self._fail_late()  # the fault's code says why, whoever closes (section 7.1.7)
            return
        self._state = CLOSING
        self._queue.clear()
        self._queue_size = 0
        self._disconnect(code, reason)
        self.stream.write(self._writer.close(code, reason.encode()), False)
        self._await_close(self.context.clock.after(self.context.timeouts.ws_close_timeout))
        if self._held:
            self._read(False)

    def _await_close(self, by: float) -> None:
        self._close_by = by
        self.stream.wake_at(by)

    def _fail_late(self) -> None:
        """Fail the connection for the fault that has waited for the application."""
        fault = self._fault
        assert fault is not None
        self._fault = None
        self._fail(fault.status, fault.reason)

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (section 7.1.7)."""
        self._end(code, reason, self._writer.close(code, reason.encode()))

    def _end(self, code: int, reason: str, frame: bytes) -> None:
        """Close the connection and read nothing more. Send `frame`, unless the server has already
        sent Close.
        """
        state = self._state
        self._state = CLOSED
        self._gone = True
        self._disconnect(code, reason)
        if state == OPEN:
            self.stream.write(frame, True)
        elif state == CLOSING:
            self.stream.write(b"", True)
        Cycle.on_writable(self)

    def _disconnect(self, code: int, reason: str) -> None:
        """Set the code and reason of websocket.disconnect, unless they have been set."""
        if not self._disconnected:
            self._disconnected = True
            self._code = code
            self._reason = reason
            self._count_end(code)
        self.wake_readers()

    def _count_end(self, code: int) -> None:
        if self._counted and self.context.metrics is not None:
            self._counted = False
            self.context.metrics.close_websocket(code)

    def _set_deadline(self) -> None:
        """Have on_deadline() called when the next Ping is due, or when the client must have reacted
        to the last one, if that is earlier.
        """
        if 0.0 < self._dead_at < self._ping_at:
            self.stream.wake_at(self._dead_at)
        else:
            self.stream.wake_at(self._ping_at)


def begin_websocket(stream: Stream, head: RequestHead, scope: dict[str, Any]) -> None:
    """Create the cycle of a handshake that its protocol has checked, and attach it to the stream.

    Raises:
        RemoteProtocolError: a field that offers subprotocols or extensions is malformed.
    """
    context = stream.connection.context
    settings = context.settings.websocket
    assert settings is not None
    deflate = agree_on_deflate(head.headers, settings.deflate) if settings.deflate else None
    stream.attach(WebSocketCycle(websocket_scope(scope), stream, context, deflate))


def allowed_field(pair: Any) -> Any:
    """Return a field of websocket.accept unchanged, if the application may send it. The writer
    checks whether the field is valid.

    Raises:
        LocalProtocolError: only the server may send this field.
    """
    name = pair[0] if isinstance(pair, (tuple, list)) and pair else None
    if isinstance(name, (bytes, bytearray, memoryview)):
        name = bytes(name)
        lower = name.lower()
        if lower in RESERVED_FIELDS or lower.startswith(b"sec-websocket-"):
            raise LocalProtocolError(
                f"websocket.accept: header {name[:100]!r} may only be sent by the server"
            )
    return pair

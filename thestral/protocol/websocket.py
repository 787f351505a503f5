"""WebSocketCycle: receive() and send() of one websocket scope (ASGI 2.5), over a stream's tunnel
(RFC 6455).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from thestral._core.websocket import Event, FrameParser, FrameWriter, is_close_code
from thestral.errors import ClientDisconnected, LocalProtocolError, RemoteProtocolError
from thestral.logging.loggers import error_logger
from thestral.logging.names import client_address
from thestral.protocol.connection import Cycle
from thestral.protocol.cycle import (
    PLAIN_TEXT,
    as_dict,
    body_of,
    headers_of,
    status_of,
)

if TYPE_CHECKING:
    from thestral.protocol.connection import Stream
    from thestral.protocol.context import WorkerContext
    from thestral.protocol.handshake import Deflate

MESSAGE = int(Event.MESSAGE)
PING = int(Event.PING)
CLOSE = int(Event.CLOSE)

# What has become of the connection.
CONNECTING = 0  # the application has not answered
DENYING = 1  # the head of a denial is held: it leaves with its body's first part, or the turn's end
DENIED = 2  # the head of a denial has been sent
OPEN = 3
CLOSING = 4  # our Close is sent, the client's awaited
CLOSED = 5

# Close codes, RFC 6455 section 7.4.1.
NORMAL = 1000
ABNORMAL = 1006
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
LONGEST_REASON = 123  # bytes
# What came whole before a faulty frame may be answered for so long; then the fault's Close leaves.
ANSWER_GRACE = 1.0  # seconds
# At a shutdown a client that does not answer our Close holds the exit no longer than this.
DRAIN_CLOSE_TIMEOUT = 2.0  # seconds
# With more connections than this in a worker, each message is compressed on its own: our windows
# are 32 KiB each with the default options, and a new one may begin at any time.
MANY_CONNECTIONS = 1000

# Fields of a handshake's answer that are the server's to send.
OWN_FIELDS = (b"upgrade", b"connection", b"content-length", b"transfer-encoding")


class WebSocketCycle(Cycle):
    """One WebSocket, as the application sees it.

    Messages are read ahead of receive() until ws_max_queue or ws_max_queue_size is reached; then
    the frames behind them wait as bytes, and the stream stops reading.
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
        self._queue: deque[str | bytes] = deque()
        self._queue_size = 0  # bytes, or characters of text
        self._held = 0  # bytes of frames that are not read yet
        self._fault: RemoteProtocolError | None = None  # fails the connection after the answers
        self._pong: bytes | None = None  # owed to the newest Ping
        self._code = ABNORMAL
        self._reason = ""
        self._connect_delivered = False
        self._disconnect_delivered = False
        self._heard = True  # since the last Ping
        self._sent = False  # since the last Ping
        self._ping_at = 0.0
        self._dead_at = 0.0  # unless something is heard
        self._close_by = 0.0  # when a client is given up that has not answered our Close

    # --- The application's side ---------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """websocket.connect, then messages, then one websocket.disconnect.

        Raises:
            LocalProtocolError: it has been called after websocket.disconnect.
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
                    raise LocalProtocolError("receive() after 'websocket.disconnect'")
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
        """Of websocket.accept, send, close, and the parts of a denial."""
        if type(message) is not dict:
            message = as_dict(message)
        kind = message.get("type")
        if self._gone:
            if kind == "websocket.close":
                return True  # the connection is over, which is all that it asks for
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
            raise LocalProtocolError("websocket.send: expected either 'text' or 'bytes'")
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
        if len(self.context.connections) > MANY_CONNECTIONS:
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
            else:  # a client must fail the connection if it is told one (section 4.1)
                self.context.refusals.warn_once(
                    "websocket.accept: subprotocol %.100r was not offered by the client: accepted"
                    " without one (%s). This is told once.",
                    subprotocol,
                    self.title(),
                )
        deflate = self._deflate
        if deflate is not None:
            fields.append((b"sec-websocket-extensions", deflate.response))
        for pair in headers_of(message):
            fields.append(allowed(pair))
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
        if self.context.timeouts.ws_ping_interval:
            self._ping_at = self.context.clock.after(self.context.timeouts.ws_ping_interval)
            self._arm()
        if self.context.draining:
            self.on_drain()

    def _deny(self, message: dict[str, Any]) -> None:
        """The body of a response in place of the handshake's."""
        body = body_of(message)
        end = not message.get("more_body", False)
        self._state = DENIED
        try:
            self.stream.write(body, end)
        except LocalProtocolError:  # it is not as long as announced
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
        reason = str.__str__(reason)  # of an enumeration, too
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as error:
            raise LocalProtocolError(
                f"websocket.close: reason cannot be sent as UTF-8: {error.reason}"
            ) from None
        if size > LONGEST_REASON:
            raise LocalProtocolError(
                f"websocket.close: reason has {size} bytes, at most {LONGEST_REASON} fit"
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
        self._read(False)

    def on_end(self) -> None:
        """The handshake has no body."""

    def on_disconnect(self) -> None:
        """The client closes its side during the handshake: it will never send a frame."""
        self.on_closed()
        self.stream.reset()

    def on_closed(self) -> None:
        self._state = CLOSED
        self._gone = True
        if self._fault is not None:
            self._fail_late()
        elif not self._held:
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
        """The client has not closed in time, or a Ping is due, or has had no echo; or the
        application has had its time to answer in front of a fault.
        """
        context = self.context
        now = context.clock.now
        if self._state == CLOSING:
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
            self._fail(INTERNAL_ERROR, "keepalive ping timeout")
            return
        if self._ping_at <= now:
            self._ping_at = context.clock.after(context.timeouts.ws_ping_interval)
            if not self._sent:
                self._writer.forget()  # its window is the largest part of an idle connection
            self._sent = False
            if self.stream.is_writable():
                self.stream.write(self._writer.ping(), False)
                if context.timeouts.ws_ping_timeout and self._dead_at == 0.0:
                    self._heard = False
                    self._dead_at = context.clock.after(context.timeouts.ws_ping_timeout)
        self._arm()

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
        """Read frames while there is room for their messages.

        Args:
            answering: whether the application is about to get a message that it may answer.
        """
        parser = self._parser
        try:
            while len(self._queue) < self._max_queue and self._queue_size < self._max_queue_size:
                event = parser.next_event()
                if event == MESSAGE:
                    self._take_message(parser.read_message())
                elif event == PING:
                    self._answer(parser.read_control())
                elif event == CLOSE:
                    code = parser.close_code
                    reason = parser.read_control()
                    self._end(code, reason.decode(), self._writer.close(code, reason))
                else:
                    break
        except RemoteProtocolError as error:
            self._take_fault(error, answering or bool(self._queue))
        left = 0 if self._fault is not None else parser.left()
        taken = self._held - left
        self._held -= taken
        self.stream.consumed(taken)
        if self._gone and not self._held:
            self._disconnect(ABNORMAL, "")

    def _take_message(self, message: Any) -> None:
        if self._disconnected:
            return  # it comes too late
        self._queue.append(message)
        self._queue_size += len(message)
        self.wake_readers()

    def _take_fault(self, error: RemoteProtocolError, answering: bool) -> None:
        """A frame is faulty: what came whole before it may still be answered."""
        context = self.context
        if self._state == OPEN:
            client = client_address(self.stream.connection) or "a client"
            context.refusals.info(
                context.clock.now,
                "Closed the WebSocket of %s with %d: %s",
                client,
                error.status,
                error.reason,
            )
            if answering:
                self._fault = error
                self.stream.wake_at(context.clock.after(ANSWER_GRACE))
                return
        self._fail(error.status, error.reason)

    def _answer(self, payload: bytes) -> None:
        """A Pong for a Ping; a client that reads none gets one for its newest (section 5.5.3)."""
        if self._state != OPEN:
            return
        if self.stream.is_writable():
            self.stream.write(self._writer.pong(payload), False)
        else:
            self._pong = payload

    # --- Ending -------------------------------------------------------------------------------

    def _refuse(self, status: int, headers: Any, body: bytes) -> None:
        """Answer the handshake with a short response."""
        self._state = CLOSED
        self._disconnect(ABNORMAL, "")
        self.stream.respond(status, headers, body)

    def _start_close(self, code: int, reason: str) -> None:
        """Send our Close, and give the client time for its own (section 7.1.2)."""
        if self._fault is not None:
            self._fail_late()  # its code says why, whoever closes (section 7.1.7)
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
        """Fail the connection for a fault that has waited."""
        fault = self._fault
        assert fault is not None
        self._fault = None
        self._fail(fault.status, fault.reason)

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (section 7.1.7)."""
        self._end(code, reason, self._writer.close(code, reason.encode()))

    def _end(self, code: int, reason: str, frame: bytes) -> None:
        """Nothing is read any more; `frame` is the last one, unless our Close went before."""
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
        """What receive() says at the end; the first to know decides."""
        if not self._disconnected:
            self._disconnected = True
            self._code = code
            self._reason = reason
        self.wake_readers()

    def _arm(self) -> None:
        """Have on_deadline() called for what comes first."""
        if 0.0 < self._dead_at < self._ping_at:
            self.stream.wake_at(self._dead_at)
        else:
            self.stream.wake_at(self._ping_at)


def allowed(pair: Any) -> Any:
    """A field of websocket.accept, unless it is the server's to send; whether it can be sent is
    the writer's to say.

    Raises:
        LocalProtocolError: it is the server's.
    """
    name = pair[0] if isinstance(pair, (tuple, list)) and pair else None
    if isinstance(name, (bytes, bytearray, memoryview)):
        name = bytes(name)
        lower = name.lower()
        if lower in OWN_FIELDS or lower.startswith(b"sec-websocket-"):
            raise LocalProtocolError(
                f"websocket.accept: header {name[:100]!r} is the server's to send"
            )
    return pair

"""HTTP/2 on a connection (RFC 9113): requests as they come, refusals, the end of the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thestral._core.http1 import reason_phrase
from thestral._core.http2 import ErrorCode, Event
from thestral.errors import RemoteProtocolError
from thestral.logging.names import client_address
from thestral.protocol.connection import Connection, Cycle
from thestral.protocol.cycle import HTTPCycle
from thestral.protocol.exchange import overloaded
from thestral.protocol.handshake import agree_on_deflate, check_version
from thestral.protocol.phases import (
    DRAIN_GRACE,
    FIRST_HEAD,
    HEAD,
    IDLE,
    LAST_CHANCE,
    LINGERING,
    RESPONDING,
)
from thestral.protocol.runner import start
from thestral.protocol.scope import http_scope, scope_template, websocket_scope
from thestral.protocol.streams import HTTP2Stream, Multiplexer
from thestral.protocol.websocket import WebSocketCycle

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral._core.socket import ReadBuffer
    from thestral.protocol.context import WorkerContext

HEAD_READ = int(Event.HEAD)
BODY_READ = int(Event.BODY)
END_READ = int(Event.END)
RESET_READ = int(Event.RESET)
REFUSED = int(Event.REFUSED)
PONG_READ = int(Event.PONG)
NO_ERROR = int(ErrorCode.NO_ERROR)
SETTINGS_TIMEOUT = int(ErrorCode.SETTINGS_TIMEOUT)
CANCEL = int(ErrorCode.CANCEL)
ENHANCE_YOUR_CALM = int(ErrorCode.ENHANCE_YOUR_CALM)
INADEQUATE_SECURITY = int(ErrorCode.INADEQUATE_SECURITY)

# Applications started after one read before other connections get their turn.
STARTS_PER_TURN = 64
# How long a client may take to acknowledge the server's settings while it has streams open.
SETTINGS_TIME = 10.0  # seconds
# How a connection ends: no GOAWAY has been sent; one that still allows new streams; the last.
SERVING = 0
RETIRING = 1
REFUSING = 2


class HTTP2Connection(Multiplexer):
    """One transport speaking HTTP/2. Pulls events from its codec, and starts the requests that came
    in one read when all of it has been read: one that the client has reset by then never starts.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = context.settings.http2
        assert settings is not None
        self._most = settings.max_streams
        self._ready: list[HTTP2Stream] = []  # their heads have come, their applications not begun
        self._at_work: list[Cycle] = []  # applications of streams that were reset
        self._ending = SERVING
        self._refuse_by = 0.0  # loop time of the last GOAWAY; 0.0 if it is not due
        self._settings_by = 0.0

    # --- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.open(transport)
        self.scope_template = scope_template(self)
        self.scope_template["http_version"] = "2"
        context = self.context
        self._settings_by = context.clock.after(SETTINGS_TIME)
        if 0 < context.settings.limit_connections < len(context.connections):
            if context.metrics is not None:
                context.metrics.refuse_connection()
            self._end(ENHANCE_YOUR_CALM, "too busy")
            return
        if uses_prohibited_suite(transport.get_extra_info("ssl_object")):
            self._end(INADEQUATE_SECURITY, "TLS 1.2 without an AEAD suite with ephemeral keys")
            return
        self.enter(FIRST_HEAD)
        self.write_control()
        self.expect_turn_end()

    def data_received(self, data: bytes) -> None:
        if not self.has_ended():
            self.count_received(len(data))
            self.take_over(data)

    def take_over(self, data: bytes) -> None:
        self.codec.feed(data, self.context.clock.now)
        self._read()

    def receive_from(self, buffer: ReadBuffer) -> None:
        """As data_received(), without a copy of what is used up within the call."""
        if self.has_ended():
            return
        codec = self.codec
        self.count_received(buffer.size)
        codec.borrow(buffer, self.context.clock.now)
        try:
            self._read()
        finally:
            codec.keep()

    def eof_received(self) -> bool:
        """The client sends no more, not even room for responses; what fits may still arrive."""
        self._eof = True
        if self.has_ended():
            return False
        self._hear_the_end()
        if not self.streams:
            return False
        self.expect_turn_end()
        return True

    def _hear_the_end(self) -> None:
        """Tell applications that the client sends no more; a request that is incomplete is over."""
        for stream in list(self.streams.values()):
            cycle = stream.cycle()
            if not stream.request_complete or stream.tunnel:
                self._drop(stream)
            elif stream.has_all():
                self._forsake(stream)
            elif cycle is not None:
                cycle.on_disconnect()

    def end_turn(self) -> None:
        if self._eof and self.waiting and not self.has_ended():
            self._drop_stuck()
        Multiplexer.end_turn(self)

    def _drop_stuck(self) -> None:
        """Reset streams whose output waits for a window that the client can no longer open."""
        for stream in list(self.waiting):
            if not stream.can_send():
                self._drop(stream)
        self.look_ahead()

    def abandon(self) -> None:
        for stream in list(self.streams.values()):
            cycle = stream.cycle()
            stream.count_abort()
            self.release(stream)
            if cycle is not None:
                cycle.on_closed()
        self._ready.clear()
        self._at_work.clear()
        self._touched.clear()
        self.waiting.clear()

    def pause_writing(self) -> None:
        self.write_paused = True
        self.codec.set_stalled(True)

    def writable(self) -> None:
        self.codec.set_stalled(False)
        self.write_control()
        self.pump()

    # --- Reading ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Go on with requests that wait to be started, or with output that waits to be sent."""
        self._scheduled = False
        if not self.has_ended():
            self._read()

    def _read(self) -> None:
        """Take all frames that have come, then start what they ask for; what is answered leaves in
        one write.
        """
        if self._corked:
            return
        context = self.context
        self._corked = True
        try:
            self._next()
            if self._ending == SERVING and context.draining and self.codec.last_id() > 0:
                self._retire()
            self._start_ready()
            self.pump()
        except RemoteProtocolError as error:
            self._fail(error)
        finally:
            self._corked = False
            self.write_control()
            self.look_ahead()
            self.end_turn()

    def _next(self) -> None:
        codec = self.codec
        while True:
            event = codec.next_event()
            if event == HEAD_READ:
                self._begin()
            elif event == BODY_READ:
                self._take_body()
            elif event == END_READ:
                self._end_request(self.streams.get(codec.stream()))
            elif event == RESET_READ:
                self._on_reset()
            elif event == REFUSED:
                self._on_refused()
            elif event == PONG_READ:
                if self._ending == RETIRING:
                    self._refuse_streams()
            else:
                return

    def look_ahead(self) -> None:
        """Go over to the phase that what has been read leads to."""
        if self.has_ended():
            return
        if self.codec.is_reading_head():
            if self._phase != HEAD and self._phase != FIRST_HEAD:
                self.enter(HEAD)
        elif self.streams:
            if self._phase != RESPONDING:
                self.enter(RESPONDING)
        elif self._ending == REFUSING or self._eof:
            self._end(NO_ERROR, "")
        elif self._ending == RETIRING or self.context.draining:
            if self._phase != LAST_CHANCE:
                self.enter(LAST_CHANCE)
        elif self._phase != IDLE:
            self._idle()

    def _idle(self) -> None:
        timeouts = self.context.timeouts
        if timeouts.keep_alive > 0.0:
            self.enter(IDLE)
        elif self.codec.last_id() > 0:
            self._end(NO_ERROR, "")
        else:  # a connection is not kept, but made for one request at least
            self.enter(IDLE)
            self.deadline = self.context.clock.after(timeouts.head)

    def _begin(self) -> None:
        """A head is complete: make its stream and cycle."""
        context = self.context
        codec = self.codec
        head = codec.read_head()
        stream: HTTP2Stream = HTTP2Stream.__new__(HTTP2Stream)
        stream.begin(self, codec.stream(), head)
        self._add(stream)
        context.total_requests += 1
        try:
            scope = http_scope(head, self)
            stream.scope = scope
            if context.metrics is not None:
                stream.measure(context.metrics, scope)
            stream.owes_continue = head.expect_continue
            stream.head_only = head.head_only
            access_log = context.access_log
            if access_log.enabled:
                stream.keep_request(scope, access_log.keeps_fields, access_log.timed)
            if head.websocket:
                self._begin_websocket(stream, head, scope)
            else:
                cycle: HTTPCycle = HTTPCycle.__new__(HTTPCycle)
                cycle.begin(scope, stream, context)
                stream.attach(cycle)
        except RemoteProtocolError as error:
            self._refuse(stream, error)
            return
        self._ready.append(stream)
        if codec.ended():
            self._end_request(stream)
        elif not head.websocket and not stream.owes_continue:
            stream.expect_body()

    def _add(self, stream: HTTP2Stream) -> None:
        self.streams[stream.id] = stream
        metrics = self.context.metrics
        if metrics is not None:
            metrics.open_stream()
        if self._phase != RESPONDING:  # also if the response is over before the end of the read
            self.enter(RESPONDING)

    def _begin_websocket(
        self, stream: HTTP2Stream, head: RequestHead, scope: dict[str, Any]
    ) -> None:
        """The head asks for a WebSocket by extended CONNECT (RFC 8441)."""
        settings = self.context.settings.websocket
        assert settings is not None
        check_version(head)
        deflate = agree_on_deflate(head.headers, settings.deflate) if settings.deflate else None
        stream.attach(WebSocketCycle(websocket_scope(scope), stream, self.context, deflate))

    def _take_body(self) -> None:
        codec = self.codec
        data = codec.read_body()
        stream = self.streams.get(codec.stream())
        if stream is None or stream.closing:
            codec.consumed(codec.stream(), len(data), False)
            return
        stream.owes_continue = False  # RFC 9110 section 10.1.1: the client has not waited
        stream.receive(len(data))
        stream.unconsumed += len(data)
        if not stream.tunnel:
            stream.expect_body()
        stream.cycle().on_data(data)

    def _end_request(self, stream: HTTP2Stream | None) -> None:
        if stream is None:
            return
        stream.request_complete = True
        if stream.closing:
            self.release(stream)
        elif stream.tunnel:
            self._drop(stream)
        else:
            stream.deadline = 0.0
            stream.cycle().on_end()
            stream.note_closed()

    def _on_reset(self) -> None:
        """The client has reset a stream, or the codec has, because of what the client sent."""
        error = self.codec.error()
        if error is not None:
            self._log_refusal("Reset a stream of", error)
        stream = self.streams.get(self.codec.stream())
        metrics = self.context.metrics
        if metrics is not None:
            code = self.codec.reset_code()
            if error is not None:
                metrics.send_reset(code)
            else:
                metrics.receive_reset(code)
        if stream is not None:
            stream.count_abort()
            self._forsake(stream)

    def _on_refused(self) -> None:
        codec = self.codec
        stream = self.streams.get(codec.stream())
        if stream is None:
            stream = HTTP2Stream.__new__(HTTP2Stream)
            stream.begin(self, codec.stream(), None)
            stream.head_only = codec.is_head()
            stream.request_complete = codec.ended()
            self._add(stream)
        elif codec.ended():
            stream.request_complete = True
        self._refuse(stream, codec.error())

    def _forsake(self, stream: HTTP2Stream) -> None:
        """End an exchange whose stream is reset. Its application counts until it has returned."""
        cycle = stream.cycle()
        self.release(stream)
        if cycle is not None:
            cycle.on_closed()
            if cycle.task is not None:
                self._at_work.append(cycle)

    def _drop(self, stream: HTTP2Stream) -> None:
        """Reset a stream whose client has ended too early."""
        self.send_reset(stream, CANCEL)
        stream.count_abort()
        self._forsake(stream)

    def _start_ready(self) -> None:
        """Start the applications of requests that have come and are still wanted.

        Not more run at once than streams may be open: a client that opens streams only to reset
        them would else start applications without end (CVE-2023-44487).
        """
        if not self._ready:
            return
        if self._at_work:
            self._at_work = [cycle for cycle in self._at_work if cycle.task is not None]
        ready = []
        for stream in self._ready:
            if not (stream.over or stream.started):
                ready.append(stream)
        started = len(self.streams) - len(ready) + len(self._at_work)
        room = max(0, min(self._most - started, STARTS_PER_TURN))
        self._ready = ready[room:]
        if self._ready and room > 0:
            self.schedule()
        context = self.context
        limit = context.settings.limit_concurrency
        for stream in ready[:room]:
            cycle = stream.cycle()
            if cycle is None:  # reset meanwhile
                continue
            stream.started = True
            if cycle.counted and 0 < limit <= context.running:
                self._refuse(stream, overloaded())
            else:
                start(cycle)

    # --- Refusing -----------------------------------------------------------------------------

    def refuse(self, error: RemoteProtocolError) -> None:
        if not self.has_ended():
            self._fail(error)

    def _log_refusal(self, what: str, error: RemoteProtocolError) -> None:
        client = client_address(self) or "a client"
        context = self.context
        context.refusals.info(
            context.clock.now, "%s %s with %d: %s", what, client, error.status, error.reason
        )

    def _refuse(self, stream: HTTP2Stream, error: RemoteProtocolError) -> None:
        """Answer a request in place of the application; its stream ends, and no other."""
        self._log_refusal("Refused", error)
        self.context.count_refusal(error.status)
        cycle = stream.cycle()
        stream.started = True  # so that it never will be
        if stream.status == 0:
            body = f"{reason_phrase(error.status)}: {error.reason}\n".encode()
            stream.held = None
            stream.start(
                error.status,
                [*error.headers, (b"content-type", b"text/plain; charset=utf-8")],
            )
            stream.write(body, True)
        else:
            stream.abort(CANCEL)
        if cycle is not None:
            cycle.on_closed()

    def _fail(self, error: RemoteProtocolError) -> None:
        """End the connection because of what the client has sent (RFC 9113 section 5.4.1)."""
        self._log_refusal("Ended the HTTP/2 connection of", error)
        self._end(error.status, error.reason)

    def _end(self, code: int, text: str) -> None:
        """Send GOAWAY, and close once the client can have read it."""
        self.write_control()
        if code != NO_ERROR or self._ending != REFUSING:
            self._send_goaway(True, code, text)
        self.abandon()
        self.linger()

    def _send_goaway(self, last: bool, code: int, text: str) -> None:
        self.codec.write_goaway(self.output(), last, code, text)
        metrics = self.context.metrics
        if metrics is not None:
            metrics.send_goaway(code)

    # --- Deadlines ----------------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        Connection.check_deadlines(self, now)
        if self.has_ended():
            return
        if self._phase == IDLE:  # here and not after each response, for which this costs too much
            self.codec.rest()
        if self._ready:
            self.advance()
        if 0.0 < self._refuse_by <= now:
            self._refuse_streams()
            if self.has_ended():
                return
        if 0.0 < self._settings_by <= now:
            if self.codec.settings_acked():
                self._settings_by = 0.0
            elif self.streams:
                self.context.count_timeout("settings")
                self._fail(RemoteProtocolError(SETTINGS_TIMEOUT, "settings not acknowledged"))
                return
        if 0.0 < self._earliest <= now:
            self._earliest = 0.0
            for stream in list(self.streams.values()):
                self._check_stream(stream, now)

    def _check_stream(self, stream: HTTP2Stream, now: float) -> None:
        if 0.0 < stream.write_deadline <= now:
            error = RemoteProtocolError(CANCEL, "nothing read in time")
            self.context.count_timeout("write")
            self._log_refusal("Reset a stream of", error)
            self._drop(stream)
            self.expect_turn_end()
        elif 0.0 < stream.deadline <= now:
            stream.deadline = 0.0
            stream.on_deadline()
        self.note_deadline(stream.write_deadline)
        self.note_deadline(stream.deadline)

    def late(self, stream: HTTP2Stream) -> None:
        """The client has not sent the request's body in time, unless it must not."""
        if self.codec.may_receive(stream.id):
            self.context.count_timeout("body")
            self._refuse(stream, RemoteProtocolError(408, "body not received in time"))
        else:
            stream.expect_body()

    def on_deadline(self) -> None:
        self.count_late()
        if self._phase == HEAD:
            self._fail(RemoteProtocolError(NO_ERROR, "request head not received in time"))
        elif self._phase == FIRST_HEAD:
            self._end(NO_ERROR, "settings not received in time")
        elif self._phase < LINGERING:
            self._end(NO_ERROR, "")
        else:
            self.stop_lingering()

    # --- Ends ---------------------------------------------------------------------------------

    def wind_down(self) -> None:
        """Tell the client to go to another server with new requests; those that come are served.

        A client that has not asked for anything is told when it has: one that reads GOAWAY before
        its first request must not send that.
        """
        if self._ending == SERVING and self.codec.last_id() > 0 and not self.has_ended():
            self._ending = RETIRING
            self._send_goaway(False, NO_ERROR, "")
            self.expect_turn_end()

    def _retire(self) -> None:
        """End the connection in two steps (RFC 9113 section 6.8): the last GOAWAY, which names the
        last request, follows when the client has read the first, or did not in time.
        """
        self.wind_down()
        self.codec.write_ping(self.output())
        self._refuse_by = self.context.clock.after(DRAIN_GRACE)

    def _refuse_streams(self) -> None:
        """Tell the client which requests are the last."""
        self._ending = REFUSING
        self._refuse_by = 0.0
        self._send_goaway(True, NO_ERROR, "")
        self.expect_turn_end()
        if not self.streams and not self._corked:
            self.look_ahead()

    def drain(self) -> None:
        if self.has_ended():
            return
        if self.codec.last_id() == 0:
            self._await_first()
            return
        self._retire()
        for stream in list(self.streams.values()):
            cycle = stream.cycle()
            if cycle is not None:
                cycle.on_drain()
        self.expect_turn_end()
        self.look_ahead()

    def _await_first(self) -> None:
        """Close if the client does not ask for anything within DRAIN_GRACE of its last sign."""
        if self._phase == HEAD or self._phase == LAST_CHANCE:
            return
        quiet = self.context.clock.now - self.since
        self.enter(LAST_CHANCE)
        self.deadline -= quiet
        if quiet >= DRAIN_GRACE:
            self._end(NO_ERROR, "")


def uses_prohibited_suite(secure: Any) -> bool:
    """Whether a connection has a cipher suite that HTTP/2 must not use (RFC 9113 section 9.2.2):
    one of TLS 1.2 that is no AEAD, or has no ephemeral keys. All of TLS 1.3 are allowed.

    Args:
        secure: the connection's SSLObject; None without TLS.
    """
    cipher = secure.cipher() if secure is not None else None
    if cipher is None or cipher[1] == "TLSv1.3":
        return False
    name: str = cipher[0]
    aead = "GCM" in name or "CHACHA20" in name or "CCM" in name
    return not (aead and name.startswith(("ECDHE-", "DHE-")))

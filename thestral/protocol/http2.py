"""An HTTP/2 connection (RFC 9113): it reads requests, refuses them, and ends the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from thestral._core.http1 import reason_phrase
from thestral._core.http2 import ErrorCode, Event
from thestral._core.log import monotonic
from thestral.errors import RemoteProtocolError
from thestral.logging.names import client_address, with_id
from thestral.logging.running import about
from thestral.protocol.connection import Connection, Cycle
from thestral.protocol.cycle import HTTPCycle
from thestral.protocol.exchange import overloaded
from thestral.protocol.handshake import check_version
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
from thestral.protocol.scope import http_scope, scope_template
from thestral.protocol.streams import HTTP2Stream, Multiplexer
from thestral.protocol.websocket import begin_websocket

if TYPE_CHECKING:
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
# Responses that are complete by then leave before more applications are started. Otherwise they
# would wait for all that the read has started, if these compute or block in their first step.
STARTS_TIME = 0.005  # seconds
# Time for a client to acknowledge the server's settings while it has streams open.
SETTINGS_TIME = 10.0  # seconds
# Steps to the end of a connection, by the GOAWAY that has been sent.
SERVING = 0  # none
RETIRING = 1  # one that still allows new streams
REFUSING = 2  # the last, which names the last stream


class HTTP2Connection(Multiplexer):
    """One transport speaking HTTP/2. It pulls events from its codec. Requests start once everything
    that arrived with them has been processed, so those that the client has reset by then never do.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = context.settings.http2
        assert settings is not None
        self._most = settings.max_streams
        self._ready: list[HTTP2Stream] = []  # heads received, applications not started yet
        self._at_work: list[
            Cycle
        ] = []  # whose streams were reset, but whose applications still run
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
        """Like data_received(), but copies only the bytes that are left after the call."""
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
        """The client will send nothing more, including window updates. Responses that fit the
        windows may still reach it.
        """
        self._eof = True
        if self.has_ended():
            return False
        self._hear_the_end()
        if not self.streams:
            return False
        self.expect_turn_end()
        return True

    def _hear_the_end(self) -> None:
        """Tell applications that the client will send nothing more; drop incomplete requests."""
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
        """Reset streams that wait for a window, which the client can no longer open."""
        for stream in list(self.waiting):
            if not stream.can_send():
                self._drop(stream)

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

    def pause_writing(self) -> None:
        self.write_paused = True
        self.codec.set_stalled(True)

    def writable(self) -> None:
        self.codec.set_stalled(False)
        self.write_control()
        self.pump()

    # --- Reading ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Continue to start requests and to send output, as the turn's limits allow."""
        self._scheduled = False
        if not self.has_ended():
            self._read()

    def _read(self) -> None:
        """Process all received frames, then start the new requests. Responses that are ready by the
        end leave in one write.
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
        """Enter the phase that follows from what has been read and sent."""
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
        else:  # even without keep-alive, a new connection may send one request
            self.enter(IDLE)
            self.deadline = self.context.clock.after(timeouts.head)

    def _begin(self) -> None:
        """Make the stream and the cycle for a complete head."""
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
            tracer = context.tracer
            if tracer is not None:
                stream.trace = tracer.begin(scope, self)
            if context.metrics is not None:
                stream.measure(context.metrics, scope)
            stream.owes_continue = head.expect_continue
            stream.head_only = head.head_only
            access_log = context.access_log
            if access_log.enabled:
                stream.keep_request(scope, access_log.keeps_fields, access_log.timed)
            if head.websocket:  # RFC 8441
                check_version(head)
                begin_websocket(stream, head, scope)
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
        if self._phase != RESPONDING:  # even if the response ends within the same read
            self.enter(RESPONDING)

    def _take_body(self) -> None:
        codec = self.codec
        data = codec.read_body()
        stream = self.streams.get(codec.stream())
        if stream is None or stream.closing:
            codec.consumed(codec.stream(), len(data), False)
            return
        stream.owes_continue = False  # the client did not wait: RFC 9110 section 10.1.1
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
        elif stream.tunnel or stream.request.websocket:  # also before the answer
            self._drop(stream)
        else:
            stream.deadline = 0.0
            stream.cycle().on_end()
            stream.note_closed()

    def _on_reset(self) -> None:
        """End the exchange of a stream that the client has reset, or the codec for its fault."""
        error = self.codec.error()
        stream = self.streams.get(self.codec.stream())
        if error is not None:
            self._log_refusal("Reset a stream of", error, stream)
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
        """End the exchange of a reset stream. Its application counts until it has returned."""
        cycle = stream.cycle()
        self.release(stream)
        if cycle is not None:
            cycle.on_closed()
            if cycle.task is not None:
                self._at_work.append(cycle)

    def _drop(self, stream: HTTP2Stream) -> None:
        """Reset a stream whose client has stopped sending or reading too early."""
        self.send_reset(stream, CANCEL)
        stream.count_abort()
        self._forsake(stream)

    def _start_ready(self) -> None:
        """Start the applications of received requests that have not been reset.

        No more applications run at once than streams may be open. Otherwise a client that resets
        every stream it opens could start any number of them (CVE-2023-44487).
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
        flushed = monotonic()
        for stream in ready[:room]:
            cycle = stream.cycle()
            if cycle is None:  # reset in the meantime
                continue
            stream.started = True
            if cycle.counted and 0 < limit <= context.running:
                self._refuse(stream, overloaded())
            else:
                start(cycle)
                now = monotonic()
                if now - flushed >= STARTS_TIME:
                    flushed = now
                    self.flush()

    # --- Refusing -----------------------------------------------------------------------------

    def refuse(self, error: RemoteProtocolError) -> None:
        if not self.has_ended():
            self._fail(error)

    def _log_refusal(
        self, what: str, error: RemoteProtocolError, stream: HTTP2Stream | None = None
    ) -> None:
        trace = None if stream is None else stream.trace
        context = self.context
        context.refusals.info(
            context.clock.now,
            "%s %s with %d: %s%s",
            what,
            client_address(self) or "a client",
            error.status,
            error.reason,
            with_id(trace),
            extra=about(trace),
        )

    def _refuse(self, stream: HTTP2Stream, error: RemoteProtocolError) -> None:
        """Answer a request in place of the application. Other streams go on."""
        tracer = self.context.tracer
        if tracer is not None and stream.trace is None:  # its head was refused
            stream.trace = tracer.begin(None, self)
        self._log_refusal("Refused", error, stream)
        self.context.count_refusal(error.status)
        cycle = stream.cycle()
        stream.started = True  # so that it is not started later
        if stream.status == 0:
            body = f"{reason_phrase(error.status)}: {error.reason}\n".encode()
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
        """End the connection for an error of the client (RFC 9113 section 5.4.1)."""
        self._log_refusal("Ended the HTTP/2 connection of", error)
        self._end(error.status, error.reason)

    def _end(self, code: int, text: str) -> None:
        """Send GOAWAY, and close once the client has had time to read it."""
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
        if self._phase == IDLE:  # not after each response, where it would cost too much
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
            self._log_refusal("Reset a stream of", error, stream)
            self._drop(stream)
            self.expect_turn_end()
        elif 0.0 < stream.deadline <= now:
            stream.deadline = 0.0
            stream.on_deadline()
        self.note_deadline(stream.write_deadline)
        self.note_deadline(stream.deadline)

    def late(self, stream: HTTP2Stream) -> None:
        """Refuse a request whose body is late, unless a closed window keeps the client waiting."""
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
        """Ask the client to send new requests elsewhere, with a GOAWAY that still allows them.

        A client without a request so far is told after its first one, because a client that reads
        GOAWAY must not send any.
        """
        if self._ending == SERVING and self.codec.last_id() > 0 and not self.has_ended():
            self._ending = RETIRING
            self._send_goaway(False, NO_ERROR, "")
            self.expect_turn_end()

    def _retire(self) -> None:
        """End the connection in two steps (RFC 9113 section 6.8): the last GOAWAY, which names the
        last stream, follows once the client has acknowledged a PING sent after the first GOAWAY, or
        has not done so within DRAIN_GRACE.
        """
        self.wind_down()
        self.codec.write_ping(self.output())
        self._refuse_by = self.context.clock.after(DRAIN_GRACE)

    def _refuse_streams(self) -> None:
        """Send the last GOAWAY, which tells the client which of its requests are served."""
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
        """Close unless a request comes within DRAIN_GRACE after the current phase began."""
        if self._phase == HEAD or self._phase == LAST_CHANCE:
            return
        quiet = self.context.clock.now - self.since
        self.enter(LAST_CHANCE)
        self.deadline -= quiet
        if quiet >= DRAIN_GRACE:
            self._end(NO_ERROR, "")


def uses_prohibited_suite(secure: Any) -> bool:
    """Whether the connection's cipher suite is prohibited for HTTP/2 (RFC 9113 section 9.2.2): a
    suite of TLS 1.2 without AEAD or without ephemeral keys. All suites of TLS 1.3 are allowed.

    Args:
        secure: the connection's SSLObject; None without TLS.
    """
    cipher = secure.cipher() if secure is not None else None
    if cipher is None or cipher[1] == "TLSv1.3":
        return False
    name: str = cipher[0]
    aead = "GCM" in name or "CHACHA20" in name or "CCM" in name
    return not (aead and name.startswith(("ECDHE-", "DHE-")))

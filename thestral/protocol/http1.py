"""HTTP/1.1 on a connection (RFC 9112): requests in order, one response at a time, framing,
persistence, refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from thestral._core.http1 import Event, RequestParser
from thestral.errors import RemoteProtocolError
from thestral.logging.names import client_address, with_id
from thestral.logging.running import about
from thestral.protocol.connection import Connection
from thestral.protocol.cycle import HTTPCycle
from thestral.protocol.exchange import overloaded
from thestral.protocol.handshake import accept_token
from thestral.protocol.http import HTTPConnection
from thestral.protocol.phases import (
    BODY,
    CLOSING,
    DRAIN_GRACE,
    FIRST_HEAD,
    HEAD,
    IDLE,
    LAST_CHANCE,
    LINGERING,
    PHASES,
    RESPONDING,
    TUNNEL,
)
from thestral.protocol.response import DISCARD_MAX, HTTP1Response
from thestral.protocol.runner import start
from thestral.protocol.scope import http_scope, scope_template
from thestral.protocol.websocket import begin_websocket

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral._core.socket import ReadBuffer
    from thestral.protocol.context import WorkerContext
    from thestral.types import Headers

HEAD_READ = int(Event.HEAD)
BODY_READ = int(Event.BODY)
END_READ = int(Event.END)

# Reading pauses while more than this much body waits for the application.
READ_HIGH_WATER = 64 * 1024  # bytes
# Reading pauses while more than this waits behind an open response: pipelined requests.
PIPELINE_HIGH_WATER = 16 * 1024  # bytes
# Requests of one read that are answered before other connections get their turn.
REQUESTS_PER_TURN = 64
UPGRADED = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "


class HTTP1Connection(HTTPConnection):
    """One transport speaking HTTP/1.1. Pulls events from its parser; while a response is open it
    pulls none.

    Args:
        context: of the worker.
        successor: makes the connection that takes over from a client that begins with HTTP/2's
            preface; None refuses it. It does so only in place of a first request (RFC 9113 section
            3.3): later a proxy may have been made to send the preface.
    """

    def __init__(
        self,
        context: WorkerContext,
        successor: Callable[[WorkerContext], Connection] | None = None,
    ) -> None:
        super().__init__(context)
        self._successor = successor
        limits = context.settings.limits
        self._parser = RequestParser(limits.request_line, limits.head, limits.fields, limits.body)
        self._stream: HTTP1Stream | None = None
        self._scheduled = False

    # --- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.open(transport)
        self.scope_template = scope_template(self)
        context = self.context
        if 0 < context.settings.limit_connections < len(context.connections):
            if context.metrics is not None:
                context.metrics.refuse_connection()
            self._refuse(overloaded())
            return
        self.enter(FIRST_HEAD)

    def data_received(self, data: bytes) -> None:
        if self.has_ended():
            return
        self.count_received(len(data))
        stream = self._stream
        if stream is not None and stream.tunnel:
            self._tunnel_data(stream, data)
            return
        self._parser.feed(data)
        self._advance()

    def receive_from(self, buffer: ReadBuffer) -> None:
        """As data_received(), without copying the bytes that are parsed within the call."""
        if self.has_ended():
            return
        self.count_received(buffer.size)
        stream = self._stream
        if stream is not None and stream.tunnel:
            self._tunnel_data(stream, buffer.take())
            return
        parser = self._parser
        parser.borrow(buffer)
        try:
            self._advance()
        finally:
            parser.keep()

    def eof_received(self) -> bool:
        """The client will send no more, but may still read, so an open response goes on."""
        self._eof = True
        stream = self._stream
        if self.has_ended() or (stream is not None and stream.tunnel):
            return False
        if stream is not None and stream.request_complete:
            stream.cycle().on_disconnect()
            self.expect_turn_end()
        elif self._parser.left() == 0:
            self._input_ended()
            return False
        return True

    def abandon(self) -> None:
        if self._stream is not None:
            cycle = self._stream.cycle()
            if not self._stream.response_complete:
                self._stream.count_abort()
            self.release(self._stream)
            cycle.on_closed()

    def writable(self) -> None:
        if self._stream is not None:
            self._stream.cycle().on_writable()
        elif self._parser.left():
            self._schedule()

    # --- Reading ------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether more may be read behind an open response."""
        return self._parser.left() <= PIPELINE_HIGH_WATER

    def _keep_waiting(self) -> None:
        """Leave the bytes in the parser, and pause reading if they are many. advance() or
        consumed() resumes it.
        """
        if not self.has_room():
            self.pause_reading()

    def advance(self) -> None:
        """Go on with the bytes in the parser. The loop calls it, so it never runs within a step of
        an application.
        """
        self._scheduled = False
        if self.has_ended():
            return
        stream = self._stream
        if stream is None:
            self._advance()
        elif stream.tunnel:
            self._tunnel_data(stream, b"")

    def _advance(self) -> None:
        """Pull events until the bytes run out or a response is open. All output that this causes
        leaves in one write.
        """
        if self._corked:
            return
        self._corked = True
        try:
            self._next()
        except RemoteProtocolError as error:
            if self._successor is not None and self._parser.is_http2():
                self._hand_over(self._successor)
            else:
                self._refuse(error)
        finally:
            self._corked = False
            if self._stream is not None or self._writer is not None:  # else no output waits
                self.end_turn()

    def _next(self) -> None:
        parser = self._parser
        requests = 0
        while not self.has_ended():
            stream = self._stream
            if self.write_paused if stream is None else stream.request_complete:
                self._keep_waiting()
                return
            event = parser.next_event()
            if event == HEAD_READ:
                self._begin()
            elif event == BODY_READ:
                self._take_body()
            elif event == END_READ:
                stream = self._stream
                assert stream is not None
                stream.request_complete = True
                self.enter(RESPONDING)
                if stream.discarding:
                    self.finish(stream)
                    continue
                stream.cycle().on_end()
                self._start(stream)
                requests += 1
                if requests == REQUESTS_PER_TURN and self._stream is None and parser.left():
                    self._schedule()
                    self._keep_waiting()
                    return
            else:
                if self._eof:
                    self._input_ended()
                    return
                if self.reading_paused and (stream is None or stream.unconsumed <= READ_HIGH_WATER):
                    self.resume_reading()
                if stream is None:
                    if not parser.is_idle():
                        if self._phase != HEAD:
                            self.enter(HEAD)
                    elif self._phase == RESPONDING:
                        self._idle()  # only an empty line followed the last request
                else:
                    self._start(stream)
                return

    def _start(self, stream: HTTP1Stream) -> None:
        """Start the application, once the bytes that came with the head have been read."""
        if not stream.started:
            stream.started = True
            start(stream.cycle())

    def _input_ended(self) -> None:
        """The input has ended, and everything in it has been read."""
        stream = self._stream
        if stream is not None:
            stream.cycle().on_disconnect()
            self._refuse(RemoteProtocolError(400, "incomplete request body"))
        elif self._parser.is_idle():
            self._close()
        else:
            self._refuse(RemoteProtocolError(400, "incomplete request head"))

    def _begin(self) -> None:
        """Create the stream and the cycle of a complete head. The application starts later, when
        the bytes that came with the head have been read.
        """
        context = self.context
        self._successor = None
        head = self._parser.read_head()
        stream: HTTP1Stream = HTTP1Stream.__new__(HTTP1Stream)
        stream.begin(self, head)
        scope = http_scope(head, self)
        stream.persistent = head.keep_alive
        stream.owes_continue = head.expect_continue
        stream.head_only = head.head_only
        stream.scope = scope
        tracer = context.tracer
        if tracer is not None:
            stream.trace = tracer.begin(scope, self)
        if context.metrics is not None:
            stream.measure(context.metrics, scope)
        access_log = context.access_log
        if access_log.enabled:
            stream.keep_request(scope, access_log.keeps_fields, access_log.timed)
        self._stream = stream
        if head.websocket and context.settings.websocket is not None:
            stream.accept = accept_token(head)
            # The bytes that follow are frames. If the connection were kept after a refusal, they
            # would be read as a request.
            stream.persistent = False
            begin_websocket(stream, head, scope)
        else:
            if 0 < context.settings.limit_concurrency <= context.running:
                raise overloaded()
            cycle: HTTPCycle = HTTPCycle.__new__(HTTPCycle)
            cycle.begin(scope, stream, context)
            stream.attach(cycle)
        stream.request_left = -1 if head.chunked else head.content_length
        context.total_requests += 1
        if stream.request_left != 0:
            self.enter(BODY)
            if stream.owes_continue:
                self.deadline = 0.0  # a client that waits for 100 may wait for as long as it takes

    def _take_body(self) -> None:
        stream = self._stream
        assert stream is not None
        data = self._parser.read_body()
        stream.owes_continue = False  # RFC 9110 section 10.1.1: the client has not waited
        self.enter(BODY)
        stream.receive(len(data))
        stream.unconsumed += len(data)
        if stream.request_left > 0:
            stream.request_left -= len(data)
        if stream.discarding:
            if stream.unconsumed > DISCARD_MAX:
                self.linger()
            return
        stream.cycle().on_data(data)
        if stream.unconsumed > READ_HIGH_WATER and stream.started:
            self.pause_reading()
            self.deadline = 0.0  # the application is slow, not the client

    def _tunnel_data(self, stream: HTTP1Stream, data: bytes) -> None:
        """Pass bytes of a tunnel to its cycle, after those that came with the request. Reading
        pauses until the cycle has consumed them.
        """
        if self._parser.left():
            data = self._parser.take_left() + data
        stream.unconsumed += len(data)
        self._corked = True
        try:
            stream.cycle().on_data(data)
            if stream.unconsumed > 0:
                self.pause_reading()
        finally:
            self._corked = False
            self.end_turn()

    def _hand_over(self, successor: Callable[[WorkerContext], Connection]) -> None:
        """Put an HTTP/2 connection in place of this one; it reads the preface again."""
        connection = successor(self.context)
        data = self._parser.take_head()
        self.give_way(connection, self.transport)
        connection.take_over(data)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.context.loop.call_soon(self.advance, context=self.context.base_context)

    # --- Refusing -----------------------------------------------------------------------------

    def refuse(self, error: RemoteProtocolError) -> None:
        if not self.has_ended():  # it has if limit_connections refused the connection
            self._refuse(error)

    def _refuse(self, error: RemoteProtocolError) -> None:
        """Answer bad input if no response has begun, and end the connection."""
        stream = self._stream
        context = self.context
        context.count_refusal(error.status)
        if stream is None:
            stream = HTTP1Stream.__new__(HTTP1Stream)
            stream.begin(self, None)
            stream.head_only = self._parser.is_head()
            tracer = context.tracer
            if tracer is not None:
                stream.trace = tracer.begin(None, self)
        shown = f", in {error.excerpt!r}" if error.excerpt else ""
        context.refusals.info(
            context.clock.now,
            "Refused %s with %d: %s%s",
            client_address(self) or "a client",
            error.status,
            error.reason,
            shown + with_id(stream.trace),
            extra=about(stream.trace),
        )
        cycle = stream.cycle()
        if stream.response_complete:
            self.release(stream)
            self.linger()
        elif stream.status != 0:
            self.release(stream)
            self.abort()
        else:
            stream.refuse(error)
            self.release(stream)
            self.linger()
        if cycle is not None:  # None if the head itself was refused
            cycle.on_closed()

    def on_deadline(self) -> None:
        self.count_late()
        late = PHASES[self._phase].refusal
        if late is not None:
            self._refuse(RemoteProtocolError(408, late))
        elif self._phase == TUNNEL:
            if self._stream is not None:
                self._stream.cycle().on_deadline()
        elif self._phase == LINGERING or self.still_sends():
            self.stop_lingering()
        else:
            self._close()

    # --- Ends ---------------------------------------------------------------------------------

    def end_turn(self) -> None:
        stream = self._stream
        if stream is not None:
            cycle = stream.cycle()
            if cycle is not None:  # its head was not refused
                cycle.on_turn_end()
        Connection.end_turn(self)
        if self._eof and stream is not None and stream.bodiless and stream is self._stream:
            # The client sends no more and has its whole response, which has no content: it is gone.
            self.abandon()
            self._close()

    def release(self, stream: HTTP1Stream) -> None:
        """Cut the links of an exchange that is over, so that nothing waits for the garbage
        collector.
        """
        self._stream = None
        if stream.head_at >= 0:
            stream.withdraw()
        stream.attach(None)
        stream.end(True)

    def begin_tunnel(self) -> None:
        """Pass everything behind the request to the tunnel, including bytes read already."""
        self.enter(TUNNEL)
        if self._parser.left():
            self._schedule()
        else:
            self._parser.take_left()  # frees the parser's memory

    def on_response_complete(self, stream: HTTP1Stream) -> None:
        """End the exchange. If its request is not complete, read the rest first, or give it up."""
        if stream.request_complete:
            self.finish(stream)
        elif not stream.persistent or stream.request_left > DISCARD_MAX:
            self.release(stream)
            self.linger()
        else:
            stream.discarding = True
            stream.unconsumed = 0
            self.resume_reading()
            self.enter(BODY)
        if self._parser.left():
            self.emit()  # leaves together with the responses to the requests behind it
        else:
            self.flush()  # at once: the application may do other work before it returns

    def cut(self, stream: HTTP1Stream) -> None:
        """End a tunnel, or an exchange whose response is not complete."""
        self.release(stream)
        if stream.tunnel or not stream.request_complete:
            self.linger()
        else:
            self.hang_up(stream)

    def finish(self, stream: HTTP1Stream) -> None:
        """End an exchange whose request and response are complete: close the connection, or go on
        with the next request.
        """
        self.release(stream)
        if not stream.persistent:
            self.hang_up(stream)
        elif self._parser.left():
            if not self._corked:
                self._schedule()
        elif self._eof:
            self._close()
        else:
            self._idle()

    def hang_up(self, stream: HTTP1Stream) -> None:
        """Close after a response. Linger if the client could expect the connection to stay open,
        because it may have sent another request.
        """
        if stream.request.keep_alive and not self.context.draining:
            self.linger()
        else:
            self._close()

    def _idle(self) -> None:
        self.resume_reading()
        if self.context.draining:
            # The response began before the shutdown, so it did not say "connection: close".
            self.enter(LAST_CHANCE)
        else:
            self.enter(IDLE)

    def _close(self) -> None:
        """Close after the last response. Linger if bytes of the client are left unread."""
        self.flush()
        if self._parser.left():
            self.linger()
            return
        self.enter(CLOSING)
        self.close_flushing()

    def drain(self) -> None:
        if self._stream is not None:
            self._stream.cycle().on_drain()
        elif self._phase < LAST_CHANCE and self._parser.is_idle():
            quiet = self.context.clock.now - self.since
            self.enter(LAST_CHANCE)
            self.deadline -= quiet
            if quiet >= DRAIN_GRACE:
                self._close()


class HTTP1Stream(HTTP1Response):
    """One request and its response on the wire."""

    if TYPE_CHECKING:
        wire: HTTP1Connection  # the connection, by its own type
        started: bool  # the application's task
        tunnel: bool
        accept: bytes  # Sec-WebSocket-Accept, if it is a handshake
        discarding: bool  # the rest of the body is read and dropped
        unconsumed: int  # bytes of body, or of a tunnel, that the cycle has not consumed
        high_water: int  # reading is paused while `unconsumed` is above this

    def begin(self, connection: HTTP1Connection, head: RequestHead | None) -> None:
        """Initialise the stream in place of __init__, which would cost a tuple of arguments for
        each request. Attributes that are not set here begin as 0, False or None.
        """
        self.connection = connection
        self.wire = connection
        self.client = connection.client
        self.request = head  # type: ignore[assignment]  # None for a refusal, which asks for none
        self.persistent = True
        self.head_at = -1
        self.high_water = READ_HIGH_WATER

    # --- The cycle's side ---------------------------------------------------------------------

    def write(self, data: bytes, end: bool) -> None:
        if self.tunnel:
            if data:
                self.wire.append(data)
                self.wire.emit()
            if end:
                self.cut()
            return
        writer = self.wire.output()
        if self.head_at >= 0:
            self._finish_head(writer, len(data), end)
        self._write_body(writer, data, end)

    def open_tunnel(self, headers: Headers) -> None:
        if self.owes_continue:
            self.owes_continue = False
            self.inform(100, [])  # RFC 9110 section 7.8: before the 101, also without a body
        connection = self.wire
        writer = connection.output()
        mark = writer.begin(101)
        try:
            writer.write(UPGRADED)
            writer.write(self.accept)
            writer.write(b"\r\n")
            writer.write_headers(headers, False)
        except BaseException:
            writer.truncate(mark)
            raise
        if self.trace is not None:
            self.trace.answer(headers)
        self._write_defaults(writer)
        writer.write(b"\r\n")
        if connection.context.access_log.keeps_head:
            self.head = writer.peek(mark)
        connection.emit()
        self.status = 101
        self.tunnel = True
        self.high_water = 0
        self.end(False)
        connection.begin_tunnel()

    def wake_at(self, when: float) -> None:
        self.connection.deadline = when

    def want_body(self) -> None:
        if self.owes_continue:
            self.owes_continue = False
            self.inform(100, [])
        elif self.request_complete or self.connection.deadline != 0.0:
            return
        # From now on the application waits for the client, so the client's time counts.
        self.wire.enter(BODY)

    def consumed(self, size: int) -> None:
        self.unconsumed -= size
        connection = self.wire
        if not connection.reading_paused or self.unconsumed > self.high_water:
            return
        if connection.has_room():
            connection.resume_reading()
        if not self.request_complete:
            connection.enter(BODY)

    def cut(self) -> None:
        if not (self.tunnel or self.chunked or self.bodiless) and self.left() < 0:
            self.reset()  # the connection's end would be the body's
            return
        self.response_complete = True
        self.wire.cut(self)

    def _complete(self) -> None:
        """The response is complete; the exchange is when the request is, too."""
        self.response_complete = True
        self.end(False)
        self.wire.on_response_complete(self)

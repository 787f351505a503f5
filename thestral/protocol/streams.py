"""HTTP/2 streams, and the order in which their output is sent, by windows and priorities."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thestral._core.http2 import ErrorCode, FrameCodec, ResponseFields, check_fields
from thestral.errors import LocalProtocolError
from thestral.protocol.connection import Stream
from thestral.protocol.exchange import check_trailers, omits_length, too_long, too_short
from thestral.protocol.http import HTTPConnection
from thestral.protocol.phases import LINGER_TIMEOUT, RESPONDING

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral.protocol.context import WorkerContext
    from thestral.types import Headers

NO_ERROR = int(ErrorCode.NO_ERROR)
INTERNAL_ERROR = int(ErrorCode.INTERNAL_ERROR)
CANCEL = int(ErrorCode.CANCEL)

# When more than this of a stream's output waits for a window or for the transport, send() waits
# until no more than a quarter of it is left.
QUEUE_MAX = 64 * 1024  # bytes
# Waiting pieces are joined up to this size, to save memory.
JOIN_MAX = 4 * 1024  # bytes
# A stream's window for request bodies grows to this while the application waits for more.
STREAM_WINDOW_MAX = 1024 * 1024  # bytes
# Output sent before other connections get their turn.
SENT_PER_TURN = 512 * 1024  # bytes
# After this many DATA frames of more urgent streams, the least urgent stream may send one, so that
# it does not starve (RFC 9218 section 10).
FRAMES_OF_BETTER = 16


class Multiplexer(HTTPConnection):
    """The output of many streams on one connection, and their deadlines.

    Attributes:
        codec: reads and writes frames, and keeps account of the windows.
        streams: the open streams, by identifier.
        waiting: the streams with waiting output, in order.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        settings = context.settings
        limits = settings.limits
        assert settings.http2 is not None
        self.codec = FrameCodec(
            settings.http2.max_streams,
            settings.http2.connection_window,
            STREAM_WINDOW_MAX,
            limits.head,
            limits.fields,
            limits.body,
            settings.websocket is not None,
            context.clock.now,
        )
        self.streams: dict[int, HTTP2Stream] = {}
        self.waiting: list[HTTP2Stream] = []
        self._touched: list[HTTP2Stream] = []  # streams whose cycles are told of the turn's end
        self._earliest = 0.0  # no stream's deadline is earlier; 0.0 if there is none
        self._frames = 0  # DATA frames sent in a row while less urgent streams waited
        self._scheduled = False  # whether the loop is going to call advance()
        self._flush_scheduled = False

    def advance(self) -> None:
        """Called by the loop: continue work that was deferred to let other connections run."""
        raise NotImplementedError

    def look_ahead(self) -> None:
        """Enter the phase that follows from what has been read and sent."""
        raise NotImplementedError

    def late(self, stream: HTTP2Stream) -> None:
        """Called when a request's body is late. A closed window may be the reason."""
        raise NotImplementedError

    def schedule(self) -> None:
        """Schedule advance() for the next turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self.context.loop.call_soon(self.advance, context=self.context.base_context)

    # --- Output ------------------------------------------------------------------------------

    def write_control(self) -> None:
        """Write the frames that the codec itself sends, such as acknowledgements."""
        if self.codec.has_output() and not self.lost:
            self.codec.write_output(self.output())
            self.expect_turn_end()

    def touch(self, stream: HTTP2Stream) -> None:
        """Have the stream's cycle told when this turn ends."""
        if not stream.touched:
            stream.touched = True
            self._touched.append(stream)
        self.expect_turn_end()

    def end_turn(self) -> None:
        touched = self._touched
        if touched:
            self._touched = []
            for stream in touched:
                stream.touched = False
                cycle = stream.cycle()
                if cycle is not None:
                    cycle.on_turn_end()
        if self._phase == RESPONDING and not self.streams:  # the last stream was reset
            self.look_ahead()
        HTTPConnection.end_turn(self)

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.context.loop.call_soon(self.loop_turned, context=self.context.base_context)

    def loop_turned(self) -> None:
        self._flush_scheduled = False
        if not self._corked:
            self.end_turn()

    # --- Scheduling of streams ---------------------------------------------------------------

    def may_write(self) -> bool:
        """Whether a stream may write at once, because no other output waits."""
        return not self.waiting and not self.write_paused

    def wait(self, stream: HTTP2Stream) -> None:
        """Put a stream with waiting output in line, and send what can be sent."""
        if not stream.waits:
            stream.waits = True
            self.waiting.append(stream)
            stream.write_deadline = self.context.clock.after(self.context.timeouts.write)
            self.note_deadline(stream.write_deadline)
        self.pump()

    def pump(self) -> None:
        """Send as much as windows and transport allow, most urgent streams first (RFC 9218)."""
        if not self.waiting:
            return
        sent = 0
        while not self.write_paused and not self.is_broken():
            stream = self._choose()
            if stream is None:
                break
            sent += stream.send_frame()
            self.emit()
            if sent >= SENT_PER_TURN:
                self.schedule()
                break

    def _choose(self) -> HTTP2Stream | None:
        """Return the stream to send next: the most urgent waiting one whose windows are open."""
        best: HTTP2Stream | None = None
        worst: HTTP2Stream | None = None
        least = most = 0
        for stream in self.waiting:
            if not stream.can_send():
                continue
            urgency = self.codec.urgency(stream.id)
            if best is None or urgency < least:
                best, least = stream, urgency
            if worst is None or urgency > most:
                worst, most = stream, urgency
        if least == most:
            self._frames = 0
            return best
        self._frames += 1
        if self._frames > FRAMES_OF_BETTER:
            self._frames = 0
            return worst
        return best

    def rotate(self, stream: HTTP2Stream) -> None:
        """Move an incremental stream to the end of the line: the client can use its parts."""
        if self.codec.is_incremental(stream.id) and len(self.waiting) > 1:
            self.waiting.remove(stream)
            self.waiting.append(stream)

    def note_deadline(self, when: float) -> None:
        """Note a stream's deadline, so that a tick need not check every stream."""
        if when > 0.0 and (self._earliest == 0.0 or when < self._earliest):
            self._earliest = when

    def send_reset(self, stream: HTTP2Stream, code: int) -> None:
        self.codec.write_reset(self.output(), stream.id, code)
        metrics = self.context.metrics
        if metrics is not None:
            metrics.send_reset(code)

    # --- Ends --------------------------------------------------------------------------------

    def finish(self, stream: HTTP2Stream) -> None:
        """End an exchange whose response is complete. The rest of its request is dropped."""
        codec = self.codec
        codec.completed()
        if not stream.request_complete:
            self.send_reset(stream, NO_ERROR)  # RFC 9113 section 8.1
        self.release(stream)
        if self._corked:
            if self.streams:
                return
        else:
            self.look_ahead()
            if self.streams:
                self._flush_soon()  # together with other responses that end in this turn
                return
        self.write_control()
        self.flush()  # the application may do anything before it returns

    def release(self, stream: HTTP2Stream) -> None:
        """Break the reference cycles of an ended exchange, so that it is freed without the garbage
        collector.
        """
        self.streams.pop(stream.id, None)
        metrics = self.context.metrics
        if metrics is not None and not stream.over:
            metrics.close_stream()
        stream.over = True
        stream.deadline = 0.0
        stream.write_deadline = 0.0
        if stream.waits:
            stream.waits = False
            self.waiting.remove(stream)
        stream.forget_output()
        if stream.unconsumed > 0:
            self.codec.consumed(stream.id, stream.unconsumed, False)
            self.write_control()
        stream.attach(None)
        stream.end(True)

    def close_tunnel(self, stream: HTTP2Stream) -> None:
        """Wait for the client to end a tunnel whose output is complete; reset it if it is late."""
        stream.attach(None)
        if stream.request_complete:
            self.release(stream)
            return
        stream.closing = True
        stream.deadline = self.context.clock.after(LINGER_TIMEOUT)
        self.note_deadline(stream.deadline)


class HTTP2Stream(Stream):
    """One request and its response on the wire, or a WebSocket's tunnel."""

    if TYPE_CHECKING:
        wire: Multiplexer  # the connection, with its exact type
        id: int
        started: bool  # whether the application has been started
        request_complete: bool
        head_only: bool
        tunnel: bool
        closing: bool  # whether it is a tunnel whose output is complete
        owes_continue: bool
        over: bool  # whether the connection has released it
        waits: bool  # whether it is in the connection's `waiting`
        touched: bool  # whether its cycle will be told of the turn's end
        unconsumed: int  # bytes of body or tunnel that the application has not received
        deadline: float  # loop time by which the client must have sent something; 0.0 for none
        write_deadline: float  # loop time by which some output must be sent; 0.0 for none
        held: ResponseFields | None  # fields of a head that is not sent yet
        head_status: int  # status of that head
        pieces: list[bytes] | None  # waiting output
        piece_at: int  # how much of the first piece has been sent
        queued: int  # bytes of waiting output
        ends: bool  # whether the response ends after it
        trailers: ResponseFields | None  # trailers to end it with
        reset_code: int  # code of a reset to end it with; -1 for none

    def begin(self, connection: Multiplexer, number: int, head: RequestHead | None) -> None:
        """Initialise the stream; see HTTP1Stream.begin()."""
        self.connection = connection
        self.wire = connection
        self.id = number
        self.client = connection.client
        self.request = head  # type: ignore[assignment]  # None for a refusal, which does not use it
        self.reset_code = -1

    def expect_body(self) -> None:
        """Start the time-out for the next part of the body."""
        connection = self.wire
        wait: float = connection.context.timeouts.body
        if wait > 0.0:
            self.deadline = connection.context.clock.after(wait)
            connection.note_deadline(self.deadline)

    def on_deadline(self) -> None:
        connection = self.wire
        if self.closing:
            connection.send_reset(self, CANCEL)
            connection.release(self)
            connection.expect_turn_end()
        elif self.tunnel:
            self.cycle().on_deadline()
        else:
            connection.late(self)

    # --- The cycle's side ---------------------------------------------------------------------

    def start(self, status: int, headers: Headers) -> None:
        if 200 <= status < 300 and self.request.websocket:
            raise LocalProtocolError(f"status {status} would accept the WebSocket (RFC 8441)")
        self.held = check_fields(headers, omits_length(status))
        self.head_status = status
        if self.trace is not None:
            self.trace.answer(headers)
        self.wire.touch(self)

    def write(self, data: bytes, end: bool) -> None:
        if self.over:
            return
        if self.tunnel:
            if data:
                self._send(data, len(data), False)
            if end:
                self.cut()
            return
        if self.held is not None and self._finish_head(len(data), end):
            return
        self._write_body(data, end)

    def withdraw(self) -> None:
        self.held = None

    def announced(self) -> int:
        return self.left() if self.held is None else self.held.content_length

    def announce(self, size: int) -> None:
        assert self.held is not None
        self.held.announce(size)

    def write_file(self, file: int, offset: int, size: int) -> int:
        if self.bodiless:
            return size
        if self.over or self.queued >= QUEUE_MAX:
            return 0
        if not self.has_room(size):
            return -1  # too long: write() raises
        data = os.pread(file, min(size, QUEUE_MAX), offset)
        if data:
            self._write_body(data, False)
        return len(data)

    def write_trailers(self, headers: Headers) -> None:
        trailers = check_fields(headers, False)
        check_trailers(headers)
        if self.over:
            return
        if self.held is not None:
            self._finish_head(0, False)
        missing = self.missing()
        if missing > 0:
            self._fall_short(missing)
        self.trailers = trailers
        self._end_output()

    def flush(self) -> None:
        self.wire.flush()

    def inform(self, status: int, headers: Headers) -> None:
        if self.status or self.over:
            return
        connection = self.wire
        fields = check_fields(headers, True)
        connection.codec.write_head(connection.output(), self.id, status, fields, [], False)
        connection.expect_turn_end()

    def open_tunnel(self, headers: Headers) -> None:
        connection = self.wire
        self.held = check_fields(headers, False)
        self.head_status = 200
        if self.trace is not None:
            self.trace.answer(headers)
        self.promise(200, False, -1)
        self._write_head(False)
        self.tunnel = True
        self.end(False)
        connection.touch(self)

    def wake_at(self, when: float) -> None:
        self.deadline = when
        self.wire.note_deadline(when)

    def want_body(self) -> None:
        if self.over:
            return
        if self.owes_continue:
            self.owes_continue = False
            self.inform(100, [])
        if not self.request_complete:
            connection = self.wire
            connection.codec.consumed(self.id, 0, True)
            connection.write_control()
            if self.deadline == 0.0:
                self.expect_body()

    def consumed(self, size: int) -> None:
        if self.over:
            return
        connection = self.wire
        self.unconsumed -= size
        connection.codec.consumed(self.id, size, False)
        connection.write_control()
        if not (self.request_complete or self.tunnel):
            self.expect_body()

    def reset(self) -> None:
        self.abort(CANCEL if self.tunnel else INTERNAL_ERROR)

    def abort(self, code: int) -> None:
        """Reset the stream at once, and drop its waiting output."""
        if self.over:
            return
        connection = self.wire
        connection.send_reset(self, code)
        connection.release(self)
        connection.expect_turn_end()

    def cut(self) -> None:
        if self.over:
            return
        if not self.tunnel:
            self.reset_code = INTERNAL_ERROR
        self._end_output()

    def is_writable(self) -> bool:
        return self.queued < QUEUE_MAX

    # --- Head ---------------------------------------------------------------------------------

    def _finish_head(self, size: int, end: bool) -> bool:
        """Send the head that is held, before a part of the body of `size` bytes.

        Returns:
            Whether nothing is left to send. The head of a response without content ends the
            stream, although the application may go on.
        """
        fields = self.held
        assert fields is not None
        status = self.head_status
        announced = fields.content_length
        self.promise(status, self.head_only, size if end and announced < 0 else announced)
        if announced < 0 and end and size > 0 and status != 304 and not omits_length(status):
            fields.announce(size)
        ends = end and (size == 0 or self.bodiless) and self.missing() == 0
        self._write_head(ends or self.bodiless)
        if not end:
            self.note_head()
        if ends:
            self._complete()
        else:
            self.note_closed()
        return ends

    def _write_head(self, end: bool) -> None:
        connection = self.wire
        context = connection.context
        fields = self.held
        assert fields is not None
        more = context.default_fields
        if fields.has_date or fields.has_server:
            given = [name for name, _ in fields.pairs()]
            more = [pair for pair in more if pair[0] not in given]
        if self.trace is not None:
            assert context.tracer is not None
            more = [*more, *context.tracer.fields(self.trace)]
        connection.codec.write_head(
            connection.output(), self.id, self.head_status, fields, more, end
        )
        if context.access_log.keeps_head:
            lines = [b"%b: %b\r\n" % pair for pair in [*fields.pairs(), *more]]
            self.head = b"".join([b"HTTP/2 %d\r\n" % self.head_status, *lines, b"\r\n"])
        self.held = None
        self.status = self.head_status
        self.owes_continue = False

    # --- Body ---------------------------------------------------------------------------------

    def _write_body(self, body: bytes, end: bool) -> None:
        """Send a part of the body."""
        cycle = self.cycle()
        size: int = self.take(len(body))
        missing = self.missing()
        if not end:
            self.note_progress()
        too_much = self.surplus > 0
        ends = too_much or (end and missing == 0)
        if size > 0 or ends:
            self._send(body, size, ends)
        if too_much:
            cycle.on_over()
            raise too_long(self.surplus)
        if end and missing > 0:
            self._fall_short(missing)

    def has_all(self) -> bool:
        """Whether the client has a complete response without content. The application may go on."""
        return self.bodiless and self.status > 0 and not self.tunnel

    def note_closed(self) -> None:
        """If a response without content has closed the stream, tell its application, which may go
        on, that the client is gone. The client could no longer reset the stream.
        """
        cycle = self.cycle()
        if self.request_complete and cycle is not None and self.has_all():
            cycle.on_disconnect()

    def _fall_short(self, missing: int) -> None:
        cycle = self.cycle()
        self.cut()
        cycle.on_over()
        raise too_short(missing)

    def _send(self, data: bytes, size: int, end: bool) -> None:
        """Send the first `size` bytes of `data`, now or once windows and transport allow."""
        connection = self.wire
        codec = connection.codec
        if self.has_all():
            if end:
                self._complete()
            return
        if not self.waits and connection.may_write() and size <= codec.sendable(self.id, size):
            codec.write_data(connection.output(), self.id, data, 0, size, end)
            if end:
                self._complete()
            else:
                connection.emit()
                connection.touch(self)
            return
        if size > 0:
            self._queue(data if size == len(data) else data[:size])
        self.ends = end
        connection.touch(self)
        if size > 0 or self.waits:
            connection.wait(self)
        else:
            self._finish_output()

    def _queue(self, data: bytes) -> None:
        pieces = self.pieces
        if pieces is None:
            pieces = self.pieces = []
        self.queued += len(data)
        last = len(pieces) - 1  # compiled code does not support negative indices
        if last > 0 and len(pieces[last]) + len(data) <= JOIN_MAX:
            pieces[last] += data
        else:
            pieces.append(data)

    def can_send(self) -> bool:
        return self.wire.codec.sendable(self.id, self.queued) > 0

    def send_frame(self) -> int:
        """Send waiting output in a DATA frame; return its size in bytes.

        The frame is as large as the window allows, and may span pieces: small frames would cause
        small window updates, and those even smaller frames.
        """
        connection = self.wire
        codec = connection.codec
        size = min(codec.sendable(self.id, self.queued), self.queued)
        last = size == self.queued
        ends = last and self.ends
        end = ends and not self.tunnel and self.trailers is None and self.reset_code < 0
        codec.write_data_head(connection.output(), self.id, size, end)
        self._write_pieces(size)
        if last:
            connection.waiting.remove(self)
            self.waits = False
            self.write_deadline = 0.0
            if end:
                self._complete()
            elif ends:
                self._finish_output()
            if ends:
                return size
        else:
            # Later than the one that wait() has noted.
            self.write_deadline = connection.context.clock.after(connection.context.timeouts.write)
            connection.rotate(self)
        if self.queued <= QUEUE_MAX // 4:
            cycle = self.cycle()
            if cycle is not None:
                cycle.on_writable()
        return size

    def _write_pieces(self, size: int) -> None:
        """Move the first `size` bytes of the waiting pieces to the connection's output."""
        pieces = self.pieces
        assert pieces is not None
        writer = self.wire.output()
        codec = self.wire.codec
        self.queued -= size
        sent = 0
        while size > 0:
            piece = pieces[sent]
            part = min(size, len(piece) - self.piece_at)
            codec.write_part(writer, piece, self.piece_at, part)
            size -= part
            self.piece_at += part
            if self.piece_at == len(piece):
                self.piece_at = 0
                sent += 1
        if sent > 0:
            del pieces[:sent]

    def _end_output(self) -> None:
        """End the response, now or once its waiting output has been sent."""
        self.ends = True
        if not self.waits:
            self._finish_output()

    def _finish_output(self) -> None:
        """End a response whose output has all been sent: with END_STREAM, trailers or a reset."""
        connection = self.wire
        codec = connection.codec
        writer = connection.output()
        if self.has_all():
            self._complete()
        elif self.reset_code >= 0:
            self.abort(self.reset_code)
        elif self.tunnel:
            codec.write_data(writer, self.id, b"", 0, 0, True)
            connection.close_tunnel(self)
            connection.expect_turn_end()
        elif self.trailers is not None:
            codec.write_trailers(writer, self.id, self.trailers)
            self._complete()
        elif self.ends:
            codec.write_data(writer, self.id, b"", 0, 0, True)
            self._complete()

    def forget_output(self) -> None:
        self.pieces = None
        self.queued = 0
        self.held = None
        self.trailers = None

    def _complete(self) -> None:
        """Note that the response is complete."""
        self.end(False)
        self.wire.finish(self)

"""A response of HTTP/1.1 on the wire (RFC 9112): head, framing and body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thestral._core.http1 import reason_phrase
from thestral.protocol.connection import Stream
from thestral.protocol.exchange import (
    PLAIN_TEXT,
    check_trailers,
    omits_length,
    too_long,
    too_short,
)

if TYPE_CHECKING:
    from thestral._core.http1 import ResponseWriter
    from thestral.errors import RemoteProtocolError
    from thestral.types import Headers

# If nobody takes the rest of a request's body, the server reads up to this much of it, to keep the
# connection; Go's net/http has the same figure.
DISCARD_MAX = 256 * 1024  # bytes
# Parts of a file of at least this size are sent by the kernel, without being read.
SENDFILE_MIN = 64 * 1024  # bytes
# The most that one call sends. Without it, a client that reads fast enough would hold up the loop.
SENDFILE_MAX = 512 * 1024  # bytes


class HTTP1Response(Stream):
    """The response of one exchange. Its head is held until the framing is known. The framing is
    decided here, and never trusts the application.
    """

    if TYPE_CHECKING:
        request_complete: bool
        request_left: int  # bytes of the request's body still to come; -1 if chunked
        response_complete: bool
        head_only: bool  # the request is a HEAD request
        owes_continue: bool  # the client waits for 100 before it sends the body
        persistent: bool  # the connection is kept after the exchange
        chunked: bool
        head_at: int  # where in the connection's writer a head is held; -1 if none is
        head_status: int  # its status

    def start(self, status: int, headers: Headers) -> None:
        self.withdraw()
        connection = self.connection
        writer = connection.output()
        mark = writer.begin(status)
        try:
            writer.write_headers(headers, omits_length(status))
        except BaseException:
            writer.truncate(mark)
            raise
        self.head_at = mark
        self.head_status = status
        if self.trace is not None:
            self.trace.answer(headers)
        connection.expect_turn_end()

    def withdraw(self) -> None:
        if self.head_at >= 0:
            self.connection.output().truncate(self.head_at)
            self.head_at = -1

    def announced(self) -> int:
        return self.left() if self.head_at < 0 else self.connection.output().content_length

    def announce(self, size: int) -> None:
        fields = [(b"content-length", b"%d" % size)]
        self.connection.output().write_headers(fields, omits_length(self.head_status))

    def write_file(self, file: int, offset: int, size: int) -> int:
        connection = self.connection
        if self.bodiless:
            return size
        owned = connection.owned
        # The head of a chunk gives its size, and the kernel may take less than that.
        if owned is None or self.chunked or size < SENDFILE_MIN:
            return -1
        if not self.has_room(size):
            return -1  # too long: write() raises
        connection.flush()
        connection.expect_turn_end()
        if connection.is_broken():
            return 0
        try:
            sent = owned.send_file(file, offset, min(size, SENDFILE_MAX))
        except OSError:
            return -1  # sendfile(2) cannot read from this file system
        if sent == 0 and connection.is_broken():
            return 0  # not the file's end: the client is gone, and the cycle has been told
        connection.count_written(sent)
        self.take(sent)
        self.note_progress()
        return sent

    def write_trailers(self, headers: Headers) -> None:
        writer = self.connection.output()
        if self.head_at >= 0:
            self._finish_head(writer, 0, False)
        mark = writer.size()
        try:
            writer.write(b"0\r\n")
            writer.write_headers(headers, False)
            check_trailers(headers)
        except BaseException:
            writer.truncate(mark)
            raise
        if not (self.chunked and self.request.trailers):
            writer.truncate(mark)
            self._write_body(writer, b"", True)
            return
        writer.write(b"\r\n")
        self._complete()

    def inform(self, status: int, headers: Headers) -> None:
        if self.request.version == 10 or self.status:
            return
        writer = self.connection.output()
        held = b""
        mark = writer.size()
        if self.head_at >= 0:
            mark = self.head_at
            held = writer.take(mark)
        try:
            writer.write_status(status)
            writer.write_headers(headers, True)
            writer.write(b"\r\n")
            mark = writer.size()
        finally:
            writer.truncate(mark)
            if self.head_at >= 0:
                self.head_at = mark
                writer.write(held)
        self.connection.expect_turn_end()

    def flush(self) -> None:
        self.connection.flush()

    def reset(self) -> None:
        self.response_complete = True
        self.persistent = False
        self.withdraw()
        self.connection.flush()  # what was sent, the client may see
        self.connection.abort()

    def is_writable(self) -> bool:
        return not self.connection.write_paused

    def refuse(self, error: RemoteProtocolError) -> None:
        """Send a short plain-text answer in place of the application's."""
        body = f"{reason_phrase(error.status)}: {error.reason}\n".encode()
        self.withdraw()
        self.status = error.status
        self.promise(error.status, self.head_only, len(body))
        writer = self.connection.output()
        writer.begin(error.status)
        writer.write_headers(error.headers, False)
        writer.write_headers(PLAIN_TEXT, False)
        writer.write_content_length(len(body))
        writer.write(b"connection: close\r\n")
        writer.write(self.connection.context.default_head)
        if self.trace is not None:
            self._write_trace(writer)
        writer.write(b"\r\n")
        if self.take(len(body)):
            writer.write(body)
        self.end(False)

    # --- Head -----------------------------------------------------------------------------------

    def _finish_head(self, writer: ResponseWriter, size: int, end: bool) -> None:
        """Complete the held head with its framing. It leaves with `size` bytes of body."""
        mark = self.head_at
        status = self.head_status
        self.head_at = -1
        if not self.request_complete and (
            # The client did not get its 100, so it may send the body next, or another request.
            self.owes_continue
            # The rest of the body is too long to be read and dropped.
            or (end and self.request_left > DISCARD_MAX)
        ):
            self.persistent = False
        context = self.connection.context
        if writer.close or context.draining or context.timeouts.keep_alive == 0.0:
            self.persistent = False
        self._frame(writer, status, size, end)
        if not self.persistent:
            if not writer.close:
                writer.write(b"connection: close\r\n")
        elif self.request.version == 10:
            writer.write(b"connection: keep-alive\r\n")
        self._write_defaults(writer)
        writer.write(b"\r\n")
        self.status = status
        if not end:
            self.note_head()
        self.owes_continue = False
        if context.access_log.keeps_head:
            self.head = writer.peek(mark)

    def _frame(self, writer: ResponseWriter, status: int, size: int, end: bool) -> None:
        """Choose the framing: RFC 9112 section 6.3 in the order of its list."""
        announced = writer.content_length
        self.promise(status, self.head_only, size if end and announced < 0 else announced)
        if self.bodiless:
            if status == 205:
                writer.write_content_length(0)
            # A 304's Content-Length would have to be that of the 200 (RFC 9110 section 8.6).
            elif announced < 0 and end and size > 0 and status != 204 and status != 304:
                writer.write_content_length(size)
        elif announced >= 0:
            pass
        elif end:
            writer.write_content_length(size)
        elif self.request.version > 10:
            self.chunked = True
            writer.write(b"transfer-encoding: chunked\r\n")
        else:
            self.persistent = False  # the end of the connection is the end of the body

    def _write_trace(self, writer: ResponseWriter) -> None:
        """Write the fields that show the request's id and times."""
        tracer = self.connection.context.tracer
        assert tracer is not None
        assert self.trace is not None
        for name, value in tracer.fields(self.trace):
            writer.write(name)
            writer.write(b": ")
            writer.write(value)
            writer.write(b"\r\n")

    def _write_defaults(self, writer: ResponseWriter) -> None:
        context = self.connection.context
        if self.trace is not None:
            self._write_trace(writer)
        if not writer.has_date and not writer.has_server:
            writer.write(context.default_head)
            return
        if not writer.has_date:
            writer.write(context.date_head)
        if not writer.has_server:
            writer.write(context.settings.server_head)
        writer.write(context.settings.extra_head)

    # --- Body -----------------------------------------------------------------------------------

    def _write_body(self, writer: ResponseWriter, body: bytes, end: bool) -> None:
        """Send a part of the body."""
        connection = self.connection
        given = len(body)
        size: int = self.take(given)
        if 0 < size < given:
            body = body[:size]
        if size == 0:
            pass
        elif connection.copies(size):
            if self.chunked:
                writer.write_chunk(body)
            else:
                writer.write(body)
        else:
            if self.chunked:
                writer.write_chunk_head(size)
            connection.append(body)
            if self.chunked:
                writer.write(b"\r\n")
        if not end:
            self.note_progress()
            connection.emit()
        elif self.chunked:
            writer.write(b"0\r\n\r\n")
        if self.surplus > 0:
            cycle = self.cycle()
            self._complete()
            cycle.on_over()
            raise too_long(self.surplus)
        if end:
            if self.missing() > 0:
                cycle = self.cycle()
                self.cut()
                cycle.on_over()
                raise too_short(self.missing())
            self._complete()

    def _complete(self) -> None:
        """Called when all of the response is written."""
        raise NotImplementedError

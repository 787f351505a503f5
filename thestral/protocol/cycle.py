"""HTTPCycle: receive() and send() of one http scope as a state machine (ASGI 2.5)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping
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
EXPECT_FILE = 4  # nothing: a file is on its way
EXPECT_TRAILERS = 5

# Of a file so much is read at once, and so often before other connections get their turn.
PIECE = 256 * 1024  # bytes
PIECES_PER_TURN = 4
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
        self._trailers: list[Any] | None = None  # those that have come, if any are to come
        self._file = -1  # its descriptor
        self._file_at = 0
        self._file_left = 0  # bytes
        self._file_is_last = True  # the body ends with it
        self._file_given: Any = None  # the application's, if its position is to follow
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
        """Of http.response.start and body, and of the extensions' early_hint, pathsend,
        zerocopysend and trailers.
        """
        fields: dict[str, Any] = message if type(message) is dict else fields_of(message)
        if self._state == EXPECT_START:
            self._start(fields)
            return True
        if fields.get("type") != "http.response.body":
            return self._extend(fields)
        self._continue(fields)
        return self._state == COMPLETE or self._gone or self.stream.is_writable()

    def _extend(self, message: dict[str, Any]) -> bool:
        """A message of an extension, in place of a body or behind it."""
        kind = message.get("type")
        if kind == "http.response.early_hint" and self._state in (EXPECT_FIRST_BODY, EXPECT_BODY):
            self._hint(message)
            return True
        if kind == "http.response.pathsend" and self._state == EXPECT_FIRST_BODY:
            self._open_path(message)
            return self.proceed()
        if kind == "http.response.zerocopysend" and self._state in (EXPECT_FIRST_BODY, EXPECT_BODY):
            self._take_file(message)
            return self.proceed()
        if kind == "http.response.trailers" and self._state == EXPECT_TRAILERS:
            self._end_with_trailers(message)
            return True
        raise LocalProtocolError(self._unexpected(kind))

    def _unexpected(self, kind: Any) -> str:
        if self._state == COMPLETE:
            return f"got {kind!r:.100} after the response was complete"
        if self._state == EXPECT_FILE:
            return f"got {kind!r:.100} while a file is being sent"
        part = "trailers" if self._state == EXPECT_TRAILERS else "body"
        return f"expected 'http.response.{part}', got {kind!r:.100}"

    def proceed(self) -> bool:
        """Send the next pieces of a file."""
        if self._file < 0:
            return True
        done = False
        try:
            done = self._send_pieces()
        finally:
            if done or self._state == COMPLETE:
                self._close_file()
        return done and (self._state == COMPLETE or self._gone or self.stream.is_writable())

    def _start(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind != "http.response.start":
            if kind != "http.response.early_hint":
                raise LocalProtocolError(f"expected 'http.response.start', got {kind!r:.100}")
            self._hint(message)
            return
        if self._gone:
            raise ClientDisconnected("the client is gone")
        self._status = status_of(message)
        self._trailers = [] if message.get("trailers", False) else None
        self._headers = headers_of(message)
        self._state = EXPECT_FIRST_BODY

    def _hint(self, message: dict[str, Any]) -> None:
        """Send 103 (RFC 8297); once the response has begun there is no place for it."""
        if self._gone:
            raise ClientDisconnected("the client is gone")
        links = listed(message, "links")
        if links:
            self.stream.inform(103, [(b"link", link) for link in links])

    def _continue(self, message: dict[str, Any]) -> None:
        if self._state >= COMPLETE:
            raise LocalProtocolError(self._unexpected("http.response.body"))
        if self._gone:
            raise ClientDisconnected("the client is gone")
        body = body_of(message)
        end = not message.get("more_body", False)
        before_trailers = end and self._trailers is not None
        if before_trailers:
            end = False
        try:
            if self._state == EXPECT_FIRST_BODY:
                self.stream.respond(self._status, self._headers, body, end)
                self._headers = None
            else:
                self.stream.write(body, end)
            self._state = COMPLETE if end else EXPECT_BODY
            if before_trailers:
                self._state = EXPECT_TRAILERS
        except LocalProtocolError:
            # A head that could not be sent leaves room for a 500; a body of the wrong length does
            # not.
            if self.stream.status:
                self._state = COMPLETE
                self.wake_readers()
            raise
        if end:
            self._is_complete()

    def _is_complete(self) -> None:
        self.wake_readers()
        self.on_writable()  # another task that waited to send

    def _end_with_trailers(self, message: dict[str, Any]) -> None:
        """Gather trailer fields; the last message of them ends the response."""
        if self._gone:
            raise ClientDisconnected("the client is gone")
        assert self._trailers is not None
        trailers = [*self._trailers, *headers_of(message)]
        if message.get("more_trailers", False):
            self._trailers = trailers
            return
        self.stream.write_trailers(trailers)
        self._state = COMPLETE
        self._is_complete()

    # --- A file as the body -------------------------------------------------------------------

    def _open_path(self, message: dict[str, Any]) -> None:
        """Open what pathsend names, and send the head.

        Raises:
            OSError: it cannot be opened; nothing has been sent.
        """
        if self._gone:
            raise ClientDisconnected("the client is gone")
        path = message.get("path")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise LocalProtocolError(f"{message['type']}: path {path!r:.100} is not absolute")
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = size_of(self._file)
            length = announced(self._headers)
            self._begin_file(0, size if length < 0 else length, True)
        except BaseException:
            self._close_file()
            raise

    def _take_file(self, message: dict[str, Any]) -> None:
        """Begin to send of an open file what zerocopysend says. The descriptor is doubled, so that
        the application may close its own whenever it likes.

        Raises:
            LocalProtocolError: it is no file, or offset and count are none.
            OSError: it is none of a file system.
        """
        if self._gone:
            raise ClientDisconnected("the client is gone")
        file = message.get("file")
        offset = whole(message, "offset")
        count = whole(message, "count")
        try:
            number = file if type(file) is int else file.fileno()  # type: ignore[union-attr]
            self._file = os.dup(number)
        except (AttributeError, TypeError, ValueError, OverflowError, OSError) as exc:
            raise LocalProtocolError(
                f"{message['type']}: file {file!r:.100} has no open file descriptor"
            ) from exc
        try:
            size = size_of(self._file)
            if offset < 0:
                # Ours stands where a descriptor does, and a number may become another file's.
                self._file_given = self._file if type(file) is int else file
                offset = tell(self._file_given)
            left = max(size - offset, 0)
            if count >= 0:
                left = min(left, count)
            self._begin_file(offset, left, not message.get("more_body", False))
        except BaseException:
            self._close_file()
            raise

    def _begin_file(self, offset: int, size: int, last: bool) -> None:
        """Send the head if that is still to be done; what follows is _send_pieces()'s."""
        self._file_at = offset
        self._file_left = size
        self._file_is_last = last
        if self._state == EXPECT_FIRST_BODY:
            headers = self._headers
            if last and self._trailers is None and announced(headers) < 0:
                headers = [*headers, (b"content-length", b"%d" % size)]
            self.stream.respond(self._status, headers, b"", False)
            self._headers = None
        self._state = EXPECT_FILE

    def _send_pieces(self) -> bool:
        """Send a part of the file; true if that was all."""
        pieces = 0
        while self._file_left > 0:
            if pieces == PIECES_PER_TURN or not self.stream.is_writable():
                return False
            pieces += 1
            sent = self.stream.write_file(self._file, self._file_at, self._file_left)
            if sent < 0:
                data = os.pread(self._file, min(PIECE, self._file_left), self._file_at)
                sent = len(data)
                self._write(data, False)
            if self._gone:
                raise ClientDisconnected("the client is gone")
            self._file_at += sent
            self._file_left -= sent
            if sent == 0 and self.stream.is_writable():
                break  # it has become shorter
        if self._file_given is not None:
            with contextlib.suppress(ValueError, OSError):  # the application has closed it
                seek(self._file_given, self._file_at)
        self._state = EXPECT_BODY
        if self._file_is_last:
            if self._trailers is not None:
                self._state = EXPECT_TRAILERS
                return True
            self._state = COMPLETE
            self._write(b"", True)
            self._is_complete()
        return True

    def _write(self, data: bytes, end: bool) -> None:
        try:
            self.stream.write(data, end)
        except LocalProtocolError:  # the body is not as long as announced
            self._state = COMPLETE
            self.wake_readers()
            raise

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._file_given = None

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

    def on_closed(self) -> None:
        self._close_file()
        Cycle.on_closed(self)

    def on_drain(self) -> None:
        # A stream may have no end of its own. What it still sends is sent.
        if self._state == EXPECT_BODY:
            self.on_disconnect()

    def on_return(self, exc: BaseException | None) -> None:
        self._close_file()
        if exc is not None:
            self.log_raised(exc)
        if self._state == COMPLETE or self._gone:
            return
        if self._state == EXPECT_BODY and self._disconnected and self.context.draining:
            # It was told to end. What it has sent is sent; that it is not all, the client can see.
            self._state = COMPLETE
            self.stream.cut()
            return
        if exc is None and self._disconnected and self._state < EXPECT_BODY:
            # It has learned from receive() that nobody waits for a response.
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
    number = 0
    if isinstance(status, int):
        try:
            number = status
        except OverflowError:  # it is a C integer here
            number = 0
    if not LOWEST_STATUS <= number <= HIGHEST_STATUS:
        raise LocalProtocolError(
            f"{message['type']}: status {status!r:.100} is not an int of"
            f" {LOWEST_STATUS} to {HIGHEST_STATUS}"
        )
    return number


def fields_of(message: Any) -> dict[str, Any]:
    """A message as a dict, by which it can be read.

    Raises:
        LocalProtocolError: it is none.
    """
    if isinstance(message, Mapping):
        return dict(message)
    raise LocalProtocolError(f"expected a dict as a message, got {type(message).__name__}")


def headers_of(message: dict[str, Any]) -> list[Any]:
    """The headers of a message; what is in the list is unchecked.

    Raises:
        LocalProtocolError: nothing to make a list of.
    """
    headers = message.get("headers")
    return headers if type(headers) is list else listed(message, "headers")


def listed(message: dict[str, Any], key: str) -> list[Any]:
    """What a message holds under `key`, as a list; nothing and None are an empty one.

    Raises:
        LocalProtocolError: it cannot be iterated over.
    """
    value = message.get(key)
    if value is None:
        return []
    if not isinstance(value, Iterable):
        raise LocalProtocolError(
            f"{message['type']}: {key} is {type(value).__name__}, expected an iterable"
        )
    return list(value)


def announced(headers: list[Any]) -> int:
    """The Content-Length among headers; -1 if there is none, or none that can be read."""
    for pair in headers:
        # What is wrong with others, the writer says.
        if isinstance(pair, (tuple, list)) and len(pair) == 2:
            name, value = pair
            if isinstance(name, bytes) and name.lower() == b"content-length":
                return int(value) if isinstance(value, bytes) and value.isdigit() else -1
    return -1


def whole(message: dict[str, Any], key: str) -> int:
    """A number of bytes that a message may hold; -1 if it does not.

    Raises:
        LocalProtocolError: it is no such number.
    """
    value = message.get(key)
    if value is None:
        return -1
    if not isinstance(value, int) or not -1 < value < 1 << 63:
        raise LocalProtocolError(
            f"{message['type']}: {key} {value!r:.100} is not a number of bytes"
        )
    return int(value)


def tell(file: Any) -> int:
    """Where a file object, or a descriptor, stands."""
    return file.tell() if hasattr(file, "tell") else os.lseek(file, 0, os.SEEK_CUR)


def seek(file: Any, position: int) -> None:
    """The other way."""
    if hasattr(file, "seek"):
        file.seek(position)
    else:
        os.lseek(file, position, os.SEEK_SET)


def size_of(file: int) -> int:
    """The size of an open file.

    Raises:
        OSError: it is no regular file, which alone has one.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return found.st_size


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

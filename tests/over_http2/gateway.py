"""A gateway in the client: takes the bytes of HTTP/1.1 requests, speaks HTTP/2 to the server, and
gives back the bytes of HTTP/1.1 responses, so that tests written for HTTP/1.1 run over HTTP/2.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import frames
from frames import Code, Setting, Type
from support import Running

from thestral._core.http1 import reason_phrase

WINDOW_MAX = 2**31 - 1  # bytes
# Bytes that sendall() accepts although the server does not read: as much as kernels buffer.
UNSENT_MAX = 256 * 1024  # bytes
LOOK = 0.02  # seconds between checks of what another thread may have read
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
# Fields that HTTP/2 does not have (RFC 9113 section 8.2.2, RFC 8441 section 5), or has as
# pseudo-fields.
CONNECTION_FIELDS = {
    b"host",
    b"connection",
    b"keep-alive",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"sec-websocket-key",
}


class Wire(frames.Client):
    """The HTTP/2 side. Reads only on demand, so that TCP's back-pressure works."""

    on_frame: Callable[[frames.Frame], None]

    def _receive(self) -> None:
        try:
            chunk = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._gone = True
            return
        self._gone = not chunk
        self._incoming += chunk

    def _take(self, came: frames.Frame) -> None:
        super()._take(came)
        self.on_frame(came)


class Request:
    """A request as described by its head.

    Attributes:
        left: bytes of content that the client still owes; None for chunks.
        closes: whether the connection ends after the response.
        websocket: the key of a WebSocket's handshake; None for other requests.
    """

    def __init__(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        self.method, self.target, self.version = line.split(b" ")
        fields = []
        for text in lines:
            name, _, value = text.partition(b":")
            fields.append((name.lower(), value.strip(b" \t")))
        self.left: int | None = 0
        self.websocket: bytes | None = None
        self.trailers = b"trailers" in dict(fields).get(b"te", b"")
        options = dict(fields).get(b"connection", b"").lower()
        self.closes = b"close" in options if self.is_1_1 else b"keep-alive" not in options
        if dict(fields).get(b"upgrade", b"").lower() == b"websocket":
            self.websocket = dict(fields).get(b"sec-websocket-key", b"")
        if b"content-length" in dict(fields):
            self.left = int(dict(fields)[b"content-length"])
        elif b"transfer-encoding" in dict(fields):
            self.left = None
        self.pseudo = self._pseudo(fields)
        self.fields = [pair for pair in fields if pair[0] not in CONNECTION_FIELDS]
        if self.trailers:
            self.fields.append((b"te", b"trailers"))

    @property
    def is_1_1(self) -> bool:
        return self.version == b"HTTP/1.1"

    def _pseudo(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        pseudo = [(b":scheme", b"http"), (b":path", self.target)]
        if self.websocket is not None:
            pseudo += [(b":method", b"CONNECT"), (b":protocol", b"websocket")]
        else:
            pseudo.append((b":method", self.method))
        host = dict(fields).get(b"host", None if self.is_1_1 else b"a")  # 1.0 may lack it
        return pseudo if host is None else [*pseudo, (b":authority", host)]


class Gateway:
    """Replaces a socket. Requests are sent on one after another, as HTTP/1.1 answers them.

    A stream that the server resets ends the connection as it would end over HTTP/1.1: with a close
    if the client can tell that the response is cut, otherwise with a reset. A client that leaves
    first resets its stream, and then closes the connection.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.RLock()  # a test may read in one thread and write in another
        self._timeout: float | None = frames.PATIENCE
        self._unsent = bytearray()  # from the test: not yet parsed, or not yet allowed
        self._unread = bytearray()  # for the test to read
        self._request: Request | None = None
        self._stream = 0
        self._owes: Request | None = None  # its response came before its content was complete
        self._tunnel = False
        self._chunked = False
        self._framed = False  # whether the client can tell where the body ends
        self._ended = False  # whether the server has ended the connection
        self._reset = False  # whether it did so by a reset
        self._lingers = True
        self._pings = itertools.count()
        wire.on_frame = self._on_frame
        wire._decoder.max_header_list_size = 2**20

    # --- Out ----------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        with self._lock:
            self._unsent += data
            self._forward()
        self._wait(lambda: len(self._unsent) <= UNSENT_MAX or self._ended)
        if len(self._unsent) > UNSENT_MAX:
            raise BrokenPipeError

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def _forward(self) -> None:
        """Send on as much of the test's bytes as the server allows."""
        while self._unsent and not self._ended:
            before = len(self._unsent)
            if self._request is not None:
                if self._request.websocket is not None:  # also before the answer
                    self._send_content(len(self._unsent), False)
                else:
                    self._forward_content(self._request)
            elif self._owes is not None:
                self._forward_content(self._owes)
                if self._owes.left == 0:
                    self._owes = None
                    continue
            else:
                self._begin()
            if len(self._unsent) == before:
                return

    def _begin(self) -> None:
        head, end, _ = bytes(self._unsent).partition(b"\r\n\r\n")
        if not end:
            return
        del self._unsent[: len(head) + 4]
        self._request = request = Request(head)
        wire = self._wire
        self._stream = stream = wire._next_stream
        wire._next_stream += 2
        block = wire.encoder.encode([*request.pseudo, *request.fields])
        wire.send(
            frames.headers(stream, block, end=request.left == 0 and request.websocket is None)
        )

    def _forward_content(self, request: Request) -> None:
        if request.left is None:
            self._forward_chunk(request)
        elif request.left > 0:
            request.left -= self._send_content(min(request.left, len(self._unsent)), request.left)

    def _forward_chunk(self, request: Request) -> None:
        """Send a chunk as a DATA frame once it is complete."""
        line, end, rest = bytes(self._unsent).partition(b"\r\n")
        size = int(line, 16) if end else 0
        if not end or len(rest) < size + 2:
            return
        if request is self._request and size > self._wire.room(self._stream):
            return
        del self._unsent[: len(line) + 2]
        if size == 0:
            request.left = 0
            if request is self._request:
                self._wire.send(frames.data(self._stream, end=True))
        elif request is self._request:
            self._send_content(size, None)
        else:
            del self._unsent[:size]
        del self._unsent[:2]

    def _send_content(self, size: int, left: int | bool | None) -> int:
        """Send up to `size` bytes, with END_STREAM if these are the `left` bytes that are owed."""
        wire = self._wire
        sent = 0
        while sent < size:
            part = size - sent
            if self._owes is None:
                part = min(part, wire.room(self._stream), 16_384)
                if part <= 0:
                    break
                end = left is not False and left is not None and sent + part == left
                payload = bytes(self._unsent[:part])
                wire.send(frames.data(self._stream, payload, end=end))
                wire.on(self._stream).uploaded += part
            del self._unsent[:part]
            sent += part
        return sent

    # --- In -----------------------------------------------------------------------------------

    def recv(self, size: int, flags: int = 0) -> bytes:
        wanted = size if flags & socket.MSG_WAITALL else 1
        self._wait(lambda: len(self._unread) >= wanted or self._ended)
        with self._lock:
            data = bytes(self._unread[:size])
            if not data and self._reset:
                raise ConnectionResetError
            if not flags & socket.MSG_PEEK:
                del self._unread[:size]
            return data

    def _wait(self, fact: Callable[[], bool]) -> None:
        """Read until `fact` holds.

        Raises:
            TimeoutError: it did not come in time.
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            with self._lock:
                if fact() and (self._ended or not self._wire.has_frame()):
                    return
                try:
                    if self._wire.read(0.0) is None:
                        self._ended = True
                    continue
                except TimeoutError:
                    if fact():
                        return
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            select.select([self._wire.sock], [], [], LOOK)

    def _on_frame(self, came: frames.Frame) -> None:
        if came.type in (Type.HEADERS, Type.CONTINUATION) and came.stream == self._stream:
            if came.flags & frames.END_HEADERS:
                self._on_head()
        elif came.type == Type.DATA and came.stream == self._stream:
            self._on_data(came)
        elif came.type == Type.RST_STREAM and came.stream == self._stream:
            self._on_reset(frames.number(came.payload))
        self._forward()

    def _on_head(self) -> None:
        exchange = self._wire.on(self._stream)
        request = self._request
        assert request is not None
        if exchange.status is None:
            if request.is_1_1:
                self._put_head(exchange.interim[-1], exchange.interim_fields[-1])
            return
        if exchange.trailers is not None:
            self._finish(exchange.trailers if request.trailers else [])
            return
        status, fields = exchange.status, list(exchange.fields)
        assert all(name == name.lower() for name, _ in fields)
        if request.websocket is not None and status < 300:
            digest = base64.b64encode(hashlib.sha1(request.websocket + GUID).digest())
            extra = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
            self._put_head(101, [*extra, (b"sec-websocket-accept", digest), *fields])
            self._tunnel = True
            assert not exchange.ended
            return
        bodiless = request.method == b"HEAD" or status in (204, 304)
        counted = exchange.value(b"content-length") is not None
        self._chunked = not (bodiless or counted or exchange.ended) and request.is_1_1
        self._framed = bodiless or counted or self._chunked
        if exchange.ended and not bodiless and not counted:
            fields.append((b"content-length", b"0"))
        elif self._chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        elif not self._framed:
            request.closes = True
        if request.websocket is not None:
            request.closes = True
        if request.closes:
            fields.append((b"connection", b"close"))
        self._put_head(status, fields)
        if exchange.ended:
            self._chunked = False
            self._finish([])

    def _put_head(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self._unread += b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status).encode())
        self._unread += b"".join(b"%b: %b\r\n" % pair for pair in fields) + b"\r\n"

    def _on_data(self, came: frames.Frame) -> None:
        if self._chunked and came.payload:
            self._unread += b"%x\r\n%b\r\n" % (len(came.payload), came.payload)
        else:
            self._unread += came.payload
        if not came.flags & frames.END_STREAM:
            return
        if self._tunnel:
            self._wire.send(frames.data(self._stream, end=True))
            self._end()
        else:
            self._finish([])

    def _finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """Note that the response is complete."""
        if self._chunked:
            lines = b"".join(b"%b: %b\r\n" % pair for pair in trailers)
            self._unread += b"0\r\n" + lines + b"\r\n"
        request = self._request
        assert request is not None
        if request.left != 0:
            self._owes = request
        self._request = None
        if request.closes:
            self._end()

    def _on_reset(self, code: int) -> None:
        """Handle a reset by the server, which after a response refuses the rest of the content."""
        if self._request is None or self._ended:
            assert code in (Code.NO_ERROR, Code.CANCEL), code
            return
        assert code in (Code.INTERNAL_ERROR, Code.CANCEL), code
        self._reset = not self._framed
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._wire.close()

    def is_held_back(self) -> bool:
        """Whether the server has read all that it has been sent, and allows no more, if there is
        more.
        """
        with self._lock:
            if self._ended:
                return True
            opaque = next(self._pings).to_bytes(8)
            self._wire.send(frames.ping(opaque))
        self._wait(lambda: opaque in self._wire.pongs or self._ended)
        with self._lock:
            return not self._unsent or self._wire.room(self._stream) <= 0

    # --- The socket ---------------------------------------------------------------------------

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if option == socket.SO_LINGER and level == socket.SOL_SOCKET:
            self._lingers = value != struct.pack("ii", 1, 0)
        self._wire.sock.setsockopt(level, option, value)

    def getsockname(self) -> object:
        return self._wire.sock.getsockname()

    def shutdown(self, how: int) -> None:
        self._wire.sock.shutdown(how)

    def close(self) -> None:
        with self._lock:
            unfinished = self._request is not None and not self._ended
            if unfinished and self._lingers and not self._wire.closed:
                with contextlib.suppress(OSError, AssertionError):
                    self._wire.send(frames.rst_stream(self._stream))
            self._ended = True
            self._wire.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Gated(Running):
    """A server; connect() and raw() give sockets that translate HTTP/1.1 to HTTP/2."""

    def __init__(self, app: Any, loop: str = "auto", **options: Any) -> None:
        super().__init__(app, loop, **options)
        self._gateways: list[Gateway] = []

    def holds_back(self) -> bool:
        return all(gateway.is_held_back() for gateway in self._gateways)

    def connect(self, receive_buffer: int | None = None) -> Gateway:
        sock = super().connect(receive_buffer)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(sock, "a")
            gateway = Gateway(wire)
            # only TCP's back-pressure stops the server, as over HTTP/1.1
            wire.start((Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX))
            wire.send(frames.window_update(0, WINDOW_MAX - 65_535))
        except BaseException:
            sock.close()
            raise
        self._gateways.append(gateway)
        return gateway

"""A WebSocket client over a plain socket that sends any bytes and accepts only valid ones."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from support import PATIENCE, Running, read_head

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
CONTROL = (CLOSE, PING, PONG)
OPCODES = (CONT, TEXT, BINARY, *CONTROL)
CONTROL_MAX = 125  # bytes of a control frame's payload (RFC 6455 section 5.5)
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
NO_MASK = b""
ZERO_MASK = bytes(4)
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


# --- The handshake --------------------------------------------------------------------------------


def handshake(
    *extra: str,
    path: str = "/",
    without: Iterable[str] = (),
    method: str = "GET",
    version: str = "1.1",
    key: str = KEY,
) -> bytes:
    """An opening handshake (RFC 6455 section 4.1).

    Args:
        extra: further field lines.
        without: lower-case names of usual fields to omit.
    """
    usual = [
        "Host: a",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in usual if line.partition(":")[0].lower() not in set(without)]
    lines = [f"{method} {path} HTTP/{version}", *kept, *extra, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def accept_value(key: str = KEY) -> bytes:
    """Return the Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest())


class Head(NamedTuple):
    """A response's status and fields, with lower-case names."""

    status: int
    fields: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def one(self, name: bytes) -> bytes:
        """Return the value of a field that must occur exactly once."""
        (value,) = self.all(name)
        return value


def parse_head(raw: bytes) -> Head:
    """Parse a complete response head, strictly."""
    line, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    version, status, _phrase = line.split(b" ", 2)
    assert version == b"HTTP/1.1", line[:100]
    fields = []
    for field in lines:
        name, colon, value = field.partition(b": ")
        assert name, field[:100]
        assert colon, field[:100]
        fields.append((name.lower(), value))
    return Head(int(status), fields)


# --- Frames ---------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One frame from the server."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0  # RSV1, RSV2 and RSV3, at their places in the first byte


def apply_mask(mask: bytes, data: bytes) -> bytes:
    """Mask a payload (RFC 6455 section 5.3), as one large number."""
    if not data:
        return b""
    size = len(data)
    stream = (mask * (size // 4 + 1))[:size]
    number = int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")
    return number.to_bytes(size, "little")


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """Encode a client's frame (RFC 6455 section 5.2).

    Args:
        mask: four bytes; NO_MASK for an unmasked frame; None for random ones.
        form: 7, 16 or 64 bits for the length; None for the shortest form.
        length: the length to announce, if not the payload's.
    """
    if isinstance(payload, str):
        payload = payload.encode()
    size = len(payload) if length is None else length
    if form is None:
        form = 7 if size < 126 else 16 if size < 65536 else 64
    if mask is None:
        mask = os.urandom(4)
    masked = 0x80 if mask else 0
    head = bytes([(FIN if fin else 0) | rsv | opcode])
    if form == 7:
        head += bytes([masked | size])
    elif form == 16:
        head += struct.pack("!BH", masked | 126, size)
    else:
        head += struct.pack("!BQ", masked | 127, size)
    return head + mask + (apply_mask(mask, payload) if mask else payload)


def close_frame(code: int | None = None, reason: bytes | str = b"") -> bytes:
    """Encode a client's Close (RFC 6455 section 5.5.1); without a code its payload is empty."""
    if isinstance(reason, str):
        reason = reason.encode()
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode: int, parts: Iterable[bytes], rsv: int = 0) -> list[bytes]:
    """Encode one message, each part in its own frame (RFC 6455 section 5.4)."""
    parts = list(parts)
    last = len(parts) - 1
    return [
        frame(CONT if number else opcode, part, fin=number == last, rsv=0 if number else rsv)
        for number, part in enumerate(parts)
    ]


# --- The client -----------------------------------------------------------------------------------


class Client:
    """One connection.

    Args:
        running: the server, or anything with connect().
        request: the opening handshake; frames may follow it.
        receive_buffer: size of the socket's receive buffer in bytes.
    """

    def __init__(
        self, running: Running, request: bytes | None = None, receive_buffer: int | None = None
    ) -> None:
        self.sock = running.connect(receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.rsv_allowed = 0
        self.sock.sendall(handshake() if request is None else request)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    # --- Out ----------------------------------------------------------------------------------

    def send(self, *frames: bytes) -> None:
        """Send bytes unchanged, in one piece."""
        self.sock.sendall(b"".join(frames))

    def drip(self, data: bytes, sizes: Iterable[int] = itertools.repeat(1)) -> None:
        """Send bytes in pieces of these sizes, and the rest in one piece."""
        at = 0
        for size in sizes:
            if at >= len(data):
                return
            self.sock.sendall(data[at : at + size])
            at += size
        self.sock.sendall(data[at:])

    def text(self, text: str | bytes) -> None:
        self.send(frame(TEXT, text))

    def binary(self, data: bytes) -> None:
        self.send(frame(BINARY, data))

    # --- In -----------------------------------------------------------------------------------

    def head(self) -> Head:
        """Read the response's head; a body or frames stay in the socket."""
        start = self.sock.recv(5, socket.MSG_PEEK)
        assert b"HTTP/".startswith(start[:5]), f"no response: {start!r}"
        return parse_head(read_head(self.sock))

    def accepted(self) -> Client:
        """Read the 101, which must be valid (RFC 6455 section 4.1, the list at its end)."""
        self.answer = head = self.head()
        assert head.status == 101, head
        assert head.one(b"upgrade").lower() == b"websocket"
        assert head.one(b"connection").lower() == b"upgrade"
        assert head.one(b"sec-websocket-accept") == accept_value()
        assert not head.all(b"content-length")
        assert not head.all(b"transfer-encoding")
        if head.all(b"sec-websocket-extensions"):
            self.rsv_allowed = RSV1
        return self

    def _fill(self, size: int) -> bytes:
        """Read exactly `size` bytes; fail if the connection ends before."""
        while len(self._buffer) < size:
            data = self.sock.recv(max(65536, size - len(self._buffer)))
            if not data:
                raise AssertionError(f"the connection ended within a frame: {self._buffer!r:.200}")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def read(self) -> Frame:
        """Read one frame, which must be valid for a server (RFC 6455 section 5)."""
        first, second = self._fill(2)
        opcode = first & 0x0F
        fin = bool(first & FIN)
        rsv = first & (RSV1 | RSV2 | RSV3)
        assert opcode in OPCODES, f"opcode {opcode:#x} (section 5.2)"
        assert not second & 0x80, "a server must not mask (section 5.1)"
        assert not rsv & ~self.rsv_allowed, f"RSV {rsv:#x} without extension (section 5.2)"
        if rsv:
            assert opcode in (TEXT, BINARY), f"RSV {rsv:#x} on opcode {opcode:#x}"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._fill(2))
            assert size > 125, f"16 bits for a length of {size} (section 5.2)"
        elif size == 127:
            (size,) = struct.unpack("!Q", self._fill(8))
            assert size > 65535, f"64 bits for a length of {size} (section 5.2)"
        if opcode in CONTROL:
            assert fin, "a fragmented control frame (section 5.5)"
            assert size <= CONTROL_MAX, f"a control frame of {size} bytes (section 5.5)"
        return Frame(opcode, self._fill(size), fin, rsv)

    def message(self) -> str | bytes:
        """Read the next message, uncompressed, with joined fragments; control frames fail."""
        got = self.read()
        assert got.opcode in (TEXT, BINARY), repr(got)[:300]
        assert not got.rsv, "compressed"
        payload = bytearray(got.payload)
        last = got
        while not last.fin:
            last = self.read()
            assert last.opcode == CONT, last
            payload += last.payload
        return payload.decode() if got.opcode == TEXT else bytes(payload)

    def echoes(self, opcode: int, payload: bytes) -> None:
        """Expect this message next."""
        got = self.message()
        want: Any = payload.decode() if opcode == TEXT else payload
        assert got == want, (len(got), len(payload), got[:50], payload[:50])

    def expect(self, opcode: int, payload: bytes = b"") -> None:
        """Expect this frame next, unfragmented."""
        got = self.read()
        assert got == Frame(opcode, payload), repr(got)[:300]

    def read_close(self) -> tuple[int | None, str]:
        """Read a Close, which must come next; return its code (None if it is empty) and reason."""
        got = self.read()
        assert got.opcode == CLOSE, repr(got)[:300]
        if not got.payload:
            return None, ""
        assert len(got.payload) >= 2, "a Close of one byte (section 5.5.1)"
        return struct.unpack("!H", got.payload[:2])[0], got.payload[2:].decode()

    def ended(self, reset: bool = False) -> None:
        """Expect the server to close, and to send nothing before.

        Args:
            reset: accept a reset, too: the server may not have read all of the bytes sent to it.
        """
        try:
            data = bytes(self._buffer) or self.sock.recv(65536)
        except ConnectionResetError:
            if not reset:
                raise
            return
        assert data == b"", data[:100]

    def closed(self, code: int | None, reason: str | None = None) -> None:
        """Expect a Close with this code (and reason), and then the end of the connection."""
        got = self.read_close()
        assert got[0] == code, got
        if reason is not None:
            assert got[1] == reason, got
        self.ended()

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the WebSocket: the server echoes the code, then closes TCP."""
        self.send(close_frame(code, reason))
        assert self.read_close()[0] == code
        self.ended()

    def works(self) -> None:
        """Expect the connection to echo, and to close cleanly."""
        self.text("still here")
        assert self.message() == "still here"
        self.close()

    def reset(self) -> None:
        """Close with a reset, as the kernel of a crashed peer does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def is_reset(self) -> bool:
        """Read to the end of the connection; return whether it was a reset."""
        try:
            while self.sock.recv(2**20):
                pass
        except ConnectionResetError:
            return True
        return False


class Sender:
    """Sends bytes in a thread, because they may be more than the server reads at once.

    Attributes:
        done: whether the kernel has accepted all bytes.
        sent: number of bytes that the kernel has accepted.
        error: the exception that ended the thread early.
    """

    PIECE = 16384  # bytes

    def __init__(self, client: Client, data: bytes) -> None:
        self.sent = 0
        self.done = False
        self.error: OSError | None = None
        self._sock = client.sock
        self._data = memoryview(data)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self.sent < len(self._data):
                self.sent += self._sock.send(self._data[self.sent : self.sent + self.PIECE])
            self.done = True
        except OSError as exc:
            self.error = exc

    def join(self) -> None:
        """Wait until all bytes have been sent."""
        self._thread.join(PATIENCE)
        assert self.done, self.error


@contextlib.contextmanager
def connected(running: Running, *extra: str, **settings: Any) -> Iterator[Client]:
    """Return a client whose handshake was accepted."""
    receive_buffer = settings.pop("receive_buffer", None)
    with Client(running, handshake(*extra, **settings), receive_buffer) as client:
        yield client.accepted()

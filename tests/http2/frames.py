"""A client of raw HTTP/2 frames over a real socket: it builds any frame, valid or not, sends it at
chosen cuts, and keeps account of the server's frames.

It is one file because the client's accounts need the frames, and every test of HTTP/2 needs both.
"""

from __future__ import annotations

import itertools
import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
PATIENCE = 15.0  # seconds to wait for something before the test fails
BLOCKED = 3.0  # seconds without reading after which flood() takes the server to be waiting
HEAD_SIZE = 9  # bytes before a frame's payload
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class Type(IntEnum):
    """Frame types: RFC 9113 section 6; RFC 9218 section 7.1."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    PRIORITY_UPDATE = 0x10


class Code(IntEnum):
    """Error codes: RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """Settings: RFC 9113 section 6.5.2; RFC 8441 section 3; RFC 9218 section 2.1."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8
    NO_RFC7540_PRIORITIES = 0x9


DEFAULTS: dict[int, int] = {Setting.INITIAL_WINDOW_SIZE: 65_535, Setting.MAX_FRAME_SIZE: 16_384}


# --- Building -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A frame as sent on the wire.

    Attributes:
        length: the length in the head, if not that of the payload.
        reserved: the reserved bit before the stream's identifier.
    """

    type: int
    flags: int
    stream: int
    payload: bytes = b""
    length: int | None = None
    reserved: bool = False

    def __bytes__(self) -> bytes:
        length = len(self.payload) if self.length is None else self.length
        stream = self.stream | (0x80000000 if self.reserved else 0)
        head = (
            length.to_bytes(3, "big") + bytes([self.type, self.flags]) + stream.to_bytes(4, "big")
        )
        return head + self.payload

    def __str__(self) -> str:
        try:
            name = Type(self.type).name
        except ValueError:
            name = f"type {self.type:#x}"
        text = f"{name} flags {self.flags:#x} stream {self.stream} length {len(self.payload)}"
        if self.type in (Type.RST_STREAM, Type.GOAWAY):
            text += (
                f" {code_name(number(self.payload[-4:] if self.type == 3 else self.payload[4:8]))}"
            )
        return text


def number(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "big")


def table_size(payload: bytes | bytearray) -> int | None:
    """Return HEADER_TABLE_SIZE from a SETTINGS payload."""
    found = None
    for at in range(0, len(payload), 6):
        if number(payload[at : at + 2]) == Setting.HEADER_TABLE_SIZE:
            found = number(payload[at + 2 : at + 6])
    return found


def code_name(code: int) -> str:
    return Code(code).name if code in set(Code) else f"code {code:#x}"


def padded(payload: bytes, pad: int | None) -> tuple[int, bytes]:
    """Return the flag, and the payload with `pad` bytes of padding."""
    return (0, payload) if pad is None else (PADDED, bytes([pad]) + payload + bytes(pad))


def data(stream: int, payload: bytes = b"", *, end: bool = False, pad: int | None = None) -> bytes:
    flag, payload = padded(payload, pad)
    return bytes(Frame(Type.DATA, flag | end * END_STREAM, stream, payload))


def headers(
    stream: int,
    block: bytes,
    *,
    end: bool = False,
    end_headers: bool = True,
    pad: int | None = None,
    priority: tuple[int, int, bool] | None = None,
) -> bytes:
    """Build HEADERS. `priority`: stream that this one depends on, weight byte, exclusive or not."""
    flags = end * END_STREAM | end_headers * END_HEADERS
    if priority is not None:
        flags |= PRIORITY_FLAG
        block = dependency(*priority) + block
    flag, block = padded(block, pad)
    return bytes(Frame(Type.HEADERS, flags | flag, stream, block))


def continuation(stream: int, block: bytes, *, end_headers: bool = True) -> bytes:
    return bytes(Frame(Type.CONTINUATION, end_headers * END_HEADERS, stream, block))


def dependency(on: int, weight: int, exclusive: bool) -> bytes:
    return (on | exclusive << 31).to_bytes(4, "big") + bytes([weight])


def priority(stream: int, on: int = 0, weight: int = 15, exclusive: bool = False) -> bytes:
    return bytes(Frame(Type.PRIORITY, 0, stream, dependency(on, weight, exclusive)))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    return bytes(Frame(Type.RST_STREAM, 0, stream, code.to_bytes(4, "big")))


def settings(*pairs: tuple[int, int]) -> bytes:
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return bytes(Frame(Type.SETTINGS, 0, 0, payload))


def settings_ack() -> bytes:
    return bytes(Frame(Type.SETTINGS, ACK, 0))


def ping(opaque: bytes = bytes(8), *, ack: bool = False) -> bytes:
    return bytes(Frame(Type.PING, ack * ACK, 0, opaque))


def goaway(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    payload = last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug
    return bytes(Frame(Type.GOAWAY, 0, 0, payload))


def window_update(stream: int, by: int) -> bytes:
    return bytes(Frame(Type.WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big")))


def priority_update(stream: int, value: bytes = b"") -> bytes:
    """Build a PRIORITY_UPDATE (RFC 9218 section 7.1); `stream` is the prioritized one."""
    return bytes(Frame(Type.PRIORITY_UPDATE, 0, 0, stream.to_bytes(4, "big") + value))


# --- HPACK, literals only: without state, no frame depends on earlier ones ------------------------

INCREMENTAL, PLAIN, NEVER = (0x40, 6), (0x00, 4), (0x10, 4)  # RFC 7541 section 6.2: bits, prefix


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """Encode an integer (RFC 7541 section 5.1); `first` has the bits before the prefix."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    encoded = bytearray([first | most])
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def string(text: bytes, *, huffman: bool = False) -> bytes:
    """Encode a string (RFC 7541 section 5.2)."""
    if not huffman:
        return integer(len(text), 7) + text
    coded = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    ).encode(text)
    return integer(len(coded), 7, 0x80) + coded


def literal(
    name: bytes | int,
    value: bytes,
    form: tuple[int, int] = PLAIN,
    *,
    huffman: bool = False,
) -> bytes:
    """Encode a field as a literal; the name may be an index into the tables."""
    bits, prefix = form
    if isinstance(name, int):
        return integer(name, prefix, bits) + string(value, huffman=huffman)
    return bytes([bits]) + string(name, huffman=huffman) + string(value, huffman=huffman)


def literals(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


# --- Cuts -----------------------------------------------------------------------------------------


def bytewise(blob: bytes) -> list[bytes]:
    return [blob[i : i + 1] for i in range(len(blob))]


def random_pieces(blob: bytes, rng: random.Random) -> list[bytes]:
    """Cut into up to eight pieces, some of them a single byte."""
    cuts = sorted(rng.randrange(len(blob) + 1) for _ in range(rng.randrange(1, 8)))
    if rng.random() < 0.5:
        cuts = sorted({*cuts, *(min(cut + 1, len(blob)) for cut in cuts)})
    edges = [0, *cuts, len(blob)]
    return [blob[a:b] for a, b in itertools.pairwise(edges) if b > a]


# --- The client -----------------------------------------------------------------------------------


@dataclass
class Exchange:
    """What has been received on a stream.

    Attributes:
        interim: statuses of 1xx responses.
        interim_fields: the fields of each 1xx response.
        ended: whether END_STREAM has come.
        reset: code of RST_STREAM.
        data_frames: number of DATA frames, including empty ones.
        credit: bytes that WINDOW_UPDATE has allowed the client to send.
        uploaded: bytes that upload() has sent, including padding.
    """

    status: int | None = None
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    interim_fields: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] | None = None
    ended: bool = False
    reset: int | None = None
    data_frames: int = 0
    credit: int = 0
    uploaded: int = 0

    def value(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)


class Client:
    """One connection. Its state is in attributes; wait() reads until a condition on them holds.

    SETTINGS and PING are answered as they are read, except while this client has left a field block
    open.

    Attributes:
        server: the server's settings, with the defaults of RFC 9113.
        greeted: whether the server's SETTINGS have come.
        exchanges: Exchange by stream.
        frames: number of frames received, by type.
        goaways: (last stream, code, debug data) of each GOAWAY.
        settings_sent, settings_acked: number of this client's SETTINGS.
        pongs: payloads of PING with ACK.
        credit: bytes that WINDOW_UPDATE has allowed on the connection.
        closed: whether the server has closed or reset the connection.
        log: the last frames, for the messages of failures.
        refill: whether both windows are refilled as DATA arrives.
        answers: whether PING and SETTINGS are answered.
    """

    def __init__(self, sock: socket.socket, authority: str, patience: float = PATIENCE) -> None:
        self.sock = sock
        self.authority = authority
        self.scheme = "https" if isinstance(sock, ssl.SSLSocket) else "http"
        self.patience = patience
        self.server: dict[int, int] = dict(DEFAULTS)
        self.greeted = False
        self.exchanges: dict[int, Exchange] = {}
        self.frames: dict[int, int] = {}
        self.goaways: list[tuple[int, int, bytes]] = []
        self.settings_sent = self.settings_acked = 0
        self.pongs: list[bytes] = []
        self.credit = 0
        self.closed = False
        self.log: list[str] = []
        self.refill = False
        self.answers = True
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._incoming = bytearray()
        self._gone = False  # according to the kernel; earlier bytes may still be in _incoming
        self._block: tuple[int, bool, bytearray] | None = None
        self._next_stream = 1
        # Of this client's frames, to tell whether a field block is open.
        self._outgoing_tail = bytearray()
        self._within_block = False
        # Of this client's SETTINGS, until they are acknowledged.
        self._table_sizes: list[int | None] = []
        sock.setblocking(False)

    # --- Sending

    def send(self, *pieces: bytes, reading: bool = True) -> None:
        """Send each piece by itself, receiving meanwhile as a browser does. A connection that the
        server has closed does not raise, because its last frames are still to be read.
        """
        for piece in pieces:
            sent = 0
            while sent < len(piece) and not self._gone:
                taken = self._write(piece[sent : sent + 65536])
                sent += taken
                if not taken:
                    self._poll(self.patience, writing=True, reading=reading)
            self._note(piece)

    def flood(self, blob: bytes) -> int:
        """Send without reading; return how many bytes were sent: all of them, or those sent before
        the server closed, or stopped reading for BLOCKED seconds.
        """
        sent = 0
        while sent < len(blob) and not self._gone:
            taken = self._write(blob[sent : sent + 65536])
            sent += taken
            if not taken and not select.select([], [self.sock], [], BLOCKED)[1]:
                break
        return sent

    def _write(self, piece: bytes) -> int:
        try:
            return self.sock.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except (OSError, ssl.SSLError):
            self._receive()  # bytes from before the reset
            self._gone = True
            return 0

    def _note(self, piece: bytes) -> None:
        """Follow this client's frames: count SETTINGS, and note whether a field block is open."""
        self._outgoing_tail += piece
        tail = self._outgoing_tail
        if tail.startswith(PREFACE):
            del tail[: len(PREFACE)]
        elif PREFACE.startswith(tail):
            return
        while len(tail) >= HEAD_SIZE:
            size = HEAD_SIZE + number(tail[:3])
            if len(tail) < size:
                return
            kind, flags = tail[3], tail[4]
            if kind == Type.SETTINGS and not flags & ACK:
                self.settings_sent += 1
                self._table_sizes.append(table_size(tail[HEAD_SIZE:size]))
            if kind in (Type.HEADERS, Type.PUSH_PROMISE, Type.CONTINUATION):
                self._within_block = not flags & END_HEADERS
            del tail[:size]

    # --- Receiving

    def _poll(self, seconds: float, *, writing: bool = False, reading: bool = True) -> None:
        """Wait until the socket is ready, and receive what has arrived.

        Raises:
            TimeoutError: it did not become ready.
        """
        readers = [self.sock] if reading else []
        readable, writable, _ = select.select(readers, [self.sock] if writing else [], [], seconds)
        if not readable and not writable:
            raise TimeoutError
        if readable:
            self._receive()

    def _receive(self) -> None:
        try:
            while not self._gone:
                chunk = self.sock.recv(65536)
                if not chunk:
                    self._gone = True
                self._incoming += chunk
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ssl.SSLError):
            self._gone = True

    def read(self, patience: float | None = None) -> Frame | None:
        """Read and account for the next frame; return it, or None when the server has closed.

        Raises:
            TimeoutError: none came in time.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while True:
            if len(self._incoming) >= HEAD_SIZE:
                size = HEAD_SIZE + number(self._incoming[:3])
                if len(self._incoming) >= size:
                    break
            if self._gone:
                self.closed = True
                return None
            self._receive()
            if self._gone or len(self._incoming) >= HEAD_SIZE + number(self._incoming[:3]):
                continue
            self._poll(max(0.0, deadline - time.monotonic()))
        raw = bytes(self._incoming[:size])
        del self._incoming[:size]
        came = Frame(raw[3], raw[4], number(raw[5:9]) & 0x7FFFFFFF, raw[9:])
        self._take(came)
        return came

    def has_frame(self) -> bool:
        """Whether a whole frame has been received, but not read."""
        return len(self._incoming) >= HEAD_SIZE + number(self._incoming[:3])

    def wait(self, fact: Callable[[], object], patience: float | None = None) -> None:
        """Read until `fact` holds; fail if the server closes or nothing arrives in time."""
        while not fact():
            try:
                came = self.read(patience)
            except TimeoutError:
                raise AssertionError(f"nothing more came: {self}") from None
            assert came is not None or fact(), f"closed: {self}"

    def __str__(self) -> str:
        last = "; ".join(self.log[-8:])
        return f"GOAWAYs {self.goaways}, closed {self.closed}, last frames: {last}"

    def _take(self, came: Frame) -> None:
        self.frames[came.type] = self.frames.get(came.type, 0) + 1
        self.log.append(str(came))
        del self.log[:-32]
        payload = came.payload
        match came.type:
            case Type.SETTINGS if came.flags & ACK:
                self.settings_acked += 1
                if self._table_sizes and (allowed := self._table_sizes.pop(0)) is not None:
                    self._decoder.max_allowed_table_size = allowed
            case Type.SETTINGS:
                for at in range(0, len(payload), 6):
                    self.server[number(payload[at : at + 2])] = number(payload[at + 2 : at + 6])
                self.greeted = True
                self._answer(settings_ack())
            case Type.PING if came.flags & ACK:
                self.pongs.append(payload)
            case Type.PING:
                self._answer(ping(payload, ack=True))
            case Type.GOAWAY:
                entry = number(payload[:4]) & 0x7FFFFFFF, number(payload[4:8]), payload[8:]
                self.goaways.append(entry)
            case Type.WINDOW_UPDATE if came.stream == 0:
                self.credit += number(payload)
            case Type.WINDOW_UPDATE:
                self.on(came.stream).credit += number(payload)
            case Type.RST_STREAM:
                self.on(came.stream).reset = number(payload)
            case Type.DATA:
                self._take_data(came)
            case Type.HEADERS | Type.CONTINUATION:
                self._take_block(came)

    def _answer(self, frame: bytes) -> None:
        if self.answers and not self._within_block and not self._outgoing_tail:
            self.send(frame)

    def _take_data(self, came: Frame) -> None:
        exchange = self.on(came.stream)
        payload = came.payload
        if came.flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        exchange.body += payload
        exchange.data_frames += 1
        exchange.ended = bool(came.flags & END_STREAM)
        if self.refill and came.payload:
            size = len(came.payload)
            self.send(window_update(0, size))
            if not exchange.ended:
                self.send(window_update(came.stream, size))

    def _take_block(self, came: Frame) -> None:
        block = came.payload
        if came.type == Type.HEADERS:
            if came.flags & PADDED:
                block = block[1 : len(block) - block[0]]
            if came.flags & PRIORITY_FLAG:
                block = block[5:]
            self._block = came.stream, bool(came.flags & END_STREAM), bytearray()
        assert self._block is not None
        stream, end, collected = self._block
        assert stream == came.stream, "CONTINUATION on another stream"
        collected += block
        if not came.flags & END_HEADERS:
            return
        self._block = None
        exchange = self.on(stream)
        fields = [
            (bytes(name), bytes(value))
            for name, value in self._decoder.decode(bytes(collected), raw=True)
        ]
        if fields and fields[0][0] == b":status":
            status = int(fields[0][1])
            if status < 200:
                exchange.interim.append(status)
                exchange.interim_fields.append(fields[1:])
                return
            exchange.status, exchange.fields = status, fields[1:]
        else:
            exchange.trailers = fields
        exchange.ended = end

    def on(self, stream: int) -> Exchange:
        return self.exchanges.setdefault(stream, Exchange())

    # --- Requests

    def start(self, *pairs: tuple[int, int]) -> None:
        """Exchange prefaces, with these settings, and wait until both sides have acknowledged."""
        self.send(PREFACE + settings(*pairs))
        self.wait(lambda: self.greeted and self.settings_acked == self.settings_sent)

    def fields(
        self, method: str = "GET", path: str = "/", extra: Sequence[tuple[str, str]] = ()
    ) -> list[tuple[str, str]]:
        head = [(":method", method), (":scheme", self.scheme)]
        return [*head, (":authority", self.authority), (":path", path), *extra]

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *extra: tuple[str, str],
        end: bool = True,
        body: bytes | None = None,
    ) -> int:
        """Send a request with HPACK as clients use it, and return its stream."""
        stream = self._next_stream
        self._next_stream += 2
        block = self.encoder.encode(self.fields(method, path, extra))
        blob = headers(stream, block, end=end and body is None)
        if body is not None:
            blob += data(stream, body, end=end)
        self.send(blob)
        return stream

    def room(self, stream: int) -> int:
        """Return how many more bytes of DATA both windows allow after those that upload() sent."""
        exchange = self.on(stream)
        own = self.server[Setting.INITIAL_WINDOW_SIZE] + exchange.credit - exchange.uploaded
        spent = sum(each.uploaded for each in self.exchanges.values())
        return min(own, DEFAULTS[Setting.INITIAL_WINDOW_SIZE] + self.credit - spent)

    def upload(
        self, stream: int, body: bytes, *, piece: int = 16_384, pad: int | None = None
    ) -> None:
        """Send content as the windows allow, and END_STREAM at its end."""
        extra = 0 if pad is None else 1 + pad
        at = 0
        while at < len(body):
            self.wait(lambda: self.room(stream) > extra)
            part = body[at : at + min(piece, self.room(stream) - extra)]
            self.send(data(stream, part, pad=pad))
            self.on(stream).uploaded += len(part) + extra
            at += len(part)
        self.send(data(stream, end=True))

    def finished(self, stream: int) -> Exchange:
        """Read to the end of a response, and return it; the caller checks its status."""
        exchange = self.on(stream)
        self.wait(lambda: exchange.ended or exchange.reset is not None)
        assert exchange.reset in (None, Code.NO_ERROR), f"reset: {self}"
        return exchange

    def first_bytes(self, count: int) -> bytes:
        """Return the first bytes, frames or not; fewer than `count` if the server closes."""
        while len(self._incoming) < count and not self._gone:
            self._poll(self.patience)
        return bytes(self._incoming[:count])

    def alive(self) -> None:
        """Check that a PING is answered, and that no GOAWAY has come."""
        opaque = random.randbytes(8)
        self.send(ping(opaque))
        self.wait(lambda: opaque in self.pongs)
        assert not self.goaways, str(self)

    def end(self) -> int | None:
        """Read until the server closes; return the code of its last GOAWAY."""
        self.wait(lambda: self.closed)
        return self.goaways[-1][1] if self.goaways else None

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def connect(
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    patience: float = PATIENCE,
    receive_buffer: int | None = None,
) -> Client:
    """Return a client with an open connection, over TLS with "h2" by ALPN if there is a context."""
    sock = socket.socket()
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(patience)
        sock.connect((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces must stay apart
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
            sock = tls.wrap_socket(sock, server_hostname="localhost")
            assert sock.selected_alpn_protocol() == "h2", "the server does not choose h2"
    except BaseException:
        sock.close()
        raise
    return Client(sock, f"localhost:{port}", patience)

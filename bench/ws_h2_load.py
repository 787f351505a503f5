"""Loads a WebSocket echo server over HTTP/2 (RFC 8441): several WebSockets share a connection, and
each sends a message once the last echo is complete.

    python bench/ws_h2_load.py --port 8000 [--connections 8] [--streams 8] [--size 64] [--seconds 3]

Every byte of every echo is compared. Prints one line of JSON; if `load_cpu` is near 1, the load was
the limit and not the server.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import time

from ws_load import TEXT, WrongAnswerError, figures, frame, message, sample

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE, ENABLE_CONNECT_PROTOCOL = 4, 8  # settings
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1  # more than a measurement receives
HEAD = 9  # bytes in front of a frame's payload
# ":status: 200" as an entry of HPACK's static table, or with the name alone from there.
STATUS_200 = (b"\x88", b"\x08\x03200")
READ = 65_536  # bytes
PATIENCE = 10  # seconds


class Connection:
    """An HTTP/2 connection to 127.0.0.1 with WebSockets that send the same message again and again.

    Args:
        count: number of WebSockets.
        request: what each sends.
        echo: what it must get.
    """

    def __init__(self, port: int, count: int, request: bytes, echo: bytes) -> None:
        self._request = request
        self._echo = echo
        self._buffer = b""
        self._window = DEFAULT_WINDOW  # bytes that may still be sent, on the whole connection
        self._initial = DEFAULT_WINDOW
        self._windows: dict[int, int] = {}  # by stream
        self._received: dict[int, bytes] = {}
        self._held: list[int] = []  # streams whose message waits for a window
        self._port = port
        self._count = count
        self._opened = 0
        self._offered: bool | None = None
        self.sent_at: dict[int, float] = {}
        self.complete: list[int] = []  # streams whose echoes have come
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        larger = (LARGEST_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
        self._output = PREFACE + http2_frame(SETTINGS, 0, 0, settings)
        self._output += http2_frame(WINDOW_UPDATE, 0, 0, larger)

    def open(self) -> None:
        """Open the WebSockets.

        Raises:
            WrongAnswerError: the server does not offer WebSockets over HTTP/2, or refuses one.
        """
        self.flush()
        while self._offered is None:
            self.read()
        if not self._offered:
            raise WrongAnswerError("does not offer WebSockets over HTTP/2")
        for stream in range(1, 2 * self._count, 2):
            self._windows[stream] = self._initial
            self._received[stream] = b""
            self._output += http2_frame(HEADERS, END_HEADERS, stream, handshake(self._port))
        self.flush()
        while self._opened < self._count:
            self.read()

    def flush(self) -> None:
        """Send what is to be sent; it fits the socket's buffer as long as the server reads."""
        if self._output:
            self.sock.sendall(self._output)
            self._output = b""

    def ask(self, stream: int, now: float) -> None:
        """Send the message on this stream, with the next flush() after the windows allow it."""
        self.sent_at[stream] = now
        size = len(self._request)
        if self._window < size or self._windows[stream] < size:
            self._held.append(stream)
            return
        self._window -= size
        self._windows[stream] -= size
        self._output += http2_frame(DATA, 0, stream, self._request)

    def read(self) -> None:
        """Take in what has come."""
        data = self.sock.recv(READ)
        if not data:
            raise WrongAnswerError(f"closed after {self._buffer[:50]!r}")
        data = self._buffer + data
        at = 0
        while len(data) - at >= HEAD:
            end = at + HEAD + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            stream = int.from_bytes(data[at + 5 : at + HEAD], "big")
            self._take(data[at + 3], data[at + 4], stream, data[at + HEAD : end])
            at = end
        self._buffer = data[at:]
        self.flush()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            received = self._received[stream] + payload
            if flags & END_STREAM or not self._echo.startswith(received):
                raise WrongAnswerError(f"{received[:50]!r}, expected {self._echo[:50]!r}")
            if received == self._echo:
                received = b""
                self.complete.append(stream)
            self._received[stream] = received
        elif kind == WINDOW_UPDATE:
            added = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] += added
            else:
                self._window += added
            held, self._held = self._held, []
            for one in held:
                self.ask(one, self.sent_at[one])
        elif kind == HEADERS:
            # RFC 7541 section 6.3: updates of the table's size may come first
            fields = payload.lstrip(bytes(range(0x20, 0x40)))
            if flags & END_STREAM or not fields.startswith(STATUS_200):
                raise WrongAnswerError(f"refuses the handshake: {payload[:50]!r}")
            self._opened += 1
        elif kind == SETTINGS and not flags & ACK:
            given = dict(struct.iter_unpack(">HI", payload))
            self._offered = bool(given.get(ENABLE_CONNECT_PROTOCOL, self._offered))
            self._initial = given.get(INITIAL_WINDOW_SIZE, self._initial)
            self._output += http2_frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._output += http2_frame(PING, ACK, 0, payload)
        elif kind not in (SETTINGS, PING):
            raise WrongAnswerError(f"a frame of type {kind} on stream {stream}: {payload[:50]!r}")


def http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113 section 4.1)."""
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


def handshake(port: int) -> bytes:
    """Return the header block that opens a WebSocket (RFC 8441 section 5)."""
    fields = {
        b":method": b"CONNECT",
        b":protocol": b"websocket",
        b":scheme": b"http",
        b":path": b"/",
        b":authority": b"127.0.0.1:%d" % port,
        b"sec-websocket-version": b"13",
        b"user-agent": b"bench",
    }
    # RFC 7541 section 6.2.2: literal fields, which enter no table
    return b"".join(
        b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields.items()
    )


def check(port: int, payload: bytes) -> None:
    """Check that a server echoes on two streams of a connection, several times.

    Raises:
        WrongAnswerError: it does not.
    """
    connection = Connection(port, 2, message(TEXT, payload), frame(TEXT, payload))
    try:
        connection.open()
        for _ in range(3):
            for stream in (1, 3):
                connection.ask(stream, time.perf_counter())
            connection.flush()
            while len(connection.complete) < 2:
                connection.read()
            connection.complete.clear()
    finally:
        connection.sock.close()


def run(port: int, connections: int, streams: int, payload: bytes, seconds: float) -> dict:
    """Load a server, and return the figures."""
    request, echo = message(TEXT, payload), frame(TEXT, payload)
    opened = {}
    for _ in range(connections):
        connection = Connection(port, streams, request, echo)
        connection.open()
        opened[connection.sock.fileno()] = connection
    latencies: list[float] = []
    clock = time.perf_counter
    epoll = select.epoll()
    started, busy = clock(), time.process_time()
    for descriptor, connection in opened.items():
        epoll.register(descriptor, select.EPOLLIN)
        for stream in range(1, 2 * streams, 2):
            connection.ask(stream, clock())
        connection.flush()
    deadline = started + seconds
    waiting = connections * streams
    while waiting:
        events = epoll.poll(5)
        if not events:
            raise WrongAnswerError(f"{waiting} WebSockets have waited 5 s for an echo")
        for descriptor, _ in events:
            connection = opened[descriptor]
            connection.read()
            now = clock()
            for stream in connection.complete:
                latencies.append(now - connection.sent_at[stream])
                if now < deadline:
                    connection.ask(stream, now)
                else:
                    waiting -= 1
            connection.complete.clear()
            connection.flush()
    elapsed, busy = clock() - started, time.process_time() - busy
    for connection in opened.values():
        connection.sock.close()
    return figures(latencies, elapsed, busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8, help="WebSockets on each connection")
    parser.add_argument(
        "--size", type=int, default=64, help="bytes of each message, at most 16,000"
    )
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    payload = sample(options.size)
    result = run(options.port, options.connections, options.streams, payload, options.seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

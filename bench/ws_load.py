"""Loads a WebSocket echo server: each connection sends a message once the last echo is complete.

    python bench/ws_load.py --port 8000 [--connections 64] [--size 64] [--seconds 3]
                            [--binary] [--deflate]

Every byte of every echo is compared. Prints one line of JSON; if `load_cpu` is near 1, the load was
the limit and not the server.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import random
import select
import socket
import time
import zlib

KEY = base64.b64encode(bytes(range(16)))
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)
MASK = b"\x37\xfa\x21\x3d"
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A  # the first byte, with FIN
COMPRESSED = 0x40  # RSV1, RFC 7692 section 6
OFFER = "permessage-deflate; client_max_window_bits"  # what browsers offer


class WrongAnswerError(ValueError):
    """The server's bytes are not the expected ones."""


class Connection:
    """A WebSocket connection to 127.0.0.1; its socket blocks unless it is set not to.

    Args:
        offer: value of Sec-WebSocket-Extensions, "" to send none.
    """

    __slots__ = ("buffer", "inflate", "response", "sent_at", "sock")

    def __init__(self, port: int, offer: str = "") -> None:
        self.buffer = b""
        self.inflate = zlib.decompressobj(-15)
        self.response = b""
        self.sent_at = 0.0
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        extensions = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        self.sock.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {KEY.decode()}\r\n{extensions}\r\n".encode()
        )

    def open(self) -> None:
        """Read the response to the handshake.

        The caller checks its status: socketify 0.0.31 answers an accept with headers with 200, and
        echoes all the same.
        """
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise WrongAnswerError(f"no handshake: closed after {self.buffer!r}")
            self.buffer += data
        self.response, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if ACCEPT not in self.response:
            raise WrongAnswerError(f"no handshake: {self.response!r}")

    def echoed(self, data: bytes, echo: bytes, payload: bytes) -> bool:
        """Process `data`, answer Pings, and return whether the echo is complete.

        Raises:
            WrongAnswerError: the data is not the echo.
        """
        buffer = self.buffer + data
        while buffer and buffer != echo:
            head, start, end = frame_ends(buffer)
            if not end:
                self.buffer = buffer
                return False
            if head == PING:
                self.sock.send(frame(PONG, buffer[start:end], MASK))
                buffer = buffer[end:]
            elif head == echo[0] | COMPRESSED:
                found = self.inflate.decompress(buffer[start:end] + b"\x00\x00\xff\xff")
                if found != payload:
                    raise WrongAnswerError(f"inflated to {found[:50]!r}")
                buffer = buffer[end:]
                break
            else:
                raise WrongAnswerError(f"{buffer[:50]!r}, expected {echo[:50]!r}")
        else:
            if not buffer:  # Pings alone
                self.buffer = b""
                return False
            buffer = b""
        if buffer:
            raise WrongAnswerError(f"more than the echo: {buffer[:50]!r}")
        self.buffer = b""
        return True

    def exchange(self, opcode: int, payload: bytes, *, compress: bool = False) -> None:
        """Send one message, and wait for its echo."""
        self.sock.sendall(message(opcode, payload, compress=compress))
        echo = frame(opcode, payload)
        while not self.echoed(self.receive(), echo, payload):
            pass

    def receive(self) -> bytes:
        data = self.sock.recv(65536)  # a larger buffer would be mapped and unmapped each time
        if not data:
            raise WrongAnswerError(f"closed after {self.buffer[:50]!r}")
        return data

    def close(self) -> None:
        self.sock.send(frame(CLOSE, b"\x03\xe8", MASK))
        self.sock.close()


def frame(head: int, payload: bytes, mask: bytes = b"") -> bytes:
    """Return one frame, masked if there is a mask."""
    bit, size = 0x80 if mask else 0, len(payload)
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask:
        pairs = zip(payload, itertools.cycle(mask), strict=False)
        payload = bytes(byte ^ key for byte, key in pairs)
    return bytes([head]) + length + mask + payload


def frame_ends(data: bytes) -> tuple[int, int, int]:
    """Return the first frame's first byte, and its payload's start and end; 0 if incomplete."""
    start = {126: 4, 127: 10}.get(data[1], 2) if len(data) > 1 else 2
    if len(data) < start:
        return data[0], start, 0
    end = start + (int.from_bytes(data[2:start], "big") if start > 2 else data[1])
    return data[0], start, end if end <= len(data) else 0


def message(opcode: int, payload: bytes, *, compress: bool = False) -> bytes:
    """Return a client's message in one frame, compressed independently of earlier ones."""
    if not compress:
        return frame(opcode, payload, MASK)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -9)  # the smallest window a server may ask for
    data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(opcode | COMPRESSED, data.removesuffix(b"\x00\x00\xff\xff"), MASK)


def sample(size: int, *, binary: bool = False) -> bytes:
    """Return the same bytes each time: random ones, or ASCII that looks like JSON."""
    source = random.Random(1)
    if binary:
        return source.randbytes(size)
    numbers = (f'{{"id":{source.randrange(10**6)},"name":"echo"}},' for _ in range(size // 20 + 1))
    return "".join(numbers).encode()[:size]


def check(port: int, payload: bytes) -> None:
    """Check that a server echoes text and bytes, several times.

    Raises:
        WrongAnswerError: it does not.
    """
    connection = Connection(port)
    try:
        connection.open()
        if not connection.response.startswith(b"HTTP/1.1 101 "):
            raise WrongAnswerError(f"no handshake: {connection.response!r}")
        for _ in range(3):
            connection.exchange(TEXT, payload)
            connection.exchange(BINARY, payload)
    finally:
        connection.sock.close()


def run(
    port: int, connections: int, opcode: int, payload: bytes, seconds: float, offer: str
) -> dict:
    """Load a server, and return the figures."""
    opened = {}
    for _ in range(connections):
        connection = Connection(port, offer)
        connection.open()
        connection.sock.setblocking(False)
        opened[connection.sock.fileno()] = connection
    response = connection.response
    compress = b"permessage-deflate" in response.lower()
    request, echo = message(opcode, payload, compress=compress), frame(opcode, payload)
    latencies: list[float] = []
    clock = time.perf_counter
    epoll = select.epoll()
    started, busy = clock(), time.process_time()
    for descriptor, connection in opened.items():
        epoll.register(descriptor, select.EPOLLIN)
        connection.sent_at = clock()
        send(connection, request)
    deadline = started + seconds
    while opened:
        events = epoll.poll(5)
        if not events:
            raise WrongAnswerError(f"{len(opened)} connections have waited 5 s for an echo")
        for descriptor, _ in events:
            connection = opened[descriptor]
            data = connection.receive()
            if (connection.buffer or data != echo) and not connection.echoed(data, echo, payload):
                continue
            now = clock()
            latencies.append(now - connection.sent_at)
            if now < deadline:
                connection.sent_at = now
                send(connection, request)
            else:
                del opened[descriptor]
                connection.close()
    elapsed, busy = clock() - started, time.process_time() - busy
    return {
        "status": int(response.split()[1]),
        **figures(latencies, elapsed, busy),
        "compressed": compress,
    }


def figures(latencies: list[float], elapsed: float, busy: float) -> dict:
    """Return the figures of a load.

    Args:
        latencies: seconds until each echo.
        elapsed: seconds that the load took.
        busy: seconds of its own processor time.
    """
    latencies = sorted(latencies)
    return {
        "messages": len(latencies),
        "seconds": round(elapsed, 3),
        "messages_per_second": round(len(latencies) / elapsed),
        "p50_us": round(latencies[len(latencies) // 2] * 1e6),
        "p99_us": round(latencies[len(latencies) * 99 // 100] * 1e6),
        "p999_us": round(latencies[len(latencies) * 999 // 1000] * 1e6),
        "load_cpu": round(busy / elapsed, 2),
    }


def send(connection: Connection, data: bytes) -> None:
    """Send all of `data`, which fits the socket's buffer as long as the server reads."""
    sent = connection.sock.send(data)
    if sent < len(data):
        connection.sock.setblocking(True)
        connection.sock.sendall(memoryview(data)[sent:])
        connection.sock.setblocking(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="bytes of each message")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--binary", action="store_true", help="bytes instead of text")
    parser.add_argument("--deflate", action="store_true", help="offer permessage-deflate")
    options = parser.parse_args()
    payload = sample(options.size, binary=options.binary)
    opcode = BINARY if options.binary else TEXT
    offer = OFFER if options.deflate else ""
    result = run(options.port, options.connections, opcode, payload, options.seconds, offer)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How much memory clients can cost a server: its process's memory before, at most, and after.

Each bound is a row of SECURITY.md's second table. `pytest -s` prints what was measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from process import ROOT, Command
from support import (
    PATIENCE,
    read_all,
    read_head,
    read_response,
    room_for_descriptors,
    wait_until,
)

APP = """
import asyncio

gate = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if path == "/talks":
            while True:
                await send({"type": "websocket.send", "bytes": bytes(1000)})
        if path == "/waits":
            await gate.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if path == "/waits":
        await gate.wait()
    if path == "/open":
        gate.set()
    size = 0
    while path == "/reads":
        message = await receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while path == "/talks":
        await send({"type": "http.response.body", "body": bytes(1000), "more_body": True})
    await send({"type": "http.response.body", "body": b"%d" % size})
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"0"
HEAD = 65_536  # bytes: --limit-header-size
FRAME = b"\x82\xfe\x03\xe8\0\0\0\0" + bytes(1000)  # masked with zeros
STALLED = 1.0  # seconds without a byte sent, after which the server counts as no longer reading


class Target:
    """A server in its own process."""

    def __init__(self, command: Command, trust: ssl.SSLContext | None = None) -> None:
        self.trust = trust  # None for plain HTTP
        self.pid = command.process.pid
        self.port = urlsplit(command.url()).port
        assert self.port
        # The first request of a kind creates objects that no connection is charged with.
        for _ in range(300):
            self.answers()
        if trust is None:
            with self.websocket("/") as sock:
                sock.sendall(FRAME)
        self.settled()
        self.before = self.memory("VmRSS")
        self.files = self.descriptors()
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets VmHWM

    def memory(self, which: str) -> int:
        """A value from /proc/PID/status, in KiB."""
        found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def settled(self) -> None:
        """Wait until the server is idle: it uses no more processor time."""

        def busy() -> list[str]:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]

        def still() -> bool:
            before = busy()
            time.sleep(0.1)
            return busy() == before

        wait_until(still)

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def websocket(self, path: str) -> socket.socket:
        sock = self.connect(4096)
        sock.sendall(
            b"GET %s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            % path.encode()
        )
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        return sock

    def over_tls(self, sock: socket.socket) -> socket.socket:
        return sock if self.trust is None else self.trust.wrap_socket(sock, server_hostname="a")

    def answers(self, path: bytes = b"/") -> None:
        """Check that another client is served."""
        with self.connect() as plain, self.over_tls(plain) as sock:
            sock.sendall(GET.replace(b"/", path, 1))
            assert read_response(sock)[1] == ANSWER


@pytest.fixture
def room(connections) -> Iterator[None]:
    """Raise the limit of descriptors to what the connections and this process need."""
    with room_for_descriptors(connections + 500):
        yield


@pytest.fixture
def target(tmp_path, room) -> Iterator[Target]:
    (tmp_path / "main.py").write_text(APP)
    options = ("--port", "0", "--no-access-log")
    patient = ("--timeout-head", "600", "--timeout-keep-alive", "600", "--backlog", "5000")
    with Command("main:app", *options, *patient, cwd=tmp_path) as command:
        yield Target(command)


def flood(sock: socket.socket, data: bytes, most: int) -> int:
    """Send up to `most` bytes, until the server stops reading; return how many were sent."""
    sock.settimeout(STALLED)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sent += sock.send(data)
    return sent


# --- Clients; the server is measured at their yield -----------------------------------------------


def stalled_reader(target: Target) -> Iterator[None]:
    """Asks for an endless stream and reads nothing of it."""
    with target.connect(4096) as sock:
        sock.sendall(GET.replace(b"/", b"/talks", 1))
        yield


def unread_upload(target: Target) -> Iterator[None]:
    """Sends 1 GB to an application that does not receive it."""
    with target.connect() as sock:
        sock.sendall(b"POST /waits HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        assert flood(sock, bytes(65_536), 100_000_000) < 100_000_000
        yield


def unread_chunks(target: Target) -> Iterator[None]:
    """Sends one-byte chunks without end to an application that receives none."""
    with target.connect() as sock:
        sock.sendall(b"POST /waits HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert flood(sock, b"1\r\nx\r\n" * 10_000, 100_000_000) < 100_000_000
        yield


def small_chunks(target: Target) -> Iterator[None]:
    """Sends 100,000 one-byte chunks, which the application receives."""
    with target.connect() as sock:
        sock.sendall(b"POST /reads HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert read_response(sock)[1] == b"100000"
        yield


def pipelined(target: Target) -> Iterator[None]:
    """Sends 10,000 requests at once, and reads all responses."""
    with target.connect() as sock:
        sock.sendall(GET * 10_000 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(sock).count(b"HTTP/1.1 200 ") == 10_001
        yield


def pipelined_unread(target: Target) -> Iterator[None]:
    """Sends requests without end, and reads no response."""
    with target.connect(4096) as sock:
        assert flood(sock, GET * 1000, 100_000_000) < 100_000_000
        yield


def pipelined_behind(target: Target) -> Iterator[None]:
    """Sends requests without end behind one that has no response yet."""
    with target.connect() as sock:
        sock.sendall(GET.replace(b"/", b"/waits", 1))
        assert flood(sock, GET * 1000, 100_000_000) < 100_000_000
        yield


def large_heads(target: Target) -> Iterator[None]:
    """Sends a head nearly as large as `--limit-header-size` allows, and never ends it."""
    begun = b"GET / HTTP/1.1\r\nHost: a\r\n"
    fields = b"a: %s\r\n" % (b"x" * 8000)
    fields *= (HEAD - 1000) // len(fields)
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            sock = stack.enter_context(target.connect())
            sock.sendall(begun + fields)
            sock.sendall(b"a: " + b"x" * (HEAD - len(fields) - 100))
        yield


def slow_heads(target: Target) -> Iterator[None]:
    """Sends a head byte by byte, and never ends it."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(target.connect()) for _ in range(1000)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET[:-1]:
            for sock in socks:
                sock.send(bytes([byte]))
        yield


def idle(target: Target) -> Iterator[None]:
    """Gets a response, and keeps the connection open."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            socks = [stack.enter_context(target.connect()) for _ in range(100)]
            for sock in socks:
                sock.sendall(GET)
            for sock in socks:
                assert read_response(sock)[1] == ANSWER
        yield


def silent(target: Target) -> Iterator[None]:
    """Connects, and sends nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(5000):
            stack.enter_context(target.connect())
        wait_until(lambda: target.descriptors() >= target.files + 5000)
        yield


def churn(target: Target) -> Iterator[None]:
    """Connects and leaves 5,000 times, also in the middle of a head or a body."""
    ends = [GET, GET[:-1], b"nonsense\r\n\r\n", b"POST /reads HTTP/1.1\r\nHost: a\r\n"]
    ends.append(ends[-1] + b"Content-Length: 9\r\n\r\nhello")
    for number in range(5000):
        with target.connect() as sock:
            sock.sendall(ends[number % len(ends)])
            if number % 2:  # causes a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    yield


def unread_messages(target: Target) -> Iterator[None]:
    """Sends WebSocket messages without end to an application that receives none."""
    with target.websocket("/waits") as sock:
        assert flood(sock, FRAME * 100, 100_000_000) < 100_000_000
        yield


def read_messages(target: Target) -> Iterator[None]:
    """Sends 100,000 WebSocket messages, which the application receives."""
    with target.websocket("/") as sock:
        assert flood(sock, FRAME * 100, 100_000_000) >= 100_000_000
        yield


def stalled_websocket(target: Target) -> Iterator[None]:
    """Reads nothing from a WebSocket on which the application sends without end."""
    with target.websocket("/talks"):
        yield


def unread_pongs(target: Target) -> Iterator[None]:
    """Sends Pings without end, and reads no Pong."""
    with target.websocket("/waits") as sock:
        ping = b"\x89\xfd\0\0\0\0" + bytes(125)
        flood(sock, ping * 1000, 50_000_000)
        yield


# Memory that each case may add, in KiB per connection, and the number of connections.
ATTACKS: list[tuple[Callable[[Target], Iterator[None]], float, int]] = [
    (stalled_reader, 1024, 1),
    (unread_upload, 1024, 1),
    (unread_chunks, 1024, 1),
    (small_chunks, 1024, 1),
    (pipelined, 1024, 1),
    (pipelined_unread, 1024, 1),
    (pipelined_behind, 1024, 1),
    (large_heads, 100, 1000),
    (slow_heads, 4, 1000),
    (idle, 3.5, 5000),
    (silent, 3.5, 5000),
    (churn, 1024, 1),
    (unread_messages, 1024, 1),
    (read_messages, 1024, 1),
    (stalled_websocket, 1024, 1),
    (unread_pongs, 1024, 1),
]


@pytest.mark.parametrize(("attack", "bound", "connections"), ATTACKS)
def test_bounds(target, attack, bound, connections):
    under_attack = contextlib.contextmanager(attack)
    with under_attack(target):
        target.answers()
        target.settled()
        grown = (target.memory("VmHWM") - target.before) / connections
        print(f"\n{attack.__name__}: {grown:.1f} KiB, bound {bound}")
        assert grown <= bound
    target.answers(b"/open")
    wait_until(lambda: target.descriptors() == target.files)


@pytest.fixture
def tls_target(tmp_path, room) -> Iterator[Target]:
    authority = trustme.CA()
    authority.issue_cert("a").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    (tmp_path / "main.py").write_text(APP)
    options = ("--port", "0", "--no-access-log", "--ssl-certfile", "server.pem")
    patient = ("--timeout-tls-handshake", "600", "--backlog", "5000")
    with Command("main:app", *options, *patient, cwd=tmp_path) as command:
        yield Target(command, trust)


def handshakes(target: Target) -> Iterator[None]:
    """Begins a TLS handshake, and does not continue."""
    assert target.trust
    hello = ssl.MemoryBIO()
    begun = target.trust.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        begun.do_handshake()
    first = hello.read()
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            sock = stack.enter_context(target.connect())
            sock.sendall(first)
            assert sock.recv(1)  # the server's handshake messages have arrived
        yield


OVER_TLS = [(handshakes, 70, 1000)]


@pytest.mark.parametrize(("attack", "bound", "connections"), OVER_TLS)
def test_bounds_of_tls(tls_target, attack, bound, connections):
    test_bounds(tls_target, attack, bound, connections)


def test_the_table_says_so():
    text = (ROOT / "SECURITY.md").read_text()
    table = text.partition("<!-- bounds -->")[2].partition("<!-- end of bounds -->")[0]
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \| ([\d.,]+) KiB \|$", table, re.M)
    assert rows == [
        (attack.__doc__.rstrip("."), f"{connections:,}", f"{bound:,}")
        for attack, bound, connections in [*ATTACKS, *OVER_TLS]
    ]

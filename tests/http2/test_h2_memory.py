"""Memory that HTTP/2 connections hold, measured in a separate server process."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from frames import PREFACE, Setting, headers, literal, settings, settings_ack
from process import Command
from support import PATIENCE, room_for_descriptors

CONNECTIONS = 1000
# Bytes of a connection after one request. Over HTTP/1.1 it holds 2.5 KB.
IDLE_MOST = 6_000
# The same with a full dynamic table.
FULL_MOST = 10_000
APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    fields = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"hello, world\\n"})
"""
FIELDS = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"www.example.com"),
    (b":path", b"/some/page"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate, br"),
]


def resident(pid: int) -> int:
    """Return a process's resident size in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# Entries that fill the 4,096 bytes of the dynamic table; each takes 32 bytes besides its strings.
SMALL = [(b"x%03d" % number, b"v") for number in range(95)]
LARGE = [(b"x-large-%d" % number, b"v" * 900) for number in range(4)]


def asked(port: int, extra: list[tuple[bytes, bytes]]) -> socket.socket:
    """Return a connection on which a request, in the form that clients send, has been answered."""
    fields = FIELDS + extra
    block = b"".join(literal(name, value, (0x40, 6), huffman=True) for name, value in fields)
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    start = PREFACE + settings((Setting.ENABLE_PUSH, 0)) + settings_ack()
    sock.sendall(start + headers(1, block, end=True))
    received = b""
    while b"hello, world\n" not in received:
        data = sock.recv(65536)
        assert data, received
        received += data
    return sock


@pytest.mark.parametrize(
    ("extra", "most"),
    [([], IDLE_MOST), (LARGE, FULL_MOST), (SMALL, FULL_MOST)],
    ids=["usual", "large", "small"],
)
def test_idle_connection_after_a_request_is_small(
    tmp_path: Path, extra: list[tuple[bytes, bytes]], most: int
) -> None:
    (tmp_path / "main.py").write_text(APP)
    arguments = ["main:app", "--port", "0", "--no-access-log", "--timeout-keep-alive", "600"]
    # The clock, at whose ticks idle connections give memory back, ticks every 10 ms with this, so
    # the connections to come can have it.
    arguments += ["--ws-close-timeout", "0.08"]
    with (
        room_for_descriptors(2 * CONNECTIONS),
        contextlib.ExitStack() as stack,
        Command(*arguments, cwd=tmp_path) as command,
    ):
        port = int(command.url().rpartition(":")[2])
        for _ in range(50):  # so that the server has made the objects that it makes only once
            stack.enter_context(asked(port, extra))
        before = resident(command.process.pid)
        for _ in range(CONNECTIONS):
            stack.enter_context(asked(port, extra))
        each = (resident(command.process.pid) - before) / CONNECTIONS
        assert each < most
        stack.close()
        command.stop()

"""Measures the memory of HTTP/2 connections that wait, and of their streams.

    python bench/h2_idle.py [--connections 1000] [--streams 10]

Runs the thestral of this Python once for each row: resident memory that the connections add. "Full
table" has filled the 4,096 bytes of the HPACK table that the server offers.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import hpack

FIRST = 100  # connections that are not counted: what is made once, they make
SETTLE = 3.0  # seconds until the server has given back what it can
PATIENCE = 30.0  # seconds
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACK = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
WINDOW = b"\0\0\4\x08\0\0\0\0\0" + (2**31 - 1 - 65_535).to_bytes(4, "big")
END_STREAM, END_HEADERS, HEADERS, DATA = 0x1, 0x4, 0x1, 0x0
APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": scope["path"] == "/slow"})
    if scope["path"] == "/slow":
        while (await receive())["type"] != "http.disconnect":
            pass
"""
USUAL = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br"),
]
# Each entry of the table counts 32 bytes more than its name and value (RFC 7541 section 4.1).
SMALL = [(f"x{number:03}", "v") for number in range(95)]
LARGE = [(f"x-large-{number}", "v" * 900) for number in range(4)]


def blocks(path: str, fields: list[tuple[str, str]], streams: int) -> Iterator[bytes]:
    """HEADERS frames of requests, in the order of their streams."""
    encoder = hpack.Encoder()
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", path)]
    for number in range(streams):
        block = encoder.encode([*head, *fields], huffman=False)
        size = len(block).to_bytes(3, "big")
        stream = (2 * number + 1).to_bytes(4, "big")
        yield size + bytes([HEADERS, END_STREAM | END_HEADERS]) + stream + block


def opened(port: int, blob: bytes, answers: int) -> socket.socket:
    """A connection on which each request has got the first byte of its body."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall(PREFACE + SETTINGS + ACK + WINDOW + blob)
    received = b""
    while True:
        seen, rest = 0, received
        while len(rest) >= 9 and len(rest) >= 9 + int.from_bytes(rest[:3], "big"):
            size = 9 + int.from_bytes(rest[:3], "big")
            seen += rest[3] == DATA and size > 9
            rest = rest[size:]
        if seen >= answers and received:
            return sock
        data = sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {received!r:.200}")
        received += data


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(connections: int, blob: bytes, answers: int) -> float:
    """Return the bytes of a connection on which this has been sent."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as bound:
        pathlib.Path(folder, "main.py").write_text(APP)
        command = [sys.executable, "-m", "thestral", "main:app", "--app-dir", folder]
        command += ["--fd", str(bound.fileno()), "--no-access-log", "--log-level", "error"]
        command += ["--timeout-keep-alive", "600"]
        # Idle connections give memory back at a tick of the clock. With this it ticks every 10 ms,
        # so that the connections to come can have it, as if they came more slowly.
        command += ["--ws-close-timeout", "0.08"]
        server = subprocess.Popen(command, pass_fds=[bound.fileno()])
        port = bound.getsockname()[1]
        kept = []
        try:
            kept += [opened(port, blob, answers) for _ in range(FIRST)]
            time.sleep(SETTLE)
            before = resident(server.pid)
            kept += [opened(port, blob, answers) for _ in range(connections)]
            time.sleep(SETTLE)
            return (resident(server.pid) - before) / connections
        finally:
            for sock in kept:
                sock.close()
            server.send_signal(signal.SIGTERM)
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=10)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 2 * (options.connections + FIRST) + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))

    def row(name: str, path: str, fields: list[tuple[str, str]], streams: int) -> float:
        blob = b"".join(blocks(path, fields, streams))
        each = measure(options.connections, blob, streams)
        print(f"| {name} | {each:,.0f} |", flush=True)
        return each

    print("| connections | bytes each |\n| --- | ---: |")
    row("idle, no request yet", "/", USUAL, 0)
    row("idle after a request", "/", USUAL, 1)
    row("idle, full table, 4 large fields", "/", LARGE, 1)
    row("idle, full table, 95 small fields", "/", SMALL, 1)
    one = row("1 slow stream", "/slow", USUAL, 1)
    many = row(f"{options.streams} slow streams", "/slow", USUAL, options.streams)
    if options.streams > 1:
        print(f"\nEach further stream: {(many - one) / (options.streams - 1):,.0f} bytes")


if __name__ == "__main__":
    main()

"""sse-starlette: pings, clients that leave, and a server that stops."""

from __future__ import annotations

import socket

import pytest
from apps import Gate
from process import Command
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route
from support import PATIENCE, read_to, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def stream_of(events, **options) -> Starlette:
    async def root(request):
        return EventSourceResponse(events(), **options)

    return Starlette(routes=[Route("/", root)])


def connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_pings_and_a_client_that_leaves(serve):
    gate = Gate()
    ended = []

    async def events():
        try:
            yield {"event": "first", "id": "1", "data": "a\nb"}
            await gate.wait()
        finally:
            ended.append("events")

    async def closed(message):
        ended.append(message["type"])

    app = stream_of(events, ping=0.01, client_close_handler_callable=closed)
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET)
        received = read_to(sock, b": ping", 3)
        assert b"id: 1\r\nevent: first\r\ndata: a\r\ndata: b\r\n" in received
    wait_until(lambda: len(ended) == 2)
    assert sorted(ended) == ["events", "http.disconnect"]
    wait_until(lambda: not running.context.cycles)


def test_stream_that_ends_keeps_the_connection(serve):
    async def events():
        for number in range(3):
            yield {"data": number}

    running = serve(stream_of(events))
    with running.connect() as sock:
        for _ in range(2):
            sock.sendall(GET)
            received = read_to(sock, b"\r\n0\r\n\r\n")
            assert received.count(b"data: ") == 3
    assert running.context.total_requests == 2


def test_slow_reader_is_given_up(serve):
    """send_timeout: send() waits until the client reads, so it can be cancelled."""
    ended = []

    async def events():
        try:
            while True:
                yield {"data": "x" * 65536}
        finally:
            ended.append(True)

    running = serve(stream_of(events, send_timeout=0.05), log_level="critical")
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(GET)
        wait_until(lambda: ended)
    wait_until(lambda: not running.context.cycles)


APPLICATION = """
import anyio
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route

async def plain(request):
    async def events():
        yield {"data": "first"}
        await anyio.sleep_forever()

    return EventSourceResponse(events())

async def polite(request):
    ending = anyio.Event()

    async def events():
        yield {"data": "first"}
        await ending.wait()
        yield {"data": "farewell"}

    return EventSourceResponse(events(), shutdown_event=ending, shutdown_grace_period=5)

app = Starlette(routes=[Route("/plain", plain), Route("/polite", polite)])
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_streams_end_at_sigterm(tmp_path, workers):
    """At once: the graceful time-out is longer than the test's patience."""
    (tmp_path / "main.py").write_text(APPLICATION)
    arguments = ("main:app", "--port", "0", "--timeout-graceful-shutdown", "60", *workers)
    with Command(*arguments, cwd=tmp_path) as command:
        port = int(command.url().rpartition(":")[2])
        socks = [connection(port) for _ in range(3)]
        for sock in socks:
            sock.sendall(GET.replace(b"/ ", b"/plain "))
            read_to(sock, b"data: first")
        command.stop()
        for sock in socks:
            with sock:
                while sock.recv(4096):
                    pass
    assert "Cancelled at shutdown" not in command.stderr


def test_farewell_at_sigterm(tmp_path):
    """sse-starlette checks for a shutdown twice a second; the delay lets it notice in time."""
    (tmp_path / "main.py").write_text(APPLICATION)
    with Command("main:app", "--port", "0", "--shutdown-delay", "1", cwd=tmp_path) as command:
        port = int(command.url().rpartition(":")[2])
        with connection(port) as sock:
            sock.sendall(GET.replace(b"/ ", b"/polite "))
            read_to(sock, b"data: first")
            command.stop()
            assert read_to(sock, b"\r\n0\r\n\r\n").count(b"data: farewell") == 1

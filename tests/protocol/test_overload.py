"""limit_concurrency, limit_connections, timeout_request."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import read_all, read_head, read_response, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Gate:
    """An application whose answers wait until open() is called."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        self.waiting += 1
        while not self._open.is_set():
            await asyncio.sleep(0.005)
        self.waiting -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize("limit", [1, 3])
def test_requests_over_limit_concurrency_are_503(serve, limit):
    app = Gate()
    running = serve(app, limit_concurrency=limit)
    socks = [running.connect() for _ in range(limit)]
    for sock in socks:
        sock.sendall(GET)
    wait_until(lambda: app.waiting == limit)
    refused = running.raw(GET)
    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in refused
    assert b"\r\nconnection: close\r\n" in refused
    assert app.waiting == limit
    app.open()
    for sock in socks:
        assert read_response(sock)[1] == b"done"
        sock.close()
    with running.connect() as sock:  # those clients have left, so there is room again
        wait_until(lambda: running.context.running == 0)
        sock.sendall(GET)
        assert read_response(sock)[1] == b"done"


def test_idle_connections_do_not_count_as_running(serve):
    """uvicorn counts them; a pool of keep-alive connections would then starve the others."""
    app = Gate()
    app.open()
    running = serve(app, limit_concurrency=1)
    socks = [running.connect() for _ in range(5)]
    for sock in socks:
        sock.sendall(GET)
        assert read_response(sock)[1] == b"done"
    for sock in socks:
        sock.close()


def test_websockets_do_not_count_as_running(serve):
    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    running = serve(app, limit_concurrency=1)
    with running.connect() as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in read_head(sock)
        with running.connect() as other:
            other.sendall(GET)
            assert read_response(other)[1] == b"done"


def test_connections_over_limit_connections_are_503(serve):
    app = Gate()
    app.open()
    running = serve(app, limit_connections=2)
    socks = [running.connect() for _ in range(2)]
    wait_until(lambda: len(running.context.connections) == 2)
    with running.connect() as third:
        assert read_all(third).startswith(b"HTTP/1.1 503 ")
    for sock in socks:  # the requests that already run are served
        sock.sendall(GET)
        assert read_response(sock)[1] == b"done"
        sock.close()
    wait_until(lambda: not running.context.connections)
    with running.connect() as sock:
        sock.sendall(GET)
        assert read_response(sock)[1] == b"done"


def test_request_over_its_time_is_cancelled_with_504(serve, caplog):
    cancelled = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    running = serve(app, timeout_request=0.05)
    with running.connect() as sock:
        sock.sendall(GET)
        head, body = read_response(sock)
        assert head.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        assert body == b"Gateway Timeout"
        assert cancelled.is_set()
        sock.sendall(GET)  # the connection goes on
        assert read_response(sock)[0].startswith(b"HTTP/1.1 504 ")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "Cancelled after timeout_request: GET /"
    ] * 2


def test_response_over_its_time_is_cut(serve):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.sleep(3600)

    running = serve(app, timeout_request=0.05)
    with running.connect() as sock:
        sock.sendall(GET)
        assert b" 200 " in read_head(sock)
        assert read_all(sock) == b"5\r\nfirst\r\n"


def test_request_within_its_time_is_left_alone(serve):
    app = Gate()
    running = serve(app, timeout_request=30)
    with running.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: app.waiting == 1)
        app.open()
        assert read_response(sock)[1] == b"done"

"""Shutdown: the delay before it, the drain, and what connections and streams see of both."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
import time

import pytest
from process import PLAIN, Command
from support import PATIENCE, on_every_transport, read_all, read_head, read_response, wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSES = b"\r\nconnection: close\r\n"
# Longest time from a request's end to its connection's end: protocol.phases.DRAIN_GRACE and a tick.
GRACE = 1.0


def closes(head):
    return CLOSES in head.lower()


class Application:
    """Answers "/" at once, "/wait" when released, and streams "/stream" until told to stop.

    The stream is text/event-stream, or another type if there is a query.
    """

    def __init__(self):
        self.release = threading.Event()
        self.started = []
        self.told = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        path = scope["path"]
        self.started.append(path)
        if path == "/wait":
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        events = path == "/stream" and not scope["query_string"]
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")] if events else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path == "/stream":
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            assert (await receive())["type"] == "http.request"
            self.told.append((await receive())["type"])
            await send({"type": "http.response.body", "body": b"last", "more_body": True})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def app():
    return Application()


def stop(server):
    server.server.should_exit = True
    wait_until(lambda: server.context.draining)


def refuses(server):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", server.port)) == errno.ECONNREFUSED


# --- Delay --------------------------------------------------------------------------------------


def test_delay_serves_on_and_closes(serve, app):
    server = serve(app, shutdown_delay=60.0)
    with server.connect() as kept, server.connect() as running, server.connect() as idle:
        kept.sendall(REQUEST)
        assert not closes(read_response(kept)[0])
        running.sendall(REQUEST.replace(b"/ ", b"/wait "))
        wait_until(lambda: "/wait" in app.started)
        stop(server)
        app.release.set()
        # Each response from now on ends its connection, also of requests that began before.
        for sock in (running, kept, idle):
            if sock is not running:
                sock.sendall(REQUEST)
            head, body = read_response(sock)
            assert closes(head)
            assert body == b"ok"
            assert sock.recv(1) == b""
        # Load balancers that have not noticed yet can still connect.
        for _ in range(3):
            assert closes(server.raw(REQUEST))
    assert server.server.started
    server.server.force_exit = True
    wait_until(lambda: refuses(server))


def test_delay_ends(serve, app):
    server = serve(app, shutdown_delay=0.3)
    asked = time.monotonic()
    stop(server)
    wait_until(lambda: refuses(server))
    assert time.monotonic() - asked >= 0.3


def test_without_delay_connections_are_refused_at_once(serve, app):
    server = serve(app)
    with server.connect() as busy:
        busy.sendall(REQUEST.replace(b"/ ", b"/wait "))
        wait_until(lambda: "/wait" in app.started)
        stop(server)
        wait_until(lambda: refuses(server))
        app.release.set()
        assert closes(read_response(busy)[0])


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_second_signal_cuts_the_delay(tmp_path, arguments):
    (tmp_path / "main.py").write_text(PLAIN)
    arguments = ["main:app", "--port", "0", "--shutdown-delay", "600", *arguments]
    with Command(*arguments, cwd=tmp_path) as command:
        port = int(command.url().rpartition(":")[2])
        count = 2 if "--workers" in arguments else 1
        command.saw("lifespan startup", times=count)
        command.signal(signal.SIGTERM)
        command.saw("Accepting for 600 more seconds", times=count)
        who = "Accepting for 600 more seconds" if count == 1 else "the workers, at most 630 s"
        command.saw(f"{who} (Press CTRL+C to quit at once)\n")
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(REQUEST)
            assert closes(read_response(sock)[0])
            assert sock.recv(1) == b""
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
    assert command.stdout.count("lifespan startup") == count


# --- Drain --------------------------------------------------------------------------------------


def test_busy_connection_may_ask_once_more(serve, app):
    server = serve(app, timeout_graceful_shutdown=30.0)
    with server.connect() as sock:
        sock.sendall(REQUEST)
        assert not closes(read_response(sock)[0])
        stop(server)
        wait_until(lambda: not server.server.servers[0].sockets)
        sock.sendall(REQUEST)  # as if it had been on its way
        head, body = read_response(sock)
        assert (closes(head), body) == (True, b"ok")
        assert sock.recv(1) == b""


def test_busy_connection_that_does_not_ask_is_closed(serve, app):
    server = serve(app, timeout_graceful_shutdown=30.0)
    with server.connect() as sock:
        sock.sendall(REQUEST)
        read_response(sock)
        answered = time.monotonic()
        stop(server)
        assert sock.recv(1) == b""
        assert 0.5 * GRACE < time.monotonic() - answered < 5 * GRACE


def test_idle_connection_is_closed_at_once(serve, app):
    server = serve(app, timeout_graceful_shutdown=30.0)
    with server.connect() as sock, server.connect() as silent:
        sock.sendall(REQUEST)
        read_response(sock)
        wait_until(lambda: len(server.context.connections) == 2)

        def age():  # as if both connections had been silent for a minute
            for connection in server.context.connections:
                connection.since -= 60.0
            server.context.stop()  # else the clock would close them before the drain does

        server.call(age)
        asked = time.monotonic()
        stop(server)
        assert sock.recv(1) == b""
        assert silent.recv(1) == b""
        assert time.monotonic() - asked < GRACE


@on_every_transport
def test_connection_accepted_as_the_drain_begins(serve, app):
    server = serve(app)
    with socket.socket() as sock:
        sock.settimeout(PATIENCE)

        def connect_and_stop():  # runs in the loop, which cannot accept before it returns
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(REQUEST)
            server.server.should_exit = True

        server.call(connect_and_stop)
        assert read_response(sock)[1] == b"ok"


def test_stream_is_told_and_may_finish(serve, app):
    server = serve(app, timeout_graceful_shutdown=30.0)
    with server.connect() as sock:
        sock.sendall(REQUEST.replace(b"/ ", b"/stream "))
        head = read_head(sock)
        assert not closes(head)
        assert b"transfer-encoding: chunked" in head.lower()
        assert app.told == []
        stop(server)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(4096)
        assert received == b"5\r\nfirst\r\n4\r\nlast\r\n2\r\nok\r\n0\r\n\r\n"
        assert app.told == ["http.disconnect"]
        # The head did not announce the connection's end, so a further request is answered.
        sock.sendall(REQUEST)
        assert closes(read_response(sock)[0])
        assert sock.recv(1) == b""


def test_request_without_response_is_not_told(serve, app):
    server = serve(app, timeout_graceful_shutdown=30.0)

    async def listener(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await receive()
        gone = asyncio.ensure_future(receive())
        app.started.append("listener")
        while not app.release.is_set():
            await asyncio.sleep(0.005)
        app.told.append(gone.done())
        gone.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    server.context.app = listener
    with server.connect() as sock:
        sock.sendall(REQUEST)
        wait_until(lambda: app.started)
        stop(server)
        wait_until(lambda: refuses(server))
        app.release.set()
        assert read_all(sock).endswith(b"ok")
    assert app.told == [False]


def test_grace_is_not_for_a_delay_that_has_passed(serve, app):
    # The delay has already told every connection; an idle one gets the same grace, once.
    server = serve(app, shutdown_delay=0.1, timeout_graceful_shutdown=30.0)
    with server.connect() as sock:
        sock.sendall(REQUEST.replace(b"/ ", b"/stream "))
        read_head(sock)
        stop(server)
        wait_until(lambda: app.told)
        while not sock.recv(4096).endswith(b"0\r\n\r\n"):
            pass
        ended = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - ended < 5 * GRACE


# --- Limit --------------------------------------------------------------------------------------


def test_limit_of_requests_stops_a_server_on_its_own(serve, app):
    server = serve(app, limit_max_requests=3, limit_max_requests_jitter=0)
    for _ in range(2):
        server.raw(REQUEST.replace(b"\r\n\r\n", CLOSES + b"\r\n"))
    assert not server.server.should_exit
    with server.connect() as sock:
        sock.sendall(REQUEST)
        read_response(sock)
        wait_until(lambda: server.server.should_exit)


@pytest.mark.parametrize(
    ("jitter", "lowest", "highest"), [(0, 50, 50), (7, 50, 57), (None, 50, 55)]
)
def test_jitter(serve, app, jitter, lowest, highest):
    server = serve(app, limit_max_requests=50, limit_max_requests_jitter=jitter)
    base = server.context

    def another():
        return type(base)(server.server.config, app, server.loop, {}, base.base_context)

    seen = server.call(lambda: {another().max_requests for _ in range(200)})
    assert (min(seen), max(seen)) == (lowest, highest)

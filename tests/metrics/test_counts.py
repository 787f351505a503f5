"""The counts of real servers; the same over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import time

import frames
import pytest
from certificate import Certificate
from driven import DrivenLoop
from gateway import Gated
from support import PATIENCE, Running, read_all, read_response, read_to, reset, wait_until
from test_websocket_over_http2 import open_websocket
from ws_apps import accept, echo
from ws_client import Client, close_frame

from thestral.metrics.snapshot import METHODS

ADMIN = {"admin": "127.0.0.1:0"}
OTHER_METHOD = "_OTHER"  # stands for methods without a name of their own


class App:
    """Answers by the path."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.waiting = 0

    def open(self) -> None:
        self.gate.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await echo(scope, receive, send)
            return
        path = scope["path"]
        if path == "/wait":
            self.gate = self.gate or asyncio.Event()
            self.waiting += 1
            await self.gate.wait()
        if path == "/fail":
            raise ZeroDivisionError
        if path == "/take":
            while (await receive()).get("more_body"):
                pass
        if path == "/part":
            self.gate = self.gate or asyncio.Event()
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"12345", "more_body": True})
            self.waiting += 1
            await self.gate.wait()
            await send({"type": "http.response.body"})
            return
        status = {"/none": 404, "/moved": 303}.get(path, 200)
        head = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(params=[Running, Gated], ids=["HTTP/1.1", "HTTP/2"])
def start(request):
    """Function (**options) that returns a server of an App, which counts."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(request.param(App(), **(ADMIN | options)))


def app_of(running):
    return running.server.config.app


def snapshot(running):
    return running.server.metrics.snapshot()


def counts(running):
    return snapshot(running).counts


def ask(running, method="GET", path="/", body=b"", *fields):
    lines = [f"{method} {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields]
    with running.connect() as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        if method == "HEAD":
            return read_to(sock, b"\r\n\r\n"), b""
        return read_response(sock)


@contextlib.contextmanager
def waiting(running, path="/wait", method="GET", body=b"", length=None):
    """A request that runs until the end of the context."""
    size = len(body) if length is None else length
    before = app_of(running).waiting
    with running.connect() as sock:
        sock.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body
        )
        wait_until(lambda: app_of(running).waiting > before)
        yield sock


# --- Requests -------------------------------------------------------------------------------------


def test_requests_by_method_and_status(start):
    running = start()
    for _ in range(3):
        ask(running)
    ask(running, "POST", "/take", b"x" * 100)
    ask(running, "HEAD")
    ask(running, "DELETE", "/none")
    ask(running, "QUERY")
    ask(running, "PURGE")
    ask(running, "GET", "/fail")
    found = counts(running)
    assert {(key.method, key.status): value.count for key, value in found.requests.items()} == {
        ("GET", "2xx"): 3,
        ("POST", "2xx"): 1,
        ("HEAD", "2xx"): 1,
        ("DELETE", "4xx"): 1,
        ("QUERY", "2xx"): 1,
        ("_OTHER", "2xx"): 1,
        ("GET", "5xx"): 1,
    }
    assert found.begun == found.ended == found.first_byte.count == 9
    assert found.by_status()["2xx"] == 7
    assert found.aborted == 0


def test_every_method(start):
    """CONNECT is a method of requests only over HTTP/2, where it begins WebSockets."""
    running = start()
    for method in METHODS:
        if method not in ("CONNECT", OTHER_METHOD):
            ask(running, method)
    ask(running, "PROPFIND")
    over_http2 = isinstance(running, Gated)
    if over_http2:
        with Client(running) as client:
            client.accepted()
    expected = set(METHODS) if over_http2 else set(METHODS) - {"CONNECT"}
    wait_until(lambda: {key.method for key in counts(running).requests} == expected)


@pytest.mark.parametrize(("path", "status"), [("/moved", "3xx"), ("/none", "4xx"), ("/", "2xx")])
def test_classes_of_statuses(start, path, status):
    running = start()
    ask(running, path=path)
    assert [key.status for key in counts(running).requests] == [status]


def test_durations(start):
    running = start()
    with waiting(running, "/part") as sock:
        read_to(sock, b"12345")
        time.sleep(0.3)  # what is measured
        running.call(app_of(running).open)
        wait_until(lambda: counts(running).ended == 1)
    found = counts(running)
    (duration,) = found.requests.values()
    assert 0.3 <= duration.sum < PATIENCE
    assert duration.quantile(0.5) == pytest.approx(duration.sum, rel=0.13)
    assert 0.0 < found.first_byte.sum <= duration.sum - 0.3


def test_running_requests(start):
    running = start()
    ask(running)
    with (
        waiting(running, "/wait?query", "PUT", b"x" * 7, 10) as first,
        waiting(running, "/part", "POST", b"y" * 3) as second,
    ):
        read_to(second, b"12345")
        (worker,) = snapshot(running).workers
        assert (worker.in_flight, worker.requests, worker.number) == (2, 3, 0)
        one, two = worker.running
        assert (one.method, one.path, one.received, one.sent) == ("PUT", "/wait", 7, 0)
        assert (two.method, two.path, two.received, two.sent) == ("POST", "/part", 3, 5)
        assert one.version == two.version == ("2" if isinstance(running, Gated) else "1.1")
        assert one.age > two.age > 0.0
        if not isinstance(running, Gated):
            host, port = first.getsockname()
            assert one.client == f"{host}:{port}"
        first.sendall(b"xxx")
        running.call(app_of(running).open)
        wait_until(lambda: snapshot(running).workers[0].in_flight == 0)
    assert snapshot(running).workers[0].running == []


def test_client_of_a_running_request_is_that_of_a_trusted_proxy():
    app = App()
    with Running(app, **ADMIN) as running, running.connect() as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n\r\n")
        wait_until(lambda: app.waiting)
        (worker,) = snapshot(running).workers
        assert worker.running[0].client in ("2001:db8::1", "[2001:db8::1]:0")
        running.call(app.open)
        read_response(sock)


def test_the_oldest_are_shown_if_there_are_more_than_places():
    """Requests that found no place get one as soon as older requests have ended."""
    gates: dict[str, asyncio.Event] = {}

    async def gated(scope, receive, send):
        gate = gates.setdefault(scope["path"], asyncio.Event())
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    with Running(gated, **ADMIN) as running, contextlib.ExitStack() as stack:
        paths = [f"/{number:03}" for number in range(100)]
        for path in paths:
            sock = stack.enter_context(running.connect())
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_until(lambda path=path: path in gates)

        def shown():
            return [request.path for request in snapshot(running).workers[0].running]

        assert shown() == paths[:64]
        assert snapshot(running).workers[0].in_flight == 100
        for path in paths[:60]:
            running.call(gates[path].set)
        wait_until(lambda: shown() == paths[60:])
        for path in paths[60:]:
            running.call(gates[path].set)
        wait_until(lambda: snapshot(running).workers[0].in_flight == 0)
        assert counts(running).ended == 100
        assert shown() == []


def test_client_that_leaves(start):
    running = start()
    with waiting(running) as sock:
        if isinstance(running, Gated):
            sock.close()
        else:
            reset(sock)
        wait_until(lambda: counts(running).ended)
    found = counts(running)
    assert found.aborted == 1
    assert [(key.status, value.count) for key, value in found.requests.items()] == [("none", 1)]
    assert found.first_byte.count == 0
    assert snapshot(running).workers[0].in_flight == 0
    running.call(app_of(running).open)


def test_response_that_the_server_cuts_is_not_aborted_by_the_client(start):
    async def cuts(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0)
        raise ZeroDivisionError

    running = start()
    running.server.context.app = cuts
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            read_all(sock)
    wait_until(lambda: counts(running).ended == 1)
    assert counts(running).aborted == 0


# --- Refusals and time-outs -----------------------------------------------------------------------


def test_refusals(start):
    running = start(limit_request_body=10, limit_concurrency=1)
    ask(running, "POST", "/take", b"x" * 11)
    with waiting(running):
        head, _ = ask(running)
        assert b" 503 " in head
        running.call(app_of(running).open)
    found = counts(running)
    assert found.refused == {"413": 1, "503": 1}
    assert found.by_status()["5xx"] == 1


def test_what_is_no_request_is_only_refused():
    with Running(App(), **ADMIN) as running:
        assert b" 400 " in running.raw(b"GET / HTTP/1.1\r\n\r\n")
        found = counts(running)
        assert found.refused == {"400": 1}
        assert found.begun == found.ended == 0


@pytest.mark.parametrize(
    ("status", "head"),
    [
        ("400", b"GET / HTTP/1.1\r\n\r\n"),
        ("414", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("417", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n"),
        ("431", b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 200_000 + b"\r\n\r\n"),
        ("501", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
        ("505", b"GET / HTTP/2.5\r\nHost: a\r\n\r\n"),
    ],
)
def test_statuses_of_refused_heads(status, head):
    with Running(App(), **ADMIN) as running:
        with running.connect() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(head)
            read_all(sock)
        wait_until(lambda: counts(running).refused == {status: 1})


def test_time_out_of_a_body(start):
    running = start(timeout_body=0.05)
    with running.connect() as sock:
        sock.sendall(b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        assert b" 408 " in read_to(sock, b"\r\n\r\n")
    found = counts(running)
    assert found.timeouts["body"] == 1
    assert found.refused == {"408": 1}
    assert found.by_status()["4xx"] == 1


def test_time_out_of_the_application(start):
    running = start(timeout_request=0.05)
    head, _ = ask(running, "GET", "/wait")
    assert b" 504 " in head
    assert counts(running).timeouts["request"] == 1


def test_time_outs_of_connections(start):
    running = start(timeout_head=0.05, timeout_keep_alive=0.05)
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        read_response(sock)
        assert read_all(sock) == b""
    assert counts(running).timeouts["keep_alive"] == 1
    if not isinstance(running, Gated):
        assert b" 408 " in running.raw(b"GET /")
        assert counts(running).timeouts["head"] == 1


def test_time_out_of_a_client_that_does_not_read():
    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(OSError):
            while True:
                body = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
                await send(body)

    options = ADMIN | {"timeout_write": 0.1, "asgi_spec_version": "2.5"}
    with Running(endless, **options) as running, running.connect(4096) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: counts(running).timeouts["write"])
        wait_until(lambda: counts(running).aborted == 1)


# --- Connections ----------------------------------------------------------------------------------


def test_bytes_of_plain_requests():
    """Exact over HTTP/1.1."""
    request = (
        b"POST /take HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
    )
    with Running(App(), **ADMIN) as running:
        response = running.raw(request) + running.raw(request[:20], request[20:])
        found = counts(running)
        assert (found.received, found.sent) == (2 * len(request), len(response))


def test_bytes_of_http2():
    with Running(App(), **ADMIN) as running, frames.connect("127.0.0.1", running.port) as client:
        client.start()
        client.finished(client.request("POST", "/take", body=b"x" * 1000))
        found = counts(running)
        # Each byte once, though another connection has taken the preface.
        assert 1000 < found.received < 1300
        assert 0 < found.sent < 300


def test_connections(start):
    running = start(limit_connections=1)
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        read_response(sock)
        assert snapshot(running).workers[0].connections_open == 1
        with socket.create_connection(("127.0.0.1", running.port)) as second:
            second.settimeout(PATIENCE)
            second.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.settings())
            with contextlib.suppress(ConnectionError):
                read_all(second)
        wait_until(lambda: counts(running).connections_refused == 1)
    found = counts(running)
    assert found.connections_accepted == 2
    wait_until(lambda: snapshot(running).workers[0].connections_open == 0)


def test_connections_over_tls(tmp_path):
    certificate = Certificate(tmp_path)
    options = ADMIN | certificate.options | {"timeout_tls_handshake": 0.2}
    with Running(App(), **options) as running:
        context = ssl.create_default_context(cafile=certificate.authority)
        with (
            running.connect() as sock,
            context.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            read_response(secure)
            assert snapshot(running).workers[0].connections_open == 1
        running.raw(bytes([22, 3, 1, 0, 5]) + b"wrong")
        with running.connect() as silent, contextlib.suppress(ConnectionError):
            assert read_all(silent) == b""
        found = counts(running)
        assert found.connections_accepted == 3
        assert found.handshakes_failed == 1
        assert found.timeouts["tls_handshake"] == 1
        assert found.by_status()["2xx"] == 1


def test_malformed_proxy_head():
    with Running(App(), **ADMIN, proxy_protocol=True) as running:
        running.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert counts(running).handshakes_failed == 1
        assert counts(running).refused == {"400": 1}


# --- WebSockets and HTTP/2 ------------------------------------------------------------------------


def test_websockets(start):
    running = start()
    with Client(running) as client:
        client.accepted()
        assert snapshot(running).workers[0].websockets_open == 1
        client.text("é")
        client.read()
        client.binary(b"x" * 10)
        client.read()
        found = counts(running)
        assert (found.messages_received, found.messages_sent) == (2, 2)
        assert (found.message_bytes_received, found.message_bytes_sent) == (12, 12)
        assert found.by_status()["1xx"] + found.by_status()["2xx"] == 1  # 101; over HTTP/2 200
        assert snapshot(running).workers[0].in_flight == 0
        client.close(4001)
        wait_until(lambda: counts(running).websockets_closed)
    assert counts(running).websockets_closed == {"other": 1}
    with Client(running) as client:
        client.accepted()
    wait_until(lambda: counts(running).websockets_closed == {"other": 1, "1006": 1})
    assert snapshot(running).workers[0].websockets_open == 0


def test_websocket_that_is_not_accepted_is_not_counted(start):
    async def refuses(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})

    running = start()
    running.server.context.app = refuses
    with Client(running) as client:
        assert client.head().status == 403
    wait_until(lambda: counts(running).by_status()["4xx"] == 1)
    assert counts(running).websockets_closed == {}
    assert snapshot(running).workers[0].websockets_open == 0


def test_websocket_whose_messages_nobody_reads(start):
    """Its client leaves, and the application returns without noticing."""
    done = []

    async def deaf(scope, receive, send):
        await accept(receive, send)
        while not done:
            await asyncio.sleep(0.01)

    running = start(ws_max_queue=1)
    running.server.context.app = deaf
    with Client(running) as client:
        client.accepted()
        for _ in range(5):
            client.text("message")
        wait_until(lambda: counts(running).messages_received)
        if not isinstance(running, Gated):
            reset(client.sock)
    wait_until(lambda: snapshot(running).workers[0].connections_open == 0)
    done.append(True)
    wait_until(lambda: counts(running).websockets_closed == {"1006": 1})
    assert snapshot(running).workers[0].websockets_open == 0


# An endpoint must not send 1004, 1005, 1006, 1015 and 1016 (RFC 6455 section 7.4).
@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000])
def test_codes_of_closes(start, code):
    running = start()
    with Client(running) as client:
        client.accepted()
        client.close(code)
        shown = "other" if code == 3000 else str(code)
        wait_until(lambda: counts(running).websockets_closed == {shown: 1})


def test_close_without_a_code(start):
    running = start()
    with Client(running) as client:
        client.accepted()
        client.send(close_frame(None))
        wait_until(lambda: counts(running).websockets_closed == {"1005": 1})


@pytest.mark.parametrize("kind", ["ws_ping", "ws_close"])
def test_time_outs_of_websockets(start, kind):
    options = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05, "ws_close_timeout": 0.05}

    async def closes(scope, receive, send):
        await accept(receive, send)
        if kind == "ws_close":
            await send({"type": "websocket.close", "code": 1001})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    running = start(**options)
    running.server.context.app = closes
    with Client(running) as client:
        client.accepted()
        wait_until(lambda: counts(running).timeouts[kind] == 1)
    code = "1001" if kind == "ws_close" else "1011"
    assert counts(running).websockets_closed == {code: 1}


def test_streams_resets_and_goaways():
    app = App()
    with Running(app, **ADMIN) as running:
        with frames.connect("127.0.0.1", running.port) as client:
            client.start()
            client.finished(client.request())
            stream = client.request(path="/wait")
            wait_until(lambda: app.waiting)
            assert snapshot(running).workers[0].streams_open == 1
            client.send(frames.rst_stream(stream, frames.Code.CANCEL))
            wait_until(lambda: counts(running).resets_received)
            cut = client.request("POST", "/none", end=False)  # answered before its end
            wait_until(lambda: counts(running).resets_sent)
            client.send(frames.window_update(0, 0))
            client.end()
            assert cut
        found = counts(running)
        assert found.streams == 3
        assert found.aborted == 1
        assert found.resets_received == {str(int(frames.Code.CANCEL)): 1}
        assert found.resets_sent == {str(int(frames.Code.NO_ERROR)): 1}
        assert found.goaways_sent == {str(int(frames.Code.PROTOCOL_ERROR)): 1}
        assert snapshot(running).workers[0].streams_open == 0
        running.call(app.open)


@pytest.mark.parametrize("protocol_error", [False, True])
def test_connection_that_ends_aborts_each_of_its_requests(protocol_error):
    app = App()
    with Running(app, **ADMIN) as running:
        with frames.connect("127.0.0.1", running.port) as client:
            client.start()
            for _ in range(2):
                client.request(path="/wait")
            wait_until(lambda: app.waiting == 2)
            if protocol_error:
                client.send(frames.window_update(0, 0))
                client.end()
            else:
                reset(client.sock)
        wait_until(lambda: counts(running).aborted)
        assert counts(running).aborted == 2
        running.call(app.open)


def test_request_that_its_client_will_not_finish_is_aborted():
    app = App()
    with (
        Running(app, **ADMIN) as running,
        frames.connect("127.0.0.1", running.port) as client,
    ):
        client.start()
        client.request("POST", "/take", end=False)
        wait_until(lambda: counts(running).begun == 1)
        client.sock.shutdown(socket.SHUT_WR)
        client.end()
        assert counts(running).aborted == 1


def test_codes_of_resets_that_clients_send():
    app = App()
    with Running(app, **ADMIN) as running:
        with frames.connect("127.0.0.1", running.port) as client:
            client.start()
            for code in range(17):
                stream = client.request(path="/wait")
                wait_until(lambda code=code: app.waiting > code)
                client.send(frames.rst_stream(stream, code))
            wait_until(lambda: sum(counts(running).resets_received.values()) == 17)
        running.call(app.open)
        expected = dict.fromkeys([*map(str, range(15)), "other"], 1) | {"other": 2}
        assert counts(running).resets_received == expected


def test_settings_that_are_not_acknowledged():
    app = App()
    with Running(app, **ADMIN) as running:
        time = DrivenLoop.drive(running)
        with frames.connect("127.0.0.1", running.port) as client:
            client.answers = False
            fields = client.encoder.encode(client.fields(path="/wait"))
            client.send(frames.PREFACE + frames.settings() + frames.headers(1, fields, end=True))
            wait_until(lambda: app.waiting)
            running.call(lambda: time.move(11.0))
            assert client.end() == frames.Code.SETTINGS_TIMEOUT
        assert {kind for kind, count in counts(running).timeouts.items() if count} == {"settings"}
        running.call(app.open)


def test_websocket_that_both_sides_end_is_no_reset():
    """Over HTTP/2, where the server's side ends first."""
    with (
        Running(App(), **ADMIN) as running,
        frames.connect("127.0.0.1", running.port) as client,
    ):
        client.start()
        stream = open_websocket(client)
        client.send(frames.data(stream, close_frame(1000)))
        client.wait(lambda: client.on(stream).ended)
        client.send(frames.data(stream, end=True))
        client.alive()
        assert counts(running).websockets_closed == {"1000": 1}
        assert counts(running).resets_sent == {}


def test_server_of_a_program_says_that_it_has_no_admin_port(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    with Running(App(), **ADMIN) as running:
        ask(running)
        assert counts(running).requests
    assert caplog.text.count("There is no admin port: a supervisor serves it") == 1


# --- The process ----------------------------------------------------------------------------------


def test_a_blocked_loop_is_late():
    with Running(App(), **ADMIN) as running:
        wait_until(lambda: counts(running).lag.count > 2)
        running.call(lambda: time.sleep(0.5))
        wait_until(lambda: snapshot(running).workers[0].longest_block > 0.35)
        assert counts(running).lag.quantile(1.0) > 0.35


def test_a_stuck_loop_is_seen_while_it_is_stuck():
    with Running(App(), **ADMIN) as running:
        wait_until(lambda: counts(running).lag.count > 2)
        running.loop.call_soon_threadsafe(time.sleep, 1.0)
        wait_until(lambda: snapshot(running).workers[0].silent > 0.3)


def test_what_the_process_uses():
    with Running(App(), **ADMIN) as running:
        wait_until(lambda: snapshot(running).workers[0].tasks > 0)
        for generation in range(3):
            gc.collect(generation)
        found = snapshot(running)
        (worker,) = found.workers
        assert worker.resident > 1_000_000
        assert worker.processor > 0.0
        assert worker.descriptors > 3
        assert min(found.counts.collections.values()) >= 1
        assert found.counts.collecting > 0.0
        (queue,) = found.queues
        assert queue.address == f"127.0.0.1:{running.port}"
        assert (queue.waiting, queue.most) == (0, min(2048, somaxconn()))
    assert snapshot(running).workers == []
    assert snapshot(running).ends["stopped"] == 1


def somaxconn():
    with open("/proc/sys/net/core/somaxconn") as file:
        return int(file.read())


def test_nothing_is_counted_without_admin():
    with Running(App()) as running:
        ask(running)
        assert running.server.metrics is None
        assert running.context.metrics is None
        assert len(gc.callbacks) == len([one for one in gc.callbacks if "Sampler" not in str(one)])

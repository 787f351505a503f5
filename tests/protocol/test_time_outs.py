"""Clients that stall or drip, and a clock that ticks by itself: every wait for them ends. When, and
with what: test_phases.py.
"""

import contextlib
import logging
import socket
import time

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    get,
    hello,
    http_only,
    post,
    read_body,
    respond,
    take_replies,
)
from driven import DrivenLoop
from leaks import nothing_stays, only_ours, waiter  # noqa: F401
from support import on_every_transport, read_all, read_head, read_response, read_to, wait_until

from thestral.protocol.phases import LINGER_TIMEOUT

MEGABYTE = 2**20
START = {"type": "http.response.start", "status": 200, "headers": []}
SHORT = 0.2  # seconds
LATE = 5.0  # seconds: later than a busy machine makes it, sooner than any limit is by default
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


def timed(sock: socket.socket, since: float) -> tuple[bytes, float]:
    raw = read_all(sock)
    return raw, time.monotonic() - since


def test_silent_connection_is_closed_without_a_word(serve):
    running = serve(hello, timeout_head=SHORT)
    since = time.monotonic()
    with running.connect() as sock:
        raw, took = timed(sock, since)
    assert raw == b""
    assert SHORT <= took < LATE
    nothing_stays(running)


def test_half_head_is_408(serve):
    running = serve(hello, timeout_head=SHORT)
    with running.connect() as sock:
        since = time.monotonic()
        sock.sendall(GET[:-1])
        raw, took = timed(sock, since)
    (reply,) = take_replies(raw)
    assert reply.status == 408
    assert reply.one(b"connection") == b"close"
    assert SHORT <= took < LATE
    nothing_stays(running)


@pytest.mark.parametrize("started", [b"", b"GET / HTTP/1.1\r\nX: "])
def test_drip_does_not_extend_the_deadline_of_the_head(serve, started):
    """A byte every now and then is not progress; nor are empty lines before a request."""
    running = serve(hello, timeout_head=SHORT)
    with running.connect() as sock:
        sock.sendall(started)
        sock.settimeout(SHORT / 10)
        since = time.monotonic()
        raw = None
        while raw is None:
            assert time.monotonic() - since < LATE
            try:
                sock.sendall(b"x" if started else b"\r\n")
                raw = sock.recv(65536)
            except TimeoutError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                raw = b""
    assert raw.startswith(b"HTTP/1.1 408 ") if started else raw == b""
    nothing_stays(running)


def test_half_body_is_408_and_a_disconnect(serve):
    seen = []
    running = serve(waiter(seen), timeout_body=SHORT)
    with running.connect() as sock:
        since = time.monotonic()
        sock.sendall(post(b"abc")[:-1])
        raw, took = timed(sock, since)
    (reply,) = take_replies(raw)
    assert reply.status == 408
    assert SHORT <= took < LATE
    wait_until(lambda: seen and seen[-1] == "http.disconnect")
    nothing_stays(running)


def test_body_that_nobody_takes_cannot_hold_the_connection(serve):
    """The response is complete, but the rest of the body never comes; all cases wait at once."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await send(START)
        if scope["path"] == "/streamed":
            await send({"type": "http.response.body", "body": b"he", "more_body": True})
            await send({"type": "http.response.body", "body": b"llo"})
        else:
            await send({"type": "http.response.body", "body": b"hello"})

    running = serve(app)
    time = DrivenLoop.drive(running)
    paused = post(b"x" * 200_000)[:-50_000]
    with contextlib.ExitStack() as stack:
        socks = []
        for sent in (post(b"x" * 10)[:-5], paused, EXPECTING):
            for path in (b"POST /", b"POST /streamed"):
                socks.append(stack.enter_context(running.connect()))
                socks[-1].sendall(sent.replace(b"POST /", path, 1))
        wait_until(lambda: gate.reached == len(socks))
        wait_until(lambda: sum(c.reading_paused for c in running.context.connections) == 2)
        gate.open(running)
        answers = [read_to(sock, b"llo") for sock in socks]
        running.call(lambda: time.move(running.context.timeouts.body + 1))
        for sock, answer in zip(socks, answers, strict=True):
            (reply,) = take_replies(answer + read_all(sock))
            assert reply.body == b"hello"
        running.call(lambda: time.move(LINGER_TIMEOUT + 1))
        wait_until(lambda: not running.context.connections)
    nothing_stays(running)


def test_idle_keep_alive_connection_is_closed(serve):
    """Also with an empty line behind the request, as old clients send it (RFC 9112 section 2.2)."""
    running = serve(hello, timeout_keep_alive=SHORT)
    with running.connect() as sock:
        since = time.monotonic()
        sock.sendall(GET + GET + b"\r\n")
        sock.settimeout(3)
        raw, took = timed(sock, since)
        assert len(take_replies(raw)) == 2
        assert SHORT <= took < LATE
        wait_until(lambda: not running.context.connections, 4)
    nothing_stays(running)


def test_time_outs_do_not_fire_for_a_slow_application(serve):
    gate, second = Gate(), Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        body = await read_body(receive)
        length = (b"content-length", b"%d" % len(body))
        await send(START | {"headers": [length]})
        await second.wait()
        await send({"type": "http.response.body", "body": body})

    names = ("head", "body", "keep_alive", "write")
    running = serve(app, **{f"timeout_{name}": SHORT for name in names})
    # Complete requests, and one whose rest waits in the socket because nobody receives it.
    with running.connect() as small, running.connect() as large:
        small.sendall(post(b"abc"))
        small.setblocking(False)
        large.setblocking(False)
        request = post(b"x" * 6_000_000)
        sent = large.send(request)
        wait_until(lambda: gate.reached == 2)
        clock = time.monotonic() + SHORT * 3
        while time.monotonic() < clock:
            assert len(running.context.connections) == 2
            try:
                sent += large.send(request[sent:])
            except BlockingIOError:
                time.sleep(0.005)
        gate.open(running)
        large.settimeout(10)
        large.sendall(request[sent:])
        wait_until(lambda: second.reached == 2)
        clock = time.monotonic() + SHORT * 3
        wait_until(lambda: time.monotonic() > clock)
        second.open(running)
        small.settimeout(10)
        assert read_response(small)[1] == b"abc"
        assert len(read_response(large)[1]) == 6_000_000
    nothing_stays(running)


@on_every_transport
def test_client_that_does_not_read_is_given_up(serve):
    ended = []

    @http_only
    async def app(scope, receive, send):
        try:
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except OSError:
            ended.append(time.monotonic())
            raise

    running = serve(app, timeout_write=SHORT)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(GET)
        wait_until(lambda: [c for c in running.context.connections if c.write_paused])
        stalled = time.monotonic()
        wait_until(lambda: ended)
        assert SHORT * 0.5 < ended[0] - stalled < LATE
        nothing_stays(running)


def test_complete_response_that_is_not_read_is_given_up(serve):
    """The application has returned; its unread output must not keep the connection either."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, bytes(8 * MEGABYTE))

    running = serve(app, timeout_write=SHORT, timeout_keep_alive=SHORT)
    with running.connect(receive_buffer=4096) as keeps, running.connect(4096) as closes:
        keeps.sendall(GET)
        closes.sendall(GET_CLOSE)
        wait_until(lambda: running.context.total_requests == 2)
        nothing_stays(running)


def test_slow_reader_that_does_read_is_not_given_up(serve):
    """Longer in total than timeout_write, but without a pause of that length."""
    size = 48 * MEGABYTE
    ended = []

    @http_only
    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-length", str(size).encode())]})
        for left in range(size // 65536 - 1, -1, -1):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": left > 0})
        ended.append(True)

    # The client takes 16 s for 16 MB. The sockets hold less, so the server writes meanwhile.
    running = serve(app, timeout_write=16)
    time = DrivenLoop.drive(running)
    with running.connect() as sock:
        sock.sendall(GET)
        read_head(sock)

        def pause():
            """Once the server has written as much as it can; else nothing would be overdue."""
            wait_until(lambda: ended or all(c.write_paused for c in running.context.connections))
            running.call(lambda: time.move(1))

        read_slowly(sock, size, pause)
    nothing_stays(running)


def read_slowly(sock, size: int, pause) -> None:
    """Read `size` bytes, and call `pause` before each megabyte."""
    received = 0
    for megabytes in range(size // MEGABYTE):
        while received < megabytes * MEGABYTE:
            data = sock.recv(65536)
            assert data, f"closed after {received} bytes"
            received += len(data)
        pause()
    while received < size:
        data = sock.recv(min(65536, size - received))
        assert data, f"closed after {received} bytes"
        received += len(data)


def test_clock_survives_what_a_time_out_raises(serve, monkeypatch):
    """A log filter of the user's raises: the time-outs of other connections still work."""

    class Faulty(logging.Filter):
        def filter(self, record):
            if "not received in time" in record.getMessage():
                raise RuntimeError("a filter of the user's")
            return True

    logger = logging.getLogger("thestral.error")
    monkeypatch.setattr(logger, "filters", [Faulty()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    told = []
    running = serve(hello, timeout_head=SHORT, timeout_keep_alive=SHORT)
    running.call(lambda: running.loop.set_exception_handler(lambda _, what: told.append(what)))
    with running.connect() as stuck:
        stuck.sendall(b"GET / HT")
        wait_until(lambda: told)
    with running.connect() as idle:
        idle.sendall(GET)
        assert read_response(idle)[1] == b"hello"
        assert read_all(idle) == b""
    assert str(told[0]["exception"]) == "a filter of the user's"


@pytest.mark.parametrize("last", [False, True], ids=["kept alive", "closed by the application"])
def test_response_that_is_still_being_sent_is_not_cut(serve, last):
    """RFC 9112 section 9.6: a connection with waiting output is not idle, and has not closed."""
    size = 24 * MEGABYTE

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/":
            close = [(b"connection", b"close")] if last else []
            length = (b"content-length", str(size).encode())
            await send({**START, "headers": [length, *close]})
            await send({"type": "http.response.body", "body": bytes(size)})
        else:
            await hello(scope, receive, send)

    running = serve(app, timeout_keep_alive=LINGER_TIMEOUT)
    time = DrivenLoop.drive(running)
    with running.connect(receive_buffer=65536) as sock:
        sock.sendall(GET)
        read_head(sock)
        # Longer than any of the limits that are not to end it; the sockets hold less than the rest.
        read_slowly(sock, size - 8 * MEGABYTE, lambda: running.call(lambda: time.move(1)))
        sock.sendall(get("/next"))
        read_slowly(sock, 8 * MEGABYTE, lambda: None)
        if last:
            assert read_all(sock) == b""
        else:
            assert read_response(sock)[1] == b"hello"


def test_body_that_is_wanted_behind_the_response_has_a_time_out(serve):
    """The client need not send the body any more: it has its final response."""

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b"A", "more_body": True})
        await receive()

    running = serve(app, timeout_body=SHORT)
    with running.connect() as sock:
        since = time.monotonic()
        sock.sendall(EXPECTING)
        assert b"200 OK" in read_head(sock)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(100):
                pass
        assert SHORT * 0.5 < time.monotonic() - since < LATE
    nothing_stays(running)

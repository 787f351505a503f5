"""Expect, refused requests and whether the client can read why, and bodies that nobody reads."""

import logging
import select
import socket

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    Recorder,
    echo,
    fixed,
    get,
    hello,
    http_only,
    post,
    read_body,
    respond,
    take_replies,
)
from support import read_all, read_head, read_response, wait_until

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DISCARD_MAX = 256 * 1024  # bytes of an unread body that do not cost the connection


@pytest.fixture
def log(caplog, monkeypatch):
    """The lines that thestral.error has written, whatever another test did to its loggers."""
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [
        record
        for record in caplog.records
        if record.name == "uvicorn.error" and "Refused" in record.getMessage()
    ]


def has_sent_nothing(sock: socket.socket) -> bool:
    """Loopback delivers at once: anything that the server had written would be here."""
    return select.select([sock], [], [], 0)[0] == []


# --- Expect: RFC 9110 section 10.1.1 --------------------------------------------------------------


def expecting(size: int, *fields: str, value="100-continue") -> bytes:
    lines = ["POST / HTTP/1.1", "Host: a", f"Expect: {value}", f"Content-Length: {size}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_continue_is_sent_when_the_application_receives(serve, value):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await echo(scope, receive, send)

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(expecting(6, value=value))
        wait_until(lambda: gate.reached)
        assert has_sent_nothing(sock)
        gate.open(running)
        assert read_head(sock) == CONTINUE
        sock.sendall(b"abc")
        sock.sendall(b"def")
        assert read_response(sock)[1] == b"POST / abcdef"
        sock.sendall(GET_CLOSE)  # it was sent once, and the connection is in step
        assert [reply.body for reply in take_replies(read_all(sock))] == [b"GET / "]


def test_continue_is_sent_for_a_chunked_body(serve):
    with serve(echo).connect() as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert read_head(sock) == CONTINUE
        sock.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert read_response(sock)[1] == b"POST / abc"


@pytest.mark.parametrize("there", [b"a", b"abc"])
def test_continue_is_not_sent_when_body_is_there(serve, there):
    """The client has not waited, so 100 would tell it nothing."""
    with serve(echo).connect() as sock:
        sock.sendall(expecting(3, "Connection: close") + there)
        sock.sendall(b"abc"[len(there) :])
        (reply,) = take_replies(read_all(sock))
        assert reply.body == b"POST / abc"


def test_continue_is_not_sent_without_a_body(serve):
    (reply,) = take_replies(serve(echo).raw(expecting(0, "Connection: close")))
    assert reply.status == 200


def test_continue_is_not_sent_to_an_application_that_does_not_receive(serve):
    """The final response shows that the body is not wanted: the connection may be out of step."""
    (reply,) = take_replies(serve(fixed(b"no", 403)).raw(expecting(3)))
    assert reply.status == 403
    assert reply.one(b"connection") == b"close"


def test_continue_is_not_sent_behind_the_final_head(serve):
    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"early ", "more_body": True})
        await send({"type": "http.response.body", "body": await read_body(receive)})

    with serve(app).connect() as sock:
        sock.sendall(expecting(3, "Connection: close"))
        assert b"transfer-encoding: chunked" in read_head(sock)
        sock.sendall(b"abc")
        assert read_all(sock) == b"6\r\nearly \r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize("value", ["200-ok", "100-continue, x", "100-continue=1"])
def test_unknown_expectation_is_417(serve, value):
    app = Recorder(hello)
    (reply,) = take_replies(serve(app).raw(expecting(3, value=value)))
    assert reply.status == 417
    assert app.scopes == []


# --- Refusals -------------------------------------------------------------------------------------

HOST = b"Host: a\r\n"
REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400),
    (b"GET http://b/ HTTP/1.1\r\n\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Bad Name: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Folded: x\r\n y\r\n\r\n", 400),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
    (b"\0\0\0\0", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\n", 400),
    (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 101\r\n\r\n", 413),
    (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101,
        413,
    ),
    (b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Expect: magic\r\n\r\n", 417),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"x" * 1000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 10 + b"\r\n", 431),
    (b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n", 501),
    (b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
]


def test_refusal_is_plain_text_and_the_end_of_the_connection(serve):
    app = Recorder(hello)
    running = serve(
        app,
        limit_request_line=500,
        limit_header_size=500,
        limit_header_count=10,
        limit_request_body=100,
        http2=False,
    )
    for request, status in REFUSED:
        (reply,) = take_replies(running.raw(request))
        assert reply.status == status, request
        assert reply.one(b"content-type") == b"text/plain; charset=utf-8"
        assert reply.one(b"connection") == b"close"
        assert reply.one(b"content-length") == str(len(reply.body)).encode()
        assert 0 < len(reply.body) < 200
        assert reply.one(b"server") == b"thestral"
        reply.one(b"date")
        if b"Transfer-Encoding: chunked\r\n\r\n" not in request:
            assert app.scopes == []  # a bad body may be found after the application has begun
    wait_until(lambda: not running.context.connections)
    assert not running.context.cycles


def test_body_at_its_limit_is_taken(serve):
    running = serve(echo, limit_request_body=100)
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw = running.raw(
        post(b"x" * 99)
        + post(b"x" * 100)
        + chunked
        + b"32\r\n"
        + b"x" * 50
        + b"\r\n32\r\n"
        + b"x" * 50
        + b"\r\n0\r\n\r\n"
        + post(b"x" * 101)
    )
    assert [reply.status for reply in take_replies(raw)] == [200, 200, 200, 413]


def test_body_over_its_limit_in_later_chunks_is_413(serve, log):
    """The application has begun by then and sees the client gone."""
    gone = []

    @http_only
    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            pass
        gone.append(message)

    running = serve(app, limit_request_body=100)
    with running.connect() as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: running.context.cycles)
        for _ in range(2):
            sock.sendall(b"32\r\n" + b"x" * 50 + b"\r\n")
        sock.sendall(b"1\r\nx\r\n")
        (reply,) = take_replies(read_all(sock))
    assert reply.status == 413
    wait_until(lambda: gone == [{"type": "http.disconnect"}])
    (record,) = log()
    message = record.getMessage()
    assert ", in b'POST /upload HTTP/1.1'" in message or ", in " not in message


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n800000\r\n",
    ],
)
def test_refusal_is_readable_by_a_client_that_is_still_sending(serve, head):
    """RFC 9112 section 9.6: closing at once would reset the connection before it is read."""
    with serve(echo, limit_request_body=1000).connect() as sock:
        sock.sendall(head)
        for _ in range(8):
            sock.sendall(b"x" * 2**20)
        (reply,) = take_replies(read_all(sock))
    assert reply.status in (400, 413)
    assert reply.one(b"connection") == b"close"


def test_refusal_does_not_hold_a_client_that_stays(serve):
    """The lingering close is bounded in time, whatever else came with the bad request."""
    running = serve(hello)
    with running.connect() as plain, running.connect() as more, running.connect() as closing:
        plain.sendall(b"nonsense\r\n\r\n")
        more.sendall(b"nonsense\r\n\r\nand more of it")
        closing.sendall(GET_CLOSE + b"and more of it")
        assert [take_replies(read_all(sock))[0].status for sock in (plain, more, closing)] == [
            400,
            400,
            200,
        ]
        wait_until(lambda: not running.context.connections, 6)


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason", "excerpt"),
    [
        (b"GET / HTTP/1.1\r\nCookie: secret\r\n\r\n", 400, "Host", r"b'GET / HTTP/1.1'"),
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03", 400, "TLS", r"b'\x16\x03\x01\x02"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2", r"b'PRI * HTTP/2.0'"),
        (b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n", 400, "", r"b'GET /\x1b[31m HTTP/1.1'"),
        (b"BREW /pot HTTP/1.1\r\nCookie: secret\r\n\r\n", 501, "method", r"b'BREW /pot"),
    ],
)
def test_refusal_is_logged_in_one_line(serve, log, request_bytes, status, reason, excerpt):
    with serve(hello, http2=False).connect() as sock:
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        client = "{}:{}".format(*sock.getsockname())
        (reply,) = take_replies(read_all(sock))
    assert reply.status == status
    (record,) = log()
    message = record.getMessage()
    assert record.levelno == logging.INFO
    assert client in message
    assert str(status) in message
    assert reason in message
    assert excerpt in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\nCookie: secret\n\n",
        b"GET / HTTP/1.1\rCookie: secret\r\n\r\n",
        b"BREW /\nCookie: secret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_refusal_logs_no_value_of_a_field_and_no_body(serve, log, request_bytes, split):
    with serve(echo).connect() as sock:
        if split:
            at = request_bytes.index(b"secret") + 3
            sock.sendall(request_bytes[:at])
            sock.sendall(request_bytes[at:])
        else:
            sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        (reply,) = take_replies(read_all(sock))
    assert reply.status in (400, 501)
    (record,) = log()
    assert "sec" not in record.getMessage()


def test_head_cut_by_the_end_of_the_stream_is_logged_too(serve, log):
    """One line for every refusal, this one included."""
    with serve(hello).connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost")
        sock.shutdown(socket.SHUT_WR)
        (reply,) = take_replies(read_all(sock))
    assert reply.status == 400
    (record,) = log()
    assert record.levelno == logging.INFO


# --- Bodies that the application does not take ----------------------------------------------------


@pytest.mark.parametrize("size", [1, 70_000, DISCARD_MAX - 1, DISCARD_MAX])
def test_small_unread_body_does_not_cost_the_connection(serve, size):
    with serve(hello).connect() as sock:
        for _ in range(2):
            sock.sendall(post(b"x" * size))
            head, body = read_response(sock)
            assert b"connection:" not in head.lower()
            assert body == b"hello"


def test_small_unread_chunked_body_does_not_cost_the_connection(serve):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = b"".join(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n"
    with serve(hello).connect() as sock:
        for _ in range(2):
            sock.sendall(head + chunked)
            assert read_response(sock)[1] == b"hello"


def test_unread_rest_of_a_body_does_not_cost_the_connection(serve):
    """Also if the application has received a part of it, or if reading had to pause."""

    @http_only
    async def app(scope, receive, send):
        await receive()
        await respond(send, b"enough")

    with serve(app).connect() as sock:
        for _ in range(2):
            sock.sendall(post(b"x" * 200_000))
            assert read_response(sock)[1] == b"enough"


def refuse_without_reading(gate):
    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await respond(send, b"no", 403)

    return app


def test_unread_body_over_the_limit_closes(serve):
    gate = Gate()
    running = serve(refuse_without_reading(gate))
    with running.connect() as sock:
        request = post(b"x" * (DISCARD_MAX + 1))
        head_size = request.index(b"x")
        sock.sendall(request[:head_size])  # only the bytes that are still to come count
        wait_until(lambda: gate.reached)
        gate.open(running)
        head, body = read_response(sock)
        assert (head[:12], body) == (b"HTTP/1.1 403", b"no")
        assert b"connection: close\r\n" in head
        sock.sendall(request[head_size:])
        assert read_all(sock) == b""


def test_refusal_of_the_application_is_readable_by_a_client_that_is_still_sending(serve):
    gate = Gate()
    running = serve(refuse_without_reading(gate))
    with running.connect() as sock:
        sock.sendall(post(b"x" * 8_000_000)[:1000])
        wait_until(lambda: gate.reached)
        gate.open(running)
        for _ in range(7):
            sock.sendall(b"x" * 2**20)
        (reply,) = take_replies(read_all(sock))
    assert reply.status == 403
    assert reply.one(b"connection") == b"close"


def test_body_that_came_before_the_response_does_not_count_as_discarded(serve):
    """DISCARD_MAX counts only what is read after the response."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if scope["method"] == "POST":
            await gate.wait()
        await respond(send, b"hello")

    running = serve(app)
    body = post(b"x" * 300_000)
    with running.connect() as sock:
        sock.sendall(body[:150_000])
        wait_until(lambda: [c for c in running.context.connections if c.reading_paused])
        gate.open(running)
        assert read_response(sock)[1] == b"hello"
        sock.sendall(body[150_000:] + GET)
        assert read_response(sock)[1] == b"hello"


def test_endless_unread_chunked_body_closes(serve):
    """Without a length the server cannot know beforehand; it stops reading at DISCARD_MAX."""
    running = serve(hello)
    with running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert read_response(sock)[1] == b"hello"
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(5):
            sock.sendall(chunk)
        assert read_all(sock) == b""
    wait_until(lambda: not running.context.connections)


def test_unread_body_is_not_taken_for_a_request(serve):
    """A request smuggled in a body that nobody reads must never be served."""
    app = Recorder(echo)
    running = serve(app)
    assert [r.body for r in take_replies(running.raw(post(get("/smuggled")) + GET_CLOSE))] == [
        b"POST / " + get("/smuggled"),
        b"GET / ",
    ]
    app.app = hello
    replies = take_replies(running.raw(post(get("/smuggled")) + GET_CLOSE))
    assert [reply.body for reply in replies] == [b"hello", b"hello"]
    assert [scope["path"] for scope in app.scopes] == ["/"] * 4


def test_unread_body_over_the_limit_closes_behind_a_streamed_response(serve):
    """Its head could not announce that: the application might still have taken the body."""

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"no", "more_body": True})
        await send({"type": "http.response.body"})

    with serve(app).connect() as sock:
        request = post(b"x" * (DISCARD_MAX + 1))
        sock.sendall(request[: request.index(b"x")])
        (reply,) = take_replies(read_all(sock))
    assert reply.body == b"no"
    assert reply.all(b"connection") == []

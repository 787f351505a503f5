"""Responses of applications that do not accept: 403, websocket.http.response, 500; access lines."""

import asyncio
import logging

import pytest
from support import read_all, wait_until
from ws_apps import Gate, Sessions, accept, echo, ws_only
from ws_client import TEXT, Client, Head, connected, frame, handshake, parse_head

from thestral.errors import ClientDisconnected, LocalProtocolError

BEHIND = frame(TEXT, "x") + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
START = "websocket.http.response.start"
BODY = "websocket.http.response.body"


def take_answer(raw: bytes) -> tuple[Head, bytes]:
    """Parse the only response in `raw`: its head, and its body by RFC 9112 section 6.3."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    assert end, raw
    answer = parse_head(head)
    if answer.status in (204, 304):
        assert not rest
        return answer, b""
    lengths = answer.all(b"content-length")
    codings = answer.all(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1
    if lengths:
        assert len(rest) == int(lengths[0])
        return answer, rest
    if not codings:
        return answer, rest
    assert codings == [b"chunked"]
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body += rest[:count]
        assert rest[count : count + 2] == b"\r\n"
        rest = rest[count + 2 :]
        if count == 0:
            assert not rest, "something stands behind the answer"
            return answer, body


def denied(running, behind: bytes = BEHIND) -> tuple[Head, bytes]:
    """Send a handshake that is not accepted; return its response, which ends the connection."""
    answer, body = take_answer(running.raw(handshake() + behind))
    assert answer.one(b"connection").lower() == b"close"
    assert not answer.all(b"upgrade")
    assert not answer.all(b"sec-websocket-accept")
    return answer, body


def messages(*all_messages):
    """Receives websocket.connect, sends these messages, and receives once more."""

    async def app(scope, receive, send):
        await receive()
        for message in all_messages:
            await send(message)
        await receive()

    return Sessions(app)


# --- 403 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"code": 1000}, {"code": 4000, "reason": "no"}])
def test_close_before_accept_is_403(serve, fields, errors):
    app = messages({"type": "websocket.close"} | fields)
    answer, _ = denied(serve(app))
    assert answer.status == 403
    assert answer.one(b"server") == b"thestral"
    assert app.disconnect()[0] == 1006
    assert app.calls == 1
    assert not errors()


def test_close_without_receiving_is_403(serve):
    @ws_only
    async def app(scope, receive, send):
        await send({"type": "websocket.close"})

    assert denied(serve(app))[0].status == 403


def test_refusal_can_be_read_while_frames_are_sent(serve):
    """RFC 9112 section 9.6: a reset must not make the client lose the response."""
    answer, _ = denied(serve(messages({"type": "websocket.close"})), frame(TEXT, b"x" * 300_000))
    assert answer.status == 403


@pytest.mark.parametrize(
    "late",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "x"},
        {"type": "websocket.close"},
        {"type": START, "status": 200, "headers": []},
        {"type": BODY, "body": b""},
    ],
    ids=lambda message: message["type"],
)
def test_messages_behind_a_refusal(serve, late):
    app = messages({"type": "websocket.close"}, late)
    assert denied(serve(app))[0].status == 403
    wait_until(lambda: app.last.ended)
    assert isinstance(app.last.raised, (LocalProtocolError, ClientDisconnected))


# --- websocket.http.response ----------------------------------------------------------------------


def start(status=401, headers=()):
    return {"type": START, "status": status, "headers": list(headers)}


def body(data=b"", more=False):
    return {"type": BODY, "body": data, "more_body": more}


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 418, 500, 503, 599])
def test_denial_response(serve, status, errors):
    fields = [(b"X-A", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    app = messages(start(status, fields), body(b"no entry"))
    answer, got = denied(serve(app))
    assert (answer.status, got) == (status, b"no entry")
    assert answer.one(b"x-a") == b"1"
    assert answer.all(b"set-cookie") == [b"a", b"b"]
    assert answer.one(b"content-length") == b"8"
    assert len(answer.all(b"date")) == len(answer.all(b"server")) == 1
    assert app.disconnect()[0] == 1006
    assert not errors()


@pytest.mark.parametrize("status", [204, 304])
def test_denial_without_content_9110_6_4_1(serve, status):
    answer, got = denied(serve(messages(start(status), body(b""))))
    assert (answer.status, got) == (status, b"")
    assert not answer.all(b"transfer-encoding")
    if status == 204:
        assert not answer.all(b"content-length")


def test_denial_without_a_body_9112_6_3(serve):
    answer, got = denied(serve(messages(start(401), body())))
    assert (answer.one(b"content-length"), got) == (b"0", b"")


def test_denial_body_may_be_omitted(serve):
    answer, got = denied(serve(messages(start(401), {"type": BODY})))
    assert (answer.status, got) == (401, b"")


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"300003")]])
def test_streamed_denial_9112_7_1(serve, fields):
    parts = [b"one", b"x" * 100_000, b"", b"y" * 200_000]
    steps = [body(part, more=True) for part in parts]
    answer, got = denied(serve(messages(start(403, fields), *steps, body())))
    assert got == b"".join(parts)
    assert bool(answer.all(b"content-length")) == bool(fields)


def test_streamed_denial_leaves_as_it_comes(serve):
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await send(start(401, [(b"content-length", b"6")]))
        await send(body(b"abc", more=True))
        await gate.wait()
        await send(body(b"def"))

    running = serve(app)
    with Client(running) as client:
        assert client.head().status == 401
        assert client.sock.recv(3) == b"abc"
        gate.open(running)
        assert client.sock.recv(10) == b"def"
        client.ended()


def test_client_gone_within_a_denial(serve, errors):
    async def app(scope, receive, send):
        await receive()
        await send(start(401))
        while True:
            await send(body(b"x" * 65536, more=True))

    sessions = Sessions(app)
    running = serve(sessions)
    with Client(running, receive_buffer=4096) as client:
        client.head()
        client.reset()
    wait_until(lambda: sessions.last.ended)
    assert isinstance(sessions.last.raised, ClientDisconnected)
    wait_until(lambda: not running.context.connections)
    assert not errors()


BAD_DENIALS = {
    "body_first": [body(b"x")],
    "interim_status_9110_15_2": [start(101)],
    "status_too_high": [start(1000)],
    "status_as_text": [start("401")],
    "no_status": [{"type": START, "headers": []}],
    "line_break_9110_5_5": [start(401, [(b"x", b"a\r\nb: c")]), body()],
    "accept_behind_start": [start(401), {"type": "websocket.accept"}],
    "close_behind_start": [start(401), {"type": "websocket.close"}],
    "start_twice": [start(401), start(401)],
    "body_as_text": [start(401), {"type": BODY, "body": "x"}],
    "http_message": [{"type": "http.response.start", "status": 200, "headers": []}],
    "headers_as_number": [start(401) | {"headers": 5}],
    "no_message": [start(401), None],
}


@pytest.mark.parametrize("name", BAD_DENIALS)
def test_wrong_denials_are_500(serve, name, errors):
    app = messages(*BAD_DENIALS[name])
    answer, _ = denied(serve(app))
    assert answer.status == 500
    assert isinstance(app.last.raised, LocalProtocolError)
    assert len(errors()) == 1


def test_start_behind_accept(serve):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send(start(401))

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        assert client.read_close()[0] == 1011
    assert isinstance(sessions.last.raised, LocalProtocolError)
    assert START in str(sessions.last.raised)


def test_denial_of_the_wrong_length_9112_6_3(serve, errors):
    """The client must not take a body that is too short for complete."""
    app = messages(start(401, [(b"content-length", b"5")]), body(b"abc"))
    running = serve(app)
    with Client(running) as client:
        head, _, content = read_all(client.sock).partition(b"\r\n\r\n")
        assert b"content-length: 5" in head
        assert content == b"abc"
    wait_until(lambda: app.last.ended)
    assert isinstance(app.last.raised, LocalProtocolError)
    wait_until(errors)
    assert len(errors()) == 1


# --- 500 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["at_once", "behind_connect", "behind_denial_start"])
@pytest.mark.parametrize("how", ["raises", "returns", "cancels"])
def test_application_that_does_not_answer_is_500(serve, when, how, errors):
    async def app(scope, receive, send):
        if when != "at_once":
            await receive()
        if when == "behind_denial_start":
            await send(start(200, [(b"x-a", b"1")]))
        if how == "raises":
            raise ValueError("the application's")
        if how == "cancels":
            raise asyncio.CancelledError

    answer, _ = denied(serve(Sessions(app)))
    assert answer.status == 500
    assert not answer.all(b"x-a")
    (record,) = errors()
    assert (record.exc_info is not None) == (how != "returns")


@pytest.mark.parametrize("raises", [True, False])
def test_application_that_ends_within_the_denials_body(serve, raises, errors):
    gate = Gate()

    async def app(scope, receive, send):
        await send(start(401))
        await send(body(b"abc", more=True))
        await gate.wait()
        if raises:
            raise ValueError("the application's")

    running = serve(Sessions(app))
    with Client(running) as client:
        assert client.head().status == 401
        gate.open(running)
        assert read_all(client.sock) == b"3\r\nabc\r\n"
    assert len(errors()) == 1


# --- The access line ------------------------------------------------------------------------------


@pytest.fixture
def access(caplog, monkeypatch):
    """Return the arguments of the access records."""
    for name in ("thestral", "thestral.access"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.INFO, "thestral.access")
    return lambda: [r.args for r in caplog.records if r.name == "uvicorn.access"]


def test_access_line_of_a_websocket(serve, access, caplog):
    running = serve(Sessions(echo), access_log=True)
    with connected(running, path="/chat?room=1") as client:
        host, port = client.sock.getsockname()
        wait_until(access)  # logged at the accept, not when the WebSocket ends
        client.works()
    wait_until(lambda: not running.context.connections)
    (args,) = access()
    assert args == (f"{host}:{port}", "GET", "/chat?room=1", "1.1", 101)
    lines = [r.getMessage() for r in caplog.records if r.name == "uvicorn.access"]
    assert lines == [f'{host}:{port} - "GET /chat?room=1 HTTP/1.1" 101']


@pytest.mark.parametrize(
    ("app", "status"),
    [
        (messages({"type": "websocket.close"}), 403),
        (messages(start(418), body(b"x")), 418),
        (messages(start(302), body(b"x", more=True), body(b"y")), 302),
        (messages({"type": "websocket.send", "text": "x"}), 500),
    ],
    ids=["403", "418", "302", "500"],
)
def test_access_line_of_a_refusal(serve, access, app, status):
    running = serve(app, access_log=True)
    assert denied(running)[0].status == status
    wait_until(lambda: not running.context.connections)
    assert [args[2:] for args in access()] == [("/", "1.1", status)]


def test_no_access_line_if_it_is_off(serve, access):
    with connected(serve(Sessions(echo), access_log=False)) as client:
        client.works()
    assert access() == []

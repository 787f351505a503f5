"""The http scope and its receive() and send(), as ASGI's HTTP format 2.5 defines them."""

import asyncio
import contextvars
import functools

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    Recorder,
    echo,
    get,
    hello,
    http_only,
    post,
    read_body,
    respond,
    take_replies,
)
from support import read_all, read_response, wait_until

from thestral.errors import LocalProtocolError

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x"}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}
DISCONNECT = {"type": "http.disconnect"}


# --- Scope ----------------------------------------------------------------------------------------


def scope_of(serve, request: bytes, **options):
    app = Recorder(hello)
    serve(app, **options).raw(request)
    (scope,) = app.scopes
    return scope


def test_scope_has_every_key_with_its_type(serve):
    app = Recorder(hello)
    running = serve(app)
    with running.connect() as sock:
        client = sock.getsockname()
        sock.sendall(
            b"GET /a%20b/%C3%A4?q=%20&x HTTP/1.1\r\nHost: a:1\r\nX-B: 1\r\nCOOKIE: c\r\n"
            b"x-b:  2 \r\nX-Empty:\r\nConnection: close\r\n\r\n"
        )
        read_all(sock)
    assert app.scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a b/ä",
            "raw_path": b"/a%20b/%C3%A4",
            "query_string": b"q=%20&x",
            "root_path": "",
            "headers": [
                (b"host", b"a:1"),
                (b"x-b", b"1"),
                (b"cookie", b"c"),
                (b"x-b", b"2"),
                (b"x-empty", b""),
                (b"connection", b"close"),
            ],
            "client": client,
            "server": ("127.0.0.1", running.port),
            "state": {},
            "extensions": {
                "http.response.early_hint": {},
                "http.response.trailers": {},
            },
        }
    ]
    (scope,) = app.scopes
    for key in ("type", "http_version", "method", "scheme", "path", "root_path"):
        assert type(scope[key]) is str
    for key in ("raw_path", "query_string"):
        assert type(scope[key]) is bytes
    for key in ("client", "server"):
        assert [type(part) for part in scope[key]] == [str, int]
    for key in ("asgi", "state", "extensions"):
        assert type(scope[key]) is dict
    assert type(scope["headers"]) is list


def test_scope_of_1_0(serve):
    scope = scope_of(serve, b"GET / HTTP/1.0\r\n\r\n")
    assert (scope["http_version"], scope["headers"]) == ("1.0", [])


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (
            "/%2F/%3f?a?b%20",
            "/%2F/%3f".replace("%2F", "/").replace("%3f", "?"),
            b"/%2F/%3f",
            b"a?b%20",
        ),
        ("//x/../y", "//x/../y", b"//x/../y", b""),
        ("/?", "/", b"/", b""),
        ("/%E2%82%AC+", "/€+", b"/%E2%82%AC+", b""),
        ("/%ff", "/\ufffd", b"/%ff", b""),
        ("/a%00b", "/a\0b", b"/a%00b", b""),
    ],
)
def test_path_is_decoded_once_and_raw_path_is_what_came(serve, target, path, raw_path, query):
    scope = scope_of(serve, get(target, "Connection: close"))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


@pytest.mark.parametrize(
    ("root_path", "target", "path", "raw_path"),
    [
        ("/api", "/x", "/api/x", b"/api/x"),
        ("/api/", "/x", "/api/x", b"/api/x"),
        ("/api", "/api/x", "/api/x", b"/api/x"),
        ("/api", "/api", "/api", b"/api"),
        ("/api", "/apix", "/api/apix", b"/api/apix"),
        ("/api", "/", "/api/", b"/api/"),
        ("/a", "/%20", "/a/ ", b"/a/%20"),
    ],
)
def test_root_path_is_part_of_the_path_and_never_doubled(serve, root_path, target, path, raw_path):
    scope = scope_of(serve, get(target, "Connection: close"), root_path=root_path)
    assert scope["root_path"] == root_path.rstrip("/")
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)


def test_state_is_a_shallow_copy_of_the_lifespans(serve):
    shared = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = shared
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        states.append(dict(scope["state"]))
        scope["state"]["own"] = True
        scope["extensions"]["own"] = scope["asgi"]["own"] = True
        scopes.append(scope)
        await respond(send)

    states = []
    scopes = []
    serve(app, lifespan="on").raw(GET + GET_CLOSE)
    assert states == [{"shared": shared}] * 2
    assert states[0]["shared"] is states[1]["shared"] is shared
    assert scopes[0]["state"] is not scopes[1]["state"]
    assert scopes[0]["extensions"] is not scopes[1]["extensions"]
    assert scopes[0]["headers"] is not scopes[1]["headers"]


# --- receive() ------------------------------------------------------------------------------------


def test_request_without_body_is_one_empty_message(serve):
    got = []

    @http_only
    async def app(scope, receive, send):
        got.append(await receive())
        await respond(send)
        got.append(await receive())
        got.append(await receive())

    serve(app).raw(GET_CLOSE)
    assert got == [
        {"type": "http.request", "body": b"", "more_body": False},
        DISCONNECT,  # after the response
        DISCONNECT,
    ]
    assert type(got[0]["body"]) is bytes


def test_body_comes_in_pieces_as_they_arrive(serve):
    got = []

    @http_only
    async def app(scope, receive, send):
        while not got or got[-1]["more_body"]:
            got.append(await receive())
        await respond(send)

    with serve(app).connect() as sock:
        sock.sendall(post(b"abcdef")[:-6])
        for piece in (b"ab", b"cd"):
            sock.sendall(piece)
            wait_until(lambda piece=piece: got and got[-1]["body"] == piece)
        sock.sendall(b"ef")
        read_response(sock)
    assert b"".join(message["body"] for message in got) == b"abcdef"
    assert [message["more_body"] for message in got[:2]] == [True, True]
    assert [message["more_body"] for message in got[2:]] in ([False], [True, False])
    assert {type(message["body"]) for message in got} == {bytes}


def test_concurrent_receives_both_wake(serve):
    got = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        waiting = [asyncio.ensure_future(receive()) for _ in range(2)]
        await asyncio.sleep(0)
        await respond(send)
        got.extend(await asyncio.gather(*waiting))

    serve(app).raw(GET_CLOSE)
    wait_until(lambda: got)
    assert got == [DISCONNECT, DISCONNECT]


def test_concurrent_receives_share_the_body(serve):
    got = []

    @http_only
    async def app(scope, receive, send):
        async def part():
            got.append(await receive())

        waiting = [asyncio.ensure_future(part()) for _ in range(2)]
        await asyncio.sleep(0)
        gate.reached += 1
        await asyncio.gather(*waiting)
        await respond(send, b"".join(message["body"] for message in got))

    gate = Gate()
    with serve(app).connect() as sock:
        sock.sendall(post(b"abcd")[:-4])
        wait_until(lambda: gate.reached)
        sock.sendall(b"ab")
        wait_until(lambda: got)
        sock.sendall(b"cd")
        assert read_response(sock)[1] == b"abcd"


@pytest.mark.parametrize("ending", ["raises", "returns", "surplus"])
def test_receive_of_another_task_ends_with_the_response(serve, ending):
    """However the response ends, every task that waits in receive() gets http.disconnect."""
    got = []
    tasks = []

    async def watch(receive):
        got.append(await receive())

    @http_only
    async def app(scope, receive, send):
        await receive()
        tasks.append(asyncio.ensure_future(watch(receive)))
        await asyncio.sleep(0)
        if ending == "surplus":
            await respond(send, b"too long", 200, [(b"content-length", b"1")])
        elif ending == "raises":
            raise RuntimeError("on purpose")

    with serve(app).connect() as sock:
        sock.sendall(GET)
        read_response(sock)
        wait_until(lambda: got, 2)
    assert got == [DISCONNECT]


def test_cancelled_receive_loses_nothing(serve):
    @http_only
    async def app(scope, receive, send):
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.reached += 1
        await respond(send, await read_body(receive))

    gate = Gate()
    with serve(app).connect() as sock:
        sock.sendall(post(b"abc")[:-3])
        wait_until(lambda: gate.reached)
        sock.sendall(b"abc")
        assert read_response(sock)[1] == b"abc"


def test_disconnect_when_the_client_leaves(serve, errors):
    """The body that has arrived comes first."""
    got = []

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        while not got or got[-1]["type"] != "http.disconnect":
            got.append(await receive())

    gate = Gate()
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(post(b"abcdef")[:-3])
        wait_until(lambda: gate.reached)
    wait_until(lambda: not running.context.connections)
    gate.open(running)
    wait_until(lambda: not running.context.cycles)
    assert got == [{"type": "http.request", "body": b"abc", "more_body": True}, DISCONNECT]
    assert errors() == []


# --- send(): order --------------------------------------------------------------------------------

WRONG_ORDER = {
    "body first": ([BODY], "http.response.body"),
    "two starts": ([START, START], "http.response.start"),
    "start within body": ([START, MORE, START], "http.response.start"),
    "body after end": ([START, BODY, BODY], "complete"),
    "start after end": ([START, BODY, START], "complete"),
    "unknown": ([{"type": "http.response.nonsense"}], "http.response.nonsense"),
    "unknown later": ([START, {"type": "websocket.send"}], "websocket.send"),
    "no type": ([{"status": 200}], "None"),
    "text body": ([START, {"type": "http.response.body", "body": "text"}], "str"),
    "number body": ([START, {"type": "http.response.body", "body": 5}], "int"),
    "no status": ([{"type": "http.response.start"}], "status"),
}


@pytest.mark.parametrize("wrong", WRONG_ORDER)
def test_wrong_message_raises_and_names_the_fault(serve, wrong):
    messages, named = WRONG_ORDER[wrong]
    raised = []

    @http_only
    async def app(scope, receive, send):
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except LocalProtocolError as exc:
            raised.append(str(exc))
        await finish[len(messages) - 1](send)

    async def from_start(send):
        await respond(send, b"x")

    async def from_body(send):
        await send(BODY)

    async def from_end(send):
        if messages[1] is MORE:
            await send(BODY)

    finish = [from_start, from_body, from_end]
    (reply,) = take_replies(serve(app).raw(GET_CLOSE))
    assert reply.status == 200  # a refused message has changed nothing
    assert reply.body in (b"x", b"xx")
    (message,) = raised
    assert named in message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_body_may_be_any_bytes(serve, kind):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        buffer = bytearray(b"hello ")
        part = memoryview(buffer) if kind is memoryview else kind(buffer)
        await send({"type": "http.response.body", "body": part, "more_body": True})
        buffer[:] = b"wrong!"  # the application may use it again
        await send({"type": "http.response.body", "body": kind(b"world")})

    (reply,) = take_replies(serve(app).raw(GET_CLOSE))
    assert reply.body == b"hello world"


# --- Context --------------------------------------------------------------------------------------

seen_by = contextvars.ContextVar("seen_by", default="nobody")


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("size", [0, 100_000])
def test_context_is_fresh_for_each_request_and_sees_the_lifespan(serve, waits, size):
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            seen_by.set("lifespan")
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        seen.append(seen_by.get())
        seen_by.set(scope["path"])
        if waits:
            await asyncio.sleep(0)
        await read_body(receive)
        await respond(send, seen_by.get().encode())
        seen_by.set("after " + scope["path"])

    running = serve(app, lifespan="on")
    pipelined = b"".join(post(b"x" * size, path=f"/{i}") for i in range(6))
    replies = take_replies(running.raw(pipelined + GET_CLOSE))
    assert [reply.body for reply in replies] == [*(b"/%d" % i for i in range(6)), b"/"]
    assert seen == ["lifespan"] * 7


# --- Applications of every shape ------------------------------------------------------------------


class Instance:
    async def __call__(self, scope, receive, send):
        await echo(scope, receive, send)

    async def method(self, scope, receive, send):
        await echo(scope, receive, send)


class DoubleCallable:
    """ASGI 2: instantiated with the scope, called with the rest."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await echo(self.scope, receive, send)


def double_function(scope):
    return functools.partial(echo, scope)


async def with_extra(extra, scope, receive, send):
    assert extra == 1
    await echo(scope, receive, send)


SHAPES = {
    "instance": Instance(),
    "method": Instance().method,
    "partial": functools.partial(with_extra, 1),
    "class of ASGI 2": DoubleCallable,
    "function of ASGI 2": double_function,
    "lambda": lambda scope, receive, send: echo(scope, receive, send),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_callable_is_served(serve, shape):
    (reply,) = take_replies(serve(SHAPES[shape]).raw(post(b"abc", "Connection: close")))
    assert reply.body == b"POST / abc"

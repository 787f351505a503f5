"""Scope and acceptance (ASGI 2.5, RFC 6455 section 4.2.2): what the application sees, and how it
may accept.
"""

import pytest
from support import read_all
from ws_apps import Sessions, accept, echo, shared_server, ws_only
from ws_client import KEY, Client, connected, handshake, parse_head

from thestral.errors import LocalProtocolError

server = shared_server(Sessions(echo))
echo_only = ws_only(echo)


# --- Scope: ASGI, "Websocket Connection Scope" ----------------------------------------------------


def scope_of(running, request: bytes):
    with Client(running, request) as client:
        client.accepted().close()
    return running.app.last.scope


def test_scope(server):
    request = handshake("X-A: 1", "x-b:  2 ", "X-A: 3", path="/caf%C3%A9/%2F%20?x=%20y&z")
    with Client(server, request) as client:
        client.accepted()
        address = client.sock.getsockname()
        client.close()
    assert server.app.last.scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/caf\xe9// ",
        "raw_path": b"/caf%C3%A9/%2F%20",
        "query_string": b"x=%20y&z",
        "root_path": "",
        "headers": [
            (b"host", b"a"),
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-key", KEY.encode()),
            (b"sec-websocket-version", b"13"),
            (b"x-a", b"1"),
            (b"x-b", b"2"),
            (b"x-a", b"3"),
        ],
        "client": address,
        "server": ("127.0.0.1", server.port),
        "subprotocols": [],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        ((), []),
        (("chat",), ["chat"]),
        (("chat, superchat",), ["chat", "superchat"]),
        (("b,a", "d ,\tc"), ["b", "a", "d", "c"]),
        (("a,, b,",), ["a", "b"]),
        (("v1.json!#$%&'*+-.^_`|~",), ["v1.json!#$%&'*+-.^_`|~"]),
        (("Chat, chat",), ["Chat", "chat"]),
    ],
)
def test_subprotocols_in_the_scope_11_3_4(server, lines, want):
    request = handshake(*[f"Sec-WebSocket-Protocol: {line}" for line in lines])
    got = scope_of(server, request)["subprotocols"]
    assert got == want
    assert all(type(name) is str for name in got)


@pytest.mark.parametrize(
    ("path", "want", "raw"),
    [
        ("/x%20y", "/api/x y", b"/api/x%20y"),
        ("/api/x", "/api/x", b"/api/x"),
        ("/apix", "/api/apix", b"/api/apix"),
    ],
)
def test_root_path(serve, path, want, raw):
    app = Sessions()
    running = serve(app, root_path="/api")
    running.app = app
    scope = scope_of(running, handshake(path=path))
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", want, raw)


def test_state_is_a_copy_of_the_lifespans(serve):
    shared: list[str] = []
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"].update(shared=shared, own=0)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["state"]["own"] += 1
        scope["state"]["shared"].append(scope["path"])
        seen.append(scope["state"])
        await echo(scope, receive, send)

    running = serve(app)
    for path in ("/a", "/b"):
        with connected(running, path=path) as client:
            client.works()
    assert [state["own"] for state in seen] == [1, 1]
    assert shared == ["/a", "/b"]


# --- `--ws` ---------------------------------------------------------------------------------------


def test_ws_none_leaves_handshakes_to_http(serve):
    kinds = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        kinds.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"http"})

    running = serve(app, ws="none")
    raw = running.raw(
        handshake()
        + handshake(without=["sec-websocket-key"])
        + handshake("Connection: close", without=["connection"])
    )
    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert kinds == ["http"] * 3


@pytest.mark.parametrize("ws", ["auto", "websockets", "websockets-sansio", "wsproto"])
def test_other_values_of_ws_select_our_implementation(serve, ws):
    with connected(serve(echo_only, ws=ws)) as client:
        client.works()


echo_only = ws_only(echo)


def test_accept_needs_no_message_before(serve):
    """ASGI lets an application accept without having received websocket.connect."""

    @ws_only
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        got.append((await receive())["type"])
        await send({"type": "websocket.close"})

    got = []
    with connected(serve(app)) as client:
        assert client.read_close() == (1000, "")
    assert got == ["websocket.connect"]


def accepting(**fields):
    """Accepts with these arguments, then closes; `faults` collects the errors of send()."""
    faults = []

    @ws_only
    async def app(scope, receive, send):
        try:
            await accept(receive, send, **fields)
        except LocalProtocolError as exc:
            faults.append(str(exc))
            raise
        await send({"type": "websocket.close"})

    app.faults = faults
    return app


def answer_of(running, *extra):
    with Client(running, handshake(*extra)) as client:
        return client.head()


@pytest.mark.parametrize("chosen", ["b", "a", None])
def test_subprotocol_4_2_2(serve, chosen):
    running = serve(accepting(subprotocol=chosen))
    answer = answer_of(running, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b, c")
    assert answer.status == 101
    assert answer.all(b"sec-websocket-protocol") == ([chosen.encode()] if chosen else [])


@pytest.mark.parametrize("offered", [("Sec-WebSocket-Protocol: a, b",), ()], ids=["a, b", "none"])
@pytest.mark.parametrize("chosen", ["d", "A", "a, b", "", " a", "\u20ac", "x\r\ny: z" * 50])
def test_subprotocol_that_was_not_offered_4_2_2(serve, chosen, offered, errors, caplog):
    """The field must not be sent, or a client would fail the connection (section 4.1)."""
    running = serve(accepting(subprotocol=chosen))
    for _ in range(3):
        answer = answer_of(running, *offered)
        assert answer.status == 101
        assert not answer.all(b"sec-websocket-protocol")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    text = warning.getMessage()
    assert f"the client did not offer subprotocol {chosen!r:.100}:" in text
    assert "(WebSocket /)" in text
    assert len(text.splitlines()) == 1
    assert not errors()


def test_subprotocols_that_were_not_offered_are_one_warning(serve, caplog):
    """Logged once per worker, because each client may make the application choose another one."""

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send, subprotocol=scope["path"])
        await send({"type": "websocket.close"})

    running = serve(app)
    for number in range(3):
        with connected(running, path=f"/{number}") as client:
            assert client.read_close()[0] == 1000
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize("chosen", [b"a", 1, ["a"], ("a",)])
def test_subprotocol_that_is_no_str(serve, chosen, errors):
    app = accepting(subprotocol=chosen)
    assert answer_of(serve(app), "Sec-WebSocket-Protocol: a").status == 500
    said = f"websocket.accept: subprotocol is {type(chosen).__name__}, expected str"
    assert app.faults == [said]
    assert len(errors()) == 1


def test_headers_keep_order_and_duplicates(serve):
    fields = [(b"Set-Cookie", b"a=1"), (b"x-a", b""), (b"set-cookie", b"b=2"), (b"X-B", b"caf\xe9")]
    answer = answer_of(serve(accepting(headers=fields)))
    assert answer.status == 101
    own = [(key, value) for key, value in answer.fields if key in (b"set-cookie", b"x-a", b"x-b")]
    assert own == [(key.lower(), value) for key, value in fields]


def test_headers_may_be_any_iterable(serve):
    answer = answer_of(serve(accepting(headers=iter([[b"x-a", b"1"], (b"x-b", b"2")]))))
    assert answer.status == 101
    assert (answer.one(b"x-a"), answer.one(b"x-b")) == (b"1", b"2")


def test_default_fields(serve):
    answer = answer_of(serve(accepting(), headers=["X-Default: 1", "X-Default: 2"]))
    assert answer.one(b"server") == b"thestral"
    assert answer.one(b"date").endswith(b" GMT")
    assert answer.all(b"x-default") == [b"1", b"2"]


def test_default_fields_can_be_off(serve):
    answer = answer_of(serve(accepting(), server_header=False, date_header=False))
    assert {name for name, _ in answer.fields} == {
        b"upgrade",
        b"connection",
        b"sec-websocket-accept",
    }


def test_the_applications_date_and_server_come_first(serve):
    answer = answer_of(serve(accepting(headers=[(b"Date", b"today"), (b"Server", b"mine")])))
    assert answer.one(b"date") == b"today"
    assert answer.one(b"server") == b"mine"


FORBIDDEN = {
    "upgrade": (b"Upgrade", b"h2c"),
    "connection": (b"connection", b"close"),
    "accept_4_2_2": (b"Sec-WebSocket-Accept", b"x"),
    "protocol_11_3_4": (b"sec-websocket-protocol", b"a"),
    "extensions_11_3_2": (b"sec-websocket-extensions", b"permessage-deflate"),
    "version_11_3_5": (b"sec-websocket-version", b"13"),
    "key_11_3_1": (b"sec-websocket-key", b"x"),
    "content_length_9110_8_6": (b"Content-Length", b"0"),
    "transfer_encoding_9112_6_1": (b"transfer-encoding", b"chunked"),
    "empty_name_9110_5_1": (b"", b"x"),
    "name_with_a_space_9110_5_1": (b"x y", b"x"),
    "name_with_a_colon_9110_5_1": (b"x:", b"x"),
    "name_not_ascii_9110_5_1": (b"caf\xe9", b"x"),
    "line_feed_9110_5_5": (b"x", b"a\nb: c"),
    "line_break_9110_5_5": (b"x", b"a\r\nb: c"),
    "carriage_return_9110_5_5": (b"x", b"a\rb"),
    "nul_9110_5_5": (b"x", b"a\0b"),
    "name_as_text": ("x", b"y"),
    "value_as_text": (b"x", "y"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_headers_that_may_not_be_sent(serve, name, errors):
    app = accepting(headers=[(b"x-before", b"1"), FORBIDDEN[name]])
    running = serve(app)
    raw = running.raw(handshake("Sec-WebSocket-Protocol: a"))
    answer = parse_head(raw.partition(b"\r\n\r\n")[0])
    assert answer.status == 500
    assert not answer.all(b"x-before")
    assert len(app.faults) == len(errors()) == 1


@pytest.mark.parametrize("headers", [5, [b"x"], [(b"x",)], [(b"x", b"y", b"z")], b"ab"])
def test_headers_of_a_wrong_shape(serve, headers, errors):
    app = accepting(headers=headers)
    assert answer_of(serve(app)).status == 500
    assert len(errors()) == 1


def test_accept_can_be_tried_again(serve):
    """A refused message does not change the connection's state."""

    @ws_only
    async def app(scope, receive, send):
        for fields in ({"subprotocol": 1}, {"headers": [(b"upgrade", b"x")]}):
            with pytest.raises(LocalProtocolError):
                await send({"type": "websocket.accept"} | fields)
        await echo(scope, receive, send)

    with connected(serve(app), "Sec-WebSocket-Protocol: a") as client:
        assert not client.answer.all(b"x-a")
        client.works()


@pytest.mark.parametrize("received", [True, False])
@pytest.mark.parametrize("behind_http", [False, True])
@pytest.mark.parametrize("size", [0, 100, 20_000, 200_000])
def test_no_frame_overtakes_the_101(serve, size, received, behind_http):
    """The application accepts, sends and closes in one step of the loop."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x"})
            return
        if received:
            await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"y" * size})
        await send({"type": "websocket.close", "code": 4000})

    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" if behind_http else b""
    with Client(serve(app, lifespan="off"), get + handshake()) as client:
        if behind_http:
            assert client.head().status == 200
            assert client.sock.recv(1) == b"x"
        client.accepted()
        assert client.message() == b"y" * size
        assert client.read_close()[0] == 4000


def test_nothing_behind_the_101_is_http(serve):
    """RFC 6455 section 4.2.2: the connection is a WebSocket from there on."""
    running = serve(echo_only)
    with connected(running) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_close()[0] == 1002
        assert read_all(client.sock) == b""

"""HTTP/1.1 as a client sees it: persistence, pipelining, framing, fields (RFC 9110, RFC 9112)."""

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    Recorder,
    Reply,
    echo,
    fixed,
    get,
    hello,
    http_only,
    is_closed,
    post,
    read_to_end,
    respond,
    streamer,
    take_replies,
)
from support import on_every_transport, read_all, read_response, wait_until

from thestral.errors import LocalProtocolError


def only(raw: bytes, *methods: bytes) -> Reply:
    """The only response in `raw`."""
    (reply,) = take_replies(raw, *methods)
    return reply


# --- Persistence: RFC 9112 section 9.3 ------------------------------------------------------------


@on_every_transport
def test_keep_alive_is_the_default_in_1_1(serve):
    app = Recorder(echo)
    with serve(app).connect() as sock:
        for path in ("/1", "/2", "/3"):
            sock.sendall(get(path))
            head, body = read_response(sock)
            assert body == f"GET {path} ".encode()
            assert b"connection:" not in head.lower()
    assert len({scope["client"] for scope in app.scopes}) == 1


@on_every_transport
@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close", "x , CLOSE"])
def test_close_asked_for_is_announced_and_done(serve, value):
    reply = only(serve(hello).raw(get("/", f"Connection: {value}")))
    assert reply.one(b"connection") == b"close"
    assert reply.body == b"hello"


def test_request_behind_close_is_not_processed(serve):
    app = Recorder(echo)
    reply = only(serve(app).raw(get("/1", "Connection: close") + get("/2")))
    assert reply.body == b"GET /1 "
    assert [scope["path"] for scope in app.scopes] == ["/1"]


def test_1_0_closes_unless_asked(serve):
    reply = only(serve(hello).raw(b"GET / HTTP/1.0\r\n\r\n"))
    assert reply.one(b"connection") == b"close"
    assert reply.body == b"hello"


def test_1_0_keeps_alive_when_asked(serve):
    with serve(hello).connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            head, body = read_response(sock)
            assert head.startswith(b"HTTP/1.1 200 ")  # RFC 9110 section 2.5: our own version
            assert b"connection: keep-alive\r\n" in head
            assert body == b"hello"


@pytest.mark.parametrize("field", [b"", b"Connection: keep-alive\r\n"])
def test_1_0_gets_no_chunked_but_the_end_of_the_connection(serve, field):
    running = serve(streamer(b"he", b"llo"))
    reply = only(running.raw(b"GET / HTTP/1.0\r\n" + field + b"\r\n"))
    assert not reply.all(b"transfer-encoding")
    assert not reply.all(b"content-length")
    assert reply.one(b"connection") == b"close"
    assert reply.body == b"hello"


def test_1_0_gets_no_interim_response(serve):
    """RFC 9110 sections 15.2, 10.1.1: no 1xx to a 1.0 client, and its Expect is ignored."""
    with serve(echo).connect() as sock:
        sock.sendall(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        sock.sendall(b"ab")
        assert only(read_all(sock)).body == b"POST / ab"


@pytest.mark.parametrize("value", [b"close", b"Close", b"x, close"])
def test_close_from_the_application_is_honoured(serve, value):
    running = serve(fixed(headers=[(b"connection", value)]))
    reply = only(running.raw(GET + GET))
    assert reply.all(b"connection") == [value]


def test_keep_alive_from_the_application_does_not_undo_a_close(serve):
    reply = only(serve(fixed(headers=[(b"connection", b"keep-alive")])).raw(GET_CLOSE))
    tokens = b",".join(reply.all(b"connection")).lower()
    assert b"close" in tokens


# --- Pipelining: RFC 9112 section 9.3.2 -----------------------------------------------------------


def numbered(gate, held):
    """Answers with the path; holds back the answer to the path `held`."""

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == held:
            await gate.wait()
        await respond(send, scope["path"].encode())

    return app


@on_every_transport
@pytest.mark.parametrize("count", [2, 64, 65, 300])
def test_pipelined_requests_are_answered_in_order(serve, count):
    requests = [get(f"/{i}") for i in range(count - 1)]
    raw = serve(echo).raw(b"".join(requests) + get(f"/{count - 1}", "Connection: close"))
    assert [reply.body for reply in take_replies(raw)] == [
        f"GET /{i} ".encode() for i in range(count)
    ]


def test_pipelined_requests_wait_for_a_slow_one(serve):
    gate = Gate()
    app = Recorder(numbered(gate, "/0"))
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get("/0") + get("/1") + get("/2", "Connection: close"))
        wait_until(lambda: gate.reached)
        gate.open(running)
        assert [reply.body for reply in take_replies(read_all(sock))] == [b"/0", b"/1", b"/2"]
    assert [scope["path"] for scope in app.scopes] == ["/0", "/1", "/2"]


def test_pipelined_bodies_stay_with_their_requests(serve):
    bodies = [b"", b"a", b"b" * 70_000, b"", b"c" * 300_000]
    raw = serve(echo).raw(b"".join(post(body) for body in bodies) + GET_CLOSE)
    assert [reply.body for reply in take_replies(raw)] == [
        *(b"POST / " + body for body in bodies),
        b"GET / ",
    ]


def reads_no_more(running):
    (connection,) = running.context.connections
    return connection.reading_paused


@pytest.mark.parametrize("cut", [1, 60])
def test_request_cut_behind_many_pipelined_ones_is_read_on(serve, cut):
    """More than the server reads ahead waits behind a slow response; the last is incomplete."""
    gate = Gate()
    app = Recorder(numbered(gate, "/first"))
    running = serve(app, timeout_head=2.0)
    many = [get(f"/{i}", "X-Padding: " + "x" * 100) for i in range(300)]
    last = get("/last", "Connection: close", "X-Padding: " + "y" * 100)
    with running.connect() as sock:
        sock.sendall(get("/first"))
        wait_until(lambda: gate.reached)
        sock.sendall(b"".join(many) + last[:cut])
        wait_until(lambda: reads_no_more(running))
        gate.open(running)
        for expected in [b"/first", *(f"/{i}".encode() for i in range(300))]:
            assert read_response(sock)[1] == expected
        sock.sendall(last[cut:])
        assert only(read_all(sock)).body == b"/last"


def test_body_behind_many_pipelined_requests_is_read_on(serve):
    """As above, with a complete head whose body comes once the server has caught up."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/first":
            await gate.wait()
        await echo(scope, receive, send)

    running = serve(app, timeout_body=2.0)
    many = [get(f"/{i}", "X-Padding: " + "x" * 100) for i in range(300)]
    with running.connect() as sock:
        sock.sendall(get("/first"))
        wait_until(lambda: gate.reached)
        sock.sendall(b"".join(many) + post(b"abc", "Connection: close", path="/last")[:-3])
        wait_until(lambda: reads_no_more(running))
        gate.open(running)
        for _ in range(301):
            read_response(sock)
        sock.sendall(b"abc")
        assert only(read_all(sock)).body == b"POST /last abc"


@pytest.mark.parametrize("held", ["/0", "/1", "none"])
def test_bad_request_behind_good_ones_does_not_cost_their_answers(serve, held):
    gate = Gate()
    running = serve(numbered(gate, held))
    with running.connect() as sock:
        sock.sendall(get("/0") + get("/1") + b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n" + get("/2"))
        if held != "none":
            wait_until(lambda: gate.reached)
            gate.open(running)
        replies = take_replies(read_all(sock))
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert [reply.body for reply in replies[:2]] == [b"/0", b"/1"]
    assert replies[2].one(b"connection") == b"close"


# --- No body: RFC 9112 section 6.3 ----------------------------------------------------------------


def bodiless(running, request: bytes, method: bytes) -> Reply:
    """The response to `request`; a GET behind it shows that not one byte of content was sent."""
    raw = running.raw(request + b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    first, second = take_replies(raw, method)
    assert second.status == 418
    return first


def on_first(app):
    """`app` for "/", and 418 for the next request on the connection."""

    @http_only
    async def both(scope, receive, send):
        if scope["path"] == "/":
            await app(scope, receive, send)
        else:
            await respond(send, b"teapot", 418)

    return both


HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_head_keeps_the_applications_content_length(serve):
    app = on_first(fixed(b"", headers=[(b"content-length", b"12345")]))
    assert bodiless(serve(app), HEAD, b"HEAD").one(b"content-length") == b"12345"


def test_head_drops_a_body_and_keeps_its_length(serve):
    reply = bodiless(serve(on_first(fixed(b"hello"))), HEAD, b"HEAD")
    assert reply.status == 200
    assert reply.one(b"content-length") == b"5"


def test_head_drops_a_streamed_body(serve):
    app = on_first(streamer(b"a" * 30_000, b"b", headers=[(b"content-length", b"30001")]))
    assert bodiless(serve(app), HEAD, b"HEAD").one(b"content-length") == b"30001"
    reply = bodiless(serve(on_first(streamer(b"a", b"b"))), HEAD, b"HEAD")
    assert not reply.all(b"content-length")


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")]])
@pytest.mark.parametrize("parts", [(b"hello",), (b"he", b"llo"), (b"",)])
def test_204_has_neither_body_nor_framing(serve, headers, parts):
    reply = bodiless(serve(on_first(streamer(*parts, status=204, headers=headers))), GET, b"GET")
    assert reply.status == 204
    assert not reply.all(b"content-length")  # RFC 9110 section 8.6
    assert not reply.all(b"transfer-encoding")  # RFC 9112 section 6.1


@pytest.mark.parametrize("parts", [(b"hello",), (b"he", b"llo"), (b"",)])
def test_304_has_no_body_and_keeps_its_fields(serve, parts):
    headers = [(b"content-length", b"5"), (b"etag", b'"x"')]
    reply = bodiless(serve(on_first(streamer(*parts, status=304, headers=headers))), GET, b"GET")
    assert reply.status == 304
    assert reply.one(b"content-length") == b"5"
    assert reply.one(b"etag") == b'"x"'
    assert not reply.all(b"transfer-encoding")


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")]])
@pytest.mark.parametrize("parts", [(b"hello",), (b"he", b"llo")])
def test_205_has_an_empty_body(serve, headers, parts):
    """RFC 9110 section 15.3.6: no content, and the framing says so."""
    reply = bodiless(serve(on_first(streamer(*parts, status=205, headers=headers))), GET, b"GET")
    assert reply.status == 205
    assert reply.one(b"content-length") == b"0"


# --- Framing of the response: RFC 9112 section 6 --------------------------------------------------


@on_every_transport
@pytest.mark.parametrize(
    ("parts", "headers", "length", "chunked"),
    [
        ((b"hello",), [], [b"5"], []),
        ((b"",), [], [b"0"], []),
        ((b"he", b"llo"), [], [], [b"chunked"]),
        ((b"", b"hello"), [], [], [b"chunked"]),
        ((b"hello", b""), [], [], [b"chunked"]),
        ((b"he", b"llo"), [(b"content-length", b"5")], [b"5"], []),
        ((b"he", b"llo"), [(b"Content-Length", b"5")], [b"5"], []),
        ((b"hello",), [(b"content-length", b"5"), (b"content-length", b"5")], [b"5"], []),
        ((b"hello",), [(b"transfer-encoding", b"chunked")], [b"5"], []),
        ((b"he", b"llo"), [(b"Transfer-Encoding", b"gzip, chunked")], [], [b"chunked"]),
        (
            (b"he", b"llo"),
            [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
            [b"5"],
            [],
        ),
    ],
)
def test_framing_is_chosen_by_what_is_known(serve, parts, headers, length, chunked):
    reply = only(serve(streamer(*parts, headers=headers)).raw(GET_CLOSE))
    assert reply.body == b"".join(parts)
    assert reply.all(b"content-length") == length
    assert reply.all(b"transfer-encoding") == chunked


@on_every_transport
def test_bodies_of_all_sizes_arrive_whole(serve):
    """Around the sizes at which output is written differently: 16 KiB, 64 KiB."""
    pattern = bytes(range(256)) * 4000

    @http_only
    async def app(scope, receive, send):
        kind, size = scope["path"][1:].split("/")
        body = pattern[: int(size)]
        await (streamer(body, b"", body) if kind == "chunked" else fixed(body))(
            scope, receive, send
        )

    running = serve(app)
    for size in (1, 9, 10, 15, 16, 17, 16383, 16384, 16385, 65535, 65536, 65537, 1_000_000):
        raw = running.raw(get(f"/fixed/{size}") + get(f"/chunked/{size}", "Connection: close"))
        first, second = take_replies(raw)
        assert first.body == pattern[:size]
        assert second.body == pattern[:size] * 2


@pytest.mark.parametrize(
    "parts", [(b"hello!",), (b"hell", b"o!"), (b"hello", b"!"), (b"hello", b"!", b"more")]
)
def test_more_than_content_length_is_cut_and_the_connection_lives(serve, parts):
    app = Recorder(streamer(*parts, headers=[(b"content-length", b"5")]))
    replies = take_replies(serve(app).raw(GET + GET_CLOSE))
    assert [reply.body for reply in replies] == [b"hello", b"hello"]
    assert [type(exc) for exc in app.raised] == [LocalProtocolError, LocalProtocolError]
    assert "content-length" in str(app.raised[0])


@on_every_transport
@pytest.mark.parametrize("parts", [(b"hell",), (b"",), (b"he", b"ll"), (b"he", b"")])
def test_less_than_content_length_ends_the_connection(serve, parts):
    app = Recorder(streamer(*parts, headers=[(b"content-length", b"5")]))
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET + GET)
        raw = read_to_end(sock)
    _head, _end, body = raw.partition(b"\r\n\r\n")
    assert body == b"".join(parts)
    wait_until(lambda: app.raised)
    assert [type(exc) for exc in app.raised] == [LocalProtocolError]
    assert "content-length" in str(app.raised[0])


# --- Request target: RFC 9112 section 3.2 ---------------------------------------------------------


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_options_asterisk(serve, root_path):
    app = Recorder(hello)
    serve(app, root_path=root_path).raw(
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    (scope,) = app.scopes
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("OPTIONS", "*", b"*")


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://b.example:81/x?y=1", b"b.example:81", "/x", b"y=1"),
        ("http://b.example", b"b.example", "/", b""),
        ("http://b.example?y", b"b.example", "/", b"y"),
        ("HTTP://B.example/%41", b"B.example", "/A", b""),
        ("http://[::1]:8/", b"[::1]:8", "/", b""),
    ],
)
def test_absolute_form_overrides_host(serve, target, host, path, query):
    app = Recorder(hello)
    reply = only(serve(app).raw(get(target, "X-A: 1", "Connection: close")))
    assert reply.status == 200
    (scope,) = app.scopes
    assert [value for name, value in scope["headers"] if name == b"host"] == [host]
    assert (scope["path"], scope["query_string"]) == (path, query)


@pytest.mark.parametrize("target", ["https://b/x", "HTTPS://b/x", "https://b"])
@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.1"])
def test_https_target_without_tls_is_a_trusted_proxys_alone(serve, target, trusted):
    """RFC 9110 section 7.4: from other peers it must be refused, and 421 is the status for that."""
    app = Recorder(hello)
    running = serve(app, forwarded_allow_ips=trusted)
    replies = take_replies(running.raw(get(target) + GET_CLOSE))
    if trusted == "127.0.0.1":
        assert [reply.status for reply in replies] == [200, 200]
        assert [scope["scheme"] for scope in app.scopes] == ["https", "http"]
    else:
        assert [reply.status for reply in replies] == [421]
        assert app.scopes == []


def test_http_target_asks_for_nothing(serve):
    app = Recorder(hello)
    running = serve(app, forwarded_allow_ips="10.0.0.1")
    assert only(running.raw(get("http://b/", "Connection: close"))).status == 200
    assert app.scopes[0]["scheme"] == "http"


def test_upgrade_that_is_not_taken_is_ignored(serve):
    """RFC 9110 section 7.8: a server may ignore it; the body is still the request's."""
    request = post(
        b"abc", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"
    )
    replies = take_replies(serve(echo).raw(request + GET_CLOSE))
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].body == b"POST / abc"


def test_empty_line_before_a_request_is_passed_over(serve):
    """RFC 9112 section 2.2."""
    replies = take_replies(serve(hello).raw(b"\r\n" + GET + b"\r\n" + GET_CLOSE))
    assert [reply.status for reply in replies] == [200, 200]


def test_trailers_are_never_merged_into_the_headers(serve):
    """RFC 9110 section 6.5.1."""
    app = Recorder(echo)
    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    reply = only(serve(app).raw(request + b"3;x=1\r\nabc\r\n0\r\nX-Trailer: 1\r\nHost: b\r\n\r\n"))
    assert reply.body == b"POST / abc"
    assert [value for name, value in app.scopes[0]["headers"] if name == b"host"] == [b"a"]
    assert b"x-trailer" not in dict(app.scopes[0]["headers"])


def test_connection_stays_usable_at_the_end_of_all_that(serve):
    """Each way to end a response leaves the connection in step for the next."""
    running = serve(on_first(streamer(b"a", b"b")))
    with running.connect() as sock:
        sock.sendall(HEAD + GET + b"GET /close HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        replies = take_replies(read_all(sock), b"HEAD")
        assert [reply.status for reply in replies] == [200, 200, 418]
        assert is_closed(sock)

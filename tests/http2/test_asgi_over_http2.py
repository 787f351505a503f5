"""What differs over HTTP/2 for an ASGI application and its clients, in the order of an exchange:
scope, request, response, end. WebSocket has a file of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys

import pytest
from apps import Gate, Recorder, echo, fixed, hello, http_only, read_body, respond, streamer
from frames import Code, Setting, Type, data, headers, rst_stream, window_update
from leaks import nothing_stays, only_ours  # noqa: F401
from support import wait_until

from thestral.errors import LocalProtocolError

START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages, raised=None):
    """An application that sends these messages; `raised` is the exception that ended it."""

    @http_only
    async def app(scope, receive, send):
        try:
            for message in messages:
                await send(message)
        except Exception as exc:
            if raised is not None:
                raised.append(exc)
            raise

    return app


# --- Scope ----------------------------------------------------------------------------------------


def test_scope(serve, open_client):
    app = Recorder(hello)
    running = serve(app)
    client = open_client(running)
    extra = [("x-b", "1"), ("cookie", "a=1"), ("x-b", "2"), ("cookie", "b=2"), ("x-empty", "")]
    client.finished(client.request("GET", "/a%20b/%C3%A4?q=%20&x", *extra))
    assert app.scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": "GET",
            "scheme": "http",
            "path": "/a b/ä",
            "raw_path": b"/a%20b/%C3%A4",
            "query_string": b"q=%20&x",
            "root_path": "",
            "headers": [
                (b"host", client.authority.encode()),
                (b"x-b", b"1"),
                (b"cookie", b"a=1; b=2"),
                (b"x-b", b"2"),
                (b"x-empty", b""),
            ],
            "client": client.sock.getsockname(),
            "server": ("127.0.0.1", running.port),
            "state": {},
            "extensions": {"http.response.early_hint": {}, "http.response.trailers": {}},
        }
    ]
    assert type(app.scopes[0]["headers"]) is list


def test_scope_over_tls(serve, certificate, open_client):
    app = Recorder(hello)
    client = open_client(serve(app, tls=certificate))
    client.finished(client.request())
    (scope,) = app.scopes
    assert (scope["scheme"], scope["http_version"]) == ("https", "2")
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1", 200), ("10.0.0.1", 421)])
def test_https_target_without_tls_is_a_trusted_proxys(serve, open_client, trusted, status):
    """RFC 9110 section 7.4."""
    app = Recorder(hello)
    client = open_client(serve(app, forwarded_allow_ips=trusted))
    client.scheme = "https"
    assert client.finished(client.request()).status == status
    assert [scope["scheme"] for scope in app.scopes] == ["https"] * (status == 200)
    client.scheme = "http"
    assert client.finished(client.request()).status == 200
    assert app.scopes[-1]["scheme"] == "http"


def test_forwarded_scheme_goes_before_that_of_the_target(serve, open_client):
    app = Recorder(hello)
    client = open_client(serve(app))
    client.scheme = "https"
    client.finished(client.request("GET", "/", ("x-forwarded-proto", "http")))
    assert app.scopes[0]["scheme"] == "http"


@pytest.mark.parametrize("name", ["pathsend", "zerocopysend"])
def test_file_extensions_are_offered_as_over_http_1_1(serve, open_client, name):
    app = Recorder(hello)
    client = open_client(serve(app, **{name: True}))
    client.finished(client.request())
    assert f"http.response.{name}" in app.scopes[0]["extensions"]


# --- Heads ----------------------------------------------------------------------------------------


def test_fields_are_sent_in_order_in_lower_case_without_those_of_a_connection(serve, open_client):
    fields = [
        (b"X-B", b" 1\t"),
        (b"set-cookie", b"a=1"),
        (b"Connection", b"keep-alive, x-a"),
        (b"x-a", b"2"),
        (b"Keep-Alive", b"timeout=5"),
        (b"set-cookie", b"b=2"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"x"),
        (b"Proxy-Connection", b"close"),
    ]
    running = serve(fixed(headers=fields), server_header=False, date_header=False)
    client = open_client(running)
    assert client.finished(client.request()).fields == [
        (b"x-b", b"1"),
        (b"set-cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"5"),
    ]


@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize("receives", [True, False])
def test_100_is_sent_when_the_application_waits_for_the_body(serve, open_client, expects, receives):
    client = open_client(serve(echo if receives else hello))
    extra = [("expect", "100-continue")] if expects else []
    stream = client.request("POST", "/", *extra, end=False)
    answer = client.on(stream)
    if expects and receives:
        client.wait(lambda: answer.interim)
        client.send(data(stream, b"abc", end=True))
    elif receives:
        client.send(data(stream, b"abc", end=True))
    client.finished(stream)
    assert answer.interim == [100] * (expects and receives)
    assert answer.body == (b"POST / abc" if receives else b"hello")
    if not receives:
        client.wait(lambda: answer.reset is not None)
        assert answer.reset == Code.NO_ERROR


def test_client_that_does_not_wait_for_100_gets_none(serve, open_client):
    """RFC 9110 section 10.1.1. The body comes with the head, before the application starts."""
    client = open_client(serve(echo))
    fields = client.fields("POST", "/", [("expect", "100-continue")])
    client.send(headers(1, client.encoder.encode(fields)) + data(1, b"ab"))
    client.alive()
    client.send(data(1, b"c", end=True))
    answer = client.finished(1)
    assert (answer.interim, answer.body) == ([], b"POST / abc")


def test_100_is_sent_once(serve, open_client):
    """Although the application has asked twice before the body comes."""
    asked = []

    @http_only
    async def app(scope, receive, send):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(receive(), 0.01)
        asked.append(True)
        message = await receive()
        await respond(send, message["body"])

    client = open_client(serve(app))
    stream = client.request("POST", "/", ("expect", "100-continue"), end=False)
    wait_until(lambda: asked)
    client.alive()
    client.send(data(stream, b"abc", end=True))
    answer = client.finished(stream)
    assert (answer.interim, answer.body) == ([100], b"abc")


def test_response_without_content_before_the_end_of_the_request(serve, open_client):
    """Its application, which goes on, receives http.disconnect once the client has ended too."""
    got = []

    @http_only
    async def app(scope, receive, send):
        await send(START | {"status": 204})
        await send(body(b"", True))
        while not got or got[-1] != "http.disconnect":
            got.append((await receive())["type"])

    client = open_client(serve(app))
    stream = client.request("POST", end=False)
    client.wait(lambda: client.on(stream).ended)
    client.send(data(stream, end=True))
    wait_until(lambda: got[-1:] == ["http.disconnect"])


def test_refused_head_request_gets_no_content(serve, open_client):
    client = open_client(serve(hello, limit_header_count=10))
    answer = client.finished(client.request("HEAD", "/", *[("x-a", "1")] * 20))
    assert (answer.status, answer.body, answer.data_frames) == (431, b"", 0)


def test_window_grows_while_the_application_waits_for_more(serve, open_client):
    @http_only
    async def app(scope, receive, send):
        await respond(send, b"%d" % len(await read_body(receive)))

    client = open_client(serve(app))
    stream = client.request("POST", end=False)
    client.upload(stream, bytes(1 << 20))
    assert client.finished(stream).body == b"%d" % (1 << 20)
    assert client.on(stream).credit > 1 << 20  # more than was used


def test_early_hints(serve, open_client):
    hint = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]}
    client = open_client(serve(sends(hint, hint, START, body(b"done"))))
    answer = client.finished(client.request())
    assert answer.interim == [103, 103]
    assert answer.interim_fields == [[(b"link", b"</a>; rel=preload"), (b"link", b"</b>")]] * 2
    assert (answer.status, answer.body) == (200, b"done")


@pytest.mark.parametrize("how", ["HEAD", "204", "304"])
def test_head_without_content_ends_the_stream_at_once(serve, open_client, how):
    """The stream ends although the application goes on, which receives http.disconnect."""
    gate = Gate()
    got = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        await send(START | {"status": 200 if how == "HEAD" else int(how)})
        await send(body(b"first", True))
        got.append(await receive())
        await gate.wait()
        await send(body(b"last", True))
        await send(body())
        got.append("returns")

    running = serve(app)
    client = open_client(running)
    method = "HEAD" if how == "HEAD" else "GET"
    streams = [client.request(method) for _ in range(3)]
    for stream in streams:
        answer = client.finished(stream)
        assert (answer.ended, answer.data_frames, answer.body) == (True, 0, b"")
    wait_until(lambda: gate.reached == 3)
    assert got == [{"type": "http.disconnect"}] * 3
    gate.open(running)
    wait_until(lambda: not running.context.cycles)
    assert got[3:] == ["returns"] * 3
    client.alive()
    client.close()
    nothing_stays(running)


def test_head_without_content_and_a_client_that_leaves(serve, open_client):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        while True:
            await send(body(b"x", True))
            await asyncio.sleep(0)

    running = serve(app)
    client = open_client(running)
    client.finished(client.request("HEAD"))
    assert running.context.cycles
    client.close()
    nothing_stays(running)


# --- Trailers -------------------------------------------------------------------------------------


def trailers(*fields):
    return {"type": "http.response.trailers", "headers": list(fields)}


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_trailers_are_sent_without_a_te_field(serve, open_client, content):
    messages = [START | {"trailers": True}, body(content), trailers((b"Grpc-Status", b"0"))]
    client = open_client(serve(sends(*messages)))
    answer = client.finished(client.request())
    assert answer.body == content
    assert answer.trailers == [(b"grpc-status", b"0")]
    assert client.frames[Type.HEADERS] == 2
    assert client.frames.get(Type.DATA, 0) == bool(content)


def test_trailers_only_are_one_frame(serve, open_client):
    """gRPC's "Trailers-Only": the status is in the head, and nothing follows."""
    fields = [(b"content-type", b"application/grpc"), (b"grpc-status", b"12")]
    client = open_client(serve(fixed(b"", headers=fields)))
    answer = client.finished(client.request("POST", "/", ("te", "trailers"), body=b"12345"))
    assert answer.fields[:2] == fields
    assert answer.trailers is None
    assert (client.frames[Type.HEADERS], client.frames.get(Type.DATA, 0)) == (1, 0)


def test_trailers_wait_for_the_body_that_waits_for_the_window(serve, open_client):
    messages = [START | {"trailers": True}, body(b"abc"), trailers((b"x", b"1"))]
    client = open_client(serve(sends(*messages)), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    client.wait(lambda: client.on(stream).status)
    client.alive()
    assert client.on(stream).trailers is None
    client.send(window_update(stream, 10))
    answer = client.finished(stream)
    assert (answer.body, answer.trailers) == (b"abc", [(b"x", b"1")])


# --- Bodies ---------------------------------------------------------------------------------------


def test_small_parts_that_wait_for_the_window_arrive_in_order(serve, open_client):
    parts = [b"%d," % number for number in range(2000)]
    client = open_client(
        serve(sends(START, *[body(part, True) for part in parts], body())),
        (Setting.INITIAL_WINDOW_SIZE, 0),
    )
    stream = client.request()
    client.wait(lambda: client.on(stream).status)
    client.alive()
    client.send(window_update(stream, 100_000))
    assert client.finished(stream).body == b"".join(parts)


@pytest.mark.parametrize("window", [0, 65_535])
@pytest.mark.parametrize("parts", [(b"123456",), (b"12", b"3456")])
def test_body_longer_than_announced_is_cut_to_its_length(serve, open_client, errors, parts, window):
    raised = []
    start = START | {"headers": [(b"content-length", b"5")]}
    app = sends(start, *[body(part, True) for part in parts], body(), raised=raised)
    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, window))
    stream = client.request()
    if not window:
        client.wait(lambda: client.on(stream).status)
        client.send(window_update(stream, 100))
    answer = client.finished(stream)
    assert (answer.body, answer.ended) == (b"12345", True)
    client.alive()
    wait_until(errors)
    assert type(raised[0]) is LocalProtocolError


@pytest.mark.parametrize("window", [0, 65_535])
def test_body_shorter_than_announced_is_reset(serve, open_client, errors, window):
    """The client gets the body so far, then the reset; other streams go on."""
    raised = []
    start = START | {"headers": [(b"content-length", b"5")]}
    app = sends(start, body(b"123"), raised=raised)
    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, window))
    stream = client.request()
    answer = client.on(stream)
    if not window:
        client.wait(lambda: answer.status)
        client.send(window_update(stream, 100))
    client.wait(lambda: answer.reset is not None)
    assert (answer.body, answer.ended) == (b"123", False)
    assert answer.reset == Code.INTERNAL_ERROR
    client.alive()
    wait_until(errors)
    assert type(raised[0]) is LocalProtocolError


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_a_file_follows_the_windows(serve, open_client, tmp_path, kind):
    content = bytes(range(256)) * 2000
    path = tmp_path / "file"
    path.write_bytes(content)

    @http_only
    async def app(scope, receive, send):
        await send(START)
        if kind == "pathsend":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as file:
                await send({"type": "http.response.zerocopysend", "file": file.fileno()})

    running = serve(app, **{kind: True})
    client = open_client(running)
    first, other = client.request(), client.request()
    answers = client.on(first), client.on(other)
    client.wait(lambda: len(answers[0].body) + len(answers[1].body) == 65_535)
    client.alive()
    assert len(answers[0].body) + len(answers[1].body) == 65_535
    client.refill = True
    client.send(*[window_update(stream, len(content)) for stream in (0, 0, first, other)])
    assert [client.finished(stream).body for stream in (first, other)] == [content] * 2
    client.close()
    nothing_stays(running)


def test_early_response_stops_the_rest_of_the_request(serve, open_client):
    app = Recorder(hello)
    running = serve(app)
    client = open_client(running)
    stream = client.request("POST", end=False)
    client.send(data(stream, b"x" * 1000))
    answer = client.on(stream)
    client.wait(lambda: answer.reset is not None)
    assert (answer.ended, answer.body, answer.reset) == (True, b"hello", Code.NO_ERROR)
    client.send(data(stream, b"x" * 1000), data(stream, b"x", end=True))  # as if already on its way
    assert client.finished(client.request()).body == b"hello"
    client.alive()


def test_work_behind_the_response_does_not_delay_its_end(serve, open_client):
    gate = Gate()
    ended = []

    @http_only
    async def app(scope, receive, send):
        await respond(send, b"done")
        if scope["path"] == "/work":
            await gate.wait()
            ended.append((await receive())["type"])

    running = serve(app)
    client = open_client(running)
    for path in ("/work", "/", "/work", "/"):
        assert client.finished(client.request("GET", path)).body == b"done"
    assert gate.reached == 2
    client.close()
    wait_until(lambda: not running.context.connections)
    gate.open(running)
    wait_until(lambda: len(ended) == 2)
    assert ended == ["http.disconnect"] * 2
    nothing_stays(running)


# --- A client that leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.3", "2.5"])
@pytest.mark.parametrize("begun", [False, True])
def test_reset_of_a_stream_counts_as_a_client_that_left(serve, open_client, errors, version, begun):
    gate = Gate()
    began = []
    got = []
    raised = []

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/other":
            await respond(send, await read_body(receive))
            return
        await receive()
        began.append(True)
        if begun:
            await send(START)
            await send(body(b"first", True))
        got.append(await receive())
        await gate.wait()
        try:
            if not begun:
                await send(START)
            await send(body(b"last"))
        except OSError as exc:
            raised.append(exc)
            raise

    running = serve(app, asgi_spec_version=version)
    client = open_client(running)
    other = client.request("POST", "/other", end=False)
    stream = client.request()
    wait_until(lambda: began)
    if begun:
        client.wait(lambda: client.on(stream).body == b"first")
    client.send(rst_stream(stream))
    wait_until(lambda: gate.reached)
    assert got == [{"type": "http.disconnect"}]
    gate.open(running)
    wait_until(lambda: len(running.context.cycles) == 1)
    client.alive()
    assert len(raised) == (version == "2.5")
    client.send(data(other, b"abc", end=True))
    assert client.finished(other).body == b"abc"
    assert client.on(stream).body == (b"first" if begun else b"")
    assert not errors()
    client.close()
    raised.clear()
    nothing_stays(running)


@pytest.mark.parametrize("leaves", ["reset", "close", "half-close"])
@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_client_that_leaves_ends_a_send_that_waits(serve, open_client, errors, version, leaves):
    """A FIN counts, too, because the client can no longer open the window."""
    raised = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        try:
            while True:
                await send(body(b"x" * 100_000, True))
        except OSError as exc:
            raised.append(exc)
            raise

    running = serve(app, asgi_spec_version=version)
    client = open_client(running)
    stream = client.request()
    client.wait(lambda: len(client.on(stream).body) == 65_535)
    if leaves == "reset":
        client.send(rst_stream(stream))
    elif leaves == "close":
        client.close()
    else:
        client.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: not running.context.cycles)
    assert len(raised) == 1
    assert not errors()
    if leaves == "reset":
        client.alive()
    elif leaves == "half-close":
        client.wait(lambda: client.on(stream).reset == Code.CANCEL)
        assert client.end() == Code.NO_ERROR
    client.close()
    raised.clear()
    nothing_stays(running)


# --- Limits and time-outs -------------------------------------------------------------------------


def test_limit_concurrency_refuses_the_stream_alone(serve, open_client):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await respond(send, b"done")

    running = serve(app, limit_concurrency=2)
    client = open_client(running)
    taken = [client.request(), client.request()]
    refused = client.finished(client.request())
    assert (refused.status, refused.value(b"retry-after")) == (503, b"1")
    gate.open(running)
    assert [client.finished(stream).body for stream in taken] == [b"done"] * 2
    assert client.finished(client.request()).body == b"done"


@pytest.mark.parametrize("announced", [True, False])
def test_limit_request_body_is_413_on_the_stream_alone(serve, open_client, announced):
    got = []

    @http_only
    async def app(scope, receive, send):
        while scope["path"] == "/" and (not got or got[-1]["type"] != "http.disconnect"):
            got.append(await receive())
        await respond(send, b"other")

    running = serve(app, limit_request_body=100)
    client = open_client(running)
    extra = [("content-length", "101")] if announced else []
    stream = client.request("POST", "/", *extra, end=False)
    if not announced:
        client.send(data(stream, b"x" * 100))
        wait_until(lambda: got)
        client.send(data(stream, b"x"))
    assert client.finished(stream).status == 413
    assert client.finished(client.request("GET", "/other")).body == b"other"
    client.close()
    assert [message["type"] for message in got] == (
        [] if announced else ["http.request", "http.disconnect"]
    )
    nothing_stays(running)


def test_timeout_body_is_408_on_the_stream_alone(serve, open_client):
    got = []

    @http_only
    async def app(scope, receive, send):
        while scope["path"] == "/" and (not got or got[-1]["type"] != "http.disconnect"):
            got.append(await receive())
        await respond(send, b"other")

    running = serve(app, timeout_body=0.3)
    client = open_client(running)
    stream = client.request("POST", end=False)
    client.send(data(stream, b"part"))
    assert client.finished(stream).status == 408
    wait_until(lambda: len(got) == 2)
    assert [message["type"] for message in got] == ["http.request", "http.disconnect"]
    assert client.finished(client.request("GET", "/other")).body == b"other"
    client.close()
    nothing_stays(running)


@pytest.mark.parametrize("begun", [False, True])
def test_timeout_request_is_504_or_a_reset_of_the_stream_alone(serve, open_client, begun):
    @http_only
    async def app(scope, receive, send):
        if begun:
            await send(START)
            await send(body(b"part", True))
        if scope["path"] == "/":
            await asyncio.sleep(60)
        await (send(body(b"other")) if begun else respond(send, b"other"))

    running = serve(app, timeout_request=0.3)
    client = open_client(running)
    stream = client.request()
    answer = client.on(stream)
    client.wait(lambda: answer.ended or answer.reset is not None)
    assert (answer.status, answer.reset) == ((200, Code.INTERNAL_ERROR) if begun else (504, None))
    assert client.finished(client.request("GET", "/other")).body.endswith(b"other")
    client.close()
    nothing_stays(running)


# --- The access log -------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog, monkeypatch):
    """Return the lines that the access log has so far."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    caplog.set_level(logging.INFO, "uvicorn.access")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "uvicorn.access"]


def test_access_line(serve, open_client, lines):
    running = serve(streamer(b"ab", b"c"), access_log=True)
    client = open_client(running)
    client.finished(client.request("GET", "/a?b=c"))
    wait_until(lines)
    address = "{}:{}".format(*client.sock.getsockname())
    assert lines() == [f'{address} - "GET /a?b=c HTTP/2" 200']


def test_access_line_of_a_stream_that_is_reset(serve, open_client, lines):
    @http_only
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    client = open_client(serve(app, access_log=True))
    stream = client.request()
    client.alive()
    client.send(rst_stream(stream))
    wait_until(lines)
    assert lines()[0].endswith('"GET / HTTP/2" 499')


def test_head_without_content_holds_a_place_until_its_application_ends(serve, open_client):
    """As over HTTP/1.1, where the connection is busy until then."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        if scope["path"] == "/held":
            await send(body(b"x", True))
            await gate.wait()
        await send(body(b"done"))

    running = serve(app, http2_max_streams=1)
    client = open_client(running)
    client.finished(client.request("HEAD", "/held"))
    second = client.request()
    client.alive()
    wait_until(lambda: gate.reached)
    assert client.on(second).status is None
    assert len(running.context.cycles) == 1
    gate.open(running)
    assert client.finished(second).body == b"done"


def test_upload_that_the_application_does_not_receive_waits(serve, open_client):
    """Flow control holds the client back, which is no fault of its own, and no other stream."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/held":
            await gate.wait()
        await respond(send, b"%d" % len(await read_body(receive)))

    running = serve(app)
    client = open_client(running)
    stream = client.request("POST", "/held", end=False)
    answer = client.on(stream)
    while size := min(client.room(stream), 16_384):
        client.send(data(stream, bytes(size)))
        answer.uploaded += size
    wait_until(lambda: gate.reached)
    other = client.request("POST", "/", end=False)
    client.upload(other, bytes(200_000))
    assert client.finished(other).body == b"200000"
    client.alive()
    assert (answer.credit, answer.uploaded, answer.status) == (0, 65_535, None)
    assert answer.reset is None
    gate.open(running)
    client.upload(stream, bytes(200_000))
    assert client.finished(stream).body == b"265535"


# --- What a stream that is over gives back --------------------------------------------------------


def test_output_that_waits_is_let_go_of_when_its_stream_is_reset(serve, open_client):
    """Even if the application goes on."""
    gate = Gate()
    blob = bytes(40_000)

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(blob, True))
        await gate.wait()

    running = serve(app)
    client = open_client(running, (Setting.INITIAL_WINDOW_SIZE, 0))
    before = sys.getrefcount(blob)
    stream = client.request()
    wait_until(lambda: gate.reached)
    assert sys.getrefcount(blob) > before
    client.send(rst_stream(stream))
    wait_until(lambda: sys.getrefcount(blob) == before)
    gate.open(running)


def test_window_of_the_connection_is_given_back_with_a_failed_request(serve, open_client, errors):
    """At once: a client whose other uploads wait for that window may have nothing else to send."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"part", True))
        await gate.wait()
        raise RuntimeError("fails")

    running = serve(app, http2_connection_window=65_535)
    client = open_client(running)
    client.alive()
    stream = client.request("POST", end=False)
    for size in [16_384, 16_384, 16_384, 16_383]:
        client.send(data(stream, bytes(size)))
    client.alive()
    had = client.credit
    gate.open(running)
    client.wait(lambda: client.on(stream).reset == Code.INTERNAL_ERROR)
    client.wait(lambda: client.credit - had >= 65_535)
    assert len(errors()) == 1


def test_client_that_sends_no_more_is_reported_and_gets_its_response(serve, open_client):
    told = []

    @http_only
    async def app(scope, receive, send):
        await read_body(receive)
        told.append((await receive())["type"])
        await respond(send, b"hello")

    client = open_client(serve(app))
    stream = client.request()
    client.alive()
    client.sock.shutdown(socket.SHUT_WR)
    client.wait(lambda: client.on(stream).ended)
    assert client.on(stream).body == b"hello"
    assert told == ["http.disconnect"]

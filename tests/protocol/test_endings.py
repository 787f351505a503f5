"""How responses and connections end in ways that the application or the client did not choose: RFC
9110 sections 9.3.2 and 10.1.1, RFC 9112 sections 6.3, 9.3 and 9.6.
"""

import logging
import socket
from email.utils import parsedate_to_datetime

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
    is_closed,
    post,
    respond,
    streamer,
    take_replies,
    take_reply,
)
from support import on_every_transport, read_all, read_head, read_response, wait_until

# --- HEAD: RFC 9110 section 9.3.2 -----------------------------------------------------------------

HEADS = [
    (b"HEAD / HTTP/1.1\r\n\r\n", 400),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nno field\r\n\r\n", 400),
    (b"HEAD / HTTP/1.1\nHost: a\n\n", 400),
    (b"HEAD  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"HEAD * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"HEAD /\r\n", 400),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", 413),
    (b"HEAD /" + b"x" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
    (b"HEAD https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 421),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000 + b"\r\n\r\n", 431),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"HEAD / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
]


def test_refused_head_request_has_no_content(serve):
    running = serve(
        hello,
        limit_request_line=500,
        limit_header_size=500,
        limit_request_body=100,
        forwarded_allow_ips="10.0.0.1",
    )
    for request, status in HEADS:
        reply, rest = take_reply(running.raw(request), b"HEAD")
        assert (reply.status, rest) == (status, b""), request
        assert int(reply.one(b"content-length")) > 0  # the length that a GET would have got
    for request in (b"HEADS / HTTP/1.1\r\n\r\n", b"HEAD", b"HEAD ", b"head / HTTP/1.1\r\n\r\n"):
        with running.connect() as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            (reply,) = take_replies(read_all(sock))
        assert reply.body, request  # the method is not known to be HEAD


def test_head_request_that_does_not_end_has_no_content(serve):
    running = serve(hello, timeout_head=0.3)
    with running.connect() as late, running.connect() as cut:
        late.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n")
        cut.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n")
        cut.shutdown(socket.SHUT_WR)
        for sock, status in ((late, 408), (cut, 400)):
            reply, rest = take_reply(read_all(sock), b"HEAD")
            assert (reply.status, rest) == (status, b"")


def test_refusal_behind_a_head_request_has_content(serve):
    running = serve(hello)
    for request in (b"\n", b"GET / HTTP/1.1\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b"GET"):
        with running.connect() as sock:
            sock.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + request)
            sock.shutdown(socket.SHUT_WR)
            head, refusal = take_replies(read_all(sock), b"HEAD")
        assert (head.status, head.body) == (200, b"")
        assert refusal.body, request


def test_length_of_a_304_is_not_made_up(serve):
    """RFC 9110 section 8.6: the length would be that of the content of a 200."""
    running = serve(fixed(b"not modified", 304))
    for method in (b"GET", b"HEAD"):
        request = GET_CLOSE.replace(b"GET", method)
        (reply,) = take_replies(running.raw(request), method)
        assert not reply.all(b"content-length")


def test_options_without_content_says_so(serve):
    """RFC 9110 section 9.3.7."""
    request = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    (reply,) = take_replies(serve(fixed(b"")).raw(request))
    assert reply.one(b"content-length") == b"0"


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "LINK", "QUERY"])
def test_every_method_is_the_applications(serve, method):
    """RFC 9110 section 9.1: the application decides which methods are allowed."""
    body = take_replies(
        serve(echo).raw(post(b"x", "Connection: close").replace(b"POST", method.encode()))
    )
    assert body[0].body == f"{method} / x".encode()


def test_date_is_an_imf_fixdate_in_every_response(serve):
    """RFC 9110 sections 5.6.7 and 6.6.1."""
    running = serve(hello)
    for request in (GET_CLOSE, b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        (reply,) = take_replies(running.raw(request))
        date = reply.one(b"date").decode()
        assert parsedate_to_datetime(date).strftime("%a, %d %b %Y %H:%M:%S GMT") == date


# --- Expect: RFC 9110 section 10.1.1 --------------------------------------------------------------


def test_final_head_without_100_announces_the_close(serve):
    """The client then need not send the body, and its next request could be taken for the body."""
    app = Recorder(streamer(b"a", b"b"))
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get("/", "Expect: 100-continue", "Content-Length: 3"))
        head = read_head(sock)
        assert b"connection: close\r\n" in head
        sock.sendall(get("/hidden"))
        assert read_all(sock) == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    wait_until(lambda: app.ended)
    assert [scope["path"] for scope in app.scopes] == ["/"]


def test_final_head_behind_a_part_of_the_body_keeps_the_connection(serve):
    """The client has not waited for 100, so it sends the rest."""
    with serve(hello).connect() as sock:
        sock.sendall(get("/", "Expect: 100-continue", "Content-Length: 3") + b"a")
        head, body = read_response(sock)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection" not in head
        sock.sendall(b"bc" + GET_CLOSE)
        (reply,) = take_replies(read_all(sock))
        assert reply.body == body == b"hello"


# --- The close: RFC 9112 section 9.6 --------------------------------------------------------------

LARGE = b"x" * 2**20


@on_every_transport
@pytest.mark.parametrize("first", [GET, GET_CLOSE + b"GET"], ids=["not told yet", "careless"])
def test_requests_behind_a_close_of_the_applications_do_not_cost_its_response(serve, first):
    """The client pipelines: if its bytes were answered with a reset, it would lose what it has not
    read.
    """
    app = Recorder(fixed(LARGE, headers=[(b"connection", b"close")]))
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(first)
        head = read_head(sock)
        wait_until(lambda: running.context.total_requests == 1 and app.ended)
        for _ in range(3):
            sock.sendall(GET)
        reply, rest = take_reply(head + read_all(sock))
        assert (reply.body, rest) == (LARGE, b"")
    assert len(app.scopes) == 1
    wait_until(lambda: not running.context.connections)


def test_body_that_ends_with_the_connection_is_not_cut_by_what_is_sent_meanwhile(serve):
    running = serve(streamer(LARGE, b"."))
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head = read_head(sock)
        assert b"connection: close\r\n" in head
        sock.sendall(GET)
        assert read_all(sock) == LARGE + b"."


def test_client_that_asked_for_the_close_gets_it_at_once(serve):
    running = serve(hello)
    with running.connect() as sock:
        sock.sendall(GET_CLOSE)
        read_all(sock)
        wait_until(lambda: not running.context.connections, 1)


def test_early_answer_while_the_body_is_on_its_way(serve):
    """RFC 9112 section 9.3: the rest of the body is read, or the connection ends."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/":
            await receive()
            await respond(send, b"early")
            await gate.wait()
        else:
            await respond(send, b"next")

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(post(b"x" * 1000)[:-500])
        reply, rest = take_reply(read_head(sock) + sock.recv(5))
        assert (reply.body, rest) == (b"early", b"")
        assert not reply.all(b"connection")
        sock.sendall(b"x" * 500 + get("/next", "Connection: close"))
        (reply,) = take_replies(read_all(sock))
        assert reply.body == b"next"
        assert is_closed(sock)
        gate.open(running)


# --- What the application does behind its response, or instead of one -----------------------------


@on_every_transport
def test_response_leaves_before_its_application_returns(serve):
    """A background task may take long without awaiting anything."""
    seen = []

    @http_only
    async def app(scope, receive, send):
        await respond(send, b"done", headers=[(b"content-length", b"4")])
        seen.append(client.recv(1 << 16))

    with serve(app).connect() as client:
        client.sendall(GET)
        wait_until(lambda: seen)
    assert seen[0].endswith(b"done")


@on_every_transport
def test_returning_without_a_response_once_the_client_is_gone(serve, errors, caplog):
    @http_only
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    caplog.set_level(logging.INFO, "thestral.access")
    running = serve(app, access_log=True)
    with running.connect() as sock:
        sock.sendall(GET)
    wait_until(lambda: not running.context.connections)
    assert errors() == []
    wait_until(lambda: [r for r in caplog.records if r.name == "uvicorn.access"])
    assert [r.args[-1] for r in caplog.records if r.name == "uvicorn.access"] == [499]


def test_client_that_sends_no_more_and_has_all_of_a_bodiless_response_is_gone(serve):
    """The application goes on, but nothing that it does can reach the client."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await gate.wait()

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET.replace(b"GET", b"HEAD"))
        read_head(sock)
        wait_until(lambda: gate.reached)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
        wait_until(lambda: not running.context.connections)
    gate.open(running)

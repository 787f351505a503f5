"""Applications that send to a client that is gone, and how cancelled applications end."""

from __future__ import annotations

import asyncio

import pytest
from apps import GET, Gate, get, http_only
from support import (
    on_every_transport,
    read_all,
    read_head,
    read_response,
    reset,
    wait_until,
)

DROPPED_MAX = 64 * 1024  # thestral.protocol.cycle.DROPPED_MAX
START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def counted(size):
    return START | {"headers": [(b"content-length", b"%d" % size)]}


class Late:
    """Sends messages to a client that has left; counts the accepted ones, keeps what was raised."""

    def __init__(self, *messages, first=()):
        self.messages = messages
        self.first = first
        self.gate = Gate()
        self.taken = 0
        self.raised = None
        self.ended = False

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        try:
            for message in self.first:
                await send(message)
            await self.gate.wait()
            for message in self.messages:
                await send(message)
                self.taken += 1
        except OSError as exc:
            self.raised = exc
            raise
        finally:
            self.ended = True


def run(serve, app, **options):
    """Have a client send a request and leave, and the application go on."""
    running = serve(app, **options)
    sock = running.connect()
    sock.sendall(GET)
    wait_until(lambda: app.gate.reached)
    reset(sock)
    wait_until(lambda: not running.context.connections)
    app.gate.open(running)
    wait_until(lambda: app.ended and not running.context.cycles)
    return running


WHOLE = {
    "plain": (START, body(b"done")),
    "empty": (START, body()),
    "with a length": (counted(4), body(b"done")),
    "large": (START, body(b"x" * 10_000_000)),
    "in two, as from middleware": (counted(1_000_000), body(b"x" * 1_000_000, True), body()),
    "counted pieces": (counted(1_000_000), *[body(b"x" * 65_536, True)] * 15, body(b"x" * 16_960)),
    "a few pieces": (START, *[body(b"x" * 8192, True)] * 8, body()),
    "trailers": (
        START | {"trailers": True},
        body(b"x"),
        {"type": "http.response.trailers", "headers": []},
    ),
    "a hint": ({"type": "http.response.early_hint", "links": [b"</a>"]}, START, body()),
}


@on_every_transport
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("begun", [False, True])
def test_what_finishes_a_response_is_dropped_without_a_word(serve, errors, name, begun):
    """Whether the client left before or after the head."""
    messages = WHOLE[name]
    if begun and messages[0]["type"] == "http.response.start":
        app = Late(*messages[1:], first=messages[:1])
    else:
        app = Late(*messages)
    run(serve, app)
    assert app.raised is None
    assert app.taken == len(app.messages)
    assert not errors()


@pytest.mark.parametrize("digits", [18, 19, 20, 5000])
def test_a_length_beyond_belief_that_nobody_gets(serve, errors, digits):
    app = Late(START | {"headers": [(b"content-length", b"9" * digits)]}, body(b"x", True), body())
    run(serve, app)
    assert app.raised is None
    assert app.taken == 3
    assert not errors()


@pytest.mark.parametrize("name", WHOLE)
def test_version_2_5_raises_at_once(serve, errors, name):
    app = Late(*WHOLE[name])
    run(serve, app, asgi_spec_version="2.5")
    assert isinstance(app.raised, OSError)
    assert app.taken == 0
    assert not errors()


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_one_that_goes_on_is_told_by_size(serve, errors, excess):
    """From the first part after 64 KiB on."""
    parts = [body(b"x" * (DROPPED_MAX + excess), True), *[body(b"y", True)] * 5]
    app = Late(START, *parts)
    run(serve, app)
    assert isinstance(app.raised, OSError)
    assert app.taken == (3 if excess < 0 else 2)  # with the head
    assert not errors()


def test_one_that_goes_on_is_told_by_time(serve, errors):
    ended = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        try:
            while True:
                await asyncio.sleep(0.1)
                await send(body(b"tick", True))
        finally:
            ended.append(True)

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET)
        read_head(sock)
    wait_until(lambda: ended)
    assert not errors()


@on_every_transport
def test_one_that_never_waits_is_told(serve, errors):
    app = Late(*[body(b"x", True)] * 10_000_000, first=[START])
    run(serve, app)
    assert app.taken <= DROPPED_MAX + 1
    assert isinstance(app.raised, OSError)
    assert not errors()


def test_an_error_of_its_own_is_still_logged(serve, errors):
    @http_only
    async def app(scope, receive, send):
        gate.reached += 1
        await gate._event.wait()
        await send(START)
        ended.append(True)
        raise ValueError("its own")

    gate, ended = Gate(), []
    running = serve(app)
    sock = running.connect()
    sock.sendall(GET)
    wait_until(lambda: gate.reached)
    reset(sock)
    gate.open(running)
    wait_until(errors)
    assert "its own" in str(errors()[0].exc_info[1])
    assert ended


def test_head_on_an_endless_body_ends_with_its_client(serve, errors):
    """No body is written, so no write could fail."""
    ended = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        try:
            while True:
                await send(body(b"x", True))
        finally:
            ended.append(True)

    with serve(app).connect() as sock:
        sock.sendall(get("/").replace(b"GET", b"HEAD"))
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert not ended
    wait_until(lambda: ended)
    assert not errors()


# --- Told to end ----------------------------------------------------------------------------------


def test_one_that_returns_when_its_client_has_left_is_no_error(serve, errors):
    """As frameworks do that watch for http.disconnect: they do not complete the response."""
    ended = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"first", True))
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.append(True)

    with serve(app).connect() as sock:
        sock.sendall(GET)
        assert b"chunked" in read_head(sock)
        sock.shutdown(1)  # a client that is gone looks like this, until something is sent
        assert read_all(sock) == b"5\r\nfirst\r\n"  # the client can see that it is incomplete
    wait_until(lambda: ended)
    assert not errors()


def test_a_body_that_ends_with_the_connection_is_reset_if_it_is_cut(serve, errors):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"first", True))
        while (await receive())["type"] != "http.disconnect":
            pass

    with serve(app).connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        read_head(sock)
        sock.shutdown(1)
        with pytest.raises(ConnectionResetError):
            while sock.recv(100):
                pass
    assert not errors()


@pytest.mark.parametrize("kind", ["timeout", "shutdown"])
def test_a_clean_end_of_what_was_cancelled_is_cut(serve, kind):
    """The application ends its response because it was cancelled, not because it is complete."""
    cancelled = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"first", True))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
        await send(body(b"last"))

    options = {"timeout_request": 0.2} if kind == "timeout" else {"timeout_graceful_shutdown": 0.2}
    running = serve(app, **options)
    with running.connect() as sock:
        sock.sendall(GET)
        read_head(sock)
        if kind == "shutdown":
            running.server.should_exit = True
        received = b""
        try:
            while data := sock.recv(100):
                received += data
        except ConnectionResetError:
            pass
        assert received.startswith(b"5\r\nfirst\r\n")
        assert not received.endswith(b"0\r\n\r\n")
    assert cancelled


def test_a_counted_body_that_is_complete_in_time_is_not_cut(serve):
    @http_only
    async def app(scope, receive, send):
        await send(counted(9))
        await send(body(b"first", True))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await send(body(b"last"))

    with serve(app, timeout_request=0.2).connect() as sock:
        sock.sendall(GET)
        assert read_response(sock)[1] == b"firstlast"


# --- Scopes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("connections", [1, 2])
def test_what_a_request_writes_into_its_scope_is_its_own(serve, keep, connections):
    """Whether its scope is still held when the next request comes, or its memory is reused."""
    kept = []

    @http_only
    async def app(scope, receive, send):
        seen.append(repr((scope["asgi"], scope["extensions"])))
        if keep:
            kept.append(scope)
        where = scope["path"][1:]
        if where == "asgi":
            scope["asgi"]["mine"] = 1
        elif where == "value":
            scope["asgi"]["version"] = "1.0"
        elif where == "extensions":
            scope["extensions"]["mine"] = {}
        elif where == "within":
            scope["extensions"]["http.response.trailers"]["mine"] = 1
        elif where == "renamed":
            scope["extensions"]["mine"] = scope["extensions"].pop("http.response.trailers")
        elif where == "replaced":
            scope["extensions"]["http.response.trailers"] = None
        elif where == "held":
            kept.append(scope["extensions"]["http.response.trailers"])
        elif where == "after held":
            kept[-1]["mine"] = 1
        else:
            scope["extensions"].clear()
        await send(counted(0))
        await send(body())

    seen = []
    running = serve(app)
    socks = [running.connect() for _ in range(connections)]
    places = [
        "asgi",
        "value",
        "extensions",
        "within",
        "renamed",
        "replaced",
        "held",
        "cleared",
        "x",
    ]
    for place in places:
        for sock in socks:
            sock.sendall(get("/" + place))
            read_response(sock)
    for sock in socks:
        sock.close()
    assert len(set(seen)) == 1
    assert len(seen) == connections * len(places)

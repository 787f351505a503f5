"""How a WebSocket ends when the application raises or returns, or the server stops."""

import asyncio
import time

import pytest
from support import wait_until
from ws_apps import Gate, Sessions, accept, echo, send_bytes, send_text, ws_only
from ws_client import BINARY, TEXT, Client, close_frame, connected, frame, handshake

from thestral.errors import ClientDisconnected, LocalProtocolError

CLOSING = "websocket.close"


# --- Ends of the application ----------------------------------------------------------------------


@pytest.mark.parametrize("exc", [ValueError("mine"), asyncio.CancelledError(), SystemExit(3)])
def test_application_that_raises_7_4_1(serve, exc, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        raise exc

    running = serve(Sessions(app))
    with connected(running) as client:
        client.text("x")
        code, reason = client.read_close()
        assert code == 1011
        assert "mine" not in reason, "nothing of the application's leaks"
        client.send(close_frame(code))
        client.ended()
    (record,) = errors()
    assert record.exc_info[1] is exc
    wait_until(lambda: not running.context.connections)


def test_application_that_raises_at_once_behind_accept(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send_text(send, "before")
        raise ValueError

    with connected(serve(Sessions(app))) as client:
        assert client.message() == "before"
        assert client.read_close()[0] == 1011
    assert len(errors()) == 1


def test_application_that_raises_with_messages_in_the_queue(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        raise ValueError

    with connected(serve(Sessions(app))) as client:
        client.send(*[frame(TEXT, b"x" * 1000)] * 200)
        assert client.read_close()[0] == 1011
        client.send(close_frame(1011))
        client.ended()
    assert len(errors()) == 1


def test_application_that_raises_behind_its_close(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4000})
        raise ValueError

    with connected(serve(Sessions(app))) as client:
        assert client.read_close()[0] == 4000
        client.send(close_frame(4000))
        client.ended()
    wait_until(errors)
    assert len(errors()) == 1


@pytest.mark.parametrize("queued", [0, 3, 200])
def test_application_that_returns_7_4_1(serve, queued, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send_text(send, "that is all")

    running = serve(Sessions(app))
    with connected(running) as client:
        client.send(*[frame(TEXT, b"x" * 1000)] * queued)
        assert client.message() == "that is all"
        assert client.read_close() == (1000, "")
        client.send(close_frame(1000))
        client.ended()
    wait_until(lambda: not running.context.connections)
    assert not errors()


def test_application_that_returns_behind_its_close(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4000})

    with connected(serve(Sessions(app))) as client:
        assert client.read_close()[0] == 4000
        client.send(close_frame(4000))
        client.ended()
    assert not errors()


def test_receive_behind_the_applications_close(serve):
    """receive() does not wait for the client's Close, and has the application's code."""

    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4000, "reason": "mine"})
        await receive()

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        assert client.read_close() == (4000, "mine")
        client.send(close_frame(4999, "theirs"))
        client.ended()
    assert sessions.disconnect()[0] == 4000


def test_accept_then_close_at_once(serve):
    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4000})
        with pytest.raises(LocalProtocolError):
            await send_text(send, "late")

    with connected(serve(app)) as client:
        assert client.read_close()[0] == 4000
        client.send(close_frame(4000))
        client.ended()


# --- The server stops -----------------------------------------------------------------------------


def stop(running) -> None:
    running.server.should_exit = True


def test_shutdown_7_4_1(serve, errors):
    app = Sessions(echo)
    running = serve(app, timeout_graceful_shutdown=30.0)
    with connected(running) as one, connected(running) as other:
        one.send(frame(BINARY, b"x", fin=False))  # leaves a message unfinished
        began = time.monotonic()
        stop(running)
        for client in (one, other):
            assert client.read_close()[0] == 1012
            client.send(close_frame(1012))
            client.ended()
            client.sock.close()
        running._thread.join(10)
        assert not running._thread.is_alive()
        assert time.monotonic() - began < 5
    assert [session.received[-1]["code"] for session in app.all] == [1012, 1012]
    assert not errors()


def test_shutdown_does_not_wait_long_for_clients(serve):
    running = serve(Sessions(echo), timeout_graceful_shutdown=30.0, ws_close_timeout=0.3)
    with connected(running) as client:
        began = time.monotonic()
        stop(running)
        running._thread.join(10)
        assert not running._thread.is_alive()
        assert time.monotonic() - began < 5
        assert client.read_close()[0] == 1012


async def closing(scope, receive, send):
    await accept(receive, send)
    await send({"type": CLOSING, "code": 4000})


@pytest.mark.parametrize(("app", "code"), [(echo, 1012), (closing, 4000)])
def test_shutdown_waits_two_seconds_at_most_for_a_close(serve, app, code):
    """It makes no difference whether the Close is sent at the shutdown, or was sent before with a
    longer time-out.
    """
    running = serve(ws_only(app), timeout_graceful_shutdown=60.0, ws_close_timeout=50.0)
    with connected(running) as client:
        if app is closing:
            assert client.read_close()[0] == code
        began = time.monotonic()
        stop(running)
        running._thread.join(40)
        assert not running._thread.is_alive()
        assert 1.9 < time.monotonic() - began < 30
        if app is echo:
            assert client.read_close()[0] == code
        assert client.is_reset()


def test_client_that_closes_during_the_shutdown_ends_it_at_once(serve):
    """This holds also if the server had sent it a Close before."""
    running = serve(ws_only(closing), ws_close_timeout=50.0)
    with connected(running) as client:
        assert client.read_close()[0] == 4000
        stop(running)
        wait_until(lambda: running.context.draining)
        client.send(close_frame(4000))
        client.ended()


def test_application_that_ignores_the_shutdown_is_cancelled(serve, errors):
    gate = Gate()

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()

    sessions = Sessions(app)
    running = serve(sessions, timeout_graceful_shutdown=0.3)
    with connected(running, path="/deaf") as client:
        wait_until(lambda: gate.reached)
        stop(running)
        assert client.read_close()[0] == 1012
        client.send(close_frame(1012))
        client.ended()
    running._thread.join(10)
    assert isinstance(sessions.last.raised, asyncio.CancelledError)
    (record,) = errors()
    assert "/deaf" in record.getMessage()


def test_send_behind_the_shutdown(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send_text(send, "late")

    sessions = Sessions(app)
    running = serve(sessions)
    with connected(running) as client:
        stop(running)
        assert client.read_close()[0] == 1012
        client.send(close_frame(1012))
        client.ended()
        wait_until(lambda: sessions.last.ended)
    assert type(sessions.last.raised) is ClientDisconnected
    assert not errors()


def test_shutdown_while_send_waits(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        while True:
            await send_bytes(send, b"x" * 100_000)

    sessions = Sessions(app)
    running = serve(sessions, ws_close_timeout=0.3, timeout_graceful_shutdown=30.0)
    with connected(running, receive_buffer=4096):
        wait_until(lambda: all(c.write_paused for c in running.context.connections))
        began = time.monotonic()
        stop(running)
        running._thread.join(10)
        assert not running._thread.is_alive()
        assert time.monotonic() - began < 5
    assert type(sessions.last.raised) is ClientDisconnected
    assert not errors()


def test_accept_during_the_drain(serve):
    """The WebSocket of a handshake that began before the drain ends like the open ones."""
    gate = Gate()

    async def app(scope, receive, send):
        await gate.wait()
        await accept(receive, send)
        await receive()

    sessions = Sessions(app)
    running = serve(sessions)
    with Client(running, handshake()) as client:
        wait_until(lambda: gate.reached)
        stop(running)
        wait_until(lambda: running.context.draining)
        gate.open(running)
        head = client.head()
        if head.status == 101:
            assert client.read_close()[0] == 1012
            client.send(close_frame(1012))
            client.ended()
            assert sessions.disconnect()[0] == 1012
        else:
            assert head.status == 503

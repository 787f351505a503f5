"""Clients that leave at each point and in each way: the application is told, and nothing leaks."""

import asyncio
import socket

import pytest
from leaks import nothing_stays, only_ours  # noqa: F401
from support import on_every_transport, wait_until
from ws_apps import Gate, Sessions, accept, echo, send_bytes, send_text, ws_only
from ws_client import PING, TEXT, Client, close_frame, connected, frame

from thestral.errors import ClientDisconnected

CLOSING = "websocket.close"


def go_by_close(client: Client) -> None:
    client.send(close_frame(1001, "leaving"))


LEAVING = {
    "RST": (Client.reset, 1006),
    "FIN": (Client.__exit__, 1006),
    "Close": (go_by_close, 1001),
}
LEAVES = pytest.mark.parametrize("leave", LEAVING)


@LEAVES
@pytest.mark.parametrize(
    "sent",
    [b"", b"\x81", frame(TEXT, "abc")[:-1], frame(TEXT, "abc", fin=False)],
    ids=["idle", "within a header", "within a payload", "within a message"],
)
def test_client_gone_while_the_application_receives(serve, leave, sent, errors):
    go, code = LEAVING[leave]
    if leave == "Close" and len(sent) < len(frame(TEXT, "abc")):
        sent = b""  # a Close would be read as the frame's payload
    app = Sessions(echo)
    running = serve(app)
    with connected(running) as client:
        client.send(sent)
        go(client)
        assert app.disconnect()[0] == code
    nothing_stays(running)
    assert not errors()


@LEAVES
def test_client_gone_before_the_answer(serve, leave, errors):
    """A Close sent that early is read after the handshake's response."""
    gate = Gate()

    async def app(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await gate.wait()
        await send({"type": "websocket.accept"})
        await receive()

    sessions = Sessions(app)
    running = serve(sessions)
    go, code = LEAVING[leave]
    with Client(running) as client:
        wait_until(lambda: gate.reached)
        go(client)
        if leave != "Close":
            wait_until(lambda: not running.context.connections)
        gate.open(running)
        wait_until(lambda: sessions.last.ended)
        if leave == "Close":
            assert sessions.disconnect() == (code, "leaving")
        else:
            assert isinstance(sessions.last.raised, ClientDisconnected)
    nothing_stays(running)
    assert not errors()


@pytest.mark.parametrize("leave", ["RST", "FIN"])
def test_client_gone_before_the_answer_is_told_by_receive(serve, leave, errors):
    async def app(scope, receive, send):
        await receive()
        await receive()

    sessions = Sessions(app)
    running = serve(sessions)
    with Client(running) as client:
        wait_until(lambda: sessions.calls and sessions.last.received)
        LEAVING[leave][0](client)
        assert sessions.disconnect() == (1006, "")
    nothing_stays(running)


@LEAVES
def test_send_raises_once_the_client_is_gone(serve, leave, errors):
    """ClientDisconnected, an OSError, as ASGI 2.4 requires; it is not logged as an error."""
    raised = []

    async def app(scope, receive, send):
        await accept(receive, send)
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send_text(send, "late")
        except OSError as exc:
            raised.append(exc)
            raise

    sessions = Sessions(app)
    running = serve(sessions)
    with connected(running) as client:
        LEAVING[leave][0](client)
        wait_until(lambda: sessions.last.ended)
    assert type(raised.pop()) is ClientDisconnected
    sessions.all.clear()
    nothing_stays(running)
    assert not errors()


@LEAVES
@pytest.mark.parametrize("accepts", [True, False], ids=["open", "handshake"])
def test_close_is_dropped_once_the_client_is_gone(serve, leave, accepts, errors):
    """An application that always closes, as in a `finally`, can go on afterwards."""

    async def app(scope, receive, send):
        if accepts:
            await accept(receive, send)
        else:
            assert (await receive())["type"] == "websocket.connect"
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": CLOSING})

    sessions = Sessions(app)
    running = serve(sessions)
    with connected(running) if accepts else Client(running) as client:
        if leave == "Close" and not accepts:
            leave = "FIN"  # a Close is not read before the handshake's response
        wait_until(lambda: sessions.calls and sessions.last.received)
        LEAVING[leave][0](client)
        wait_until(lambda: sessions.last.ended)
    assert sessions.last.raised is None
    nothing_stays(running)
    assert not errors()


@on_every_transport
@LEAVES
def test_client_gone_while_send_waits(serve, leave, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        while True:
            await send_bytes(send, b"x" * 100_000)

    sessions = Sessions(app)
    running = serve(sessions)
    with connected(running, receive_buffer=4096) as client:
        wait_until(lambda: all(c.write_paused for c in running.context.connections))
        LEAVING[leave][0](client)
        wait_until(lambda: sessions.last.ended)
    assert type(sessions.last.raised) is ClientDisconnected
    sessions.all.clear()
    nothing_stays(running)
    assert not errors()


@LEAVES
def test_client_gone_behind_the_applications_close(serve, leave, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4000})
        await receive()

    sessions = Sessions(app)
    running = serve(sessions, ws_close_timeout=1000)
    with connected(running) as client:
        assert client.read_close()[0] == 4000
        LEAVING[leave][0](client)
        assert sessions.disconnect()[0] == 4000
    wait_until(lambda: not running.context.connections)
    nothing_stays(running)
    assert not errors()


@LEAVES
def test_queued_messages_are_delivered_when_the_client_has_gone(serve, leave):
    gate = Gate()

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    sessions = Sessions(app)
    running = serve(sessions)
    with connected(running) as client:
        client.send(*[frame(TEXT, str(number)) for number in range(10)])
        go, code = LEAVING[leave]
        if leave == "RST":
            # a reset discards what the server has not read yet, so let it read first
            wait_until(lambda: gate.reached)
            client.send(frame(PING, "all read?"))
            assert client.read().payload == b"all read?"
        go(client)
        if leave == "Close":
            assert client.read_close()[0] == code
            client.ended()
            client.sock.close()
        wait_until(lambda: not running.context.connections)
        gate.open(running)
        assert sessions.disconnect()[0] == code
    texts = [message["text"] for message in sessions.last.received[1:-1]]
    assert texts == [str(number) for number in range(10)]
    nothing_stays(running)


@pytest.mark.parametrize("leave", ["RST", "FIN"])
@pytest.mark.parametrize(
    "behind",
    [b"\x81", frame(TEXT, "part")[:-1], frame(TEXT, "part", fin=False)],
    ids=["byte", "frame", "fragment"],
)
def test_client_gone_with_a_full_queue(serve, leave, behind):
    """Bytes wait behind the queue, and end within a frame; the disconnect comes last."""
    gate = Gate()

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    sessions = Sessions(app)
    running = serve(sessions, ws_max_queue=2)
    with connected(running) as client:
        client.send(*[frame(TEXT, str(number)) for number in range(6)], behind)
        wait_until(running.holds_back)
        LEAVING[leave][0](client)
        gate.open(running)
        code, _ = sessions.disconnect()
        assert code == 1006
    texts = [message["text"] for message in sessions.last.received[1:-1]]
    assert texts == [str(number) for number in range(6)]
    nothing_stays(running)


def test_client_gone_with_a_full_queue_while_the_application_sends(serve, errors):
    """send() raises, although nothing is read; receive() still returns the earlier messages."""
    sent = []

    async def app(scope, receive, send):
        await accept(receive, send)
        try:
            while True:
                await send_bytes(send, b"x" * 100_000)
                sent.append(1)
        except ClientDisconnected:
            while (await receive())["type"] == "websocket.receive":
                pass

    sessions = Sessions(app)
    running = serve(sessions, ws_max_queue=2)
    with connected(running, receive_buffer=4096) as client:
        client.send(*[frame(TEXT, str(number)) for number in range(6)], b"\x81")
        wait_until(lambda: all(c.write_paused for c in running.context.connections))
        client.reset()
        assert sessions.disconnect()[0] == 1006
    nothing_stays(running)
    assert not errors()


def test_send_while_messages_of_a_gone_client_wait_is_not_an_error(serve, errors):
    """receive() has not reported the disconnect yet: messages come first."""
    gate = Gate()

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        while True:
            await send_text(send, (await receive())["text"])

    sessions = Sessions(app)
    running = serve(sessions, ws_max_queue=2)
    with connected(running) as client:
        client.send(*[frame(TEXT, str(number)) for number in range(6)])
        wait_until(running.holds_back)
        client.reset()
        wait_until(lambda: not running.context.connections)
        gate.open(running)
        wait_until(lambda: sessions.last.ended)
    assert type(sessions.last.raised) is ClientDisconnected
    nothing_stays(running)
    assert not errors()


class WebSocketDisconnect(Exception):
    """Has the same name as Starlette's exception."""


def test_starlettes_disconnect_exception_is_not_an_error(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        assert (await receive())["type"] == "websocket.disconnect"
        raise WebSocketDisconnect(1000)

    running = serve(Sessions(app))
    with connected(running) as client:
        client.close()
    wait_until(lambda: not running.context.cycles)
    assert not errors()


def test_exception_group_of_disconnects_is_not_an_error(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        async with asyncio.TaskGroup() as group:
            group.create_task(send_text(send, "late"))
            group.create_task(send_text(send, "late"))

    running = serve(Sessions(app))
    with connected(running) as client:
        client.close()
    wait_until(lambda: not running.context.cycles)
    assert not errors()


def test_other_exceptions_behind_the_disconnect_are_errors(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        raise ValueError("mine")

    running = serve(Sessions(app))
    with connected(running) as client:
        client.close()
    wait_until(lambda: not running.context.cycles)
    wait_until(errors)
    assert len(errors()) == 1


def test_starlettes_disconnect_exception_is_an_error_while_connected(serve, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        raise WebSocketDisconnect(1000)

    with connected(serve(Sessions(app))) as client:
        assert client.read_close()[0] == 1011
    assert len(errors()) == 1


def test_send_behind_a_failure_of_the_client(serve, errors):
    """Once the server has closed the connection for the client's fault, send() raises as usual."""

    async def app(scope, receive, send):
        await accept(receive, send)
        assert (await receive())["code"] == 1002
        await send_text(send, "late")

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        client.send(frame(3))
        client.closed(1002)
    wait_until(lambda: sessions.last.ended)
    assert type(sessions.last.raised) is ClientDisconnected
    assert not errors()


def test_application_that_never_receives_does_not_keep_the_connection(serve):
    """The server answers the Close and closes TCP; the application may end later."""
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()

    running = serve(app)
    with connected(running) as client:
        client.close(1000)
    wait_until(lambda: not running.context.connections)
    assert len(running.context.cycles) == 1
    gate.open(running)
    nothing_stays(running)


def test_half_close_7_1_5(serve):
    """A client that closes its side of TCP has left, because it can no longer send a Close."""
    app = Sessions(echo)
    running = serve(app)
    with connected(running) as client:
        client.sock.shutdown(socket.SHUT_WR)
        client.is_reset()
        assert app.disconnect()[0] == 1006
    nothing_stays(running)

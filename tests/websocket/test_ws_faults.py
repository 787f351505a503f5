"""An invalid frame after complete messages: the application has a moment to answer those before
the server sends the Close for the fault.
"""

import asyncio
import contextlib
import time

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from support import PATIENCE, wait_until
from ws_apps import Gate, Sessions, accept, echo, send_text, shared_server, ws_only
from ws_client import (
    BINARY,
    CONT,
    DEFLATE,
    NO_MASK,
    PING,
    RSV1,
    RSV2,
    TEXT,
    Sender,
    connected,
    fragments,
    frame,
)

from thestral.errors import ClientDisconnected, LocalProtocolError
from thestral.protocol import websocket

server = shared_server(Sessions(echo))
# With this server, a fault is found when the application receives the message before it.
one_by_one = shared_server(Sessions(echo), ws_max_queue=1)

HELLO = frame(TEXT, "hello")
BAD = frame(TEXT, "bad", rsv=RSV2)
# What Autobahn sends in the cases with these numbers, and other faults, each after "hello".
SEQUENCES = {
    "3.2": (1002, HELLO, BAD, frame(PING)),
    "3.3": (1002, HELLO, frame(TEXT, "bad", rsv=RSV1 | RSV2), frame(PING)),
    "4.1.3": (1002, HELLO, frame(5), frame(PING)),
    "4.1.4": (1002, HELLO, frame(6, "bad"), frame(PING)),
    "4.2.3": (1002, HELLO, frame(13), frame(PING)),
    "4.2.4": (1002, HELLO, frame(14, "bad"), frame(PING)),
    "5.15": (1002, *fragments(TEXT, [b"hel", b"lo"]), frame(CONT, "bad", fin=False), HELLO),
    "unmasked": (1002, HELLO, frame(TEXT, "bad", mask=NO_MASK), HELLO),
    "within a message": (1002, HELLO, frame(TEXT, "part", fin=False), BAD),
    "no UTF-8": (1007, HELLO, frame(TEXT, b"\xff"), HELLO),
    "too large": (1009, HELLO, frame(BINARY, length=2**40)),
}


def send_in_two(client, data: bytes, cut: int) -> None:
    """The server may have closed the connection before the second part is sent."""
    client.send(data[:cut])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(data[cut:])


def answered_at_every_split(running, code: int, *frames: bytes) -> None:
    """Expect the echo of "hello", then the Close."""
    data = b"".join(frames)
    for cut in range(len(data) + 1):
        with connected(running) as client:
            send_in_two(client, data, cut)
            assert client.message() == "hello", cut
            client.closed(code)
        assert running.app.disconnect()[0] == code
        assert len(running.app.last.received) == 3


@pytest.mark.parametrize("name", SEQUENCES)
def test_message_before_a_fault_is_answered_at_every_split_7_1_7(server, name):
    answered_at_every_split(server, *SEQUENCES[name])


@pytest.mark.parametrize("name", SEQUENCES)
def test_message_that_fills_the_queue_before_a_fault_is_answered_7_1_7(one_by_one, name):
    answered_at_every_split(one_by_one, *SEQUENCES[name])


@pytest.mark.parametrize("queue", [1, 2, 32])
@pytest.mark.parametrize("count", [2, 3, 100])
def test_all_messages_before_a_fault_are_answered(serve, queue, count):
    texts = [str(number) for number in range(count)]
    with connected(serve(Sessions(echo), ws_max_queue=queue)) as client:
        client.send(*[frame(TEXT, text) for text in texts], BAD)
        assert [client.message() for _ in texts] == texts
        client.closed(1002)


def test_message_before_a_fault_is_answered_by_starlette(serve):
    async def echoing(socket: WebSocket):
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    running = serve(Starlette(routes=[WebSocketRoute("/", echoing)]))
    for frames in ((HELLO, BAD), (HELLO, HELLO, BAD)):
        with connected(running) as client:
            client.send(*frames)
            for _ in frames[1:]:
                assert client.message() == "hello"
            client.closed(1002)


def test_fault_in_a_compressed_message(server):
    """Inflating finds the fault; the message before it and its echo are compressed, too."""
    with connected(server, DEFLATE) as client:
        client.send(frame(TEXT, b"\x4a\x4c\x04\x00", rsv=RSV1), frame(TEXT, b"\x07", rsv=RSV1))
        assert client.read().opcode == TEXT
        client.closed(1007)


def test_fault_without_queued_messages_is_closed_at_once_though_the_application_is_busy(serve):
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        await gate.wait()

    running = serve(app)
    with connected(running) as client:
        client.send(HELLO)
        wait_until(lambda: gate.reached)
        client.send(BAD)
        client.closed(1002)
        gate.open(running)


# --- How long the Close waits, and what else may come first ---------------------------------------


class Slow:
    """Receives a message when its gate opens, and goes on as `step` says.

    Between "hello" and the gate the server knows of the fault and waits.
    """

    def __init__(self, step) -> None:
        self.gate = Gate()
        self.step = step
        self.sessions = Sessions(self.run)

    async def run(self, scope, receive, send) -> None:
        await accept(receive, send)
        await self.gate.wait()
        message = await receive()
        assert message == {"type": "websocket.receive", "text": "hello"}
        await self.step(receive, send)


@pytest.fixture
def patient(monkeypatch):
    """Make the Close for a fault wait longer than any test takes."""
    monkeypatch.setattr(websocket, "ANSWER_GRACE", 2 * PATIENCE)


@pytest.fixture
def known(caplog, errors):
    """Function that waits until the server knows about the fault."""
    return lambda: wait_until(lambda: "Closed the WebSocket of " in caplog.text)


async def answer(receive, send):
    await send_text(send, "answer")


async def answer_and_receive(receive, send):
    await send_text(send, "answer")
    assert (await receive())["type"] == "websocket.disconnect"
    with pytest.raises(ClientDisconnected):
        await send_text(send, "late")


async def answer_and_close(receive, send):
    await send_text(send, "answer")
    with pytest.raises(LocalProtocolError, match="code 1 may not be sent"):
        await send({"type": "websocket.close", "code": 1})
    await send({"type": "websocket.close", "code": 4000, "reason": "mine"})
    with pytest.raises(ClientDisconnected):
        await send_text(send, "late")
    await receive()


async def answer_and_raise(receive, send):
    await send_text(send, "answer")
    raise ZeroDivisionError


async def answer_later(receive, send):
    for _ in range(3):
        await asyncio.sleep(0)
    await send_text(send, "answer")
    assert (await receive())["type"] == "websocket.disconnect"


@pytest.mark.parametrize(
    "step", [answer, answer_and_receive, answer_and_close, answer_and_raise, answer_later]
)
def test_the_faults_close_follows_the_answer_whatever_the_application_does_next_7_1_7(
    serve, step, known, errors, patient
):
    app = Slow(step)
    running = serve(app.sessions)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        app.gate.open(running)
        assert client.message() == "answer"
        client.closed(1002)
        wait_until(lambda: app.sessions.last.ended)
        if step in (answer_and_receive, answer_and_close, answer_later):
            assert app.sessions.disconnect()[0] == 1002
    raised = app.sessions.last.raised
    assert type(raised) is (ZeroDivisionError if step is answer_and_raise else type(None))
    assert len(errors()) == (1 if step is answer_and_raise else 0)


def test_application_that_receives_no_more_does_not_keep_the_client(serve):
    """Pings, which use the same deadline, do not either. It still gets the queued messages."""
    app = Slow(answer_and_receive)
    running = serve(app.sessions, ws_ping_interval=0.05, ws_ping_timeout=0.05)
    with connected(running) as client:
        began = time.monotonic()
        client.send(HELLO, BAD)
        while (got := client.read()).opcode == PING:
            pass
        assert got.payload[:2] == (1002).to_bytes(2)
        assert 0.9 < time.monotonic() - began < 10
        client.ended()
        wait_until(lambda: not running.context.connections)
    app.gate.open(running)
    wait_until(lambda: app.sessions.last.ended)
    assert isinstance(app.sessions.last.raised, ClientDisconnected)  # raised by its send()
    assert [one["type"] for one in app.sessions.last.received] == [
        "websocket.connect",
        "websocket.receive",
    ]


def test_bytes_behind_the_fault_are_dropped(serve, known, patient):
    app = Slow(answer_and_receive)
    running = serve(app.sessions)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        Sender(client, frame(TEXT, b"x" * 10_000) * 1000).join()  # more than sockets hold
        (connection,) = running.context.connections
        assert not connection.reading_paused
        app.gate.open(running)
        assert client.message() == "answer"
        client.closed(1002)
    assert app.sessions.disconnect()[0] == 1002


@pytest.mark.parametrize("leave", ["RST", "FIN"])
def test_client_gone_before_the_answer_has_the_faults_code(serve, leave, known, errors, patient):
    app = Slow(answer_and_receive)
    running = serve(app.sessions)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        client.reset() if leave == "RST" else client.sock.close()
        wait_until(lambda: not running.context.connections)
        app.gate.open(running)
        wait_until(lambda: app.sessions.last.ended)
    assert isinstance(app.sessions.last.raised, ClientDisconnected)
    assert not errors()
    wait_until(lambda: not running.context.cycles)


@pytest.mark.parametrize("leave", ["RST", "FIN"])
def test_client_gone_before_receive_has_the_faults_code(serve, leave, known, patient):
    async def only_receive(receive, send):
        assert (await receive())["type"] == "websocket.disconnect"

    app = Slow(only_receive)
    running = serve(app.sessions)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        client.reset() if leave == "RST" else client.sock.close()
        wait_until(lambda: not running.context.connections)
        app.gate.open(running)
        assert app.sessions.disconnect()[0] == 1002


def test_shutdown_does_not_wait_for_the_answer(serve, known, errors, patient):
    """The fault's Close is sent at once; queued messages are still delivered."""

    async def only_receive(receive, send):
        assert (await receive())["type"] == "websocket.disconnect"

    app = Slow(only_receive)
    running = serve(app.sessions, timeout_graceful_shutdown=PATIENCE)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        running.server.should_exit = True
        client.closed(1002)
        app.gate.open(running)
        assert app.sessions.disconnect()[0] == 1002
    assert not errors()


def test_shutdown_after_the_answer(serve, known, patient):
    step = Gate()

    async def answer_and_wait(receive, send):
        await send_text(send, "answer")
        await step.wait()

    app = Slow(answer_and_wait)
    running = serve(app.sessions)
    with connected(running) as client:
        client.send(HELLO, BAD)
        known()
        app.gate.open(running)
        assert client.message() == "answer"
        running.server.should_exit = True
        client.closed(1002)
        step.open(running)

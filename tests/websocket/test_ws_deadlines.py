"""How long a WebSocket waits for the client's Close and for its Pongs."""

import itertools
import time

import pytest
from support import wait_until
from ws_apps import Gate, Sessions, accept, echo, send_text, sink, ws_only
from ws_client import PING, PONG, TEXT, close_frame, connected, frame

# --- ws_close_timeout: RFC 6455 section 7.1.1 -----------------------------------------------------


async def closer(scope, receive, send):
    await accept(receive, send)
    await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
    await receive()


@pytest.mark.parametrize(
    "behind",
    [b"", frame(TEXT, "x"), frame(PING, "x") * 100, b"\x81"],
    ids=["nothing", "text", "pings", "part of a frame"],
)
def test_client_that_does_not_answer_a_close(serve, behind, errors):
    """Messages that it sends instead do not count, and the application does not get them."""
    app = Sessions(closer)
    running = serve(app, ws_close_timeout=0.3)
    with connected(running) as client:
        assert client.read_close() == (4000, "enough")
        began = time.monotonic()
        client.send(behind)
        client.is_reset()  # Pongs may come first, and the end may be a reset
        assert 0.25 < time.monotonic() - began < 5
    wait_until(lambda: not running.context.connections)
    assert app.disconnect()[0] == 4000
    assert len(app.last.received) == 2
    assert not errors()


def test_client_that_goes_on_sending_does_not_put_the_end_off(serve):
    running = serve(Sessions(closer), ws_close_timeout=0.3)
    with connected(running) as client:
        assert client.read_close()[0] == 4000
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - began < 10:
                client.send(frame(TEXT, b"x" * 1000))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    [close_frame(4000), close_frame(1000, "bye"), close_frame()],
    ids=["same code", "another code", "empty"],
)
def test_client_that_answers_a_close_ends_at_once(serve, answer):
    running = serve(Sessions(closer), ws_close_timeout=1000)
    with connected(running) as client:
        assert client.read_close()[0] == 4000
        client.send(frame(TEXT, "late"), answer)
        client.ended()
    wait_until(lambda: not running.context.connections)


def test_nothing_is_sent_behind_the_servers_close_5_5_1(serve):
    running = serve(Sessions(closer))
    with connected(running) as client:
        assert client.read_close()[0] == 4000
        client.send(frame(TEXT, "late"), close_frame(4000))
        client.ended()


def test_end_of_tcp_is_an_answer_as_well(serve):
    running = serve(Sessions(closer), ws_close_timeout=1000)
    with connected(running) as client:
        assert client.read_close()[0] == 4000
    wait_until(lambda: not running.context.connections)


# --- ws_ping_interval, ws_ping_timeout ------------------------------------------------------------


def test_pings_come_again_and_again_5_5_2(serve):
    with connected(serve(Sessions(echo), ws_ping_interval=0.1, ws_ping_timeout=5)) as client:
        began = time.monotonic()
        for _ in range(4):
            got = client.read()
            assert got.opcode == PING
            client.send(frame(PONG, got.payload))
        assert 0.3 < time.monotonic() - began < 5
        client.works()


def test_client_that_answers_no_ping_5_5_2(serve, errors):
    app = Sessions(echo)
    running = serve(app, ws_ping_interval=0.1, ws_ping_timeout=0.2)
    with connected(running) as client:
        began = time.monotonic()
        while (got := client.read()).opcode == PING:
            pass
        assert got.payload == (1011).to_bytes(2) + b"keepalive ping timeout"
        assert 0.25 < time.monotonic() - began < 5
        client.ended()
    assert app.disconnect() == (1011, "keepalive ping timeout")
    assert not errors()


@pytest.mark.parametrize(
    "data",
    [frame(PONG), frame(PONG, "other"), frame(PING), frame(TEXT, "x")],
    ids=["pong", "other pong", "ping", "text"],
)
def test_whatever_comes_shows_life(serve, data):
    running = serve(Sessions(sink), ws_ping_interval=0.1, ws_ping_timeout=0.2)
    with connected(running) as client:
        pings = 0
        while pings < 5:
            got = client.read()
            assert got.opcode in (PING, PONG), got
            if got.opcode == PING:
                pings += 1
                client.send(data)
        client.send(close_frame(1000))
        while (got := client.read()).opcode == PONG or got.opcode == PING:
            pass
        assert got.payload == (1000).to_bytes(2)


def test_part_of_a_frame_shows_life(serve):
    running = serve(Sessions(echo), ws_ping_interval=0.05, ws_ping_timeout=0.1)
    data = frame(TEXT, "1234")
    with connected(running) as client:
        for at in itertools.count():
            if at == len(data):
                break
            assert client.read().opcode == PING
            client.send(data[at : at + 1])
        while (got := client.read()).opcode == PING:
            pass
        assert got.payload == b"1234"


@pytest.mark.parametrize("off", [0, None])
def test_pings_can_be_off(serve, off):
    """HTTP's time-outs do not end a WebSocket either, because the client owes nothing."""
    running = serve(Sessions(echo), ws_ping_interval=off)
    with connected(running) as client:
        (connection,) = running.context.connections
        client.text("x")
        assert client.message() == "x"
        assert running.call(lambda: connection.deadline) == 0.0
        client.works()


@pytest.mark.parametrize("off", [0, None])
def test_the_wait_for_an_answer_can_be_off(serve, off):
    running = serve(Sessions(echo), ws_ping_interval=0.05, ws_ping_timeout=off)
    with connected(running) as client:
        for _ in range(6):
            assert client.read().opcode == PING
        client.text("x")
        while (got := client.read()).opcode == PING:
            pass
        assert got.payload == b"x"


def test_client_is_not_blamed_for_what_the_server_does_not_read(serve):
    """The application receives nothing, so the server reads nothing and does not see the Pongs."""
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        await send_text(send, "woke")
        while (message := await receive())["type"] == "websocket.receive":
            await send(message | {"type": "websocket.send"})

    running = serve(app, ws_max_queue=1, ws_ping_interval=0.1, ws_ping_timeout=0.2)
    with connected(running) as client:
        client.send(*[frame(TEXT, "x")] * 10)
        wait_until(running.holds_back)
        began = time.monotonic()
        wait_until(lambda: not running.context.connections or time.monotonic() - began > 0.6)
        assert running.context.connections
        gate.open(running)
        got = client.read()
        while got.opcode == PING:
            client.send(frame(PONG, got.payload))
            got = client.read()
        assert got.payload == b"woke"


def test_the_deadline_of_the_head_ends_with_it(serve):
    running = serve(Sessions(echo), timeout_head=0.1, timeout_keep_alive=0.1, timeout_body=0.1)
    with connected(running) as client:
        (connection,) = running.context.connections
        now = running.context.clock.now
        wait_until(lambda: running.context.clock.now > now + 0.5)
        assert connection in running.context.connections
        client.works()

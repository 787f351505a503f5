"""WebSocket over HTTP/2 (RFC 8441): what differs for an application and its clients."""

from __future__ import annotations

import random

import pytest
from apps import Gate, echo
from driven import DrivenLoop
from frames import Code, Setting, data, headers, rst_stream
from leaks import nothing_stays, only_ours  # noqa: F401
from support import wait_until
from ws_apps import Sessions, ws_only
from ws_apps import echo as ws_echo
from ws_client import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame

from thestral.errors import LocalProtocolError
from thestral.protocol.clock import SLOWEST_TICK


def open_websocket(client, *extra, path="/", version="13", accepted=200):
    """Send an extended CONNECT, and return its stream once it is answered with this status; None
    for no answer yet.
    """
    stream = client._next_stream
    client._next_stream += 2
    fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        *client.fields(path=path)[1:],
        ("sec-websocket-version", version),
        *extra,
    ]
    client.send(headers(stream, client.encoder.encode(fields)))
    if accepted is not None:
        client.wait(lambda: client.on(stream).status)
        assert client.on(stream).status == accepted
    return stream


CLOSED = bytes([0x80 | CLOSE, 2]) + (1000).to_bytes(2, "big")


@pytest.mark.parametrize("first", ["client", "server"])
def test_close_handshake_ends_the_stream_on_both_sides(serve, open_client, first):
    """The server ends its side and waits for the client's; browsers would take a reset for 1006."""

    async def app(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        if first == "server":
            await send({"type": "websocket.close", "code": 1000})
        await receive()

    sessions = Sessions(app)
    running = serve(sessions)
    client = open_client(running)
    stream = open_websocket(client)
    answer = client.on(stream)
    if first == "server":
        client.wait(lambda: answer.body == CLOSED)
        client.alive()
        assert not answer.ended
    client.send(data(stream, close_frame(1000)))
    client.wait(lambda: answer.ended)
    assert answer.body == CLOSED
    client.alive()
    client.send(data(stream, end=True))
    client.alive()
    assert answer.reset is None
    assert sessions.disconnect()[0] == 1000
    client.close()
    sessions.all.clear()
    nothing_stays(running)


def test_data_behind_the_end_of_a_websocket_gives_its_window_back(serve, open_client):
    """Otherwise the connection's would be used up for good."""

    async def app(scope, receive, send):
        await (Sessions(ws_echo) if scope["type"] == "websocket" else echo)(scope, receive, send)

    client = open_client(serve(app, http2_connection_window=65_535))
    stream = open_websocket(client)
    client.send(data(stream, close_frame(1000)))
    client.wait(lambda: client.on(stream).ended)
    before = client.credit
    for _ in range(3):
        client.send(data(stream, bytes(16_000)))
    client.wait(lambda: client.credit - before >= 48_000)


def test_close_handshake_whose_client_does_not_end_is_reset(serve, open_client):
    client = open_client(serve(Sessions(ws_echo)))
    stream = open_websocket(client)
    answer = client.on(stream)
    client.send(data(stream, close_frame(1000)))
    client.wait(lambda: answer.reset is not None)
    assert (answer.ended, answer.reset) == (True, Code.CANCEL)
    client.alive()


@pytest.mark.parametrize("how", ["reset", "end"])
def test_websocket_whose_stream_ends_is_1006(serve, open_client, errors, how):
    sessions = Sessions(ws_echo)
    running = serve(sessions)
    client = open_client(running)
    other = open_websocket(client)
    stream = open_websocket(client)
    client.send(rst_stream(stream) if how == "reset" else data(stream, end=True))
    assert sessions.disconnect() == (1006, "")
    client.send(data(other, frame(TEXT, "still here")))
    client.wait(lambda: client.on(other).body.endswith(b"still here"))
    client.close()
    wait_until(lambda: all(session.ended for session in sessions.all))
    sessions.all.clear()
    nothing_stays(running)
    assert not errors()


def test_many_websockets_beside_requests(serve, open_client):
    websockets = Sessions(ws_echo)

    async def app(scope, receive, send):
        await (websockets if scope["type"] == "websocket" else echo)(scope, receive, send)

    running = serve(app)
    client = open_client(running)
    streams = [open_websocket(client) for _ in range(40)]
    for turn in range(3):
        for stream in streams:
            client.send(data(stream, frame(TEXT, f"{stream}.{turn};")))
        for stream in streams:
            client.wait(
                lambda stream=stream, turn=turn: (
                    b"%d.%d;" % (stream, turn) in client.on(stream).body
                )
            )
        assert client.finished(client.request("POST", body=b"x")).body == b"POST / x"
    client.close()
    websockets.all.clear()
    nothing_stays(running)


def test_websocket_that_is_not_read_stops_its_application_alone(serve, open_client):
    sent = []

    @ws_only
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/":
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 10_000})
                sent.append(1)

    running = serve(app)
    client = open_client(running, (Setting.INITIAL_WINDOW_SIZE, 20_000))
    stream = open_websocket(client)
    client.wait(lambda: len(client.on(stream).body) == 20_000)
    client.alive()
    taken = len(sent)
    assert taken < 12  # a window, and the queue
    client.alive()
    assert len(sent) == taken
    client.close()
    nothing_stays(running)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_denial_that_would_accept_is_refused(serve, open_client, errors, status):
    """RFC 8441 section 5: any 2xx accepts, as 101 does over HTTP/1.1."""
    raised = []

    @ws_only
    async def app(scope, receive, send):
        await receive()
        try:
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        except LocalProtocolError as exc:
            raised.append(str(exc))
            raise

    client = open_client(serve(app))
    assert client.finished(open_websocket(client, accepted=500)).status == 500
    assert "RFC 8441" in raised[0]
    wait_until(errors)


def test_messages_do_not_put_off_the_ping(serve, open_client):
    """timeout_body is not for a tunnel."""
    running = serve(Sessions(ws_echo), ws_ping_interval=20, timeout_body=60, timeout_keep_alive=60)
    clock = DrivenLoop.drive(running)
    client = open_client(running)
    stream = open_websocket(client)
    answer = client.on(stream)
    client.send(data(stream, frame(TEXT, "hello")))
    client.wait(lambda: answer.body.endswith(b"hello"))
    said = len(answer.body)
    running.call(lambda: clock.move(20 + 2 * SLOWEST_TICK))
    client.wait(lambda: len(answer.body) > said)
    assert answer.body[said] == 0x80 | PING


def test_other_versions_are_426_without_upgrade(serve, open_client):
    """The field that names the version is RFC 6455's; Upgrade is HTTP/1.1's."""
    client = open_client(serve(Sessions(ws_echo)))
    stream = open_websocket(client, version="8", accepted=426)
    answer = client.finished(stream)
    assert answer.value(b"sec-websocket-version") == b"13"
    assert answer.value(b"upgrade") is None
    client.alive()


EARLY = {
    "text": (frame(TEXT, "x"), bytes([0x80 | TEXT, 1]) + b"x"),
    "ping": (frame(PING, "x"), bytes([0x80 | PONG, 1]) + b"x"),
    "close": (close_frame(1000), CLOSED),
    "fault": (frame(3), bytes([0x80 | CLOSE])),
}


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("accepts", [True, False])
def test_frames_before_the_answer_are_read_behind_it(serve, open_client, early, accepts):
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await gate.wait()
        if accepts:
            await ws_echo(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close"})

    running = serve(app)
    client = open_client(running)
    sent, got = EARLY[early]
    stream = open_websocket(client, accepted=None)
    client.send(data(stream, sent))
    client.alive()
    assert client.on(stream).status is None
    gate.open(running)
    if accepts:
        client.wait(lambda: client.on(stream).body.startswith(got))
        assert client.on(stream).status == 200
    else:
        assert client.finished(stream).status == 403
    client.close()
    nothing_stays(running)


@pytest.mark.parametrize("how", ["reset", "end", "close"])
def test_client_that_leaves_behind_frames_before_the_answer(serve, open_client, how):
    sessions = Sessions(waits_for_the_end)
    running = serve(sessions)
    client = open_client(running)
    stream = open_websocket(client, accepted=None)
    client.send(data(stream, frame(TEXT, "x") + b"\x81"))
    client.alive()
    wait_until(lambda: sessions.calls)
    if how == "reset":
        client.send(rst_stream(stream))
    elif how == "end":
        client.send(data(stream, end=True))
        client.wait(lambda: client.on(stream).reset is not None)
        assert client.on(stream).reset == Code.CANCEL
    else:
        client.close()
    assert sessions.disconnect() == (1006, "")
    client.close()
    sessions.all.clear()
    nothing_stays(running)


async def waits_for_the_end(scope, receive, send):
    while (await receive())["type"] != "websocket.disconnect":
        pass


def test_compression_windows_of_many_websockets_on_one_connection(serve, open_client):
    """They are given back after each message: a connection may have any number."""
    many = 1000  # MANY of protocol/websocket.py
    running = serve(Sessions(ws_echo), http2_max_streams=many + 1, ws_deflate_min_size=0)
    client = open_client(running)
    noise = bytes(random.Random(1).choices(range(256), k=1000))
    offer = ("sec-websocket-extensions", "permessage-deflate")
    stream = open_websocket(client, offer)
    answer = client.on(stream)

    def round_trip() -> int:
        before = len(answer.body)
        client.send(data(stream, frame(BINARY, noise)))
        client.wait(lambda: len(answer.body) > before)
        client.alive()
        return len(answer.body) - before

    assert round_trip() > 1000
    assert round_trip() < 100  # refers to the first
    for _ in range(many):
        open_websocket(client)
    assert round_trip() < 100
    assert round_trip() > 1000
    assert round_trip() > 1000

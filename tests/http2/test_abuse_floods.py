"""Floods: frames and requests that cost the client little and the server much."""

from __future__ import annotations

import asyncio
import logging

import pytest
from abuse import (
    CALM,
    FLOOD,
    LARGEST_WINDOW,
    MIB,
    STREAMS,
    Counting,
    Large,
    answer,
    echo,
    flood,
    memory,
    request,
    requests,
)
from apps import http_only, respond
from frames import (
    Client,
    Code,
    Frame,
    Setting,
    Type,
    data,
    headers,
    literal,
    ping,
    priority,
    priority_update,
    rst_stream,
    settings,
    window_update,
)
from support import wait_until

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


# --- Resets: CVE-2023-44487, CVE-2025-8671 --------------------------------------------------------


def test_rapid_reset_ends_the_connection(serve, open_client):
    app = Counting(answer)
    client = open_client(serve(app))
    flood(client, b"".join(request(client, i) + rst_stream(i) for i in range(1, 2 * FLOOD, 2)))
    assert app.started <= 16, "a stream that is reset in the read that opened it never starts"


def test_connection_that_is_ended_for_abuse_is_logged_once(serve, open_client, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    client = open_client(serve(Counting(answer)))
    caplog.set_level(logging.INFO, "thestral.error")
    flood(client, b"".join(request(client, i) + rst_stream(i) for i in range(1, 2 * FLOOD, 2)))
    wait_until(lambda: caplog.records)
    assert len(caplog.records) == 1, caplog.messages


def test_requests_wait_for_applications_that_do_not_return(serve, open_client):
    release = asyncio.Event()

    async def stubborn(scope, receive, send):
        await release.wait()
        await respond(send, b"late")

    app = Counting(stubborn)
    running = serve(app)
    client = open_client(running)
    streams = [client.request() for _ in range(STREAMS)]
    wait_until(lambda: app.running == STREAMS)
    client.send(*map(rst_stream, streams))
    client.alive()
    late = client.request()
    client.alive()
    assert app.started == STREAMS
    running.loop.call_soon_threadsafe(release.set)
    assert client.finished(late).status == 200
    wait_until(lambda: app.running == 0)
    assert app.started == STREAMS + 1


@pytest.mark.parametrize("most", [1, 10])
def test_no_more_applications_run_than_streams_are_allowed(serve, open_client, most):
    release = asyncio.Event()

    async def waiting(scope, receive, send):
        await release.wait()
        await respond(send)

    app = Counting(waiting)
    running = serve(app, http2_max_streams=most)
    client = open_client(running)
    assert client.server[Setting.MAX_CONCURRENT_STREAMS] == most
    streams = [client.request() for _ in range(most)]
    one_more = client.request()
    client.wait(lambda: client.on(one_more).reset is not None)
    assert client.on(one_more).reset == Code.REFUSED_STREAM
    running.loop.call_soon_threadsafe(release.set)
    for stream in streams:
        assert client.finished(stream).status == 200
    assert app.most == most


def post_too_much(client: Client, stream: int) -> bytes:
    fields = ("content-length", "1")
    head = request(client, stream, fields, method="POST", end=False)
    return head + data(stream, b"xx", end=True)


PROVOKED = {  # frames that make the server reset a stream that was opened correctly
    "window by 0": lambda client, i: request(client, i, end=False) + window_update(i, 0),
    "window over its maximum": lambda client, i: (
        request(client, i, end=False) + window_update(i, LARGEST_WINDOW)
    ),
    "PRIORITY too short": lambda client, i: (
        request(client, i, end=False) + bytes(Frame(Type.PRIORITY, 0, i, b"1234"))
    ),
    "DATA behind the end": lambda client, i: request(client, i) + data(i, b"x" * 64),
    "more than content-length": post_too_much,
    "connection field": lambda client, i: request(client, i, ("connection", "close")),
    "trailers without end": lambda client, i: (
        request(client, i, method="POST", end=False) + headers(i, literal(b"a", b"b"))
    ),
}


@pytest.mark.parametrize("provoked", PROVOKED.values(), ids=PROVOKED)
def test_resets_that_the_client_provokes_end_the_connection(serve, open_client, provoked):
    app = Counting(answer)
    client = open_client(serve(app))
    client.send(b"".join(provoked(client, i) for i in range(1, 2 * FLOOD, 2)))
    assert client.end() in (Code.ENHANCE_YOUR_CALM, Code.STREAM_CLOSED), str(client)
    assert client.frames.get(Type.RST_STREAM, 0) < FLOOD // 4
    assert app.most <= STREAMS


def test_refused_streams_without_end_end_the_connection(serve, open_client):
    client = open_client(serve(Counting(answer), http2_max_streams=4))
    blob = [request(client, i, method="POST", end=False) for i in range(1, 2 * FLOOD, 2)]
    flood(client, b"".join(blob))
    assert client.frames.get(Type.RST_STREAM, 0) < FLOOD // 4


def test_browser_that_cancels_its_images_goes_on(serve, open_client):
    app = Large(MIB)

    @http_only
    async def page(scope, receive, send):
        await (app if scope["path"] == "/image" else answer)(scope, receive, send)

    client = open_client(serve(Counting(page)))
    client.refill = True
    for _ in range(3):
        images = [client.request(path="/image") for _ in range(100)]
        client.wait(lambda streams=images: all(client.on(stream).status for stream in streams))
        client.send(*map(rst_stream, images))
        requests(client, 100)
    client.alive()


def test_thousands_of_small_requests_on_a_connection_are_answered(serve, open_client):
    client = open_client(serve(Counting(answer)))
    requests(client, 4_100)
    client.alive()


# --- Floods of small frames: CVE-2019-9512, -9515, -9518 ------------------------------------------

FLOODS = {
    "PING": lambda i: ping(i.to_bytes(8, "big")),
    "SETTINGS": lambda i: settings((Setting.INITIAL_WINDOW_SIZE, 65_535 + i % 2)),
    "empty SETTINGS": lambda i: settings(),
    "PRIORITY": lambda i: priority(1 + 2 * (i % 100), 0, i % 256),
    "PRIORITY of one stream": lambda i: priority(3, 1, i % 256),
    "PRIORITY_UPDATE": lambda i: priority_update(1, b"u=%d" % (i % 8)),
    "WINDOW_UPDATE": lambda i: window_update(0, 1),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_flood_of_frames_ends_the_connection(serve, open_client, frame):
    client = open_client(serve(Counting(answer)))
    flood(client, b"".join(map(frame, range(FLOOD))))


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_flood_of_a_client_that_does_not_read_is_not_queued(serve, open_client, frame):
    running = serve(Counting(answer))
    client = open_client(running)
    blob = 20 * b"".join(map(frame, range(FLOOD)))
    before = memory()
    client.flood(blob)
    assert memory() - before < 8 * MIB
    other = open_client(running)
    assert other.finished(other.request()).status == 200


def test_window_updates_of_a_stream_without_data_end_the_connection(serve, open_client):
    client = open_client(serve(Counting(answer)))
    client.send(request(client, 1, method="POST", end=False))
    flood(client, window_update(1, 1) * FLOOD)


@pytest.mark.parametrize(("entries", "passes"), [(32, True), (33, False)])
def test_settings_have_32_entries_at_most(serve, open_client, entries, passes):
    client = open_client(serve(Counting(answer)))
    client.send(settings(*((0xF000 + i, i) for i in range(entries))))
    if passes:
        client.wait(lambda: client.settings_acked == client.settings_sent)
        requests(client, 1)
    else:
        assert client.end() in CALM, str(client)


def test_empty_data_without_end_is_a_flood(serve, open_client):
    delivered = []

    @http_only
    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            delivered.append(len(message["body"]))

    client = open_client(serve(app))
    client.send(request(client, 1, method="POST", end=False) + data(1, b"") * FLOOD)
    assert client.end() in CALM, str(client)
    assert 0 not in delivered, "an empty part was delivered"


def test_tiny_data_that_is_not_received_takes_little_memory(serve, open_client):
    release = asyncio.Event()
    frames = 30_000  # 60,000 bytes: within a stream's first window

    async def late(scope, receive, send):
        await release.wait()
        await answer(scope, receive, send)

    running = serve(Counting(late))
    client = open_client(running)
    before = memory()
    streams = [client.request(method="POST", end=False) for _ in range(16)]
    for stream in streams:
        client.send(data(stream, b"xy") * frames)
    client.alive()
    assert memory() - before < 8 * MIB  # an object for each would take 20 MiB
    running.loop.call_soon_threadsafe(release.set)
    for stream in streams:
        client.send(data(stream, b"", end=True))
        assert client.finished(stream).status == 200


def test_tiny_data_that_is_received_is_allowed(serve, open_client):
    client = open_client(serve(Counting(echo)))
    client.send(request(client, 1, method="POST", end=False))
    for _ in range(40):
        client.send(data(1, b"x") * 500)
        client.alive()
    client.send(data(1, b"", end=True))
    assert client.finished(1).body == b"x" * 20_000


def test_priority_update_is_kept_for_as_many_streams_as_may_be_open(serve, open_client):
    client = open_client(serve(Counting(answer)))
    client.send(b"".join(priority_update(1 + 2 * i, b"u=1") for i in range(STREAMS)))
    client.alive()
    client.send(b"".join(priority_update(10_001 + 2 * i, b"u=1") for i in range(FLOOD)))
    assert client.end() in CALM, str(client)


def test_keep_alive_pings_beside_requests_are_answered(serve, open_client):
    client = open_client(serve(Counting(answer)))
    for _ in range(2_000):
        client.alive()
        requests(client, 1)


def test_burst_of_pings_is_answered(serve, open_client):
    """gRPC sends PINGs for keep-alive and to estimate bandwidth, all at once after a pause."""
    client = open_client(serve(Counting(answer)))
    client.send(*(ping(i.to_bytes(8, "big")) for i in range(300)))
    client.wait(lambda: client.pongs and client.pongs[-1] == (299).to_bytes(8, "big"))
    client.alive()


def test_empty_data_with_end_stream_is_allowed(serve, open_client):
    client = open_client(serve(Counting(answer)))
    for _ in range(20):
        streams = [client.request("POST", body=b"") for _ in range(100)]
        for stream in streams:
            assert client.finished(stream).status == 200
    client.alive()


def test_small_messages_both_ways_are_allowed(serve, open_client):
    """gRPC sends short messages after a prefix of five bytes, each answered in turn."""
    client = open_client(serve(Counting(echo)))
    client.refill = True
    stream = client.request("POST", "/", ("te", "trailers"), end=False)
    exchange = client.on(stream)
    sent = b""
    for i in range(2_000):
        message = b"\x00\x00\x00\x00\x07" + b"%07d" % i
        client.send(data(stream, message))
        sent += message
        client.wait(lambda sent=sent: len(exchange.body) == len(sent))
    client.send(data(stream, end=True))
    assert client.finished(stream).body == sent
    client.alive()


def test_small_messages_in_bursts_are_allowed(serve, open_client):
    client = open_client(serve(Counting(echo)))
    client.refill = True
    streams = [client.request("POST", end=False) for _ in range(20)]
    for i in range(200):
        message = b"\x00\x00\x00\x00\x07" + b"%07d" % i
        client.send(b"".join(data(stream, message) for stream in streams))
        client.wait(lambda had=12 * (i + 1): all(len(client.on(s).body) == had for s in streams))
    client.send(b"".join(data(stream, end=True) for stream in streams))
    for stream in streams:
        assert client.finished(stream).status == 200
    client.alive()


def test_priorities_of_old_clients_are_allowed(serve, open_client):
    """Firefox and nghttp send five groups, a dependency for each request, and changes to them."""
    client = open_client(serve(Counting(answer)))
    groups = ((3, 0, 200), (5, 0, 100), (7, 0, 0), (9, 7, 0), (11, 3, 0))
    client.send(b"".join(priority(*group) for group in groups))
    for i in range(13, 13 + 2 * 1_000, 2):
        block = request(client, i)[9:]
        client.send(headers(i, block, end=True, priority=(11, 21, False)), priority(i, 3, 41))
        assert client.finished(i).status == 200
    client.alive()


def test_priority_updates_of_browsers_are_allowed(serve, open_client):
    client = open_client(serve(Counting(answer)))
    for i in range(1, 2 * 1_000, 2):
        fields = ("priority", "u=1, i")
        client.send(
            priority_update(i, b"u=3"), request(client, i, fields), priority_update(i, b"u=0")
        )
        assert client.finished(i).status == 200
    client.alive()

"""Memory that a client can make the server hold, by its windows and by its content."""

from __future__ import annotations

import asyncio

import pytest
from abuse import (
    FLOOD,
    MIB,
    Counting,
    Large,
    answer,
    memory,
    requests,
)
from apps import http_only, read_body, respond
from frames import (
    DEFAULTS,
    Code,
    Setting,
    data,
    rst_stream,
    window_update,
)

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


# --- Windows: CVE-2019-9511, CVE-2019-9517 --------------------------------------------------------


def sent_as_path(path):
    """An application that has the server send a file."""

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(path)})

    return app


def sent_as_file(path):
    """An application that opens the file itself."""

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with open(path, "rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file})

    return app


QUEUE_MAX = 64 * 1024  # bytes of a stream above which send() waits: of thestral.protocol.streams


@pytest.mark.parametrize(
    "make",
    [
        lambda _: Large(16 * MIB),
        lambda _: Large(16 * MIB, piece=1024),
        sent_as_path,
        sent_as_file,
    ],
    ids=["64 KiB", "1 KiB", "pathsend", "zerocopysend"],
)
def test_stalled_streams_hold_only_queued_output(serve, open_client, tmp_path, make):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
    app = make(path)
    running = serve(Counting(app), pathsend=True, zerocopysend=True)
    client = open_client(running, (Setting.INITIAL_WINDOW_SIZE, 0))
    before = memory()
    streams = [client.request() for _ in range(100)]
    client.wait(lambda: all(client.on(stream).status for stream in streams))
    for _ in range(20):
        client.alive()
    assert memory() - before < 10 * MIB
    if isinstance(app, Large):
        assert app.given * app.piece <= len(streams) * QUEUE_MAX  # then send() waits
    client.send(*(window_update(stream, 16 * MIB) for stream in streams[:3]))
    client.refill = True
    client.send(window_update(0, MIB))
    for stream in streams[:3]:
        assert len(client.finished(stream).body) == 16 * MIB


def test_large_bodies_sent_in_one_message_are_not_copied(serve, open_client):
    body = bytes(16 * MIB)

    @http_only
    async def app(scope, receive, send):
        await respond(send, body)

    client = open_client(serve(Counting(app)), (Setting.INITIAL_WINDOW_SIZE, 0))
    before = memory()
    streams = [client.request() for _ in range(100)]
    client.wait(lambda: all(client.on(stream).status for stream in streams))
    client.alive()
    assert memory() - before < 10 * MIB


def test_unread_stream_is_reset_and_others_go_on(serve, open_client):
    app = Large(MIB)

    @http_only
    async def both(scope, receive, send):
        await (app if scope["path"] == "/large" else answer)(scope, receive, send)

    client = open_client(serve(Counting(both), timeout_write=0.5))
    stalled = client.request(path="/large")
    client.wait(lambda: client.on(stalled).reset is not None)
    assert client.on(stalled).reset == Code.CANCEL
    assert len(client.on(stalled).body) <= DEFAULTS[Setting.INITIAL_WINDOW_SIZE]
    client.send(window_update(0, MIB))
    requests(client, 10)


def test_dripping_window_ends_the_connection(serve, open_client):
    """The client grants a byte at a time, each of which costs the server a frame."""
    client = open_client(serve(Counting(Large(MIB))), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    exchange = client.on(stream)
    for _ in range(FLOOD):
        before = len(exchange.body)
        client.send(window_update(stream, 1))
        client.wait(lambda had=before: client.goaways or len(exchange.body) > had or client.closed)
        if client.goaways:
            break
    assert client.end() == Code.ENHANCE_YOUR_CALM


def test_download_through_small_windows_is_whole(serve, open_client):
    client = open_client(serve(Counting(Large(2 * MIB))), (Setting.INITIAL_WINDOW_SIZE, 4_096))
    client.refill = True
    assert len(client.finished(client.request()).body) == 2 * MIB
    client.alive()


def test_window_updates_for_each_frame_of_downloads_are_allowed(serve, open_client):
    client = open_client(serve(Counting(Large(8 * MIB))))
    client.refill = True
    streams = [client.request() for _ in range(4)]
    for stream in streams:
        assert len(client.finished(stream).body) == 8 * MIB
    client.alive()


# --- Memory that a connection may hold ------------------------------------------------------------


def test_unread_bodies_are_bounded_by_the_windows(serve, open_client):
    """Unread streams hold 64 KiB each, and 1 MiB in all on a connection."""
    release = asyncio.Event()

    async def deaf(scope, receive, send):
        await release.wait()

    running = serve(Counting(deaf))
    client = open_client(running)
    client.alive()  # every WINDOW_UPDATE that the server sends at once has come
    initial = client.server[Setting.INITIAL_WINDOW_SIZE]
    assert initial <= 65_536
    streams = [client.request("POST", end=False) for _ in range(64)]
    for stream in streams:
        while (size := min(client.room(stream), 16_384)) > 0:
            client.send(data(stream, bytes(size)))
            client.on(stream).uploaded += size
    for _ in range(5):
        client.alive()
    assert sum(client.on(stream).credit for stream in streams) == 0
    assert client.credit + DEFAULTS[Setting.INITIAL_WINDOW_SIZE] <= MIB
    had = client.credit
    client.send(*map(rst_stream, streams))  # dropped bytes are given back to the window
    client.wait(lambda: client.credit - had >= MIB // 2)
    running.loop.call_soon_threadsafe(release.set)


@pytest.mark.parametrize("over", [0, 1])
def test_stream_takes_no_more_than_its_window(serve, open_client, over):
    release = asyncio.Event()

    async def deaf(scope, receive, send):
        await release.wait()

    running = serve(Counting(deaf))
    client = open_client(running)
    stream = client.request("POST", end=False)
    left = client.server[Setting.INITIAL_WINDOW_SIZE] + over
    while left:
        size = min(left, 16_384)
        client.send(data(stream, bytes(size)))
        left -= size
    if over:
        client.wait(lambda: client.goaways or client.on(stream).reset is not None)
        code = client.goaways[-1][1] if client.goaways else client.on(stream).reset
        assert code == Code.FLOW_CONTROL_ERROR
    else:
        client.alive()
        assert client.on(stream).reset is None
    running.loop.call_soon_threadsafe(release.set)


def test_padding_is_counted_against_the_windows_and_given_back(serve, open_client):
    client = open_client(serve(Counting(answer)))
    stream = client.request("POST", end=False)
    client.upload(stream, bytes(200_000), piece=100, pad=155)
    assert client.finished(stream).status == 200
    client.alive()


def test_large_upload_to_a_reader_is_taken(serve, open_client):
    client = open_client(serve(Counting(answer)))
    stream = client.request("POST", "/", ("content-length", str(8 * MIB)), end=False)
    client.upload(stream, bytes(8 * MIB))
    assert client.finished(stream).status == 200


def test_uploads_side_by_side_share_the_connection(serve, open_client):
    """One application does not read until another upload is complete."""
    second = asyncio.Event()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/first":
            await second.wait()
        body = await read_body(receive)
        second.set()
        await respond(send, str(len(body)).encode())

    client = open_client(serve(app))
    first = client.request("POST", "/first", end=False)
    opening = bytes(client.room(first))
    for at in range(0, len(opening), 16_384):
        part = opening[at : at + 16_384]
        client.send(data(first, part))
        client.on(first).uploaded += len(part)
    other = client.request("POST", "/second", end=False)
    client.upload(other, bytes(4 * MIB))
    assert int(client.finished(other).body) == 4 * MIB
    client.upload(first, bytes(MIB))
    assert int(client.finished(first).body) == MIB + len(opening)

"""What a hostile client can cost, each attack with its bound, and beside it the honest traffic that
looks alike and must not be punished.

The numbers are those of the design: budgets refill by time, so a flood is far larger than what
could come back while it runs, and honest traffic spends no more than it earns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

import pytest
from apps import http_only, read_body, respond
from frames import (
    DEFAULTS,
    INCREMENTAL,
    PREFACE,
    Client,
    Code,
    Frame,
    Setting,
    Type,
    connect,
    continuation,
    data,
    headers,
    literal,
    literals,
    ping,
    priority,
    priority_update,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from h2_servers import start
from support import wait_until

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)

MIB = 1 << 20
FLOOD = 20_000  # frames: far more than any budget, also after some seconds of refill
STREAMS = 128  # http2_max_streams
LARGEST_WINDOW = 2**31 - 1


class Counting:
    """An application that counts its runs.

    Attributes:
        started, running, most: how many in all, now, and at once.
    """

    def __init__(self, app) -> None:
        self.app = app
        self.started = self.running = self.most = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.app(scope, receive, send)
        except OSError:  # the client has gone
            pass
        finally:
            self.running -= 1


async def answer(scope, receive, send) -> None:
    await read_body(receive)
    await respond(send, b"hello")


async def echo(scope, receive, send) -> None:
    """Sends back what comes, as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


class Large:
    """An application that sends so many bytes in pieces.

    Attributes:
        given: how many pieces it has given.
    """

    def __init__(self, size: int, piece: int = 64 * 1024) -> None:
        self.size = size
        self.piece = piece
        self.given = 0

    async def __call__(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.size // self.piece):
            self.given += 1
            part = b"x" * self.piece  # zeros need not be in memory
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})


def memory() -> int:
    """Bytes of this process that are in memory; the server is in it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def request(client: Client, stream: int, *extra: tuple[str, str], method: str = "GET", end=True):
    """HEADERS of a request without HPACK's state, for floods."""
    fields = client.fields(method, "/", extra)
    block = literals((name.encode(), value.encode()) for name, value in fields)
    return headers(stream, block, end=end)


def flood(client: Client, blob: bytes) -> None:
    """The server ends the connection, and says why."""
    client.send(blob)
    assert client.end() == Code.ENHANCE_YOUR_CALM, str(client)
    assert client.goaways[-1][2], "no debug data"


def requests(client: Client, count: int, at_once: int = 100) -> None:
    """So many requests, all answered."""
    for begin in range(0, count, at_once):
        streams = [client.request() for _ in range(min(at_once, count - begin))]
        for stream in streams:
            assert client.finished(stream).status == 200


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


PROVOKED = {  # what makes the server reset a stream that was opened in order
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


# --- CONTINUATION: CVE-2024-27316 -----------------------------------------------------------------

CALM = (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("fragment", [b"", b"\x00", literal(b"x", b"y" * 500)])
def test_continuation_without_end_ends_the_connection(serve, open_client, fragment):
    app = Counting(answer)
    client = open_client(serve(app))
    head = headers(1, literals([(b":method", b"GET")]), end_headers=False)
    blob = head + continuation(1, fragment, end_headers=False) * FLOOD
    before = memory()
    client.flood(blob)
    assert client.end() in CALM, str(client)
    assert memory() - before < 8 * MIB
    assert app.started == 0


@pytest.mark.parametrize(("count", "passes"), [(1, True), (7, True), (8, True), (9, False)])
def test_eight_continuation_frames_are_taken(serve, open_client, count, passes):
    client = open_client(serve(Counting(answer)))
    whole = request(client, 1, ("x", "y" * 4_000))[9:]
    size = len(whole) // (count + 1)
    parts = [whole[size * i : size * (i + 1)] for i in range(count)] + [whole[size * count :]]
    client.send(headers(1, parts[0], end=True, end_headers=False))
    for part in parts[1:-1]:
        client.send(continuation(1, part, end_headers=False))
    client.send(continuation(1, parts[-1]))
    if passes:
        assert client.finished(1).status == 200
    else:
        assert client.end() in CALM, str(client)


def test_empty_continuation_may_end_a_block_but_not_go_on(serve, open_client):
    running = serve(Counting(answer))
    client = open_client(running)
    block = request(client, 1)[9:]
    client.send(headers(1, block, end=True, end_headers=False) + continuation(1, b""))
    assert client.finished(1).status == 200
    other = open_client(running)
    empty = continuation(1, b"", end_headers=False)
    other.send(headers(1, block, end=True, end_headers=False) + empty + continuation(1, b""))
    assert other.end() in CALM, str(other)


def test_block_over_the_limit_of_a_head_is_not_collected(serve, open_client):
    """A quarter beside the limit is taken and decoded; more than that cannot be, and the table with
    it is lost.
    """
    app = Counting(answer)
    client = open_client(serve(app, limit_header_size=32 * 1024))
    piece = literal(b"x", b"y" * 12_000)
    more = [continuation(1, piece, end_headers=False)] * 4
    client.send(headers(1, request(client, 1)[9:], end_headers=False), *more)
    assert client.end() not in (None, Code.NO_ERROR), str(client)
    assert app.started == 0


def test_head_that_does_not_end_in_time_ends_the_connection(serve, open_client):
    client = open_client(serve(Counting(answer), timeout_head=0.3))
    client.send(headers(1, request(client, 1)[9:], end_headers=False))
    client.end()
    assert client.closed


def test_large_head_in_its_frames_is_taken(serve, open_client):
    """What a browser with many cookies sends: 40 KB in HEADERS and CONTINUATION."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, str(sum(len(value) for _, value in scope["headers"])).encode())

    client = open_client(serve(app))
    block = request(client, 1, *[(f"x-{i}", "v" * 4_000) for i in range(10)])[9:]
    parts = [block[i : i + 16_000] for i in range(0, len(block), 16_000)]
    client.send(headers(1, parts[0], end=True, end_headers=False))
    client.send(continuation(1, parts[1], end_headers=False), continuation(1, parts[2]))
    exchange = client.finished(1)
    assert exchange.status == 200
    assert int(exchange.body) > 40_000


# --- HPACK bombs: CVE-2016-6581 -------------------------------------------------------------------


def bomb(client: Client, stream: int, references: int, size: int = 4_000) -> bytes:
    """A request with a field of the table so many times."""
    block = request(client, stream)[9:] + literal(b"x", b"v" * size, INCREMENTAL)
    return headers(stream, block + b"\xbe" * (references - 1), end=True)


@pytest.mark.parametrize("references", [20, 8_000])
def test_bomb_is_431_and_the_table_goes_on(serve, open_client, references):
    app = Counting(answer)
    client = open_client(serve(app))
    client.send(bomb(client, 1, references))
    assert client.finished(1).status == 431
    assert app.started == 0
    client.send(headers(3, request(client, 3)[9:] + b"\xbe", end=True))
    assert client.finished(3).status == 200


@pytest.mark.parametrize(("fields", "status"), [(80, 200), (101, 431), (5_000, 431)])
def test_fields_are_counted(serve, open_client, fields, status):
    client = open_client(serve(Counting(answer)))
    block = request(client, 1)[9:] + literal(b"a", b"", INCREMENTAL) + b"\xbe" * (fields - 1)
    client.send(headers(1, block, end=True))
    assert client.finished(1).status == status
    client.alive()


def test_bombs_behind_a_closed_window_cost_little(serve, open_client):
    """Held open by a window of 0."""
    client = open_client(serve(Counting(answer)), (Setting.INITIAL_WINDOW_SIZE, 0))
    before = memory()
    for i in range(1, 2 * 100, 2):
        client.send(bomb(client, i, 8_000))
    client.wait(lambda: client.goaways or all(client.on(i).status for i in range(1, 200, 2)))
    assert memory() - before < 16 * MIB


def test_cookie_in_150_crumbs_is_joined(serve, open_client):
    @http_only
    async def app(scope, receive, send):
        cookies = [value for name, value in scope["headers"] if name == b"cookie"]
        assert len(cookies) == 1
        await respond(send, cookies[0])

    client = open_client(serve(app))
    crumbs = [f"name{i}=value{i}" for i in range(150)]
    for _ in range(3):  # with the table as it becomes
        exchange = client.finished(client.request("GET", "/", *[("cookie", one) for one in crumbs]))
        assert exchange.status == 200
        assert exchange.body.decode() == "; ".join(crumbs)


@pytest.mark.parametrize(("crumbs", "status"), [(512, 200), (513, 431), (5_000, 431)])
def test_crumbs_are_counted_by_themselves(serve, open_client, crumbs, status):
    client = open_client(serve(Counting(answer)))
    block = request(client, 1)[9:] + literal(b"cookie", b"a=b", INCREMENTAL)
    client.send(headers(1, block + b"\xbe" * (crumbs - 1), end=True))
    assert client.finished(1).status == status
    client.alive()


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
def test_stalled_streams_hold_what_is_queued_and_no_more(serve, open_client, tmp_path, make):
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


def test_large_bodies_that_are_given_whole_are_not_copied(serve, open_client):
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


def test_stream_that_is_not_read_is_given_up_and_others_go_on(serve, open_client):
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
    """A byte at a time, each of which costs the server a frame."""
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


def test_window_updates_for_each_frame_of_downloads_are_welcome(serve, open_client):
    client = open_client(serve(Counting(Large(8 * MIB))))
    client.refill = True
    streams = [client.request() for _ in range(4)]
    for stream in streams:
        assert len(client.finished(stream).body) == 8 * MIB
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
    blob = b"".join(map(frame, range(20 * FLOOD)))
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


def test_empty_data_without_end_is_not_taken(serve, open_client):
    delivered = []

    @http_only
    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            delivered.append(len(message["body"]))

    client = open_client(serve(app))
    client.send(request(client, 1, method="POST", end=False) + data(1, b"") * FLOOD)
    assert client.end() in CALM, str(client)
    assert 0 not in delivered, "nothing is no body"


def test_tiny_data_that_nobody_takes_is_held_in_little_memory(serve, open_client):
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


def test_tiny_data_that_is_taken_is_welcome(serve, open_client):
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
    """gRPC's keep-alive and its estimate of the bandwidth, all at once after a pause."""
    client = open_client(serve(Counting(answer)))
    client.send(*(ping(i.to_bytes(8, "big")) for i in range(300)))
    client.wait(lambda: client.pongs and client.pongs[-1] == (299).to_bytes(8, "big"))
    client.alive()


def test_empty_data_with_the_end_is_usual(serve, open_client):
    client = open_client(serve(Counting(answer)))
    for _ in range(20):
        streams = [client.request("POST", body=b"") for _ in range(100)]
        for stream in streams:
            assert client.finished(stream).status == 200
    client.alive()


def test_small_messages_both_ways_are_usual(serve, open_client):
    """gRPC's: five bytes before some few, a DATA frame each, answered one by one."""
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


def test_small_messages_in_bursts_are_usual(serve, open_client):
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


def test_priorities_of_old_clients_are_usual(serve, open_client):
    """Firefox's five groups and nghttp's, a dependency for each request, and changes to them."""
    client = open_client(serve(Counting(answer)))
    groups = ((3, 0, 200), (5, 0, 100), (7, 0, 0), (9, 7, 0), (11, 3, 0))
    client.send(b"".join(priority(*group) for group in groups))
    for i in range(13, 13 + 2 * 1_000, 2):
        block = request(client, i)[9:]
        client.send(headers(i, block, end=True, priority=(11, 21, False)), priority(i, 3, 41))
        assert client.finished(i).status == 200
    client.alive()


def test_priority_updates_of_browsers_are_usual(serve, open_client):
    client = open_client(serve(Counting(answer)))
    for i in range(1, 2 * 1_000, 2):
        fields = ("priority", "u=1, i")
        client.send(
            priority_update(i, b"u=3"), request(client, i, fields), priority_update(i, b"u=0")
        )
        assert client.finished(i).status == 200
    client.alive()


# --- What a connection may hold -------------------------------------------------------------------


def test_unread_bodies_are_bounded_by_the_windows(serve, open_client):
    """64 KiB for each stream that nobody reads, 1 MiB for the connection."""
    release = asyncio.Event()

    async def deaf(scope, receive, send):
        await release.wait()

    running = serve(Counting(deaf))
    client = open_client(running)
    client.alive()  # whatever the server allows at once has come
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
    client.send(*map(rst_stream, streams))  # what is dropped is given back
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
    """One application does not read until another upload is through."""
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


# --- Smuggling, CONNECT ---------------------------------------------------------------------------

SMUGGLED = {
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "line in a value": [("x", "a\r\ntransfer-encoding: chunked")],
    "request in a value": [("x", "a\r\n\r\nGET /admin HTTP/1.1\r\nhost: b")],
    "line in a name": [("x: y\r\ntransfer-encoding", "chunked")],
    "two lengths": [("content-length", "0"), ("content-length", "5")],
    "host twice": [("host", "a"), ("host", "b")],
    "host other than :authority": [("host", "other.example")],
    "blank before a value": [("x", " y")],
}


@pytest.mark.parametrize("extra", SMUGGLED.values(), ids=SMUGGLED)
def test_what_would_be_smuggled_does_not_reach_the_application(serve, open_client, extra):
    app = Counting(answer)
    client = open_client(serve(app))
    client.send(request(client, 1, *extra))
    exchange = client.on(1)
    client.wait(lambda: exchange.reset is not None or exchange.ended)
    assert exchange.reset == Code.PROTOCOL_ERROR or exchange.status == 400
    assert app.started == 0
    client.alive()


@pytest.mark.parametrize("protocol", [None, "connect-udp"])
def test_connect_is_not_implemented(serve, open_client, protocol):
    app = Counting(answer)
    client = open_client(serve(app))
    fields = [(b":method", b"CONNECT"), (b":authority", b"a.example:443")]
    if protocol is not None:
        fields += [(b":protocol", protocol.encode()), (b":scheme", b"http"), (b":path", b"/")]
    client.send(headers(1, literals(fields)))
    client.wait(lambda: client.on(1).status is not None)
    assert client.on(1).status == 501
    assert app.started == 0
    client.alive()


# --- Slow clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_preface_must_come_in_time(serve, sent):
    with serve(Counting(answer), timeout_head=0.3).client() as client:
        client.send(sent)
        client.end()
        assert client.closed


def test_idle_connection_is_told_and_closed(serve, open_client):
    client = open_client(serve(Counting(answer), timeout_keep_alive=0.3))
    requests(client, 1)
    assert client.end() == Code.NO_ERROR


def test_connection_with_an_open_stream_is_not_idle(serve, open_client):
    release = asyncio.Event()

    async def slow(scope, receive, send):
        await release.wait()
        await respond(send, b"at last")

    running = serve(Counting(slow), timeout_keep_alive=0.2)
    client = open_client(running)
    stream = client.request()
    client.alive()
    with pytest.raises(TimeoutError):  # five times the time-out, and nothing is said
        client.read(1.0)
    running.loop.call_soon_threadsafe(release.set)
    assert client.finished(stream).status == 200


def test_settings_that_are_never_acknowledged_end_the_connection(serve):
    """10 s, with a stream open."""
    with serve(Counting(Large(MIB))).client() as client:
        client.answers = False
        client.send(PREFACE + settings() + request(client, 1))
        client.patience = 40.0
        assert client.end() == Code.SETTINGS_TIMEOUT


def test_acknowledgement_that_comes_late_is_taken(serve):
    with serve(Counting(answer)).client() as client:
        client.answers = False
        client.send(PREFACE + settings())
        for i in range(1, 200, 2):
            client.send(request(client, i))
            assert client.finished(i).status == 200
        client.send(settings_ack())
        client.alive()


# --- TLS: RFC 9113 section 9.2 --------------------------------------------------------------------


def handshake(running, suite: str | None, *protocols: str) -> ssl.SSLSocket:
    context = running.tls
    if suite is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suite)
    context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(running.connect(), server_hostname="localhost")


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"])
def test_suites_that_http2_prohibits_are_not_offered(serve, certificate, suite):
    with start(Counting(answer), certificate) as running, pytest.raises(OSError):
        handshake(running, suite, "h2", "http/1.1").close()


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", None])
def test_suites_of_http2_are(serve, certificate, suite):
    with start(Counting(answer), certificate) as running:
        sock = handshake(running, suite, "h2", "http/1.1")
        with Client(sock, "localhost") as client:
            assert sock.selected_alpn_protocol() == "h2"
            client.start()
            requests(client, 1)


@pytest.mark.parametrize("protocols", [["http/1.1"], ["http/1.0"], []])
def test_preface_without_alpn_is_not_http2(serve, certificate, protocols):
    """Over TLS there is no prior knowledge."""
    with start(Counting(answer), certificate) as running:
        sock = handshake(running, None, *protocols)
        with Client(sock, "localhost") as client:
            client.send(PREFACE + settings())
            assert client.first_bytes(9) in (b"", b"HTTP/1.1 ")


def test_http1_is_served_beside(serve, certificate):
    with start(Counting(answer), certificate) as running:
        with handshake(running, None, "http/1.1") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        with connect("127.0.0.1", running.port, running.tls) as client:
            client.start()
            requests(client, 1)

"""When responses leave: parts that wait for the client's window, responses beside others."""

import asyncio
import itertools
import threading
import time

import pytest
from apps import Gate, fixed, http_only, respond
from frames import (
    PREFACE,
    Setting,
    Type,
    headers,
    literals,
    ping,
    settings,
    settings_ack,
    window_update,
)
from support import PATIENCE, wait_until

from thestral.protocol.http2 import HTTP2Connection

FRAME = 16_384  # bytes, the largest by default
OPEN = ((Setting.INITIAL_WINDOW_SIZE, 1 << 20),)


def order_of(client, count):
    """The streams of the next DATA frames."""
    order = []
    while len(order) < count:
        came = client.read()
        if came.type == Type.DATA:
            order.append(came.stream)
    return order


def test_many_small_parts_wait_for_the_window(serve, open_client):
    """They are joined while they wait, and arrive complete and in order."""
    parts = [b"%04d " % number for number in range(2000)]
    sent = []

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})
        sent.append(True)

    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    wait_until(lambda: sent)
    client.send(window_update(stream, 7))
    client.wait(lambda: client.on(stream).body)
    client.send(window_update(stream, 100_000))
    assert client.finished(stream).body == b"".join([*parts, b"end"])


def test_application_goes_on_when_a_quarter_of_the_queue_is_left(serve, open_client):
    sent = []

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(8):
            await send({"type": "http.response.body", "body": bytes(16_384), "more_body": True})
            sent.append(number)

    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    answer = client.on(stream)
    wait_until(lambda: len(sent) == 3)  # the fourth part fills the queue
    client.send(window_update(stream, 40_000))
    client.wait(lambda: len(answer.body) == 40_000)
    client.alive()
    assert len(sent) == 3
    client.send(window_update(stream, 3 * 16_384 - 40_000))
    wait_until(lambda: len(sent) > 3)


def test_incremental_responses_take_turns(serve, open_client):
    """RFC 9218 section 4.2."""
    client = open_client(serve(fixed(bytes(48_000))), (Setting.INITIAL_WINDOW_SIZE, 0))
    streams = [client.request("GET", "/", ("priority", "u=3, i")) for _ in range(2)]
    client.wait(lambda: all(client.on(stream).status for stream in streams))
    client.send(b"".join(window_update(stream, 32_768) for stream in streams))
    assert order_of(client, 4) == streams * 2


class Boundless(asyncio.Transport):
    """Takes all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0  # bytes

    def write(self, data) -> None:
        self.taken += len(data)

    def writelines(self, parts) -> None:
        self.write(b"".join(parts))

    def nothing(self, high=None) -> None:
        pass

    pause_reading = resume_reading = set_write_buffer_limits = close = abort = nothing

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def test_large_response_leaves_other_connections_their_turn(serve):
    size = 2**23
    running = serve(fixed(bytes(size)))
    wire = Boundless()
    taken = []

    def begin():
        connection = HTTP2Connection(running.context)
        connection.connection_made(wire)
        large = PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 2**31 - 1)) + settings_ack()
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
        block = literals([*fields, (b":authority", b"a")])
        large += window_update(0, 2**30) + headers(1, block, end=True)
        connection.data_received(large)
        note()
        return connection

    def note():
        taken.append(wire.taken)
        if wire.taken < size:
            running.loop.call_soon(note)

    connection = running.call(begin)
    wait_until(lambda: taken[-1] > size)
    assert max(after - before for before, after in itertools.pairwise([0, *taken])) < size / 4
    running.call(lambda: connection.connection_lost(None))


def test_answer_does_not_wait_for_applications_that_block_in_their_first_steps(serve, open_client):
    """Both requests come in one read, so both applications start in one turn of the loop."""
    answered = threading.Event()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/computes":
            time.sleep(0.02)  # http2.STARTS_TIME is 0.005
        else:
            assert answered.wait(PATIENCE)
        await respond(send, b"ok")

    client = open_client(serve(app))
    blob = b""
    for stream, path in ((1, "/computes"), (3, "/blocks")):
        blob += headers(stream, client.encoder.encode(client.fields(path=path)), end=True)
    client.send(blob)
    assert client.finished(1).body == b"ok"
    answered.set()
    assert client.finished(3).body == b"ok"


def test_more_urgent_responses_come_first_and_the_least_urgent_does_not_starve(serve, open_client):
    """RFC 9218 section 10: after 16 frames of others it may send one."""
    client = open_client(serve(fixed(bytes(40 * FRAME))), (Setting.INITIAL_WINDOW_SIZE, 0))
    late = client.request("GET", "/", ("priority", "u=7"))
    soon = client.request("GET", "/", ("priority", "u=0"))
    client.wait(lambda: all(client.on(stream).status for stream in (late, soon)))
    client.send(window_update(0, 1 << 24) + settings(*OPEN))
    turn = [soon] * 16 + [late]
    assert order_of(client, 80) == [*turn, *turn, *[soon] * 8, *[late] * 38]


def test_short_response_does_not_overtake_more_urgent_output_that_waits_for_its_turn(
    serve, open_client
):
    """Of the large response half a MiB is sent in a turn, before the other request begins."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, bytes(1 << 21) if scope["path"] == "/large" else b"short")

    client = open_client(serve(app), *OPEN)
    client.send(window_update(0, 1 << 24))
    client.alive()
    blocks = [
        client.encoder.encode(client.fields("GET", path, (("priority", urgency),)))
        for path, urgency in (("/large", "u=0"), ("/short", "u=7"))
    ]
    client.send(headers(1, blocks[0], end=True) + headers(3, blocks[1], end=True))
    assert order_of(client, 49) == [1] * 48 + [3]


@pytest.mark.parametrize("parts", [1, 8])
def test_everything_goes_on_when_the_client_reads_again(serve, parts):
    """Output that the transport could not take, and acknowledgements that waited behind it."""
    gate = Gate()
    size = 8 << 20

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = bytes(size // parts)
        for _ in range(parts):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b""})

    running = serve(app)
    with running.client(receive_buffer=4096) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, size))
        client.send(window_update(0, size))
        client.alive()
        stream = client.request()
        (connection,) = running.context.connections
        wait_until(lambda: connection.write_paused)
        pings = [b"%8d" % number for number in range(10)]
        client.send(b"".join(map(ping, pings)))
        for _ in range(5):
            running.call(lambda: None)
        client.wait(lambda: len(client.on(stream).body) == size and len(client.pongs) == 11)
        assert client.pongs[1:] == pings
        gate.open(running)
        assert client.finished(stream).ended


def test_requests_that_come_together_leave_other_connections_their_turn(serve, open_client):
    """At most 64 applications of a connection are started in a turn of the loop."""
    started = []

    @http_only
    async def app(scope, receive, send):
        started.append(scope["path"])
        await respond(send, b"")

    running = serve(app, http2_max_streams=200)
    many, other = open_client(running), open_client(running)
    blocks = [many.encoder.encode(many.fields()) for _ in range(200)]
    release = threading.Event()
    holding = threading.Event()

    def hold():  # the loop, so that it finds both in one turn
        holding.set()
        release.wait(PATIENCE)

    running.loop.call_soon_threadsafe(hold)
    assert holding.wait(PATIENCE)
    many.send(b"".join(headers(2 * i + 1, block, end=True) for i, block in enumerate(blocks)))
    stream = other.request(path="/other")
    release.set()
    other.finished(stream)
    for i in range(200):
        many.finished(2 * i + 1)
    assert len(started) == 201
    assert started.index("/other") <= 64

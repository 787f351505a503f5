"""Limits of message sizes, memory and queued messages: max_size, queue, slow readers, floods."""

import functools
import gc
import itertools
import os
import time
import zlib

import pytest
from support import wait_until
from ws_apps import Gate, Sessions, accept, echo, send_bytes, shared_server, sink, ws_only
from ws_client import (
    BINARY,
    CONT,
    DEFLATE,
    PING,
    PONG,
    RSV1,
    TAIL,
    TEXT,
    Client,
    Sender,
    close_frame,
    connected,
    fragments,
    frame,
    handshake,
)

from thestral.errors import ClientDisconnected

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20
MAX = 1000  # limit of the small server for a message, in bytes
WIRE_MAX = MAX + MAX // 8 + 64  # most bytes of a compressed message on the wire
SLACK = 24 * MIB  # bytes by which memory may grow while far more is received

small = shared_server(Sessions(echo), ws_max_size=MAX)
usual = shared_server(Sessions(echo))


def resident() -> int:
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def only_connection(running):
    (connection,) = running.context.connections
    return connection


# --- ws_max_size: RFC 6455 section 7.4.1, 1009 ----------------------------------------------------


def shapes(size: int, opcode: int = BINARY) -> dict[str, bytes]:
    """Yield a message of this size in each possible form."""
    data = b"x" * size
    parts = [data[:400], data[400:800], data[800:]]
    compressed = deflate(data)
    noise = os.urandom(size)
    return {
        "whole": frame(opcode, data),
        "two fragments": b"".join(fragments(opcode, [data[:500], data[500:]])),
        "three fragments": b"".join(fragments(opcode, parts)),
        "pings between": frame(PING, b"y" * 125).join(fragments(opcode, parts)),
        "empty fragments": b"".join(fragments(opcode, [b"", data, b"", b""])),
        "last byte alone": b"".join(fragments(opcode, [data[:-1], data[-1:]])),
        "each byte alone": b"".join(fragments(opcode, [data[at : at + 1] for at in range(size)])),
        "compressed": frame(opcode, compressed, rsv=RSV1),
        "compressed fragments": b"".join(
            fragments(opcode, [compressed[:3], compressed[3:]], rsv=RSV1)
        ),
        "compressed noise": frame(BINARY, deflate(noise), rsv=RSV1),
    }


def read_echo(client) -> int:
    """Return the length of the next message, compressed or not; Pongs are skipped."""
    while (got := client.read()).opcode == PONG:
        pass
    assert got.opcode in (TEXT, BINARY), got
    assert got.fin
    if not got.rsv:
        return len(got.payload)
    return len(zlib.decompressobj(-15).decompress(got.payload + TAIL))


@pytest.mark.parametrize("shape", shapes(1))
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("size", [MAX - 1, MAX, MAX + 1])
def test_max_size_7_4_1(small, shape, opcode, size):
    offer = f"{DEFLATE}; server_no_context_takeover"
    with connected(small, offer) as client:
        client.send(shapes(size, opcode)[shape])
        if size <= MAX:
            assert read_echo(client) == size
            client.close()
            return
        while (got := client.read()).opcode == PONG:
            pass
        assert got.payload[:2] == (1009).to_bytes(2), got
        client.ended(reset=True)
    assert small.app.disconnect()[0] == 1009
    assert len(small.app.last.received) == 2


@pytest.mark.parametrize("length", [MAX + 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_header_alone_is_refused_7_4_1(small, length, opcode):
    with connected(small) as client:
        client.send(frame(opcode, length=length))
        client.closed(1009)
    assert small.app.disconnect()[0] == 1009


@pytest.mark.parametrize("length", [16 * MIB + 1, 2**31, 2**32, 2**62, 2**63 - 1])
def test_header_alone_is_refused_by_default_7_4_1(usual, length):
    with connected(usual) as client:
        client.send(frame(BINARY, length=length))
        client.closed(1009)


@pytest.mark.parametrize(
    ("sizes", "length"), [([600], MAX - 599), ([500, 500], 1), ([1, 1], MAX - 1), ([1], 2**63 - 1)]
)
def test_header_of_a_continuation_is_refused_7_4_1(small, sizes, length):
    """The last header shows that the fragments together exceed the limit."""
    with connected(small) as client:
        for number, size in enumerate(sizes):
            client.send(frame(CONT if number else BINARY, b"x" * size, fin=False))
        client.send(frame(CONT, length=length, fin=False))
        client.closed(1009)


def padded(size: int) -> bytes:
    """The message "abc", compressed and padded with empty stored blocks to `size` bytes."""
    core = b"\x00\x03\x00\xfc\xffabc" + b"\x00"
    count, rest = divmod(size - len(core), 5)
    assert rest == 0, "choose a size that this gives"
    return b"\x00\x00\x00\xff\xff" * count + core


def test_compressed_bytes_may_exceed_max_size_a_little(small):
    assert WIRE_MAX == 1189
    with connected(small, DEFLATE) as client:
        client.send(frame(BINARY, padded(WIRE_MAX), rsv=RSV1))
        client.echoes(BINARY, b"abc")
        client.send(frame(BINARY, length=WIRE_MAX + 1, rsv=RSV1))
        client.closed(1009)


def test_compressed_bytes_are_counted_over_fragments(small):
    with connected(small, DEFLATE) as client:
        client.send(frame(BINARY, padded(WIRE_MAX)[:1000], rsv=RSV1, fin=False))
        client.send(frame(CONT, length=WIRE_MAX - 1000 + 1))
        client.closed(1009)


def test_the_limit_is_per_message(small):
    with connected(small) as client:
        for _ in range(5):
            client.binary(b"x" * MAX)
            client.echoes(BINARY, b"x" * MAX)
        client.close()


def test_control_frames_do_not_count(small):
    with connected(small) as client:
        client.send(frame(BINARY, b"x" * 999, fin=False))
        for _ in range(20):
            client.send(frame(PING, b"y" * 125))
            client.expect(PONG, b"y" * 125)
        client.send(frame(CONT, b"x"))
        client.echoes(BINARY, b"x" * MAX)
        client.close()


@functools.cache
def bomb_of_128_mib() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(compressor.compress(bytes(MIB)) for _ in range(128))
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@pytest.mark.parametrize("parts", [1, 2, 50])
def test_bomb_is_refused_early(serve, parts):
    """The message is 128 MiB in 128 KiB; a server that inflates it all grows by more than SLACK."""
    app = Sessions(echo)
    running = serve(app, ws_max_size=MIB)
    bomb = bomb_of_128_mib()
    assert len(bomb) < MIB
    step = len(bomb) // parts + 1
    pieces = [bomb[at : at + step] for at in range(0, len(bomb), step)]
    gc.collect()
    before = resident()
    with connected(running, DEFLATE) as client:
        Sender(client, b"".join(fragments(BINARY, pieces, rsv=RSV1)))
        assert client.read_close()[0] == 1009
        client.ended(reset=True)
    assert app.disconnect()[0] == 1009
    assert resident() - before < SLACK


# --- The queue: ws_max_queue, ws_max_queue_size ---------------------------------------------------


@pytest.mark.parametrize(
    ("options", "size", "count"),
    [
        ({}, 100_000, 400),
        ({}, 1000, 30_000),
        ({"ws_max_queue": 2, "ws_max_queue_size": 2**30}, 100_000, 400),
        ({"ws_max_queue": 2**20, "ws_max_queue_size": 1000}, 1000, 30_000),
        ({"ws_max_queue": 1, "ws_max_queue_size": 1}, 100_000, 400),
    ],
    ids=["by bytes", "by both", "by count", "by few bytes", "smallest"],
)
def test_client_of_an_application_that_does_not_receive_waits(serve, options, size, count):
    gate = Gate()
    taken = []

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        while (message := await receive())["type"] == "websocket.receive":
            taken.append(message["bytes"][:8])

    running = serve(app, **options)
    data = b"".join(
        frame(BINARY, number.to_bytes(8) + bytes(size - 8), mask=bytes(4))
        for number in range(count)
    )
    with connected(running) as client:
        gc.collect()
        before = resident()
        sender = Sender(client, data)
        wait_until(running.holds_back)
        assert not sender.done  # the data exceeds what both kernels' buffers hold
        assert resident() - before < SLACK
        gate.open(running)
        sender.join()
        client.close()
    wait_until(lambda: not running.context.cycles)
    assert taken == [number.to_bytes(8) for number in range(count)]


def test_a_full_queue_keeps_the_close_waiting_not_lost(serve):
    gate = Gate()

    async def slow(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    app = Sessions(slow)
    running = serve(app, ws_max_queue=2)
    with connected(running) as client:
        client.send(*[frame(TEXT, "x")] * 5, close_frame(4000, "end"))
        wait_until(lambda: gate.reached)
        gate.open(running)
        assert client.read_close()[0] == 4000
        client.ended()
    assert app.disconnect() == (4000, "end")
    assert len(app.last.received) == 1 + 5 + 1


def test_a_long_queue_is_taken_in_linear_time(serve):
    """receive() takes constant time, however many messages wait, and does not block the loop."""
    took = {}

    async def app(scope, receive, send):
        await accept(receive, send)
        await gate.wait()
        began = time.thread_time()
        count = 0
        while (await receive())["type"] == "websocket.receive":
            count += 1
        took[count] = time.thread_time() - began

    running = serve(ws_only(app), ws_max_queue=2**20, ws_max_queue_size=2**30)
    for count in (20_000, 160_000):
        gate = Gate()
        with connected(running) as client:
            data = frame(TEXT, "x", mask=bytes(4)) * count + frame(PING, "all of it")
            Sender(client, data).join()
            client.expect(PONG, b"all of it")
            gate.open(running)
            client.close()
        wait_until(lambda count=count: count in took)
    # Linear time is 8 times as long, quadratic time 64 times.
    assert took[160_000] < 24 * took[20_000], took


def test_one_message_may_be_larger_than_the_queue(serve):
    with connected(serve(ws_only(echo), ws_max_queue=1, ws_max_queue_size=1)) as client:
        for _ in range(3):
            client.binary(b"x" * 300_000)
            client.echoes(BINARY, b"x" * 300_000)
        client.close()


# --- Slow readers ---------------------------------------------------------------------------------


def flooding(count: int, size: int):
    """An application that sends `count` messages, however long that takes; `sent` counts them."""
    sent = itertools.count()

    async def app(scope, receive, send):
        await accept(receive, send)
        for number in range(count):
            await send_bytes(send, number.to_bytes(8) + bytes(size - 8))
            app.sent = next(sent) + 1
        await send({"type": "websocket.close"})

    app.sent = 0
    return app


@pytest.mark.parametrize(("count", "size"), [(400, 200_000), (50_000, 1000)])
def test_send_waits_for_a_client_that_does_not_read(serve, count, size):
    app = flooding(count, size)
    running = serve(ws_only(app))
    gc.collect()
    before = resident()
    with connected(running, receive_buffer=65536) as client:
        wait_until(lambda: only_connection(running).write_paused)
        assert app.sent < count
        assert resident() - before < SLACK
        for number in range(count):
            got = client.read()
            assert got.payload[:8] == number.to_bytes(8)
            assert len(got.payload) == size
        assert client.read_close() == (1000, "")


def test_client_that_takes_nothing_is_dropped(serve, errors):
    app = Sessions(flooding(1000, 200_000))
    running = serve(app, timeout_write=0.3)
    with connected(running, receive_buffer=4096) as client:
        wait_until(lambda: app.last.ended)
        assert isinstance(app.last.raised, ClientDisconnected)
        assert client.is_reset()
    wait_until(lambda: not running.context.connections)
    assert not errors()


def test_client_that_reads_slowly_is_not_dropped(serve):
    """It takes longer than timeout_write in all, but never pauses for that long."""
    rounds, part = 6, 4 * MIB  # a part is what a socket holds, so the server can send more
    running = serve(ws_only(flooding(rounds * 20, part // 20)), timeout_write=0.4)
    with connected(running, receive_buffer=65536) as client:
        for _ in range(rounds):
            now = running.context.clock.now
            wait_until(lambda now=now: running.context.clock.now > now + 0.15)
            for _ in range(20):
                assert client.read().opcode == BINARY
        assert client.read_close() == (1000, "")


# --- Floods ---------------------------------------------------------------------------------------


def test_pings_of_a_client_that_does_not_read_5_5_3(serve):
    """16 MB of Pings: the server answers those whose Pongs fit into the socket, and the newest."""
    count = 120_000
    running = serve(ws_only(sink))
    with Client(running, handshake(), receive_buffer=4096) as client:
        client.accepted()
        data = b"".join(frame(PING, b"%0125d" % number, mask=bytes(4)) for number in range(count))
        gc.collect()
        before = resident()
        sender = Sender(client, data)
        sender.join()
        assert resident() - before < SLACK
        last = -1
        while last != count - 1:
            got = client.read()
            assert got.opcode == PONG
            number = int(got.payload)
            assert last < number
            last = number
        client.close()


def test_pings_of_a_client_that_reads_are_all_answered_5_5_3(serve):
    count = 20_000
    running = serve(ws_only(sink))
    with connected(running) as client:
        sender = Sender(client, b"".join(frame(PING, b"%d" % number) for number in range(count)))
        last = -1
        while last != count - 1:
            number = int(client.read().payload)
            assert last < number
            last = number
        sender.join()
        client.close()


@pytest.mark.parametrize("part", [b"x", b""], ids=["one byte", "empty"])
def test_100_000_fragments_5_4(serve, part):
    data = frame(TEXT, part, fin=False) + frame(CONT, part, fin=False, mask=bytes(4)) * 99_998
    running = serve(ws_only(echo))
    gc.collect()
    before = resident()
    with connected(running) as client:
        sender = Sender(client, data + frame(CONT, part))
        client.echoes(TEXT, part * 100_000)
        sender.join()
        assert resident() - before < SLACK
        client.close()


def test_reading_goes_on_only_when_no_frame_waits(serve):
    first, rest = Gate(), Gate()

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await first.wait()
        await receive()
        await rest.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    running = serve(app, ws_max_queue=2)
    with connected(running) as client:
        client.send(*[frame(TEXT, "x")] * 6)
        wait_until(lambda: only_connection(running).reading_paused)
        first.open(running)
        wait_until(lambda: rest.reached)
        assert only_connection(running).reading_paused
        rest.open(running)
        wait_until(lambda: not only_connection(running).reading_paused)

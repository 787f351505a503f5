"""When bytes leave: all output of one turn leaves together, at the end of the application's step or
of the loop's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time

import pytest
from apps import GET, GET_CLOSE, Gate, get, http_only, post, take_replies
from support import PATIENCE, on_every_transport, read_all, read_head, read_response, wait_until

from thestral.protocol.http1 import HTTP1Connection

START = {"type": "http.response.start", "status": 200, "headers": []}
COUNTED = START | {"headers": [(b"content-length", b"4")]}
OUTPUT_MAX = 64 * 1024  # thestral.protocol.output.OUTPUT_MAX
GATHER_MIN = 16 * 1024  # thestral.protocol.output.GATHER_MIN


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


# --- Writes, counted ------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """Keeps each write; a gathered write counts as one."""

    def __init__(self):
        super().__init__()
        self.writes = []
        self.closing = False

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, parts):
        self.writes.append(b"".join(parts))

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def can_write_eof(self):
        return False

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def pause_reading(self):
        pass

    resume_reading = pause_reading


@pytest.fixture
def writes(serve):
    """Function (app, *requests) that gives what a connection has written once all is answered; its
    attribute `last` is that of the last call, for an application to look at.
    """

    def writes(app, *requests):
        running = serve(app)
        transport = Transport()
        writes.last = transport.writes

        def begin():
            connection = HTTP1Connection(running.context)
            connection.connection_made(transport)
            for request in requests:
                connection.data_received(request)
            return connection

        connection = running.call(begin)
        count = b"".join(requests).count(b" HTTP/1.1\r\n")
        wait_until(lambda: running.context.total_requests == count and not running.context.cycles)
        running.call(lambda: connection.connection_lost(None))
        return transport.writes

    return writes


async def directly(work):
    await work


async def after_an_await(work):
    await asyncio.sleep(0)
    await work


async def in_a_task(work):
    await asyncio.create_task(work)


async def in_a_group(work):
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(work)


PLACES = [directly, after_an_await, in_a_task, in_a_group]


@pytest.mark.parametrize("place", PLACES)
def test_a_plain_response_is_one_write(writes, place):
    async def work(send):
        await send(START)
        await send(body(b"done"))

    @http_only
    async def app(scope, receive, send):
        await place(work(send))

    (written,) = writes(app, GET)
    (reply,) = take_replies(written)
    assert reply.body == b"done"
    assert reply.one(b"content-length") == b"4"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"60000")]])
def test_parts_that_are_sent_at_once_leave_at_once(writes, place, headers):
    async def work(send):
        await send(START | {"headers": headers})
        for _ in range(60):
            await send(body(b"x" * 1000, more=True))
        await send(body())

    @http_only
    async def app(scope, receive, send):
        await place(work(send))

    written = writes(app, GET)
    (reply,) = take_replies(b"".join(written))
    assert reply.body == b"x" * 60_000
    # On a busy machine, a sender may have sent for so long that it has to wait.
    assert len(written) <= 3


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [1, GATHER_MIN - 1, GATHER_MIN, OUTPUT_MAX - 1, OUTPUT_MAX])
def test_each_part_leaves_in_the_turn_in_which_it_is_sent(writes, place, size):
    async def work(send):
        await send(START)
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await send(body(b"x" * size, more=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await send(body())

    @http_only
    async def app(scope, receive, send):
        await place(work(send))

    head, *parts, end = writes(app, GET)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert parts == [b"%x\r\n" % size + b"x" * size + b"\r\n"] * 3
    assert end == b"0\r\n\r\n"


@pytest.mark.parametrize("part", [100, GATHER_MIN])
@pytest.mark.parametrize("size", [OUTPUT_MAX - 1, OUTPUT_MAX, OUTPUT_MAX + 1])
def test_much_leaves_before_the_turn_ends(writes, part, size):
    """From 64 KiB on, in pieces of any size."""

    @http_only
    async def app(scope, receive, send):
        await send(START | {"headers": [(b"content-length", b"%d" % size)]})
        await asyncio.sleep(0)
        left = size
        while left > 0:
            data = b"x" * min(part, left)
            left -= len(data)
            await send(body(data, more=left > 0))

    head, *parts = writes(app, GET)
    assert head.endswith(b"\r\n\r\n")
    assert b"".join(parts) == b"x" * size
    # If there is a second write, the time slice ended, and the next turn wrote the rest.
    assert all(len(one) <= OUTPUT_MAX + part for one in parts)


def test_responses_to_pipelined_requests_are_one_write(writes):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"done"))

    written = writes(app, GET * 20)
    assert len(take_replies(b"".join(written))) == 20
    if len(written) > 1:  # Python 3.11 starts each in a turn of its own
        assert len(written) == 20


UPGRADE = get(
    "/",
    *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_websocket_sends_at_once_leaves_at_once(writes, place):
    async def work(send):
        for number in range(100):
            await send({"type": "websocket.send", "text": f"{number:02}"})
        await send({"type": "websocket.close"})

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await place(work(send))

    written = writes(app, UPGRADE)
    head, _, frames = b"".join(written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    expected = b"".join(b"\x81\x02%02d" % number for number in range(100))
    assert frames.startswith(expected + b"\x88")
    assert len(written) <= 4


# --- The head -------------------------------------------------------------------------------------


@on_every_transport
@pytest.mark.parametrize("place", PLACES)
def test_a_head_leaves_before_its_body_comes(serve, place):
    gate = Gate()

    async def work(send):
        await send(START)
        await gate.wait()
        await send(body(b"x"))

    @http_only
    async def app(scope, receive, send):
        await place(work(send))

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET_CLOSE)
        head = read_head(sock)
        assert b"transfer-encoding: chunked" in head
        gate.open(running)
        assert read_all(sock) == b"1\r\nx\r\n0\r\n\r\n"


def test_a_head_that_is_still_held_is_replaced_by_500(serve, errors):
    @http_only
    async def app(scope, receive, send):
        await asyncio.sleep(0)
        await send(START)
        raise ValueError

    assert serve(app).raw(GET_CLOSE).startswith(b"HTTP/1.1 500 ")
    assert errors()


def test_a_head_that_has_left_is_followed_by_the_end(serve, errors):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        await asyncio.sleep(0)
        raise ValueError

    with serve(app).connect() as sock:
        sock.sendall(GET)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert not body
    assert errors()


def test_a_hint_stands_before_a_head_that_is_held(writes):
    """Also if the head is larger than the output that may wait."""
    large = [(b"x-%d" % number, b"v" * 1000) for number in range(70)]

    @http_only
    async def app(scope, receive, send):
        await send(START | {"headers": large})
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send({"type": "http.response.early_hint", "links": [b"</b>"]})
        await send(body(b"done"))

    hint, other, reply = take_replies(b"".join(writes(app, GET)))
    assert (hint.status, hint.one(b"link")) == (103, b"</a>")
    assert (other.status, other.one(b"link")) == (103, b"</b>")
    assert (reply.status, len(reply.fields), reply.body) == (200, 73, b"done")


def test_100_stands_before_a_head_that_is_held(serve):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        message = await receive()
        await send(body(message["body"]))

    with serve(app).connect() as sock:
        sock.sendall(post(b"body", "Expect: 100-continue")[:-4])
        assert read_head(sock).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"body")
        assert b"transfer-encoding: chunked" in read_head(sock)
        assert sock.recv(100).startswith(b"4\r\nbody\r\n")


def test_a_refused_body_cuts_a_response_whose_head_has_left(serve):
    """The application has begun a response when the rest of a request turns out to be wrong: its
    head has left, so that the client can only be shown that it is cut.
    """
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await gate.wait()

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"nonsense\r\n")
        with pytest.raises(ConnectionResetError):
            while sock.recv(100):
                pass
        gate.open(running)


def test_a_refused_body_takes_the_place_of_a_head_that_is_held(serve):
    """The rest of a request turns out to be wrong in the turn in which a task of the application's
    has begun a response: nothing of that is seen.
    """
    begin = asyncio.Event()
    sent = []

    @http_only
    async def app(scope, receive, send):
        async def work():
            await begin.wait()
            await send(START)
            sent.append(True)

        await asyncio.create_task(work())

    running = serve(app)
    transport = Transport()
    request = post(b"", path="/").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")

    async def go():
        connection = HTTP1Connection(running.context)
        connection.connection_made(transport)
        connection.data_received(request + b"1\r\na\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        begin.set()  # the task goes on in the next turn, and behind it the connection
        running.loop.call_soon(connection.data_received, b"nonsense\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.connection_lost(None)

    asyncio.run_coroutine_threadsafe(go(), running.loop).result(PATIENCE)
    assert sent
    (reply,) = take_replies(b"".join(transport.writes))
    assert reply.status == 400


def test_a_denial_leaves_before_its_body_comes(serve):
    gate = Gate()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await gate.wait()
        await send({"type": "websocket.http.response.body", "body": b"no"})

    running = serve(app, lifespan="off")
    with running.connect() as sock:
        sock.sendall(UPGRADE)
        assert read_head(sock).startswith(b"HTTP/1.1 401 ")
        gate.open(running)
        assert read_all(sock) == b"2\r\nno\r\n0\r\n\r\n"


# --- Others have their turn -----------------------------------------------------------------------


@contextlib.contextmanager
def read_meanwhile(sock):
    """Read all that comes, in a thread; at the end shut the connection down."""
    stop = threading.Event()

    def read():
        with contextlib.suppress(OSError):
            while not stop.is_set() and sock.recv(1 << 20):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        sock.shutdown(2)
        reader.join()


@on_every_transport
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_a_sender_that_never_waits_leaves_others_their_turn(serve, method, size):
    ended = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        if scope["path"] == "/endless":
            try:
                while True:
                    await send(body(b"x" * size, more=True))
            finally:
                ended.append(True)
        await send(body(b"here"))

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get("/endless").replace(b"GET", method.encode()))
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        with read_meanwhile(sock):
            for _ in range(20):
                assert running.raw(GET_CLOSE).endswith(b"here")
            assert not ended
    wait_until(lambda: ended)


def test_a_websocket_that_pours_leaves_others_their_turn(serve):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send(START)
            await send(body(b"here"))
            return
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 1000})

    running = serve(app, lifespan="off")
    with running.connect() as sock:
        sock.sendall(UPGRADE)
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        with read_meanwhile(sock):
            for _ in range(20):
                assert running.raw(GET_CLOSE).endswith(b"here")


def test_a_message_that_was_sent_is_no_error_if_its_client_leaves_in_the_turn_of_the_others(serve):
    """A large message ends a burst. It has left when the client closes; the application hears of
    that by receive().
    """
    received = []

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        received.append(await receive())
        await send({"type": "websocket.accept"})
        received.append(await receive())
        await send({"type": "websocket.send", "bytes": bytes(500_000)})
        received.append(await receive())

    running = serve(app)

    async def go():
        connection = HTTP1Connection(running.context)
        transport = Transport()
        connection.connection_made(transport)
        connection.data_received(UPGRADE)
        while not transport.writes:
            await asyncio.sleep(0)
        connection.data_received(b"\x81\x82\0\0\0\0go")
        await asyncio.sleep(0)  # the application sends, and waits for its turn
        connection.data_received(b"\x88\x82\0\0\0\0\x03\xe8")
        connection.connection_lost(None)

    asyncio.run_coroutine_threadsafe(go(), running.loop).result(PATIENCE)
    wait_until(lambda: not running.context.cycles)
    assert [message["type"] for message in received] == [
        *("websocket.connect", "websocket.receive", "websocket.disconnect"),
    ]


def test_a_burst_that_fills_the_transport_waits_for_the_client(serve):
    """Its output leaves when the turn ends, and then the transport is full."""
    sent = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        for number in range(1000):
            await send(body(b"x", more=True))
            sent.append(number)

    class Full(Transport):
        def write(self, data):
            super().write(data)
            self.connection.pause_writing()

    running = serve(app)

    async def go():
        transport = Full()
        connection = transport.connection = HTTP1Connection(running.context)
        connection.connection_made(transport)
        connection.data_received(GET)
        while not transport.writes:
            await asyncio.sleep(0)
        for _ in range(10):  # the loop turns, and nothing moves
            stalled = len(sent)
            await asyncio.sleep(0)
            assert len(sent) == stalled
        connection.resume_writing()
        while len(transport.writes) < 2:
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return stalled

    stalled = asyncio.run_coroutine_threadsafe(go(), running.loop).result(PATIENCE)
    assert 0 < stalled < 1000
    wait_until(lambda: not running.context.cycles)


def test_parts_between_which_an_application_blocks_do_not_wait(writes):
    """Except for the first, which the server cannot tell from one that is followed at once."""
    blocking = 0.02  # seconds; connection.BURST_TIME is 0.005

    @http_only
    async def app(scope, receive, send):
        await send(START)
        for number in range(5):
            await send(body(b"%d" % number, more=True))
            seen.append(sum(map(len, writes.last)))
            time.sleep(blocking)  # as a client of a database may
        await send(body())

    seen = []
    written = writes(app, GET)
    head = len(written[0]) - len(b"1\r\n0\r\n" * 2)
    assert seen == [0, *(head + 6 * parts for parts in (2, 3, 4, 5))]


# --- Connections ----------------------------------------------------------------------------------


def test_no_connection_is_kept_where_none_is_to_be(serve):
    @http_only
    async def app(scope, receive, send):
        await send(COUNTED)
        await send(body(b"done"))

    running = serve(app, timeout_keep_alive=0)
    with running.connect() as sock:
        sock.sendall(GET)
        head, answer = read_response(sock)
        assert b"\r\nconnection: close\r\n" in head
        assert answer == b"done"
        assert sock.recv(1) == b""
    client = http.client.HTTPConnection("127.0.0.1", running.port)
    for _ in range(3):  # a client that keeps connections opens one for each
        client.request("GET", "/")
        assert client.getresponse().read() == b"done"
    client.close()

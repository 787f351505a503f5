"""Clients that leave, stall or drip cost bounded time and memory, and leave nothing behind."""

import asyncio
import contextlib
import os
import socket
import time

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    echo,
    get,
    hello,
    http_only,
    post,
    read_body,
    respond,
    take_replies,
)
from leaks import nothing_stays, only_ours, waiter  # noqa: F401
from support import on_every_transport, read_all, read_head, read_response, reset, wait_until

START = {"type": "http.response.start", "status": 200, "headers": []}
MEGABYTE = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


# --- Clients that leave ---------------------------------------------------------------------------


@on_every_transport
@pytest.mark.parametrize("leave", [reset, socket.socket.close])
@pytest.mark.parametrize(
    "sent",
    [
        post(b"x" * 1000)[:-500],
        post(b"x" * 500_000)[:-100],
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["small", "large", "chunked"],
)
def test_client_gone_within_its_body(serve, leave, sent):
    seen = []
    running = serve(waiter(seen))
    sock = running.connect()
    sock.sendall(sent)
    wait_until(lambda: seen)
    leave(sock)
    wait_until(lambda: seen[-1] == "http.disconnect")
    nothing_stays(running)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET[:-2], GET, GET + b"GET /", b"\r\n"])
def test_reset_at_any_point(serve, sent):
    running = serve(hello)
    sock = running.connect()
    wait_until(lambda: running.context.connections)
    sock.sendall(sent)
    if sent.startswith(GET):
        read_response(sock)
    reset(sock)
    nothing_stays(running)


@on_every_transport
def test_reset_while_the_application_writes(serve):
    @http_only
    async def app(scope, receive, send):
        await send(START)
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    running = serve(app)
    sock = running.connect()
    sock.sendall(GET + GET)
    read_head(sock)
    wait_until(lambda: all(c.write_paused for c in running.context.connections))
    reset(sock)
    nothing_stays(running)


@on_every_transport
def test_half_close_behind_a_request_still_gets_its_answer(serve):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        body = await read_body(receive)
        await gate.wait()
        await send(START)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(post(b"abc"))
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: gate.reached)
        gate.open(running)
        (reply,) = take_replies(read_all(sock))
    assert (reply.status, reply.body) == (200, b"abc!")
    nothing_stays(running)


@pytest.mark.parametrize("slow", [False, True])
def test_half_close_behind_pipelined_requests_gets_all_answers(serve, slow):
    """RFC 9112 section 9.3.2: the requests are complete; `printf ... | nc -N` is such a client."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if slow:
            await gate.wait()
        await echo(scope, receive, send)

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get("/1") + post(b"abc", path="/2") + get("/3"))
        sock.shutdown(socket.SHUT_WR)
        if slow:
            wait_until(lambda: gate.reached)
            gate.open(running)
        replies = take_replies(read_all(sock))
    assert [reply.body for reply in replies] == [b"GET /1 ", b"POST /2 abc", b"GET /3 "]
    nothing_stays(running)


@on_every_transport
@pytest.mark.parametrize(
    "sent",
    [
        post(b"abcdef")[:-3],
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_half_close_within_the_body_is_400_and_a_disconnect(serve, sent):
    seen = []
    running = serve(waiter(seen))
    with running.connect() as sock:
        sock.sendall(sent)
        wait_until(lambda: seen)
        sock.shutdown(socket.SHUT_WR)
        (reply,) = take_replies(read_all(sock))
    assert reply.status == 400
    assert reply.one(b"connection") == b"close"
    wait_until(lambda: seen == ["http.request", "http.disconnect"])
    nothing_stays(running)


def is_paused(running) -> bool:
    """Whether reading from the only connection is paused."""
    return [connection.reading_paused for connection in running.context.connections] == [True]


# --- Memory ---------------------------------------------------------------------------------------


@on_every_transport
@pytest.mark.parametrize("part", [1000, 65536, 3 * MEGABYTE])
def test_client_that_does_not_read_stops_the_application(serve, part):
    """512 MB for a stalled client: send() waits, and little output waits in memory."""
    sent = []
    body = bytes(part)

    @http_only
    async def app(scope, receive, send):
        await send(START)
        for _ in range(512 * MEGABYTE // part):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            sent.append(part)

    running = serve(app)
    with running.connect(receive_buffer=4096) as sock:
        before = resident()
        sock.sendall(GET)
        wait_until(lambda: [c for c in running.context.connections if c.write_paused])
        # The kernel holds up to 4 MB for a connection; one more part may wait in the server.
        assert sum(sent) <= 8 * MEGABYTE + part
        stalled = len(sent)
        for _ in range(10):
            running.call(lambda: None)  # the loop turns, and nothing moves
        assert len(sent) == stalled
        assert resident() - before < 20 * MEGABYTE
    nothing_stays(running)


@on_every_transport
@pytest.mark.parametrize("chunked", [False, True])
def test_client_is_not_read_from_while_the_application_does_not_receive(serve, chunked):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()

    running = serve(app)
    with running.connect() as sock:
        before = resident()
        head = b"POST / HTTP/1.1\r\nHost: a\r\n"
        sock.sendall(
            head + b"Transfer-Encoding: chunked\r\n\r\n20000000\r\n"
            if chunked
            else head + b"Content-Length: 536870912\r\n\r\n"
        )
        wait_until(lambda: gate.reached)
        sock.setblocking(False)
        sent = 0
        piece = bytes(MEGABYTE)
        while sent < 512 * MEGABYTE:
            try:
                sent += sock.send(piece)
            except BlockingIOError:
                if is_paused(running):
                    break
        assert 64 * 1024 < sent < 16 * MEGABYTE  # the kernel's part of it is up to 10 MB
        assert resident() - before < 20 * MEGABYTE
        gate.open(running)
    nothing_stays(running)


def test_pipelining_client_is_not_read_from_while_a_response_is_open(serve):
    """The server buffers a bounded number of bytes of pipelined requests."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await respond(send)

    running = serve(app)
    with running.connect() as sock:
        sock.setblocking(False)
        sent = 0
        piece = GET * 10_000
        while sent < 512 * MEGABYTE:
            try:
                sent += sock.send(piece)
            except BlockingIOError:
                if is_paused(running):
                    break
        assert sent < 16 * MEGABYTE
    gate.open(running)
    nothing_stays(running)


def test_requests_that_are_answered_at_once_wait_in_the_kernel(serve):
    """Each turn answers some and leaves the rest; it must not read more than it answers."""
    running = serve(hello)
    with running.connect() as sock:
        wait_until(lambda: running.context.connections)
        (one,) = running.context.connections

        def feed():
            one.data_received(GET * 20_000)
            return one.reading_paused

        # If the first of them is not answered yet, the next read pauses.
        assert running.call(feed) or not running.context.eager
        answer = b"\r\n\r\nhello"
        rest = b""
        count = 0
        while count < 20_000:
            data = rest + sock.recv(65536)
            count += data.count(answer)
            rest = data[data.rfind(answer) + len(answer) :] if answer in data else data
        wait_until(lambda: not one.reading_paused)
        sock.sendall(GET)
        assert read_response(sock)[1] == b"hello"


def test_body_flows_on_when_the_application_receives_again(serve):
    """Both pauses end: 20 MB in and out, through an application that receives part by part."""

    @http_only
    async def app(scope, receive, send):
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    running = serve(app)
    size = 20 * MEGABYTE
    with running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % size)
        sock.sendall(b"Connection: close\r\n\r\n")
        sock.setblocking(False)
        left = size
        received = bytearray()
        piece = bytes(MEGABYTE)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                left -= sock.send(piece[: min(left, MEGABYTE)]) if left else 0
            try:
                data = sock.recv(MEGABYTE)
            except BlockingIOError:
                continue
            if not data:
                break
            received += data
    (reply,) = take_replies(bytes(received))
    assert len(reply.body) == size
    nothing_stays(running)


def test_requests_behind_a_body_are_not_read_on_for_that_body(serve):
    """PIPELINE_HIGH_WATER is reached: reading stays paused when the body has been received."""
    gate, second = Gate(), Gate()
    received = []

    @http_only
    async def app(scope, receive, send):
        if scope["method"] == "POST":
            await gate.wait()
            received.append(await receive())
            while received[-1]["more_body"]:
                await second.wait()
                received.append(await receive())
            await receive()  # until the client is gone

    running = serve(app)
    body = post(b"x" * 200_000)
    with running.connect() as sock:
        sock.sendall(body[:-50_000])
        wait_until(lambda: gate.reached)
        (connection,) = running.context.connections
        wait_until(lambda: connection.reading_paused)
        gate.open(running)
        wait_until(lambda: second.reached and not connection.reading_paused)
        sock.sendall(body[-50_000:] + GET * 1000)
        wait_until(lambda: connection.reading_paused)
        second.open(running)
        wait_until(lambda: not received[-1]["more_body"])
        running.call(lambda: None)
        assert connection.reading_paused


# --- Many -----------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@on_every_transport
def test_churn_leaves_nothing(serve):
    running = serve(hello)
    running.raw(GET_CLOSE)
    wait_until(lambda: not running.context.connections)
    before = descriptors()
    for number in range(500):
        sock = running.connect()
        kind = number % 5
        if kind == 0:
            sock.sendall(GET_CLOSE)
            assert read_all(sock).endswith(b"hello")
        elif kind == 1:
            sock.sendall(GET)
            read_response(sock)
        elif kind == 2:
            sock.sendall(b"GET / HT")
        elif kind == 3:
            sock.sendall(b"nonsense\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 400 ")
        else:
            sock.sendall(post(b"x" * 1000)[:-1])
        if number % 2:
            reset(sock)
        else:
            sock.close()
    nothing_stays(running)
    wait_until(lambda: descriptors() == before, 3)  # a loop may close one a turn later


def test_many_at_once(serve):
    """200 connections, all with a request under way at the same time."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        await asyncio.sleep(0)
        await echo(scope, receive, send)

    running = serve(app)
    socks = [running.connect() for _ in range(200)]
    for number, sock in enumerate(socks):
        sock.sendall(get(f"/{number}"))
    wait_until(lambda: gate.reached == 200)
    gate.open(running)
    for number, sock in enumerate(socks):
        assert read_response(sock)[1] == f"GET /{number} ".encode()
        sock.close()
    nothing_stays(running)

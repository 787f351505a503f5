"""ASGI's extension http.response.zerocopysend, and sendfile(2), which pathsend uses, too."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import socket

import pytest
from apps import Gate, get, http_only, take_replies
from support import on_every_transport, read_all, read_head, read_response, wait_until

from thestral.errors import LocalProtocolError

SIZE = 1_000_003
START = {"type": "http.response.start", "status": 200, "headers": []}
CLOSE = get("/", "Connection: close")


@pytest.fixture
def serve(serve):
    """As everywhere, with the extensions for files offered."""
    return functools.partial(serve, pathsend=True, zerocopysend=True)


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def copy(file, more=False, **fields):
    return {"type": "http.response.zerocopysend", "file": file, "more_body": more} | fields


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


def sender(path, *messages, start=START):
    """Send messages about an open file, and close the file at once."""
    raised = []

    @http_only
    async def app(scope, receive, send):
        with path.open("rb") as file:
            await send(start)
            for message in messages:
                try:
                    await send(message(file))
                except Exception as exc:
                    raised.append(exc)

    app.raised = raised
    return app


def answer(running, request=CLOSE, method=b"GET"):
    (reply,) = take_replies(running.raw(request), method)
    return reply


@on_every_transport
def test_a_whole_file_has_its_length(serve, path):
    running = serve(sender(path, copy))
    with running.connect() as sock:
        for _ in range(2):
            sock.sendall(get())
            head, data = read_response(sock)
            assert b"content-length: 1000003\r\n" in head
            assert data == path.read_bytes()
    wait_until(lambda: not running.context.cycles)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"offset": 10}, slice(10, None)),
        ({"count": 20}, slice(0, 20)),
        ({"offset": 10, "count": 200_000}, slice(10, 200_010)),
        ({"offset": None, "count": None}, slice(None)),
        ({"offset": 10, "count": 2 * SIZE}, slice(10, None)),
        ({"offset": SIZE}, slice(0, 0)),
        ({"offset": 2 * SIZE, "count": 5}, slice(0, 0)),
        ({"count": 0}, slice(0, 0)),
    ],
    ids=str,
)
def test_offset_and_count(serve, path, fields, part):
    reply = answer(serve(sender(path, lambda file: copy(file, **fields))))
    assert reply.body == path.read_bytes()[part]
    assert reply.one(b"content-length") == b"%d" % len(reply.body)


@on_every_transport
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"%d" % (2 * SIZE + 4))]])
def test_mixed_with_bodies_and_several_times(serve, path, headers):
    running = serve(
        sender(
            path,
            lambda file: body(b"ab", True),
            lambda file: copy(file, True),
            lambda file: body(b"cd", True),
            lambda file: copy(file, False, offset=0),
            start=START | {"headers": headers},
        )
    )
    data = path.read_bytes()
    assert answer(running).body == b"ab" + data + b"cd" + data
    old = b"GET / HTTP/1.0\r\n\r\n"
    assert running.raw(old).partition(b"\r\n\r\n")[2] == b"ab" + data + b"cd" + data


def test_without_offset_it_goes_on_where_the_file_is(serve, path):
    at = []

    def first(file):
        file.read(3)  # Python has read ahead: the descriptor's position differs
        return copy(file, True, count=100_000)

    def second(file):
        at.append(file.tell())
        return copy(file.fileno(), True, count=5, offset=0)  # does not move it

    def third(file):
        at.append(file.tell())
        return copy(file, False)

    data = path.read_bytes()
    reply = answer(serve(sender(path, first, second, third)))
    assert reply.body == data[3:100_003] + data[:5] + data[100_003:]
    assert at == [100_003, 100_003]


def test_a_bare_descriptor(serve, path):
    @http_only
    async def app(scope, receive, send):
        number = os.open(path, os.O_RDONLY)
        await send(START)
        await send(copy(number, True, count=70_000))
        await send(copy(number))
        os.close(number)  # the application must do that

    assert answer(serve(app)).body == path.read_bytes()


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_where_there_is_no_content(serve, path, method, status):
    running = serve(sender(path, copy, start=START | {"status": status}))
    reply = answer(running, CLOSE.replace(b"GET", method), method)
    assert reply.status == status
    assert bool(reply.all(b"content-length")) == (status != 204)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (lambda file: copy(None), "None"),
        (lambda file: copy("/etc/hostname"), "/etc/hostname"),
        (lambda file: copy(True), "True"),
        (lambda file: copy(-1), "-1"),
        (lambda file: copy(2**70), "descriptor"),
        (lambda file: copy(io.BytesIO(b"x")), "BytesIO"),
        (lambda file: {"type": "http.response.zerocopysend"}, "None"),
        (lambda file: copy(file, offset=-1), "offset -1"),
        (lambda file: copy(file, offset="0"), "offset '0'"),
        (lambda file: copy(file, count=1.5), "count 1.5"),
        (lambda file: copy(file, count=2**63), "count"),
    ],
)
def test_what_cannot_be_sent_leaves_room_for_an_answer(serve, path, message, named):
    app = sender(path, message, lambda file: body(b"sorry"))
    assert answer(serve(app)).body == b"sorry"
    (raised,) = app.raised
    assert isinstance(raised, LocalProtocolError)
    assert named in str(raised)


def test_what_is_no_file_is_an_error(serve, path):
    """A pipe has no size, and would block."""
    reads, writes = os.pipe()
    try:
        app = sender(path, lambda file: copy(reads), lambda file: body(b"sorry"))
        assert answer(serve(app)).body == b"sorry"
    finally:
        os.close(reads)
        os.close(writes)
    assert isinstance(app.raised[0], OSError)


@pytest.mark.parametrize("announced", [300_000, SIZE - 1])
def test_a_file_longer_than_announced_is_cut_to_it(serve, path, announced):
    app = sender(path, copy, start=START | {"headers": [(b"content-length", b"%d" % announced)]})
    assert answer(serve(app)).body == path.read_bytes()[:announced]
    assert "longer" in str(app.raised[0])


def test_a_file_shorter_than_announced_is_seen_to_be_cut(serve, path):
    app = sender(path, copy, start=START | {"headers": [(b"content-length", b"1000004")]})
    running = serve(app)
    answer = running.raw(CLOSE)
    assert b"content-length: 1000004\r\n" in answer
    assert answer.partition(b"\r\n\r\n")[2] == path.read_bytes()
    wait_until(lambda: app.raised)
    assert "1 bytes shorter" in str(app.raised[0])


# --- sendfile(2) ----------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as target:
        target.truncate(32 << 20)
    return path


@pytest.mark.parametrize("kind", ["zerocopysend", "pathsend"])
def test_the_kernel_reads_a_large_file(serve, large, kind, monkeypatch):
    calls = []
    real = os.sendfile

    def counted(*arguments):
        calls.append(arguments)
        return real(*arguments)

    read = []
    pread = os.pread

    def reads_little(file, size, offset):
        read.append(size)  # if the kernel took only a part, a short rest may be left
        return pread(file, size, offset)

    monkeypatch.setattr(os, "sendfile", counted)
    monkeypatch.setattr(os, "pread", reads_little)
    path = {"type": "http.response.pathsend", "path": str(large)}
    app = sender(large, copy if kind == "zerocopysend" else lambda file: path)
    assert answer(serve(app)).body == large.read_bytes()
    assert calls
    assert sum(read) < 64 * 1024
    assert not app.raised


@pytest.mark.parametrize("at", [0, 1])
def test_a_file_that_the_kernel_cannot_send_is_read(serve, path, at, monkeypatch):
    real = os.sendfile
    calls = []

    def refuses(*arguments):
        calls.append(arguments)
        if len(calls) > at:
            raise OSError(22, "Invalid argument")
        return real(*arguments)

    monkeypatch.setattr(os, "sendfile", refuses)
    assert answer(serve(sender(path, copy))).body == path.read_bytes()
    assert len(calls) > at


def test_a_client_that_reads_slowly_gets_all_of_it(serve, path):
    running = serve(sender(path, copy, lambda file: None))
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(CLOSE)
        head = read_head(sock)
        assert b"content-length: 1000003\r\n" in head
        data = b""
        while piece := sock.recv(997):
            data += piece
    assert data == path.read_bytes()


def test_a_client_that_does_not_read_is_given_up(serve, large):
    running = serve(sender(large, copy), timeout_write=0.3)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(CLOSE)
        wait_until(lambda: running.context.connections)
        wait_until(lambda: not running.context.connections)
        with pytest.raises(ConnectionResetError):
            read_all(sock)


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_a_client_that_leaves_within_it(serve, large, version, errors):
    app = sender(large, copy)
    running = serve(app, asgi_spec_version=version)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(get())
        read_head(sock)
        wait_until(lambda: any(one.write_paused for one in running.context.connections))
    wait_until(lambda: not running.context.cycles)
    assert [isinstance(exc, OSError) for exc in app.raised] == ([] if version == "2.3" else [True])
    assert not errors()
    wait_until(lambda: not running.context.connections)


def test_a_pipelined_request_waits_for_the_file(serve, large):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        if scope["path"] == "/next":
            await gate.wait()
            await send(body(b"next"))
            return
        with large.open("rb") as file:
            await send(copy(file))

    running = serve(app)
    gate.open(running)
    with running.connect() as sock:
        sock.sendall(get() + get("/next", "Connection: close"))
        sock.shutdown(socket.SHUT_WR)
        first, second = take_replies(read_all(sock))
    assert len(first.body) == 32 << 20
    assert second.body == b"next"


@pytest.mark.parametrize("by_number", [False, True])
def test_file_that_is_closed_while_it_is_sent(serve, path, by_number):
    """The closed file has no position to advance."""
    size = 2**25  # more than sockets hold
    os.truncate(path, size)
    closed = []

    @http_only
    async def app(scope, receive, send):
        with path.open("rb") as file:
            await send({**START, "headers": [(b"content-length", b"%d" % size)]})
            sending = asyncio.ensure_future(send(copy(file.fileno() if by_number else file)))
            await asyncio.sleep(0)
        closed.append(not sending.done())
        await sending

    with serve(app).connect(receive_buffer=4096) as sock:
        sock.sendall(CLOSE)
        wait_until(lambda: closed)
        assert read_response(sock)[1] == path.read_bytes()
    assert closed == [True]

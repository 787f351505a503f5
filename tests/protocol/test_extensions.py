"""ASGI's extensions of http scopes: early_hint, pathsend, trailers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading

import pytest
from apps import GET_CLOSE, Gate, get, http_only
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route
from support import PATIENCE, read_all, read_head, read_response, reset, wait_until

START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def serve(serve):
    """As everywhere, with the extensions for files offered."""
    return functools.partial(serve, pathsend=True, zerocopysend=True)


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def send_all(*messages, raised=None):
    """An application that sends messages, and keeps in `raised` what send() raises."""

    @http_only
    async def app(scope, receive, send):
        for message in messages:
            try:
                await send(message)
            except Exception as exc:
                if raised is None:
                    raise
                raised.append(exc)

    return app


@pytest.mark.parametrize(
    "files", [(), ("pathsend",), ("zerocopysend",), ("pathsend", "zerocopysend")]
)
def test_they_are_announced_where_they_can_be_had(serve, files):
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append(set(scope["extensions"]))
        scope["extensions"].clear()
        await send(START)
        await send(body())

    running = serve(app, **{name: name in files for name in ("pathsend", "zerocopysend")})
    running.raw(GET_CLOSE)
    running.raw(GET_CLOSE.replace(b"1.1", b"1.0"))
    offered = {f"http.response.{name}" for name in files}
    assert seen == [offered | {"http.response.early_hint", "http.response.trailers"}, offered]


@pytest.mark.parametrize("name", ["pathsend", "zerocopysend"])
def test_a_file_is_refused_where_it_is_not_offered(serve, name, errors):
    message = {"type": f"http.response.{name}", "path": __file__, "file": 0}
    running = serve(send_all(START, message), **{name: False})
    assert running.raw(GET_CLOSE).startswith(b"HTTP/1.1 500 ")
    assert f"--{name}" in str(errors()[0].exc_info[1])


def test_a_relative_path_is_opened_from_the_working_directory(serve, tmp_path, monkeypatch):
    (tmp_path / "file.txt").write_bytes(b"here")
    monkeypatch.chdir(tmp_path)
    for path in ("file.txt", "./file.txt", b"file.txt"):
        message = {"type": "http.response.pathsend", "path": path}
        assert serve(send_all(START, message)).raw(GET_CLOSE).endswith(b"\r\n\r\nhere")


def test_a_file_may_come_after_its_head_has_left(serve, tmp_path):
    """The head leaves when the application waits; a file may still be the body."""
    (tmp_path / "file").write_bytes(b"here")

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await asyncio.sleep(0)
        await send(pathsend(tmp_path / "file"))

    assert serve(app).raw(GET_CLOSE).endswith(b"\r\n\r\n4\r\nhere\r\n0\r\n\r\n")


# --- Early hints ----------------------------------------------------------------------------------


def test_early_hints(serve):
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b>"]}
    running = serve(send_all(hint, hint, START, body(b"done")))
    assert running.raw(GET_CLOSE).startswith(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n" * 2
        + b"HTTP/1.1 200 OK\r\n"
    )
    assert running.raw(GET_CLOSE.replace(b"1.1", b"1.0")).startswith(b"HTTP/1.1 200 OK\r\n")


def test_hints_behind_start_and_within_the_body(serve):
    """ "at any time after the Response Start message but before the final Response Body message":
    the head is held until the turn ends, so that they still come before it. Then they are ignored.
    """
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    running = serve(send_all(START, hint, hint, body(b"do", True), hint, body(b"ne")))
    answer = running.raw(GET_CLOSE)
    assert answer.startswith(b"HTTP/1.1 103 ")
    assert answer.count(b"HTTP/1.1 103 ") == 2
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.endswith(b"2\r\ndo\r\n2\r\nne\r\n0\r\n\r\n")


def test_hints_that_cannot_be_sent(serve):
    raised = []
    bad = {"type": "http.response.early_hint", "links": [b"</a>\r\nx: y"]}
    running = serve(send_all(bad, START, body(b"done"), raised=raised))
    assert running.raw(GET_CLOSE).startswith(b"HTTP/1.1 200 OK\r\n")
    assert "link" in str(raised[0])


# --- Trailers -------------------------------------------------------------------------------------

WITH_TRAILERS = START | {"trailers": True}


def trailers(*headers, more=False):
    return {"type": "http.response.trailers", "headers": list(headers), "more_trailers": more}


def test_trailers(serve):
    end = [trailers((b"x-a", b"1"), more=True), trailers((b"x-b", b"2"))]
    running = serve(send_all(WITH_TRAILERS, body(b"abc", True), body(b"d"), *end))
    with running.connect() as sock:
        for _ in range(2):  # the connection is kept
            sock.sendall(get("/", "TE: trailers"))
            assert b"transfer-encoding: chunked" in read_head(sock)
            expected = b"3\r\nabc\r\n1\r\nd\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n"
            assert sock.recv(len(expected), 0x100) == expected  # MSG_WAITALL


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/", "Connection: close"), b"3\r\nabc\r\n0\r\n\r\n"),
        (get("/", "TE: gzip", "Connection: close"), b"3\r\nabc\r\n0\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n", b"\r\n\r\nabc"),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n", b"\r\n\r\n"),
    ],
)
def test_trailers_for_who_does_not_take_them(serve, request_, expected):
    running = serve(send_all(WITH_TRAILERS, body(b"abc"), trailers((b"x-a", b"1"))))
    answer = running.raw(request_)
    assert answer.endswith(expected)
    assert b"x-a" not in answer


def test_trailers_behind_a_counted_body(serve):
    start = WITH_TRAILERS | {"headers": [(b"content-length", b"3")]}
    running = serve(send_all(start, body(b"abc"), trailers((b"x-a", b"1"))))
    with running.connect() as sock:
        for _ in range(2):
            sock.sendall(get("/", "TE: trailers"))
            assert read_response(sock)[1] == b"abc"


@pytest.mark.parametrize(
    "field", [(b"Content-Length", b"5"), (b"transfer-encoding", b"x"), (b"a b", b""), (b"a", b"\n")]
)
def test_trailers_that_may_not_be_sent(serve, field):
    raised = []
    messages = [WITH_TRAILERS, body(b"abc"), trailers(field), trailers((b"x-a", b"1"))]
    running = serve(send_all(*messages, raised=raised))
    answer = running.raw(get("/", "TE: trailers", "Connection: close"))
    assert answer.endswith(b"3\r\nabc\r\n0\r\nx-a: 1\r\n\r\n")
    assert len(raised) == 1
    assert field[0].decode().lower() in str(raised[0]).lower()


def test_a_body_where_trailers_are_due(serve):
    raised = []
    messages = [WITH_TRAILERS, body(b"abc"), body(b"d"), trailers()]
    running = serve(send_all(*messages, raised=raised))
    assert running.raw(get("/", "Connection: close")).endswith(b"3\r\nabc\r\n0\r\n\r\n")
    assert "http.response.trailers" in str(raised[0])


# --- Files ----------------------------------------------------------------------------------------


def pathsend(path):
    return {"type": "http.response.pathsend", "path": str(path)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_001))
    return path


def test_a_file(serve, file):
    running = serve(send_all(START, pathsend(file)))
    with running.connect() as sock:
        for _ in range(2):
            sock.sendall(get("/"))
            head, data = read_response(sock)
            assert b"content-length: 3000001\r\n" in head
            assert data == file.read_bytes()
    wait_until(lambda: not running.context.cycles)


def test_only_its_head(serve, file):
    running = serve(send_all(START, pathsend(file)))
    answer = running.raw(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"content-length: 3000001\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_an_empty_file(serve, tmp_path):
    (tmp_path / "empty").touch()
    answer = serve(send_all(START, pathsend(tmp_path / "empty"))).raw(GET_CLOSE)
    assert b"content-length: 0\r\n" in answer


def test_as_much_as_is_announced(serve, file):
    start = START | {"headers": [(b"content-length", b"1000000")]}
    answer = serve(send_all(start, pathsend(file))).raw(GET_CLOSE)
    assert answer.partition(b"\r\n\r\n")[2] == file.read_bytes()[:1_000_000]


def test_a_file_shorter_than_announced_is_seen_to_be_cut(serve, file):
    raised = []
    start = START | {"headers": [(b"content-length", b"3000002")]}
    running = serve(send_all(start, pathsend(file), raised=raised))
    answer = running.raw(GET_CLOSE)
    assert b"content-length: 3000002\r\n" in answer
    assert answer.partition(b"\r\n\r\n")[2] == file.read_bytes()
    assert "1 bytes shorter" in str(raised[0])


@pytest.mark.parametrize("path", ["/nowhere/at/all", "relative", None, "/", "/dev/null"])
def test_what_cannot_be_sent_leaves_room_for_an_answer(serve, path):
    raised = []
    message = {"type": "http.response.pathsend", "path": path}
    running = serve(send_all(START, message, body(b"sorry"), raised=raised))
    assert running.raw(GET_CLOSE).endswith(b"\r\n\r\nsorry")
    assert len(raised) == 1


def open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_a_client_that_leaves_within_it(serve, tmp_path, version, errors):
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as target:
        target.truncate(1 << 30)
    raised = []
    running = serve(send_all(START, pathsend(sparse), raised=raised), asgi_spec_version=version)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(get("/"))
        read_head(sock)
        wait_until(lambda: any(one.write_paused for one in running.context.connections))
        (one,) = running.context.connections
        assert one.transport.get_write_buffer_size() < 2 << 20
        assert str(sparse) in open_files()
    wait_until(lambda: not running.context.cycles)
    assert [isinstance(exc, OSError) for exc in raised] == ([] if version == "2.3" else [True])
    assert str(sparse) not in open_files()
    assert not errors()


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_a_client_whose_reset_the_kernel_alone_knows(serve, file, version, errors):
    """sendfile() reports the reset; the file is not too short."""
    gate, blocked, left = Gate(), threading.Event(), threading.Event()
    raised = []

    @http_only
    async def app(scope, receive, send):
        await send(START | {"headers": [(b"content-length", b"3000001")]})
        await gate.wait()
        blocked.set()
        left.wait(PATIENCE)  # in the loop's thread, which reads nothing meanwhile
        try:
            await send(pathsend(file))
        except OSError as exc:
            raised.append(exc)

    running = serve(app, asgi_spec_version=version)
    sock = running.connect()
    sock.sendall(get("/"))
    read_head(sock)
    gate.open(running)
    blocked.wait(PATIENCE)
    reset(sock)
    left.set()
    wait_until(lambda: not running.context.cycles)
    assert [str(exc) for exc in raised] == ([] if version == "2.3" else ["the client is gone"])
    assert not errors()


def test_others_have_their_turn(serve, tmp_path):
    """A client that reads as fast as the server writes does not keep the loop busy."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as target:
        target.truncate(64 << 20)

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(pathsend(sparse) if scope["path"] == "/file" else body(b"here"))

    running = serve(app)
    with running.connect() as reader, running.connect() as other:
        reader.sendall(get("/file", "Connection: close"))
        read_head(reader)
        other.sendall(get("/"))
        assert read_response(other)[1] == b"here"
        assert len(read_all(reader)) == 64 << 20


def test_starlettes_file_response(serve, file):
    async def whole(request):
        return FileResponse(file)

    running = serve(Starlette(routes=[Route("/", whole)]))
    with running.connect() as sock:
        sock.sendall(get("/"))
        assert read_response(sock)[1] == file.read_bytes()
        sock.sendall(get("/", "Range: bytes=10-19"))
        head, data = read_response(sock)
        assert head.startswith(b"HTTP/1.1 206 ")
        assert data == file.read_bytes()[10:20]


def test_hint_that_fails_reaches_nobody(serve):
    """Neither its own client nor another one, although they share a buffer."""
    gone = memoryview(b"x")
    gone.release()
    raised = []

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/bad":
            await asyncio.sleep(0)
            try:
                await send({"type": "http.response.early_hint", "links": [b"</secret>", gone]})
            except ValueError as exc:
                raised.append(exc)
        await send(START)
        await send(body(b"done"))

    running = serve(app)
    for path in ("/bad", "/"):
        raw = running.raw(get(path, "Connection: close"))
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"secret" not in raw
    assert raised

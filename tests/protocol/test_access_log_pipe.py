"""The access log written to a pipe whose reader is slow, or has stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import threading

import pytest
from support import Running, read_response, wait_until

from thestral.logging.formatters import AccessFormatter
from thestral.logging.loggers import access_logger, error_logger
from thestral.logging.setup import LINE_FORMATS

CAPACITY = 65536  # bytes of a pipe
WAITING_MAX = 1024 * 1024  # bytes that AccessLog keeps for a reader
LONG = b"/" + b"x" * 30_000


@pytest.fixture
def serve(serve):
    """Servers whose clock ticks every 50 ms, so that waiting lines are written soon."""
    return lambda app, **options: serve(app, **{"timeout_tls_handshake": 0.4, **options})


@pytest.fixture
def pipe(monkeypatch):
    """Function that lets the access logger write to a pipe, and gives its reading end.

    Called in the test: before it, pytest would add its own handlers to a logger of one's own.
    """
    ours, theirs = os.pipe()
    level = access_logger.level
    with open(ours, "rb", buffering=0) as reader, open(theirs, "w") as writer:
        handler = logging.StreamHandler(writer)
        handler.setFormatter(AccessFormatter(LINE_FORMATS[True], use_colors=False))

        def install():
            monkeypatch.setattr(access_logger, "handlers", [handler])
            monkeypatch.setattr(access_logger, "filters", [])
            monkeypatch.setattr(access_logger, "propagate", False)
            access_logger.setLevel(logging.INFO)
            return reader

        yield install
        access_logger.setLevel(level)


@pytest.fixture
def errors(monkeypatch):
    """The messages of thestral.error, as they are logged."""
    said = []
    monkeypatch.setattr(error_logger, "error", lambda text, *args: said.append(text % args))
    return said


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


def ask(running: Running, path: bytes, times: int) -> None:
    """Requests for path-0, path-1 and so on, each answered before the next."""
    with running.connect() as sock:
        for number in range(times):
            sock.sendall(b"GET %s-%d HTTP/1.1\r\nHost: a\r\n\r\n" % (path, number))
            read_response(sock)


def read_lines(reader, count: int) -> list[str]:
    """Read a number of lines, after which no more may be there yet."""
    received = b""
    while received.count(b"\n") < count:
        assert select.select([reader], [], [], 15)[0], "no more lines"
        received += reader.read(CAPACITY)
    return received.decode().splitlines()


def numbers(lines: list[str]) -> list[int]:
    return [int(re.fullmatch(r'INFO: .*-(\d+) HTTP/1.1" 200 OK', line)[1]) for line in lines]


def test_lines_wait_in_memory_while_nobody_reads(pipe, serve, errors):
    reader = pipe()
    running = serve(app, access_log=True)
    ask(running, LONG, 5)  # answered, though the pipe holds two
    # By itself, without a further request:
    assert numbers(read_lines(reader, 5)) == list(range(5))
    assert errors == []


def test_what_is_lost_is_counted_and_said(pipe, serve, errors):
    reader = pipe()
    running = serve(app, access_log=True)
    ask(running, LONG, 50)
    assert errors == ["Nobody reads the access log: from now on its lines are lost"]
    kept = 0
    while len(errors) < 2:
        if select.select([reader], [], [], 0.1)[0]:
            kept += reader.read(CAPACITY).count(b"\n")
        running.call(running.context.access_log.flush)
    if select.select([reader], [], [], 0)[0]:
        kept += reader.read(CAPACITY).count(b"\n")
    assert errors[1] == f"{50 - kept} lines of the access log were lost: nobody read it"
    ask(running, b"/again", 3)
    assert numbers(read_lines(reader, 3)) == [0, 1, 2]


def test_slow_reader_loses_nothing(pipe, serve, errors):
    """The server waits for the reader: pipe and memory have no room for two thirds of the lines."""
    reader = pipe()
    running = serve(app, access_log=True)
    count = 3 * WAITING_MAX // len(LONG)
    asking = threading.Thread(target=ask, args=(running, LONG, count))
    asking.start()
    received = b""
    while received.count(b"\n") < count:
        assert select.select([reader], [], [], 15)[0]
        received += reader.read(4096)
    asking.join()
    assert numbers(received.decode().splitlines()) == list(range(count))
    assert errors == []


def test_server_stops_though_nobody_reads(pipe, errors):
    pipe()
    with Running(app, access_log=True) as running:
        ask(running, LONG, 10)
    assert re.fullmatch(r"[78] lines of the access log were lost: nobody read it", errors[-1])


def test_slow_reader_gets_what_waits_at_the_end(pipe, errors):
    reader = pipe()
    received = []
    with Running(app, access_log=True) as running:
        ask(running, LONG, 10)
        reading = threading.Thread(target=lambda: received.extend(read_lines(reader, 10)))
        reading.start()
    reading.join()
    assert numbers(received) == list(range(10))
    assert errors == []


def test_reader_that_goes_is_told_once(pipe, serve, errors):
    reader = pipe()
    running = serve(app, access_log=True)
    reader.close()
    ask(running, LONG, 5)
    wait_until(lambda: errors)
    assert errors == ["The access log cannot be written: [Errno 32] Broken pipe"]
    # Text left in Python's buffer would raise when the file is closed.
    with contextlib.suppress(BrokenPipeError):
        access_logger.handlers[0].stream.close()


def test_lines_of_several_processes_do_not_mix(pipe):
    """Each write has complete lines, and no more than a pipe takes atomically."""
    pipe()
    writes = []
    stream = access_logger.handlers[0].stream
    write = stream.write
    stream_write = lambda text: writes.append(text) or write(text)  # noqa: E731
    with Running(app, access_log=True) as running:
        proxy = type("Proxy", (), {})()
        proxy.fileno, proxy.flush, proxy.write = stream.fileno, stream.flush, stream_write
        access_logger.handlers[0].setStream(proxy)
        ask(running, b"/short", 300)
    assert len(writes) > 1
    assert all(text.endswith("\n") and len(text) <= select.PIPE_BUF for text in writes)
    assert numbers("".join(writes).splitlines()) == list(range(300))

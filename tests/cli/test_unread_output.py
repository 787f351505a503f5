"""A server whose stderr is not read keeps serving, and stops at a signal."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket

import pytest
from process import Command
from support import PATIENCE, read_all, wait_until

APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"] == "/task":  # asyncio logs what it has raised
        asyncio.get_running_loop().create_task(fail())
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body"})
    else:
        await fail()

async def fail():
    raise RuntimeError("x" * 3000)
"""
# More tracebacks than a pipe, or a pipe and the log's memory, can hold.
REQUESTS = 60


def read_until(reader, pattern):
    """Read until a pattern matches; return all that was read."""
    received = ""
    while not re.search(pattern, received):
        data = os.read(reader, 65536)
        assert data, received
        received += data.decode()
    return received


@pytest.fixture(params=[["--workers", "1"], ["--workers", "2"]], ids=["one process", "workers"])
def unread(request, tmp_path):
    """Function (**popen) that returns a Command, its port, and the pipe of its stderr."""
    (tmp_path / "main.py").write_text(APP)
    with contextlib.ExitStack() as stack:
        ours, theirs = os.pipe()
        stack.callback(os.close, ours)

        def start(shared):
            try:
                command = stack.enter_context(
                    Command(
                        *("main:app", "--port", "0", *request.param),
                        cwd=tmp_path,
                        stderr=theirs,
                        **({"stdout": theirs} if shared else {}),
                    )
                )
            finally:
                os.close(theirs)
            said = read_until(ours, r"running on http\S+ ")
            return command, int(re.search(r"running on http://127.0.0.1:(\d+) ", said)[1]), ours

        yield start


def ask(port, path=b"/"):
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path)
        return read_all(sock)


@pytest.mark.parametrize(
    ("shared", "path", "said"),
    [
        (False, b"/", "Exception in ASGI application"),
        (True, b"/", "Exception in ASGI application"),
        (False, b"/task", "Task exception was never retrieved"),
    ],
    ids=["stderr", "stdout and stderr", "asyncio"],
)
def test_unread_tracebacks_do_not_stop_the_server(unread, shared, path, said):
    command, port, reader = unread(shared)
    for _ in range(REQUESTS):
        assert ask(port, path).startswith(b"HTTP/1.1 500 ")
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    received = b"".join(iter(lambda: os.read(reader, 65536), b"")).decode()
    assert 0 < received.count(said) < REQUESTS


def test_reader_that_returns_gets_the_number_of_lost_lines(unread):
    command, port, reader = unread(False)
    for _ in range(REQUESTS):
        ask(port)
    received = []

    def told():
        ask(port)
        while select.select([reader], [], [], 0)[0]:
            received.append(os.read(reader, 65536))
        pattern = rb"ERROR: +(\d+) lines of the log were lost: nobody read stderr\n"
        # Each process reports its lost lines, and later losses in a further line.
        return sum(int(lost) for lost in re.findall(pattern, b"".join(received))) > 100

    wait_until(told)
    command.stop()

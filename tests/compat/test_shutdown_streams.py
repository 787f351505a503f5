"""SIGTERM while responses run: finite ones are completed, event streams end at once."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from apps import get, read_to_end, take_reply
from process import Command
from support import PATIENCE, read_to
from uvicorn_peer import UvicornCommand, commands

APPLICATION = """
import asyncio
from pathlib import Path

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from sse_starlette.sse import EventSourceResponse

app = FastAPI()
PARTS = 10

def told(who):
    print("told:", who, flush=True)

async def released():
    # By the test, once the server stops.
    while not Path("released").exists():
        await asyncio.sleep(0.01)

async def parts(request, path):
    yield b"first\\n"
    while not Path("released").exists():
        if await request.is_disconnected():
            told(path)
            return
        await asyncio.sleep(0.01)
    for number in range(PARTS):
        if await request.is_disconnected():
            told(path)
            return
        yield b"%04d\\n" % number
        await asyncio.sleep(0.001)

@app.get("/download")
async def download(request: Request):
    return StreamingResponse(parts(request, "/download"))

@app.get("/counted")
async def counted(request: Request):
    length = len(b"first\\n") + PARTS * len(b"0000\\n")
    return StreamingResponse(parts(request, "/counted"), headers={"Content-Length": str(length)})

@app.get("/computed")
async def computed(request: Request):
    # Whose result nobody needs once the client is gone.
    print("computing", flush=True)
    while not Path("released").exists():
        if await request.is_disconnected():
            told("/computed")
            return "given up"
        await asyncio.sleep(0.01)
    return "computed"

@app.get("/events")
async def events():
    async def events():
        try:
            yield {"data": "first"}
            await anyio.sleep_forever()
        finally:
            print("ended: /events", flush=True)

    return EventSourceResponse(events())

@app.get("/plain-events")
async def plain_events():
    async def events():
        try:
            yield "data: first\\n\\n"
            await anyio.sleep_forever()
        finally:
            print("ended: /plain-events", flush=True)

    return StreamingResponse(events(), media_type="text/event-stream")

@app.get("/endless")
async def endless():
    async def parts():
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            print("ended: /endless", flush=True)

    return StreamingResponse(parts())
"""
LAST = b"0\r\n\r\n"  # chunk
DOWNLOAD = b"first\n" + b"".join(b"%04d\n" % number for number in range(10))


class Exchange:
    """A request, and the part of its response that has come."""

    def __init__(self, sock: socket.socket, path: str, first: bytes) -> None:
        self.sock = sock
        self.sock.sendall(get(path))
        self.received = read_to(self.sock, first) if first else b""

    def rest(self) -> bytes:
        """All of the response, up to the connection's end."""
        return self.received + read_to_end(self.sock)


@pytest.fixture
def begin() -> Iterator[Callable[..., Exchange]]:
    """Function (command, path, first) that sends a request and reads up to `first`."""
    with contextlib.ExitStack() as stack:

        def begin(command: Command, path: str, first: bytes = b"") -> Exchange:
            address = ("127.0.0.1", int(command.url().rpartition(":")[2]))
            sock = socket.create_connection(address, timeout=PATIENCE)
            return Exchange(stack.enter_context(sock), path, first)

        yield begin


@commands
def test_finite_responses_are_completed(begin, tmp_path, command_class):
    """A stop does not tell an application that asks about its client that the client is gone."""
    (tmp_path / "main.py").write_text(APPLICATION)
    arguments = ("main:app", "--port", "0", "--timeout-graceful-shutdown", "60")
    with command_class(*arguments, cwd=tmp_path) as command:
        events = begin(command, "/events", b"data: first")
        download = begin(command, "/download", b"first\n")
        counted = begin(command, "/counted", b"first\n")
        computed = begin(command, "/computed")
        command.saw("computing")
        command.signal(signal.SIGTERM)
        events.rest()  # ends at once; then the other responses have been handled, too
        command.saw("ended: /events")
        (tmp_path / "released").touch()
        for exchange, body in (
            (download, DOWNLOAD),
            (counted, DOWNLOAD),
            (computed, b'"computed"'),
        ):
            reply, behind = take_reply(exchange.rest())
            assert (reply.status, reply.body, behind) == (200, body, b"")
        command.wait()
    assert "told" not in command.stdout
    assert "Traceback" not in command.stderr
    # uvicorn complains that the event stream was not completed.
    assert "ERROR" not in command.stderr or command_class is UvicornCommand


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
@pytest.mark.parametrize("path", ["/events", "/plain-events"])
def test_event_streams_end_at_once(begin, tmp_path, path, workers):
    """Before the grace period is over, and in a way that tells the client that more was to come."""
    (tmp_path / "main.py").write_text(APPLICATION)
    arguments = ("main:app", "--port", "0", "--timeout-graceful-shutdown", "60", *workers)
    with Command(*arguments, cwd=tmp_path) as command:
        exchange = begin(command, path, b"data: first")
        command.stop()
        assert not exchange.rest().endswith(LAST)
    assert f"ended: {path}" in command.stdout
    assert "Traceback" not in command.stderr
    assert "ERROR" not in command.stderr


@commands
def test_endless_response_is_cut_at_the_end_of_the_grace_period(begin, tmp_path, command_class):
    """Without the last chunk, so that the client knows that it is incomplete."""
    (tmp_path / "main.py").write_text(APPLICATION)
    arguments = ("main:app", "--port", "0", "--timeout-graceful-shutdown", "2")
    with command_class(*arguments, cwd=tmp_path) as command:
        endless = begin(command, "/endless", b"x\r\n")
        began = time.monotonic()
        command.signal(signal.SIGTERM)
        assert not endless.rest().endswith(LAST)
        assert time.monotonic() - began > 1.5
        command.wait()
    if command_class is Command:  # uvicorn's process is gone before or after its generators are
        assert "ended: /endless" in command.stdout
        assert "Traceback" not in command.stderr

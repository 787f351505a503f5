"""Sentry gets an application's errors, and nothing about clients that leave.

In a process of its own, because the SDK patches Starlette, asyncio and logging for good.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import httpx
import pytest
from apps import get, post
from process import Command
from support import PATIENCE, read_to, reset, wait_until
from uvicorn_peer import commands

APPLICATION = """
import asyncio
import os
import time
from pathlib import Path

import sentry_sdk
from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.transport import Transport

EVENTS = []

class Memory(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            errors = [each["type"] for each in event.get("exception", {}).get("values", [])]
            EVENTS.append([event.get("transaction"), *errors, event.get("logentry")])

sentry_sdk.init(
    "http://key@127.0.0.1:9/1",
    transport=Memory,
    traces_sample_rate=1.0,
    # Enabled by themselves as well, but with all else that is installed.
    auto_enabling_integrations=False,
    integrations=[StarletteIntegration(), FastApiIntegration()],
)
inner = FastAPI()

async def app(scope, receive, send):
    try:
        await inner(scope, receive, send)
    finally:
        print("over:", scope.get("path"), flush=True)

if os.environ["MIDDLEWARE"]:
    @inner.middleware("http")
    async def passes_on(request, call_next):
        return await call_next(request)

def is_released():
    return Path("released").exists()

@inner.get("/async")
async def asynchronous():
    print("working", flush=True)
    while not is_released():
        await asyncio.sleep(0.01)
    return {"done": "async"}

@inner.post("/sync")
def synchronous(body: dict):
    print("working", flush=True)
    while not is_released():
        time.sleep(0.01)
    return {"done": "sync"}

@inner.get("/silent")
async def silent():
    async def parts():
        yield b"first"
        await asyncio.Event().wait()

    return StreamingResponse(parts())

@inner.get("/ticking")
async def ticking():
    async def parts():
        yield b"first"
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    return StreamingResponse(parts())

@inner.get("/file")
async def file():
    return FileResponse(Path("large.bin").absolute())

@inner.get("/fails")
async def fails():
    raise ZeroDivisionError("on purpose")

@inner.get("/fails-late")
async def fails_late():
    async def parts():
        yield b"first"
        raise ZeroDivisionError("on purpose, too")

    return StreamingResponse(parts())

@inner.get("/events")
async def events():
    return EVENTS
"""


def sockets(command: Command) -> int:
    """The number of sockets that the process has open."""
    count = 0
    for path in Path(f"/proc/{command.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(path).startswith("socket:")
    return count


@commands
@pytest.mark.parametrize("middleware", ["", "1"], ids=["plain", "middleware"])
def test_only_errors_of_the_application_are_events(tmp_path, command_class, middleware):
    (tmp_path / "main.py").write_text(APPLICATION)
    (tmp_path / "large.bin").write_bytes(bytes(5 * 2**20))
    environment = {"MIDDLEWARE": middleware}
    with command_class("main:app", "--port", "0", cwd=tmp_path, env=environment) as command:
        url = command.url()
        idle = sockets(command)

        def begin(request: bytes, first: bytes) -> socket.socket:
            sock = socket.socket()
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            sock.sendall(request)
            if first:
                read_to(sock, first)
            return sock

        clients = [
            begin(get("/async"), b""),
            begin(post(b"{}", "Content-Type: application/json", path="/sync"), b""),
            begin(get("/silent"), b"first"),
            begin(get("/ticking"), b"first"),
            begin(get("/file"), b"\r\n\r\n\0"),
        ]
        command.saw("working", 2)
        for client in clients:
            reset(client)
        wait_until(lambda: sockets(command) <= idle)
        (tmp_path / "released").touch()
        for path in ("/async", "/sync", "/silent", "/ticking", "/file"):
            command.saw(f"over: {path}")
        assert httpx.get(f"{url}/events", trust_env=False).json() == []
        assert "Traceback" not in command.stderr

        assert httpx.get(f"{url}/fails", trust_env=False).status_code == 500
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/fails-late", trust_env=False)
        command.saw("over: /fails-late")
        events = httpx.get(f"{url}/events", trust_env=False).json()
        assert [event[1] for event in events] == ["ZeroDivisionError"] * 2

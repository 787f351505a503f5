"""The MCP SDK's streamable HTTP: its server in thestral, its client outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from apps import get, post
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from process import Command
from support import PATIENCE, Running, read_to, reset, wait_until
from uvicorn_peer import beside_uvicorn
from ws_sessions import run

HEADERS = {"Accept": "application/json, text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class Watched:
    """The application; records the method, status and session of each request."""

    def __init__(self) -> None:
        server = MCPServer("tested")

        @server.tool()
        def add(left: int, right: int) -> int:
            """Add two numbers."""
            return left + right

        @server.tool()
        async def count(to: int, ctx: Context) -> str:
            """Count, and say how far it is."""
            for number in range(1, to + 1):
                await ctx.report_progress(number, to, f"at {number}")
                await asyncio.sleep(0)
            return f"counted {to}"

        @server.tool()
        async def change(ctx: Context) -> str:
            """Say that the list of tools has changed."""
            await ctx.session.send_tool_list_changed()
            return "changed"

        @server.tool()
        async def fail() -> str:
            raise ValueError("on purpose")

        @server.tool()
        async def wait() -> str:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
            return "never"

        self.app = server.streamable_http_app()
        self.seen: list[tuple[str, int, str]] = []
        self.waiting = self.cancelled = 0
        self.open = 0  # requests

    async def __call__(self, scope, receive, send) -> None:
        async def watched(message) -> None:
            if message["type"] == "http.response.start":
                fields = {**dict(scope["headers"]), **dict(message["headers"])}
                session = fields.get(b"mcp-session-id", b"").decode()
                self.seen.append((scope["method"], message["status"], session))
            await send(message)

        self.open += scope["type"] == "http"
        try:
            await self.app(scope, receive, watched)
        finally:
            self.open -= scope["type"] == "http"


@pytest.fixture
def watched():
    return Watched()


# With a handshake, a session and a GET for messages that the server starts; and without them.
MODES = ["legacy", "auto"]


@pytest.mark.parametrize("mode", MODES)
def test_tools(serve, watched, mode):
    running = serve(watched, lifespan="on")

    async def main():
        told = []

        async def progress(done, total, message):
            told.append((done, total, message))

        async with Client(f"{running.url}/mcp", mode=mode) as client:
            assert client.server_info.name == "tested"
            tools = (await client.list_tools()).tools
            assert {tool.name for tool in tools} == {"add", "count", "change", "fail", "wait"}
            for number in range(20):
                result = await client.call_tool("add", {"left": number, "right": 1})
                assert result.structured_content == {"result": number + 1}
            result = await client.call_tool("count", {"to": 50}, progress_callback=progress)
            assert result.content[0].text == "counted 50"
            await asyncio.to_thread(wait_until, lambda: len(told) == 50)
            assert sorted(told) == [(n, 50, f"at {n}") for n in range(1, 51)]
            failed = await client.call_tool("fail", {})
            assert failed.is_error
            calls = [client.call_tool("add", {"left": n, "right": n}) for n in range(10)]
            results = await asyncio.gather(*calls)
            assert [each.structured_content["result"] for each in results] == list(range(0, 20, 2))

    run(main())
    assert {status for _, status, _ in watched.seen} <= {200, 202}
    assert any(session for _, _, session in watched.seen) == (mode == "legacy")
    wait_until(lambda: not running.context.cycles)


def test_sessions_and_what_the_server_says_of_itself(serve, watched):
    running = serve(watched, lifespan="on")
    url = f"{running.url}/mcp"
    size = 8

    async def main():
        heard = [0] * size
        ready = asyncio.Barrier(size)

        async def session(number):
            async def hear(message):
                heard[number] += "tools/list_changed" in getattr(message, "method", "")

            async with Client(url, mode="legacy", message_handler=hear) as client:
                await client.list_tools()
                streams = lambda: len(gets(watched)) == size  # noqa: E731
                await asyncio.to_thread(wait_until, streams)
                await ready.wait()
                if number % 2:
                    await client.call_tool("change", {})
                    await asyncio.to_thread(wait_until, lambda: heard[number])
                await ready.wait()
            return heard[number]

        counts = await asyncio.gather(*[session(number) for number in range(size)])
        assert counts == [number % 2 for number in range(size)]  # each got only its own messages

    run(main())
    sessions = {session for method, _, session in watched.seen if method == "DELETE"}
    assert len(sessions) == size
    wait_until(lambda: not running.context.cycles)
    with httpx.Client(trust_env=False, headers=HEADERS) as http:
        gone = http.post(url, json=PING, headers={"Mcp-Session-Id": sessions.pop()})
        assert gone.status_code == 404


def gets(watched: Watched) -> list[tuple[str, int, str]]:
    return [each for each in watched.seen if each[:2] == ("GET", 200)]


@pytest.mark.parametrize("mode", MODES)
def test_client_that_gives_a_call_up(serve, watched, mode):
    running = serve(watched, lifespan="on")

    async def main():
        async with Client(f"{running.url}/mcp", mode=mode) as client:
            with pytest.raises(MCPError):
                await client.call_tool("wait", {}, read_timeout_seconds=0.3)
            await asyncio.to_thread(wait_until, lambda: watched.cancelled)
            result = await client.call_tool("add", {"left": 1, "right": 2})
            assert result.structured_content == {"result": 3}

    run(main())
    wait_until(lambda: not running.context.cycles)


# --- Without the SDK's client ---------------------------------------------------------------------

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
SESSION = ("Mcp-Session-Id", "Mcp-Protocol-Version")
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def call(name: str, **arguments: int) -> dict[str, object]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}


@contextlib.contextmanager
def session(running: Running) -> Iterator[httpx.Client]:
    """A client whose requests belong to one session, which is ended afterwards."""
    with httpx.Client(trust_env=False, headers=HEADERS, base_url=running.url) as http:
        reply = http.post("/mcp", json=INITIALIZE)
        values = (reply.headers["mcp-session-id"], "2025-06-18")
        http.headers.update(zip(SESSION, values, strict=True))
        assert http.post("/mcp", json=INITIALIZED).status_code == 202
        yield http
        assert http.delete("/mcp").status_code == 200


@beside_uvicorn
def test_head_of_the_stream_comes_at_once(serve, watched, complaints):
    """The server may have nothing to send for hours."""
    running = serve(watched, lifespan="on")
    with session(running) as http:
        with http.stream("GET", "/mcp", timeout=5) as reply:
            assert reply.status_code == 200
            assert reply.headers["content-type"].startswith("text/event-stream")
            # One stream for each session: the first is still there.
            assert http.get("/mcp").status_code == 409
        assert "3" in http.post("/mcp", json=call("add", left=1, right=2)).text
    wait_until(lambda: not running.context.cycles)
    assert not complaints()


def listens(fields: list[str]) -> bytes:
    return get("/mcp", *fields)


def calls(fields: list[str]) -> bytes:
    body = json.dumps(call("wait")).encode()
    return post(body, "Content-Type: application/json", *fields, path="/mcp")


@beside_uvicorn
@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])
@pytest.mark.parametrize("request_of", [listens, calls])
def test_client_that_leaves_is_no_error(serve, watched, request_of, leave, complaints):
    """From a silent stream, and from a call whose answer will be an event."""
    running = serve(watched, lifespan="on")
    with session(running) as http:
        fields = [f"{name}: {http.headers[name]}" for name in ("Accept", *SESSION)]
        host = f"Host: 127.0.0.1:{running.port}".encode()  # MCP checks it
        with running.connect() as sock:
            sock.sendall(request_of(fields).replace(b"Host: a", host))
            if request_of is listens:
                read_to(sock, b"text/event-stream")
            else:
                wait_until(lambda: watched.waiting)
            leave(sock)
        wait_until(lambda: not watched.open)
        assert "3" in http.post("/mcp", json=call("add", left=1, right=2)).text
    wait_until(lambda: not running.context.cycles)
    assert not complaints()


# --- Shutdown -------------------------------------------------------------------------------------

APPLICATION = """
from mcp.server import MCPServer

server = MCPServer("tested")

@server.tool()
def add(left: int, right: int) -> int:
    return left + right

inner = server.streamable_http_app()

async def app(scope, receive, send):
    async def watched(message):
        await send(message)
        if message["type"] == "http.response.start":
            print("started of", scope["method"], flush=True)

    await inner(scope, receive, watched if scope["type"] == "http" else send)
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_sigterm_ends_the_stream_of_a_client(tmp_path: Path, workers):
    """The client holds its GET open; the server ends well, long before its graceful time-out."""
    (tmp_path / "main.py").write_text(APPLICATION)
    arguments = ("main:app", "--port", "0", "--timeout-graceful-shutdown", "60", *workers)
    with Command(*arguments, cwd=tmp_path) as command:
        url = f"{command.url()}/mcp"

        async def main():
            async with Client(url, mode="legacy") as client:
                await client.call_tool("add", {"left": 1, "right": 2})
                await asyncio.to_thread(command.saw, "started of GET")
                began = time.monotonic()
                await asyncio.to_thread(command.stop)
                return time.monotonic() - began

        spent = run(main())
    assert spent < PATIENCE
    assert "Cancelled at shutdown" not in command.stderr
    assert "Traceback" not in command.stderr

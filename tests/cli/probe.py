"""The real command, with an application that returns its scope."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from process import Command
from support import PATIENCE, read_all

PROMPT = 4.0  # seconds; far less than the 30 s of a graceful shutdown, far more than an exit takes
# One application for all tests. The path chooses what it does, and it prints that to stdout.
PROBE = """
import asyncio, json, pathlib, threading

print("imported", flush=True)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await serve(scope, receive, send)

async def with_lifespan(scope, receive, send):
    if scope["type"] != "lifespan":
        return await serve(scope, receive, send)
    await receive()
    scope["state"]["started"] = True
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})

async def serve(scope, receive, send):
    path = scope["path"]
    body = b"hello"
    if path.endswith("/scope"):
        body = json.dumps({
            "root_path": scope["root_path"],
            "path": scope["path"],
            "started": scope.get("state", {}).get("started", False),
            "loop": type(asyncio.get_running_loop()).__module__,
        }).encode()
    elif path == "/body":
        await receive()
        await receive()
        return
    elif path == "/stubborn":
        print("hanging", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled", flush=True)
    elif path == "/thread":
        print("hanging", flush=True)
        await asyncio.to_thread(threading.Event().wait)
    elif path == "/slow":
        await start(send, 10)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.005)
        return await send({"type": "http.response.body", "body": b"later"})
    await start(send, len(body))
    await send({"type": "http.response.body", "body": body})

async def start(send, length):
    headers = [(b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

def make():
    return app
"""


class Probe(Command):
    """The command, or another `program`, in a directory with probe.py; and a client."""

    def __init__(
        self, directory: Path, *arguments: str, program: tuple[str, ...] = (), **popen: Any
    ) -> None:
        self.program = program or Command.program
        super().__init__(*arguments, cwd=directory, **popen)

    @property
    def port(self) -> int:
        """The port in the log line that announces the server; waits for that line."""
        port = urlsplit(self.url()).port
        assert port
        return port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def get(self, path: str = "/", method: str = "GET") -> tuple[int, list[tuple[str, str]], bytes]:
        """Read a whole response; return (status, fields with lower-case names, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            fields = [(name.lower(), value) for name, value in response.getheaders()]
            return response.status, fields, response.read()
        finally:
            connection.close()

    def scope(self, path: str = "/scope") -> dict[str, Any]:
        """Return the scope and loop that the application saw."""
        return json.loads(self.get(path)[2])

    def ask(self, path: str) -> socket.socket:
        """Send a request; return its connection, on which nothing has been read."""
        sock = self.connect()
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        return sock

    def finish(self) -> int:
        """Wait for a prompt exit; return its status."""
        try:
            self.process.wait(PROMPT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {PROMPT} s:\n{self.stderr}") from None
        return self.wait()


def busy_port() -> socket.socket:
    """A socket that holds a port during a test."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def answer_on(port: int) -> bytes:
    """Send a plain request; return the response, or b"" if nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return read_all(sock)
    except ConnectionRefusedError:
        return b""

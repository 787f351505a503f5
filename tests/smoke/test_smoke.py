"""An installed thestral starts, serves and stops: for each wheel, with the standard library alone.

`make smoke` runs it against what PYTHON has installed. Nothing here may import from the checkout.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 30  # seconds
APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        return await send({"type": "websocket.close"})
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down", flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode() + body})
"""


class Served:
    """`thestral main:app OPTIONS` on a free port, in a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        (directory / "main.py").write_text(APPLICATION)
        self.process = subprocess.Popen(
            # -P: the working directory is not where thestral is looked for
            [sys.executable, "-P", "-m", "thestral", "main:app", "--port", "0", *options],
            cwd=directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Served:
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            found = re.search(r"Thestral running on http://127\.0\.0\.1:(\d+) ", line)
            if found:
                self.port = int(found[1])
                return self
        raise AssertionError("".join(lines))

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str, str]:
        """Exit status after SIGTERM, and what was printed meanwhile."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.mark.parametrize("options", [[], ["--loop", "asyncio"], ["--workers", "2"]])
def test_serves_and_stops(tmp_path, options):
    with Served(tmp_path, *options) as served:
        client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        client.request("GET", "/a")
        response = client.getresponse()
        assert (response.status, response.read()) == (200, b"/a")
        assert response.headers["server"] == "thestral"
        client.request("POST", "/", body=iter([b"x" * 1000, b"y"]), encode_chunked=True)
        assert client.getresponse().read() == b"/" + b"x" * 1000 + b"y"
        client.close()
        status, out, err = served.stop()
    assert (status, err.count("Traceback")) == (0, 0), err
    assert "shut down" in out


def test_websocket(tmp_path):
    with Served(tmp_path) as served, socket.create_connection(("127.0.0.1", served.port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        client.sendall(b"\x81\x82\0\0\0\0hi")  # a text, masked with zeros (RFC 6455 section 5.2)
        received = b""
        while b"\x88" not in received.partition(b"\r\n\r\n")[2]:
            received += client.recv(4096)
        client.sendall(b"\x88\x80\0\0\0\0")
        assert client.recv(4096) == b""
    head, _, frames = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # the answer of RFC 6455 section 1.3
    assert frames.startswith(b"\x81\x02hi")


def test_request_that_is_wrong_is_refused(tmp_path):
    with Served(tmp_path) as served, socket.create_connection(("127.0.0.1", served.port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_command_is_installed(tmp_path):
    command = Path(sys.executable).with_name("thestral")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert version.stdout.startswith(f"thestral {importlib.metadata.version('thestral')} with ")
    assert version.stderr == "" or "global interpreter lock" in version.stderr

"""Applications and clients for the tests of abuse (test_abuse_*.py).

Each of those tests has an attack with its bound, and beside it the honest traffic that looks alike
and must not be punished. The numbers are those of the design: budgets refill by time, so a flood is
far larger than what could come back while it runs, and honest traffic spends no more than it earns.
"""

from __future__ import annotations

import os

from apps import read_body, respond
from frames import (
    Client,
    Code,
    headers,
    literals,
)

MIB = 1 << 20
FLOOD = 20_000  # frames: far more than any budget, also after some seconds of refill
STREAMS = 128  # http2_max_streams
LARGEST_WINDOW = 2**31 - 1
CALM = (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)


class Counting:
    """An application that counts its runs.

    Attributes:
        started, running, most: number of runs in all, now, and at most at once.
    """

    def __init__(self, app) -> None:
        self.app = app
        self.started = self.running = self.most = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.app(scope, receive, send)
        except OSError:  # the client has gone
            pass
        finally:
            self.running -= 1


async def answer(scope, receive, send) -> None:
    await read_body(receive)
    await respond(send, b"hello")


async def echo(scope, receive, send) -> None:
    """Sends each part of the body back as it arrives."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


class Large:
    """An application that sends a number of bytes in pieces.

    Attributes:
        given: number of pieces that it has given.
    """

    def __init__(self, size: int, piece: int = 64 * 1024) -> None:
        self.size = size
        self.piece = piece
        self.given = 0

    async def __call__(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.size // self.piece):
            self.given += 1
            part = b"x" * self.piece  # zeros need not be in memory
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})


def memory() -> int:
    """Return the resident size in bytes of this process, which the server runs in."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def request(client: Client, stream: int, *extra: tuple[str, str], method: str = "GET", end=True):
    """Build a request's HEADERS without HPACK state, for floods."""
    fields = client.fields(method, "/", extra)
    block = literals((name.encode(), value.encode()) for name, value in fields)
    return headers(stream, block, end=end)


def flood(client: Client, blob: bytes) -> None:
    """Send, and check that the server ends the connection and says why."""
    client.send(blob)
    assert client.end() == Code.ENHANCE_YOUR_CALM, str(client)
    assert client.goaways[-1][2], "no debug data"


def requests(client: Client, count: int, at_once: int = 100) -> None:
    """Send `count` requests, and check that all are answered."""
    for begin in range(0, count, at_once):
        streams = [client.request() for _ in range(min(at_once, count - begin))]
        for stream in streams:
            assert client.finished(stream).status == 200

"""Plain ASGI applications to measure. Those of frameworks are in frameworks.py, so that a framework
is imported only where it is measured.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Any

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
LARGE = bytes(range(256)) * 4096  # 1 MiB
LARGE_HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-length", b"1048576")]
CHUNK = b"0123456789abcdef" * 64  # 1 KiB
CHUNKS = 100
EVENT_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"access-control-allow-origin", b"*"),  # the page of first_byte.py has another port
]
EVENTS = 10
FIRST_EVENT = 0.2  # seconds before the first event
EVENT_PAUSE = 0.01  # seconds between two events


async def lifespan(receive: Any, send: Any) -> None:
    """A lifespan with nothing to do."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer any request with 13 bytes."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def body(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the number of bytes in the request's body; at /crc with their CRC-32."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    size = checksum = 0
    check = scope["path"] == "/crc"
    more = True
    while more:
        message = await receive()
        data = message.get("body", b"")
        size += len(data)
        if check:
            checksum = zlib.crc32(data, checksum)
        more = message.get("more_body", False)
    answer = b"%d" % (checksum if check else size)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def large(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with 1 MiB in one message."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": LARGE_HEADERS})
    await send({"type": "http.response.body", "body": LARGE})


async def stream(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send 100 messages of 1 KiB without a Content-Length, all in the application's first step."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS[:1]})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def late_stream(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send the same after waiting once for a future, as for a database's answer."""
    if scope["type"] != "lifespan":
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
    await stream(scope, receive, send)


async def events(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send server-sent events, the first one FIRST_EVENT seconds after the response's start. Each
    contains the time at which it was sent, in microseconds since the epoch.
    """
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
    for number in range(EVENTS):
        await asyncio.sleep(EVENT_PAUSE if number else FIRST_EVENT)
        event = b"data: %d\n\n" % (time.time_ns() // 1000)
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def sleep(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with 13 bytes after 10 ms."""
    if scope["type"] != "lifespan":
        await asyncio.sleep(0.01)
    await plain(scope, receive, send)


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send each WebSocket message back."""
    if scope["type"] != "websocket":
        await plain(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})

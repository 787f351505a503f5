"""The application that soak.py loads: responses to check, and what the process holds at /held."""

from __future__ import annotations

import collections
import gc
import hashlib
import json
import os
from typing import Any

PART = bytes(range(256)) * 32


def held() -> dict[str, Any]:
    """Return resident KiB, the number of open descriptors, and of the server's objects by type."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    kinds = collections.Counter(
        type(one).__name__
        for one in gc.get_objects()
        if str(type(one).__module__).startswith("thestral.")
        or type(one).__name__ in ("Task", "TaskStepMethWrapper")
    )
    return {
        "rss": pages * (os.sysconf("SC_PAGE_SIZE") // 1024),
        "fds": len(os.listdir("/proc/self/fd")),
        "objects": dict(kinds),
    }


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    path = scope["path"]
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if path == "/stream":
        await send(start)
        for _ in range(int(scope["query_string"])):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
        await send({"type": "http.response.body"})
        return
    body = path.encode()
    if path == "/held":
        body = json.dumps(held()).encode()
    elif path == "/upload":
        digest = hashlib.sha1(usedforsecurity=False)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            digest.update(message["body"])
            more = message["more_body"]
        body = digest.hexdigest().encode()
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})

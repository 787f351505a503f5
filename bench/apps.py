"""The applications that are measured."""

from __future__ import annotations

from typing import Any

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """13 bytes for any request; a body is read first."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["method"] == "POST":
        while (await receive())["more_body"]:
            pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Each WebSocket message back as it came."""
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


try:
    from fastapi import FastAPI
except ImportError:  # only the plain application is measured then
    pass
else:
    fast = FastAPI()

    @fast.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Hello, world!"}

    @fast.get("/items/{item_id}")
    async def item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
        return {"item_id": item_id, "q": q}

"""FastAPI and Starlette applications to measure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from applications import CHUNK, CHUNKS, lifespan
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route

fast = FastAPI()


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []
    description: str | None = None


@fast.get("/items/{item_id}")
async def item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
    return {"item_id": item_id, "q": q}


@fast.get("/sync/{item_id}")
def sync_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
    return {"item_id": item_id, "q": q}


@fast.post("/items")
async def create(item: Item) -> dict[str, str | float]:
    return {"name": item.name, "total": item.price * len(item.tags)}


async def parts() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK


async def streamed(request: Request) -> StreamingResponse:
    return StreamingResponse(parts(), media_type="text/plain")


stream = Starlette(routes=[Route("/", streamed)])


async def streaming_response(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send the response alone, without an application's routes and middleware around it."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await StreamingResponse(parts(), media_type="text/plain")(scope, receive, send)


async def file(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send the file that BENCH_FILE names: by http.response.pathsend if the server offers it, else
    in chunks that a thread reads, both as Starlette does it.
    """
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await FileResponse(os.environ["BENCH_FILE"])(scope, receive, send)

"""FastAPI and Starlette applications to measure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from applications import CHUNK, CHUNKS, lifespan
from fastapi import APIRouter, Depends, FastAPI, Header, Response
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route

INCLUDED = 50  # routes of an included router


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []
    description: str | None = None


async def token(authorization: Annotated[str | None, Header()] = None) -> str:
    return authorization or "anonymous"


async def user(name: Annotated[str, Depends(token)], limit: int = 10) -> dict[str, str | int]:
    return {"name": name, "limit": limit}


def add_routes(owner: FastAPI | APIRouter) -> None:
    @owner.get("/items/{item_id}")
    async def item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
        return {"item_id": item_id, "q": q}

    @owner.get("/sync/{item_id}")
    def sync_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
        return {"item_id": item_id, "q": q}

    @owner.post("/items")
    async def create(item: Item) -> dict[str, str | float]:
        return {"name": item.name, "total": item.price * len(item.tags)}

    @owner.get("/depends/{item_id}")
    async def depends(
        item_id: int, user: Annotated[dict[str, str | int], Depends(user)]
    ) -> dict[str, str | int]:
        return {"item_id": item_id, "user": user["name"]}


fast = FastAPI()
add_routes(fast)

included = FastAPI()
router = APIRouter()
for number in range(INCLUDED - 4):  # those of add_routes() are behind them

    @router.get(f"/other{number}/{{x}}", name=f"other{number}")
    async def other(x: int) -> dict[str, int]:
        return {"x": x}


add_routes(router)
included.include_router(router)

wrapped = FastAPI()
add_routes(wrapped)


@wrapped.middleware("http")
async def timing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["x-time"] = "1"
    return response


wrapped.add_middleware(CORSMiddleware, allow_origins=["*"])


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

"""How Starlette applications learn that a client has left before the end of the response."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from apps import get
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route
from support import read_to, reset, wait_until
from uvicorn_peer import beside_uvicorn

leaving = pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])

# --- Context managers that a generator is in while it waits ---------------------------------------


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.Event().wait())
        yield


@contextlib.asynccontextmanager
async def task_group_of_anyio() -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield


@contextlib.asynccontextmanager
async def timeout() -> AsyncIterator[None]:
    async with asyncio.timeout(3600):
        yield


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


@contextlib.asynccontextmanager
async def context_variable() -> AsyncIterator[None]:
    token = tenant.set("one")
    try:
        yield
    finally:
        tenant.reset(token)  # raises in any other context


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[None]:
    """A connection to a database, say, which is released in the end, with an await."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.001)


SCOPES = [nothing, task_group, task_group_of_anyio, timeout, context_variable, connection]


async def silence() -> None:
    await asyncio.Event().wait()


async def ticking() -> None:
    await asyncio.sleep(0.001)


class Streams:
    """An application with a path for each of SCOPES, and how its generators ended."""

    def __init__(self, pace: Callable[[], Awaitable[None]], *middleware: Middleware) -> None:
        self.ends: dict[str, tuple[type[BaseException], bool]] = {}
        self.afterwards: set[str] = set()

        async def generator(scope: Callable[[], Any]) -> AsyncIterator[bytes]:
            task = asyncio.current_task()
            try:
                async with scope():
                    while True:
                        yield b"x"
                        await pace()
            except BaseException as exc:
                self.ends[scope.__name__] = (type(exc), asyncio.current_task() is task)
                raise

        def route(scope: Callable[[], Any]) -> Route:
            async def endpoint(request):
                background = BackgroundTask(self.afterwards.add, scope.__name__)
                return StreamingResponse(generator(scope), background=background)

            return Route(f"/{scope.__name__}", endpoint)

        self.app = Starlette(routes=[route(scope) for scope in SCOPES], middleware=middleware)


class PassesOn(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


@beside_uvicorn
@leaving
@pytest.mark.parametrize(
    ("pace", "middleware"),
    # Not `ticking` behind BaseHTTPMiddleware: there the generator may be suspended in its yield,
    # where Starlette does not end it.
    [(silence, ()), (ticking, ()), (silence, (Middleware(PassesOn),))],
    ids=["silence", "ticking", "middleware"],
)
def test_generators_are_cancelled_in_their_own_tasks(serve, leave, pace, middleware, complaints):
    streams = Streams(pace, *middleware)
    running = serve(streams.app)
    socks = [running.connect() for _ in SCOPES]
    for sock, scope in zip(socks, SCOPES, strict=True):
        sock.sendall(get(f"/{scope.__name__}"))
        read_to(sock, b"x\r\n")
    for sock in socks:
        leave(sock)
    wait_until(lambda: not running.context.cycles)
    names = {scope.__name__ for scope in SCOPES}
    assert streams.ends == dict.fromkeys(names, (asyncio.CancelledError, True))
    assert streams.afterwards == names
    assert not complaints()


# --- Other ways to be busy when a client leaves ---------------------------------------------------


def one_route(endpoint) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


@beside_uvicorn
@leaving
@pytest.mark.parametrize("size", [1, 65536])
def test_generator_that_never_waits(serve, leave, size, complaints):
    """Most of the time it waits in send()."""
    ended: list[str] = []

    async def endpoint(request):
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(size)
                    await asyncio.sleep(0)
            finally:
                ended.append("generator")

        return StreamingResponse(parts(), background=BackgroundTask(ended.append, "background"))

    running = serve(one_route(endpoint))
    for count in range(1, 6):
        sock = running.connect(receive_buffer=4096)
        sock.sendall(get())
        read_to(sock, b"\r\n\r\n")
        leave(sock)
        wait_until(lambda: not running.context.cycles)
        assert ended.count("background") == count
    wait_until(lambda: ended.count("generator") == 5)
    assert not complaints()


@beside_uvicorn
@leaving
def test_generator_in_a_thread(serve, leave, complaints):
    ended: list[str] = []

    async def endpoint(request):
        def parts() -> Iterator[bytes]:
            while True:
                yield b"x"
                time.sleep(0.001)

        return StreamingResponse(parts(), background=BackgroundTask(ended.append, "background"))

    running = serve(one_route(endpoint))
    sock = running.connect()
    sock.sendall(get())
    read_to(sock, b"x\r\n", 3)
    leave(sock)
    wait_until(lambda: not running.context.cycles)
    assert ended == ["background"]
    assert not complaints()


@beside_uvicorn
@leaving
def test_file(serve, leave, complaints, tmp_path):
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(5 * 2**20))
    ended: list[str] = []

    async def endpoint(request):
        return FileResponse(file, background=BackgroundTask(ended.append, "background"))

    running = serve(one_route(endpoint))
    sock = running.connect(receive_buffer=4096)
    sock.sendall(get())
    read_to(sock, b"\r\n\r\n")
    leave(sock)
    wait_until(lambda: not running.context.cycles)
    assert ended == ["background"]
    assert not complaints()

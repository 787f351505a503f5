"""WebSocket applications that the tests share, and servers that many tests use."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc

import pytest
from support import Running, wait_until


def ws_only(app):
    """Make `app` raise for other scopes, as ASGI asks of applications that do not know them."""

    @functools.wraps(app)
    async def asgi(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError(scope["type"])
        await app(scope, receive, send)

    return asgi


async def accept(receive, send, **fields) -> None:
    """Receive websocket.connect, and accept."""
    message = await receive()
    assert message == {"type": "websocket.connect"}, message
    await send({"type": "websocket.accept"} | fields)


async def send_text(send, text: str) -> None:
    await send({"type": "websocket.send", "text": text})


async def send_bytes(send, data: bytes) -> None:
    await send({"type": "websocket.send", "bytes": data})


async def echo(scope, receive, send):
    """Sends each message back."""
    await accept(receive, send)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        assert set(message) - {"type"} in ({"text"}, {"bytes"}), message
        await send(message | {"type": "websocket.send"})


async def sink(scope, receive, send):
    """Receives every message, and sends nothing."""
    await accept(receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass


class Session:
    """One call of the application."""

    def __init__(self, scope) -> None:
        self.scope = scope
        self.received = []
        self.raised: BaseException | None = None
        self.ended = False


class Sessions:
    """Wraps an application, and records each call's scope, received messages and end."""

    def __init__(self, app=echo) -> None:
        self.app = app
        self.calls = 0
        self.all: collections.deque[Session] = collections.deque(maxlen=8)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "websocket":
            raise NotImplementedError(scope["type"])
        session = Session(scope)
        self.calls += 1
        self.all.append(session)

        async def recorded():
            message = await receive()
            session.received.append(message)
            return message

        try:
            await self.app(scope, recorded, send)
        except BaseException as exc:
            session.raised = exc.with_traceback(None)
            raise
        finally:
            session.ended = True

    @property
    def last(self) -> Session:
        return self.all[-1]

    def disconnect(self) -> tuple[int, str]:
        """Wait for the end of the last call; return code and reason of its websocket.disconnect."""
        wait_until(lambda: self.all and self.last.ended)
        message = self.last.received[-1]
        assert set(message) == {"type", "code", "reason"}, message
        assert message["type"] == "websocket.disconnect"
        return message["code"], message["reason"]


class Gate:
    """Blocks an application until the test opens the gate."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reached = 0

    async def wait(self) -> None:
        self.reached += 1
        await self._event.wait()

    def open(self, running: Running) -> None:
        running.loop.call_soon_threadsafe(self._event.set)


def shared_server(app, **options):
    """Make a fixture: one server for all tests of a module, on both loops, with `.app`."""

    @pytest.fixture(scope="module", params=["uvloop", "asyncio"])
    def server(request, server_class):
        with server_class(app, loop=request.param, **options) as running:
            running.app = app
            yield running
        gc.collect()

    return server

"""Whole connections over a transport of our own, with applications that behave at random.

The bytes sent, their cuts, when the client stalls, reads on, stops sending or vanishes, when a
deadline passes, and what the application does: all of it follows from the number that a failing
test shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import os
import random
import time
from typing import Any

import h11
import pytest
import vectors.websocket
from test_differential import CORPUS, mutate, smuggle

from thestral import Config
from thestral._core.http1 import Event, RequestParser
from thestral.errors import RemoteProtocolError
from thestral.process.loop import loop_factory
from thestral.protocol.context import WorkerContext
from thestral.protocol.http1 import HTTP1Connection
from thestral.protocol.settings import ParserLimits

SEED = 2616
ROUNDS = 4  # seeds
CONNECTIONS = 500  # of each
SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS") or 0)
FOREVER = 1e9  # seconds, beyond every deadline
STEPS = 200  # turns of the loop, after which everything that can go on has done so
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
FRAMES = [case.data for case in vectors.websocket.load() if len(case.data) < 300]
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
LARGE = b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n" + bytes(range(256)) * 4
CHUNKED = (
    b"POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n20\r\nABCDEFGHIJKLMNOPQRSTUVWXYZ012345\r\n0\r\n\r\n"
)
EXPECTING = POST.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue")
CLOSING = LARGE.replace(b"Host: a", b"Host: a\r\nConnection: close")
USUAL = (GET, POST, GET, POST, LARGE, CHUNKED, EXPECTING, CLOSING)
STRANGE: list[Any] = [
    *(None, 0, -1, 99, 101, 200, 204, 304, 1000, True, 1.5, "", "x", "200", b"", b"x", b"5"),
    *([], {}, [b"a"], [(b"a", b"b")], [(b"", b"x")], [(b"A b", b"")], [(b"a", b"x\r\ny: z")]),
    *([("a", "b")], [(b"content-length", b"2")], [(b"content-length", b"-3")], object()),
    *([(b"transfer-encoding", b"chunked")], [(b"connection", b"close")], bytearray(b"x")),
]
TYPES = [
    *("http.response.start", "http.response.body", "http.response.trailers", "http.disconnect"),
    *("http.response.early_hint", "http.response.pathsend", "http.response.zerocopysend"),
    *("websocket.accept", "websocket.send", "websocket.close", "websocket.http.response.start"),
    *("websocket.http.response.body", "lifespan.startup.complete", "nonsense", None, 5),
]
KEYS = [
    *("status", "headers", "body", "more_body", "trailers", "more_trailers", "links", "path"),
    *("file", "offset", "count", "subprotocol", "text", "bytes", "code", "reason"),
]


class Wire(asyncio.Transport):
    """Keeps the bytes written to it, and checks how it is used."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("10.0.0.1", 1), "sockname": ("10.0.0.2", 80)})
        self.loop = loop
        self.protocol: Any = None
        self.written = bytearray()
        self.unsent = 0
        self.faults: list[str] = []  # an exception would be taken for the application's
        self.closing = self.aborted = self.lost = self.ended = self.reading_paused = False

    def write(self, data: bytes) -> None:
        self.expect(bool(data), "nothing written")
        self.expect(not (self.closing or self.ended), "written behind the end")
        self.written += data

    def expect(self, fact: bool, fault: str) -> None:
        if not fact:
            self.faults.append(fault)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.expect(not (self.closing or self.ended), "ended twice")
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.expect(not self.reading_paused, "paused twice")
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.expect(self.reading_paused, "resumed twice")
        self.reading_paused = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unsent:
                self.loop.call_soon(self.lose, None)

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.loop.call_soon(self.lose, None)

    def lose(self, exc: Exception | None) -> None:
        if not self.lost:
            self.closing = self.lost = True
            self.protocol.connection_lost(exc)


class Application:
    """Behaves at random; remembers its requests, and whether it kept to ASGI."""

    def __init__(self, rng: random.Random, manners: float) -> None:
        self.rng = rng
        self.manners = manners  # the share of requests that are answered as they should be
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes | None] = []
        self.behaved = True
        self.running = 0
        self.faults: list[str] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.released = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            await self.run(scope, receive, send)
        except Exception as exc:
            if self.behaved:
                self.faults.append(repr(exc))
            raise
        finally:
            self.running -= 1

    async def run(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.bodies.append(None)
        if scope["type"] == "websocket":
            await self.talk(scope, receive, send)
        elif self.rng.random() < self.manners:
            await self.answer(len(self.scopes) - 1, receive, send)
        else:
            self.behaved = False
            await self.misbehave(receive, send)

    async def turns(self) -> None:
        for _ in range(self.rng.choice((0, 0, 0, 1, 3, 9))):
            await asyncio.sleep(0)

    async def answer(self, number: int, receive: Any, send: Any) -> None:
        rng = self.rng
        await self.turns()
        if rng.random() < 0.7:
            body = b""
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                more = message["more_body"]
                await self.turns()
            self.bodies[number] = body
        sizes = [rng.choice((0, 1, 10, 1000, 70_000)) for _ in range(rng.choice((1, 1, 2, 5)))]
        parts = [b"y" * size for size in sizes]
        headers = [(b"content-type", b"text/plain")]
        if rng.random() < 0.5:
            headers.append((b"content-length", b"%d" % sum(sizes)))
        status = rng.choice((200, 200, 204, 304, 404))
        try:
            if rng.random() < 0.1:
                links = [b"</a>; rel=preload"]
                await send({"type": "http.response.early_hint", "links": links})
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for i, part in enumerate(parts, 1):
                await self.turns()
                more = i < len(parts)
                await send({"type": "http.response.body", "body": part, "more_body": more})
        except OSError:
            pass  # the client is gone

    def message(self) -> Any:
        rng = self.rng
        if rng.random() < 0.05:
            return rng.choice(STRANGE)
        message: dict[Any, Any] = {"type": rng.choice(TYPES[: rng.choice((2, 2, len(TYPES)))])}
        if rng.random() < 0.7:
            message |= {"status": 200, "headers": [], "body": b"abc"}
        for _ in range(rng.choice((0, 0, 1, 2))):
            message[rng.choice(KEYS)] = rng.choice(STRANGE)
        return message

    async def misbehave(self, receive: Any, send: Any, steps: int = 8) -> None:
        rng = self.rng
        for _ in range(rng.randrange(steps)):
            kind = rng.randrange(9)
            try:
                if kind < 4:
                    await send(self.message())
                elif kind == 4:
                    async with asyncio.timeout(0):
                        await receive()
                elif kind == 5:
                    self.spawn(self.misbehave(receive, send, 4))
                elif kind == 6:
                    self.spawn(receive())
                elif kind == 7:
                    await self.released.wait()
                else:
                    await self.turns()
            except Exception:
                if rng.random() < 0.3:
                    raise
        kind = rng.randrange(8)
        if kind == 0:
            raise rng.choice(
                [ValueError("x"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]
            )
        if kind == 1:
            raise BaseExceptionGroup("x", [KeyboardInterrupt(), OSError()])

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(quietly(coroutine))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: coroutine.close())  # cancelled before it began

    async def talk(self, scope: Any, receive: Any, send: Any) -> None:
        rng = self.rng
        if rng.random() < 0.4:
            self.behaved = False
            await self.misbehave(receive, send)
            return
        message = await receive()
        if message["type"] != "websocket.connect":
            self.faults.append(f"first came {message}")
        try:
            await send({"type": rng.choice(("websocket.accept",) * 4 + ("websocket.close",))})
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self.turns()
                if rng.random() < 0.1:
                    await send({"type": "websocket.close", "code": 1000})
                    return
                await send({"type": "websocket.send", "text": "é" * rng.choice((0, 1, 9000))})
        except (OSError, RuntimeError):
            pass


async def quietly(coroutine: Any) -> None:
    with contextlib.suppress(Exception, KeyboardInterrupt, SystemExit, BaseExceptionGroup):
        await coroutine


def what_is_sent(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        frames = b"".join(rng.choice(FRAMES) for _ in range(rng.randrange(3)))
        return HANDSHAKE + (mutate(frames, rng) if frames and rng.random() < 0.5 else frames)
    data = b"".join(rng.choice((*USUAL, rng.choice(CORPUS))) for _ in range(rng.randrange(5)))
    if data and rng.random() < 0.5:
        data = mutate(data, rng)
    if data and rng.random() < 0.3:
        data = smuggle(data, rng)
    return data


def requests_of(data: bytes, limits: ParserLimits) -> list[tuple[str, bytes, bytes | None]]:
    """Method, target and body (None if incomplete) of each request in the uncut bytes."""
    parser = RequestParser(limits.request_line, limits.head, limits.fields, limits.body)
    parser.feed(data)
    found: list[tuple[str, bytes, bytes | None]] = []
    body = b""
    try:
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.HEAD:
                head = parser.read_head()
                body = b""
                found.append((head.method, head.raw_path, None))
            elif event == Event.BODY:
                body += parser.read_body()
            else:
                found[-1] = (head.method, head.raw_path, body)
    except RemoteProtocolError:
        pass
    return found


def answers(written: bytes, methods: list[str]) -> int:
    """Return how many whole responses were written; the last may be cut.

    Each must belong to a request, except for one refusal at the end, and none may follow a response
    that closes the connection.
    """
    count = 0
    closes = False
    for method in [*methods, "GET"]:
        if not written:
            return count
        assert not closes
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(written)
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                return count
            if isinstance(event, h11.Response):
                closes = (b"connection", b"close") in event.headers
            if isinstance(event, h11.EndOfMessage):
                break
        count += 1
        written = client.trailing_data[0]
    assert not written
    return count


async def live(rng: random.Random, loop: asyncio.AbstractEventLoop) -> bool:
    """Run one connection from beginning to end; return whether a request was served."""
    application = Application(rng, rng.choice((1.0, 1.0, 0.5, 0.0)))
    config = Config(application, access_log=False, limit_concurrency=1000)
    context = WorkerContext(config, application, loop, {}, contextvars.copy_context())
    wire = Wire(loop)
    wire.protocol = connection = HTTP1Connection(context)
    connection.connection_made(wire)
    data = what_is_sent(rng)
    at = 0
    writing_paused = eof = False
    pace = rng.choice(((1, 2, 7), (7, 40), (40, 300, 5000)))  # bytes of a piece
    trouble = rng.choice((0, 0.2, 1))
    for _ in range(rng.randrange(1, 200)):
        if wire.lost:
            break
        kind = rng.randrange(20)
        if kind < 8 and at < len(data) and not (wire.reading_paused or eof or wire.closing):
            size = rng.choice(pace)
            connection.data_received(data[at : at + size])
            at += size
        elif kind < 13:
            await asyncio.sleep(0)
        elif kind == 13 and not wire.closing:
            writing_paused = not writing_paused
            wire.unsent = 100_000 if writing_paused else 0
            (connection.pause_writing if writing_paused else connection.resume_writing)()
        elif kind == 14 and rng.random() < 0.3 * trouble:
            if eof or wire.closing or wire.reading_paused:
                continue
            eof = True
            if not connection.eof_received():
                wire.close()
        elif kind == 15 and rng.random() < 0.2 * trouble:
            context.clock.refresh()
            connection.check_deadlines(context.clock.now + FOREVER)
        elif kind == 16 and rng.random() < 0.1 * trouble:
            context.draining = True
            connection.drain()
        elif kind == 17 and rng.random() < 0.1 * trouble:
            wire.lose(rng.choice((None, ConnectionResetError())))
        elif kind == 18:
            application.released.set()
    if writing_paused and not wire.lost:
        wire.unsent = 0
        connection.resume_writing()
    application.released.set()
    for _ in range(STEPS):
        await asyncio.sleep(0)
    asked = requests_of(data[:at], context.settings.limits)
    served = [(scope.get("method", "GET"), scope["raw_path"]) for scope in application.scopes]
    assert served == [request[:2] for request in asked[: len(served)]]
    for body, (_, _, whole) in zip(application.bodies, asked, strict=False):
        assert body is None or body == whole
    if all(scope["type"] == "http" for scope in application.scopes):
        answered = answers(bytes(wire.written), [method for method, _ in served])
        if application.behaved and not (wire.closing or wire.ended):
            # An application that still runs waits for a body that has not come.
            assert application.running <= sum(whole is None for _, _, whole in asked)
        if not (wire.closing or wire.ended or application.running):
            assert answered >= sum(whole is not None for _, _, whole in asked)
    assert not wire.faults
    assert not application.faults
    wire.lose(None)
    for _ in range(STEPS):
        await asyncio.sleep(0)
    assert not (application.behaved and application.running)
    for task in [*application.tasks, *(cycle.task for cycle in context.cycles)]:
        task.cancel()
    for _ in range(STEPS):
        await asyncio.sleep(0)
    assert not context.cycles
    assert not context.connections
    assert context.running == 0
    assert not application.tasks
    context.stop()
    return bool(served)


@pytest.fixture
def quiet(monkeypatch):
    """The exceptions of applications are not logged, as there are thousands."""
    logger = logging.getLogger("thestral.error")
    monkeypatch.setattr(logger, "disabled", True)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_connections(seed, quiet):
    problems: list[Any] = []
    loop = loop_factory("asyncio" if seed % 2 else "uvloop")()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    until = time.monotonic() + SECONDS / ROUNDS
    served = 0
    try:
        for number in itertools.count():
            if number >= CONNECTIONS and time.monotonic() > until:
                break
            rng = random.Random(f"{SEED} {seed} {number}")
            try:
                served += loop.run_until_complete(live(rng, loop))
            except BaseException as exc:
                exc.add_note(f"seed {seed}, connection {number}")
                raise
            assert not problems, (number, problems)
        gc.collect()
        loop.run_until_complete(asyncio.sleep(0))
        assert not problems, problems
    finally:
        loop.close()
    assert served > CONNECTIONS / 3

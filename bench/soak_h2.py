"""The load that soak.py puts on a server over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from soak_app import PART
from websockets.frames import Close, Frame, Opcode

# Methods of requests that get an answer, and of those that are broken off; metrics tell them apart.
WHOLE, BROKEN_OFF = ("GET", "POST"), "PUT"
READ = 1 << 16  # bytes
WEBSOCKET = ((":protocol", "websocket"), ("sec-websocket-version", "13"))
PING = Frame(Opcode.PING, b"").serialize(mask=False)
TURN = 200_000  # bytes of an upload before the next one has its turn
SIZES = [1, 1000, 70_000, 1_000_000]  # bytes of uploads


class WrongAnswerError(Exception):
    """The response is not the expected one."""


def check(got: bytes, expected: bytes) -> None:
    if got != expected:
        raise WrongAnswerError(
            f"{len(got)} bytes {got[:60]!r}, expected {len(expected)} bytes {expected[:60]!r}"
        )


class Server(Protocol):
    """The server under load, and how to reach it."""

    port: int
    done: dict[str, int]
    asked: int
    answered: int

    async def open(self, alpn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...


class Multiplexed:
    """A client's connection. GOAWAY raises EOFError, because after it `h2` takes no more frames."""

    def __init__(
        self, target: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._target = target
        self._reader = reader
        self.writer = writer
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.bodies: dict[int, bytearray] = {}
        self._ended: set[int] = set()
        self._whole: set[int] = set()  # streams whose requests are counted

    def request(
        self, path: str, method: str = "GET", *extra: tuple[str, str], end: bool = True
    ) -> int:
        scheme = "http" if self.writer.get_extra_info("ssl_object") is None else "https"
        fields = [(":method", method), (":scheme", scheme), (":authority", "a"), (":path", path)]
        fields += extra
        stream: int = self.h2.get_next_available_stream_id()
        if method in WHOLE:
            self._target.asked += 1
            self._whole.add(stream)
        self.h2.send_headers(stream, fields, end_stream=end)
        self.bodies[stream] = bytearray()
        return stream

    async def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """Send content as the windows allow it."""
        at = 0
        while at < len(data):
            room = self.h2.local_flow_control_window(stream)
            part = data[at : at + min(room, self.h2.max_outbound_frame_size)]
            if part:
                self.h2.send_data(stream, part)
                at += len(part)
                await self.flush()
            else:
                await self.read()
        if end:
            self.h2.end_stream(stream)
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def read(self) -> None:
        """Take in what comes next."""
        data = await self._reader.read(READ)
        if not data:
            raise EOFError("closed")
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as exc:
            if self.h2.state_machine.state == ConnectionState.CLOSED:
                raise EOFError("GOAWAY, with frames behind it") from exc
            raise
        for event in events:
            self._take(event)
        await self.flush()

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived(headers=fields):
                if fields[0] != (":status", "200"):
                    raise WrongAnswerError(f"{fields}")
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=size):
                if stream in self.bodies:  # else we have reset it
                    self.bodies[stream] += data
                self.h2.acknowledge_received_data(size, stream)
            case StreamEnded(stream_id=stream):
                self._ended.add(stream)
            case StreamReset(stream_id=stream, error_code=code):
                if stream in self._ended and code == ErrorCodes.NO_ERROR:
                    return  # it does not want the rest of the request
                raise WrongAnswerError(f"stream {stream} was reset: {code}")
            case ConnectionTerminated(error_code=code):
                if code != ErrorCodes.NO_ERROR:
                    raise WrongAnswerError(f"GOAWAY {code}")
                raise EOFError("GOAWAY")

    async def body(self, stream: int) -> bytes:
        await self.flush()
        while stream not in self._ended:
            await self.read()
        self._target.answered += stream in self._whole
        return bytes(self.bodies.pop(stream))

    def forget(self, stream: int) -> None:
        """Reset a stream."""
        if stream not in self._ended:
            self.h2.reset_stream(stream, ErrorCodes.CANCEL)
        self.bodies.pop(stream, None)


@contextlib.asynccontextmanager
async def opened(target: Server) -> AsyncIterator[Multiplexed]:
    reader, writer = await target.open("h2")
    try:
        client = Multiplexed(target, reader, writer)
        await client.flush()
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def h2_requests(target: Server) -> None:
    async with opened(target) as client:
        for _ in range(random.randrange(1, 20)):
            paths = [f"/{random.random()}" for _ in range(random.randrange(1, 40))]
            asked = {client.request(path): path for path in paths}
            for stream, path in asked.items():
                check(await client.body(stream), path.encode())
                target.done["h2 requests"] += 1


async def h2_upload(target: Server) -> None:
    """Several at once, whose parts take turns."""
    async with opened(target) as client:
        sent = {}
        for _ in range(4):
            stream = client.request("/upload", "POST", end=False)
            sent[stream] = random.randbytes(random.choice(SIZES))
        for part in range(0, max(SIZES), TURN):
            for stream, data in sent.items():
                if part < len(data):
                    await client.send(stream, data[part : part + TURN], part + TURN >= len(data))
        for stream, data in sent.items():
            digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            check(await client.body(stream), digest.encode())
            target.done["h2 uploads"] += 1


async def h2_stream(target: Server) -> None:
    async with opened(target) as client:
        sizes = [random.randrange(1, 100) for _ in range(5)]
        asked = {client.request(f"/stream?{parts}"): parts for parts in sizes}
        for stream, parts in asked.items():
            check(await client.body(stream), PART * parts)
            target.done["h2 streams"] += 1


async def h2_reset(target: Server) -> None:
    """Reset uploads and downloads at any point; requests beside them are answered."""
    async with opened(target) as client:
        for _ in range(5):
            streams = [
                client.request("/stream?5000", BROKEN_OFF),
                client.request("/", BROKEN_OFF, end=False),
                client.request("/upload", BROKEN_OFF, end=False),
            ]
            await client.send(streams[2], bytes(random.choice([0, 10, 50_000])))
            if random.random() < 0.5:
                await client.read()
            for stream in streams:
                client.forget(stream)
            check(await client.body(client.request("/beside")), b"/beside")
            target.done["h2 resets"] += len(streams)


async def h2_vanish(target: Server) -> None:
    """Leave without a word, with streams in each state."""
    async with opened(target) as client:
        client.request("/stream?5000", BROKEN_OFF)
        client.request("/upload", BROKEN_OFF, end=False)
        client.request("/", "CONNECT", *WEBSOCKET, end=False)
        blob = client.h2.data_to_send()
        client.writer.write(blob[: random.randrange(len(blob) + 1)])
        await asyncio.sleep(random.random() * 0.05)
        client.writer.transport.abort()
        target.done["h2 vanished"] += 1


async def h2_websocket(target: Server) -> None:
    """WebSockets (RFC 8441), beside each other and beside a request."""
    async with opened(target) as client:
        while SettingCodes.ENABLE_CONNECT_PROTOCOL not in client.h2.remote_settings:
            await client.read()
        streams = [client.request("/", "CONNECT", *WEBSOCKET, end=False) for _ in range(3)]
        for _ in range(random.randrange(1, 20)):
            for stream in streams:
                size = random.choice([0, 10, 1000, 70_000])
                message = Frame(Opcode.BINARY, random.randbytes(size))
                await client.send(stream, message.serialize(mask=True))
                echo = message.serialize(mask=False)
                body = client.bodies[stream]
                while len(body) < len(echo) or body.startswith(PING):
                    if body.startswith(PING):
                        del body[: len(PING)]
                        await client.send(stream, Frame(Opcode.PONG, b"").serialize(mask=True))
                    else:
                        await client.read()
                check(bytes(body[: len(echo)]), echo)
                del body[: len(echo)]
                target.done["h2 messages"] += 1
            check(await client.body(client.request("/beside")), b"/beside")
        for stream in streams:
            close = Frame(Opcode.CLOSE, Close(1000, "").serialize())
            await client.send(stream, close.serialize(mask=True), end=True)
            body = await client.body(stream)
            check(body.removeprefix(PING), close.serialize(mask=False))


KINDS = [h2_requests, h2_upload, h2_stream, h2_reset, h2_vanish, h2_websocket]

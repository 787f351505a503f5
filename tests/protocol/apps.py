"""ASGI applications that the protocol tests share, and a strict reader of what comes back."""

from __future__ import annotations

import asyncio
import functools
import socket
from dataclasses import dataclass

from support import read_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def get(path: str = "/", *fields: str) -> bytes:
    """A GET of HTTP/1.1."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def post(body: bytes, *fields: str, path: str = "/") -> bytes:
    """A POST of HTTP/1.1 with a Content-Length."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


# --- Applications ---------------------------------------------------------------------------------


def http_only(app):
    """Make `app` raise for every other scope, as ASGI asks of an application that knows none."""

    @functools.wraps(app)
    async def asgi(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await app(scope, receive, send)

    return asgi


async def read_body(receive) -> bytes:
    """Receive the complete body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def respond(send, body=b"", status=200, headers=()) -> None:
    """Send a complete response in two messages."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


@http_only
async def hello(scope, receive, send):
    """Answers without looking at the request."""
    await respond(send, b"hello")


@http_only
async def echo(scope, receive, send):
    """Answers with method, path and body."""
    body = await read_body(receive)
    await respond(send, f"{scope['method']} {scope['path']} ".encode() + body)


def fixed(body=b"hello", status=200, headers=()):
    """An application that always sends the same response."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, body, status, headers)

    return app


def streamer(*parts, status=200, headers=()):
    """A response in the given parts, the last with more_body false."""

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for number, part in enumerate(parts, 1):
            await send(
                {"type": "http.response.body", "body": part, "more_body": number < len(parts)}
            )

    return app


class Recorder:
    """Wraps an application; keeps the scopes it was called with and what it raised."""

    def __init__(self, app) -> None:
        self.app = app
        self.scopes = []
        self.raised = []
        self.ended = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self.scopes.append(scope)
        try:
            await self.app(scope, receive, send)
        except BaseException as exc:
            self.raised.append(exc)
            raise
        finally:
            self.ended += 1


class Gate:
    """Holds an application until the test opens the gate."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reached = 0

    async def wait(self) -> None:
        self.reached += 1
        await self._event.wait()

    def open(self, running) -> None:
        running.loop.call_soon_threadsafe(self._event.set)


# --- The wire -------------------------------------------------------------------------------------


@dataclass
class Reply:
    """One response, final or interim."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""

    def all(self, name: bytes) -> list[bytes]:
        """The values of all field lines with this name."""
        return [value for key, value in self.fields if key.lower() == name]

    def one(self, name: bytes) -> bytes:
        """The value of a field that must occur exactly once."""
        (value,) = self.all(name)
        return value


def take_reply(raw: bytes, method: bytes = b"GET") -> tuple[Reply, bytes]:
    """The first response in `raw`, and the bytes after it; as strict as RFC 9112 allows."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    assert end, f"no complete head: {raw[:200]!r}"
    line, *lines = head.split(b"\r\n")
    version, status, _phrase = line.split(b" ", 2)
    assert version == b"HTTP/1.1", line
    fields = []
    for field in lines:
        name, colon, value = field.partition(b": ")
        assert name
        assert colon, field
        fields.append((name, value))
    reply = Reply(int(status), fields)
    if reply.status < 200 or reply.status in (204, 304) or method == b"HEAD":
        return reply, rest
    lengths = reply.all(b"content-length")
    codings = reply.all(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1, "two framings at once"
    if lengths:
        size = int(lengths[0])
        assert len(rest) >= size, f"cut within a body: {len(rest)} of {size}"
        reply.body, rest = rest[:size], rest[size:]
    elif codings:
        assert codings == [b"chunked"]
        reply.body, rest = take_chunks(rest)
    else:
        assert reply.one(b"connection") == b"close", "a body without length needs a close"
        reply.body, rest = rest, b""
    return reply, rest


def take_chunks(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        assert end, "cut within a chunk"
        count = int(size, 16)
        body += rest[:count]
        assert rest[count : count + 2] == b"\r\n", "cut within a chunk"
        rest = rest[count + 2 :]
        if count == 0:
            return body, rest


def take_replies(raw: bytes, *methods: bytes) -> list[Reply]:
    """All responses in `raw`, which must contain nothing else. `methods`: if not GET."""
    replies = []
    pending = list(methods)
    while raw:
        reply, raw = take_reply(raw, pending.pop(0) if pending else b"GET")
        replies.append(reply)
    return replies


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until the connection ends, by a close or a reset."""
    received = bytearray()
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return bytes(received)


def is_closed(sock: socket.socket) -> bool:
    """Wait for the peer's orderly close, before which it must send nothing more."""
    return read_all(sock) == b""

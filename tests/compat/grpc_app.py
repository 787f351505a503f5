"""A gRPC service as a plain ASGI application: its messages are bytes, its status is in trailers.

Methods: Upper answers one message, Count sends as many as requested, Echo answers each message at
once, Total adds up their sizes, Refuse fails before its first message and Break after it, Wait
answers when it is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

HEAD_SIZE = 5  # bytes before a message: a flag for compression, and the length
INVALID_ARGUMENT = 3
UNIMPLEMENTED = 12
DATA_LOSS = 15


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


class Service:
    """The application.

    Attributes:
        scopes: the scopes of all calls.
        cancelled: how many calls of Wait the client has cancelled.
    """

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.waiting = 0
        self.cancelled = 0
        self.methods = {
            "Upper": self.upper,
            "Echo": self.upper,
            "Count": self.count,
            "Total": self.total,
            "Break": self.break_off,
            "Wait": self.wait,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        self.scopes.append(scope)
        method = scope["path"].rpartition("/")[2]
        if method == "Refuse":
            await fail(send, INVALID_ARGUMENT, b"on purpose")
        elif (answers := self.methods.get(method)) is None:
            await fail(send, UNIMPLEMENTED, b"no such method")
        else:
            fields = [(b"content-type", b"application/grpc"), (b"x-greeting", b"hello")]
            start = {"type": "http.response.start", "status": 200, "headers": fields}
            await send({**start, "trailers": True})
            status = b"0"
            async for answer in answers(messages(receive)):
                if answer is None:
                    status = b"%d" % DATA_LOSS
                    break
                body = framed(answer)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            fields = [(b"grpc-status", status), (b"x-farewell", b"bye")]
            await send({"type": "http.response.trailers", "headers": fields})

    async def upper(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    async def count(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for request in requests:
            for number in range(int(request)):
                yield b"%d" % number

    async def total(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield b"%d" % sum([len(request) async for request in requests])

    async def break_off(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
        yield b"first"
        yield None

    async def wait(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.waiting += 1
        async for _ in requests:
            pass
        self.cancelled += 1
        yield b""


async def fail(send: Any, status: int, message: bytes) -> None:
    """A response without content, whose fields are the trailers (Trailers-Only)."""
    fields = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % status)]
    fields.append((b"grpc-message", message))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b""})


async def messages(receive: Any) -> AsyncIterator[bytes]:
    """Yield the messages of a request, each once it is complete; a disconnect ends them, too."""
    buffer = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        buffer += event["body"]
        more = event["more_body"]
        while len(buffer) >= HEAD_SIZE:
            end = HEAD_SIZE + int.from_bytes(buffer[1:HEAD_SIZE], "big")
            if len(buffer) < end:
                break
            message = bytes(buffer[HEAD_SIZE:end])
            del buffer[:end]
            yield message

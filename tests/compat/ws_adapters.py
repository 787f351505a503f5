"""Gives other projects' WebSocket clients the same interface."""

from __future__ import annotations

import asyncio
import socket
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import picows
import picows.websockets.asyncio.client
import pytest
import websockets.asyncio.client
import websockets.exceptions
import websockets.extensions.permessage_deflate
import websockets.sync.client


class ClosedError(Exception):
    """The server has closed, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.end = (code, reason)


class RefusedError(Exception):
    """The response is not 101. `body` is None if the client does not read it to its end."""

    def __init__(self, status: int, fields: Any, body: bytes | None) -> None:
        super().__init__(status)
        self.status = status
        self.fields = fields
        self.body = body


class OfWebsockets:
    """websockets.asyncio, and picows.websockets, which has its interface."""

    connect = staticmethod(websockets.asyncio.client.connect)
    errors: ModuleType = websockets.exceptions

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.subprotocol = ws.subprotocol
        fields = ws.response.headers
        self.compressed = "permessage-deflate" in fields.get("Sec-WebSocket-Extensions", "")

    @classmethod
    async def open(cls, url, subprotocols, deflate, **options):
        try:
            ws = await cls.connect(
                url,
                subprotocols=subprotocols or None,
                compression="deflate" if deflate else None,
                max_size=None,
                proxy=None,
                **options,
            )
        except cls.errors.InvalidStatus as exc:
            reply = exc.response
            raise RefusedError(reply.status_code, reply.headers, reply.body) from None
        return cls(ws)

    async def send(self, data) -> None:
        await self.ws.send(data)

    async def receive(self):
        try:
            return await self.ws.recv()
        except self.errors.ConnectionClosed as exc:
            raise ClosedError(exc.rcvd.code, exc.rcvd.reason or "") from None

    async def close(self, code, reason):
        await self.ws.close(code, reason)
        return self.ws.close_code

    async def abort(self) -> None:
        self.ws.transport.abort()


class OfPicowsWebsockets(OfWebsockets):
    connect = staticmethod(picows.websockets.asyncio.client.connect)
    errors = picows.websockets.exceptions

    @classmethod
    async def open(cls, url, subprotocols, deflate):
        address = urlsplit(url)
        sock = socket.create_connection((address.hostname, address.port))
        sock.setblocking(False)
        try:
            self = await super().open(url, subprotocols, deflate, sock=sock)
        except RefusedError as exc:
            raise RefusedError(exc.status, exc.fields, None) from None
        self.sock = sock  # the client does not expose its transport
        return self

    async def abort(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        await self.ws.wait_closed()


class OfWebsocketsSync(OfWebsockets):
    """websockets.sync, in threads."""

    @staticmethod
    async def connect(*args, **kwargs):
        manager = await asyncio.to_thread(websockets.sync.client.connect, *args, **kwargs)
        return await asyncio.to_thread(manager.__enter__)

    async def send(self, data) -> None:
        await asyncio.to_thread(self.ws.send, data)

    async def receive(self):
        try:
            return await asyncio.to_thread(self.ws.recv)
        except self.errors.ConnectionClosed as exc:
            raise ClosedError(exc.rcvd.code, exc.rcvd.reason) from None

    async def close(self, code, reason):
        await asyncio.to_thread(self.ws.close, code, reason)
        return self.ws.close_code

    async def abort(self) -> None:
        self.ws.socket.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(self.ws.recv_events_thread.join)


class OfAiohttp:
    def __init__(self, session: aiohttp.ClientSession, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.session = session
        self.ws = ws
        self.subprotocol = ws.protocol
        self.compressed = bool(ws.compress)

    @classmethod
    async def open(cls, url, subprotocols, deflate):
        session = aiohttp.ClientSession()
        try:
            ws = await session.ws_connect(
                url, protocols=subprotocols, compress=15 if deflate else 0, max_msg_size=0
            )
        except aiohttp.WSServerHandshakeError as exc:
            await session.close()
            raise RefusedError(exc.status, exc.headers, None) from None
        return cls(session, ws)

    async def send(self, data) -> None:
        await (self.ws.send_str(data) if isinstance(data, str) else self.ws.send_bytes(data))

    async def receive(self):
        message = await self.ws.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            await self.session.close()
            raise ClosedError(message.data, message.extra)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        return message.data

    async def close(self, code, reason):
        await self.ws.close(code=code, message=reason.encode())
        await self.session.close()
        return self.ws.close_code

    async def abort(self) -> None:
        self.ws.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        await self.ws.receive()
        await self.session.close()


class OfPicows(picows.WSListener):
    """picows with its own API; it has no compression."""

    compressed = False

    @classmethod
    async def open(cls, url, subprotocols, deflate):
        assert not deflate
        headers = {"Sec-WebSocket-Protocol": ", ".join(subprotocols)} if subprotocols else None
        try:
            _, self = await picows.ws_connect(cls, url, extra_headers=headers, max_frame_size=2**26)
        except picows.WSHandshakeError as exc:
            raise RefusedError(exc.response.status, exc.response.headers, None) from None
        return self

    def on_ws_connected(self, transport) -> None:
        self.transport = transport
        self.subprotocol = transport.response.headers.get("Sec-WebSocket-Protocol")
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()

    def on_ws_frame(self, transport, frame) -> None:
        assert frame.fin
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.arrived.put_nowait(frame.get_payload_as_utf8_text())
        elif frame.msg_type == picows.WSMsgType.BINARY:
            self.arrived.put_nowait(frame.get_payload_as_bytes())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            code = int(frame.get_close_code())
            self.arrived.put_nowait(ClosedError(code, frame.get_close_reason() or ""))
            transport.send_close(frame.get_close_code())
            # RFC 6455 section 7.1.1: the server closes the TCP connection first.

    async def send(self, data) -> None:
        kind = picows.WSMsgType.TEXT if isinstance(data, str) else picows.WSMsgType.BINARY
        self.transport.send(kind, data.encode() if isinstance(data, str) else data)

    async def receive(self):
        message = await self.arrived.get()
        if isinstance(message, ClosedError):
            await self.transport.wait_disconnected()
            raise message
        return message

    async def close(self, code, reason):
        self.transport.send_close(code, reason.encode())
        with pytest.raises(ClosedError) as closed:
            while True:
                await self.receive()
        return closed.value.end[0]

    async def abort(self) -> None:
        self.transport.disconnect(graceful=False)
        await self.transport.wait_disconnected()


CLIENTS = {
    "websockets": (OfWebsockets, False),
    "websockets-deflate": (OfWebsockets, True),
    "websockets.sync": (OfWebsocketsSync, False),
    "websockets.sync-deflate": (OfWebsocketsSync, True),
    "aiohttp": (OfAiohttp, False),
    "aiohttp-deflate": (OfAiohttp, True),
    "picows": (OfPicows, False),
    "picows.websockets-deflate": (OfPicowsWebsockets, True),
}

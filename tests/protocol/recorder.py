"""Shared by the tests of the owned transport: protocols that record, and a listener."""

from __future__ import annotations

import asyncio
import socket
import struct

from thestral.net.listeners import Listener
from thestral.net.poller import Poller

READ_SIZE = 256 * 1024  # thestral.net.poller.READ_SIZE
RESET = struct.pack("ii", 1, 0)  # struct linger: close() resets
BIG = bytes(range(256)) * 16384  # 4 MiB
FAMILIES = ["tcp", "unix"]


class Recorder(asyncio.Protocol):
    """Records the calls of its transport."""

    def __init__(self, *, stays=False):
        self.events = []
        self.data = b""
        self.stays = stays

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")
        return self.stays

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost" if exc is None else type(exc).__name__)


class Place:
    """A Poller that listens, and the protocols of its connections."""

    def __init__(self, factory, family="tcp", path=None):
        self.loop = asyncio.get_running_loop()
        self.poller = Poller(self.loop)
        self.protocols = []
        self.problems = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.sock = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
        self.sock.bind(str(path / "s") if family == "unix" else ("127.0.0.1", 0))
        self.sock.listen(512)
        self.listener = Listener(self.poller, self.sock, lambda: self._made(factory()))
        self.clients = []

    def _made(self, protocol):
        self.protocols.append(protocol)
        return protocol

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for client in self.clients:
            client.close()
        self.listener.stop(0)
        self.poller.close()
        assert self.poller.open == 0

    async def connect(self, *, receive_buffer=None):
        """A client, and the protocol at the other end."""
        client = socket.socket(self.sock.family)
        self.clients.append(client)
        client.setblocking(False)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        count = len(self.protocols)
        await self.loop.sock_connect(client, self.sock.getsockname())
        await until(lambda: len(self.protocols) > count)
        return client, self.protocols[-1]

    async def read(self, client, size):
        received = b""
        while len(received) < size:
            data = await self.loop.sock_recv(client, 65536)
            if not data:
                break
            received += data
        return received


async def until(fact):
    while not fact():
        await asyncio.sleep(0.001)


def small_buffer(transport, size=1 << 16):
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

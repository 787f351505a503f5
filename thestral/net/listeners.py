"""Accepting connections: with the server's own Poller where it can be used, else with the loop."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from thestral.net import sockets as listening
from thestral.net.transport import Listener, Poller, can_own

# Time for TCP handshakes in progress to complete, once new ones are refused.
HANDSHAKE_GRACE = 0.02  # seconds


class Listeners:
    """The open listeners of a server.

    Args:
        loop: the running loop.
        sockets: bound sockets; the caller closes them.
        backlog: maximum connections waiting in the kernel's queue of each socket.
        new_connection: makes the protocol of an accepted connection.
        owned: whether to use a Poller and its transports, if all sockets allow it.

    Attributes:
        servers: a Listener or an asyncio.Server for each socket.
        poller: None if the loop's own transports are used.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        backlog: int,
        new_connection: Callable[[], Any],
        owned: bool,
    ) -> None:
        self.servers: list[asyncio.Server | Listener] = []
        self.poller = Poller(loop) if owned and can_own(sockets) else None
        self._loop = loop
        self._sockets = sockets
        self._backlog = backlog
        self._new_connection = new_connection

    async def open(self) -> None:
        """Start listening and accepting."""
        for sock in self._sockets:
            listening.listen(sock, self._backlog)
            self.servers.append(await self._open_one(sock))

    async def _open_one(self, sock: socket.socket) -> asyncio.Server | Listener:
        if self.poller is not None:
            return self.poller.listen(sock, self._new_connection)
        new_connection, backlog = self._new_connection, self._backlog
        if sock.family != socket.AF_UNIX:
            return await self._loop.create_server(new_connection, sock=sock, backlog=backlog)
        options: dict[str, Any] = {}
        if isinstance(self._loop, asyncio.SelectorEventLoop) and sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # UnixListener deletes the path
        return await self._loop.create_unix_server(
            new_connection, sock=sock, backlog=backlog, **options
        )

    async def stop(self) -> None:
        """Stop accepting, without losing a connection that we or the kernel have accepted."""
        selecting = self.poller is None and isinstance(self._loop, asyncio.SelectorEventLoop)
        for sock in self._sockets:
            listening.refuse_new(sock)
            if selecting:
                # asyncio makes a connection some turns after accept(), and drops it if the server
                # is closed by then.
                self._loop.remove_reader(sock.fileno())
        await asyncio.sleep(HANDSHAKE_GRACE)
        if self.poller is not None:
            for listener in self.servers:
                assert isinstance(listener, Listener)
                listener.stop(self._backlog)
            return
        queues = [listening.duplicate(sock) for sock in self._sockets]
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # connection_made runs, and uvloop closes its descriptors
        waiting = []
        for queue in queues:
            waiting += listening.take_waiting(queue, self._backlog)
            queue.close()
        for sock in waiting:
            try:
                await self._loop.connect_accepted_socket(self._new_connection, sock)
            except OSError:  # the client is gone already
                sock.close()

    def close(self) -> None:
        """Close the poller. To be called when all connections have ended."""
        if self.poller is not None:
            self.poller.close()

"""Accepting connections: with the server's own Poller where it can be used, else with the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from thestral._core.socket import Bit, accept, close, own_address, send_at_once
from thestral.logging.loggers import error_logger
from thestral.net import sockets as listening
from thestral.net.poller import Poller, Watched
from thestral.net.transport import SocketTransport

LISTENING = int(Bit.LISTENING)

FAMILIES = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))
ACCEPTS_PER_TURN = 64
# Pause after accept() fails for lack of descriptors or memory; asyncio's figure.
ACCEPT_PAUSE = 1.0  # seconds
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (only compared)
# Time for TCP handshakes in progress to complete, once new ones are refused.
HANDSHAKE_GRACE = 0.02  # seconds


def can_own(sockets: Iterable[socket.socket]) -> bool:
    """Whether SocketTransport can serve the connections of these listening sockets."""
    return sys.platform == "linux" and all(sock.family in FAMILIES for sock in sockets)


class Listener(Watched):
    """Accepts connections on a listening socket."""

    def __init__(self, poller: Poller, sock: socket.socket, factory: Callable[[], Any]) -> None:
        super().__init__(poller, sock.fileno())
        sock.setblocking(False)
        self._sock = sock
        self._factory = factory
        name = sock.getsockname()
        # None for a wildcard address: each connection is asked for its own local address.
        self._own = None if isinstance(name, tuple) and name[0] in ANY_ADDRESS else name
        self._tcp = isinstance(name, tuple)
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False
        self._poller.watch(self, LISTENING)

    def ready(self, bits: int) -> None:
        accepted = 0
        try:
            while accepted < ACCEPTS_PER_TURN and self._accept():
                accepted += 1
        except OSError as exc:
            self._pause(exc)

    def _accept(self) -> bool:
        """Accept one connection; False if none is waiting.

        Raises:
            OSError: no descriptor or no memory is left for it.
        """
        accepted = accept(self.fd)
        if accepted is None:
            return False
        self._warned = False
        fd, peer = accepted
        self._open(fd, peer)
        return True

    def _open(self, fd: int, peer: Any) -> None:
        if self._tcp:
            send_at_once(fd)
        own = self._own if self._own is not None else own_address(fd)
        transport = SocketTransport(self._poller, fd, peer, own)
        try:
            transport.begin(self._factory())
        except BaseException as exc:
            if not transport.is_closing():
                close(fd)
            if not isinstance(exc, Exception):
                raise
            self._poller.loop.call_exception_handler(
                {"message": "A connection could not be set up", "exception": exc}
            )

    def _pause(self, exc: OSError) -> None:
        """Stop accepting for a moment: the next attempt would fail too, and keep the loop busy."""
        if not self._warned:
            self._warned = True
            error_logger.error("Cannot accept connections for now: %s", exc.strerror)
        self._poller.unwatch(self)
        self._timer = self._poller.loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._poller.watch(self, LISTENING)

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """As in asyncio.Server."""
        return () if self._sock.fileno() < 0 else (TransportSocket(self._sock),)

    def close(self) -> None:
        """As in asyncio.Server."""
        self.stop(0)

    def stop(self, most: int) -> None:
        """Accept up to `most` connections that are already waiting, and close the socket."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._poller.unwatch(self)
        with contextlib.suppress(OSError):
            while most > 0 and self._accept():
                most -= 1
        self._sock.close()


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
            return Listener(self.poller, sock, self._new_connection)
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

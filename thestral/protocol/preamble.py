"""What stands in front of HTTP on a connection: a PROXY head, a TLS handshake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thestral.protocol.connection import Connection
from thestral.protocol.phases import DRAIN_GRACE

if TYPE_CHECKING:
    from thestral.errors import RemoteProtocolError
    from thestral.protocol.context import WorkerContext


class Preamble(Connection):
    """A connection that gives its place to another one of the next protocol when it has heard
    enough.

    Args:
        context: of the worker.
        successor: makes that connection, from the context and the protocol that ALPN has chosen
            (RFC 7301), if it has.
    """

    def __init__(
        self,
        context: WorkerContext,
        successor: Callable[[WorkerContext, str | None], Connection],
    ) -> None:
        super().__init__(context)
        self._successor = successor

    def hand_over(self, transport: Any, alpn: str | None) -> Connection:
        """Have the next connection take this one's place, on our transport or one that stands on
        it; returns that connection.
        """
        connection: Connection = self._successor(self.context, alpn)
        connection.proxied = self.proxied
        self.context.discard(self)
        self.lost = True  # for us
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self.context.draining:
            connection.drain()
        return connection

    def refuse_as_http(self, error: RemoteProtocolError) -> None:
        """Answer a client that does not speak our protocol, and may speak HTTP in plain."""
        connection = self.hand_over(self.transport, None)
        connection.refuse(error)

    def drain(self) -> None:
        self.deadline = min(self.deadline, self.context.clock.after(DRAIN_GRACE))

    def on_deadline(self) -> None:
        self.abort()

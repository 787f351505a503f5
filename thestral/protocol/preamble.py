"""What a connection may begin with before HTTP: a PROXY head, a TLS handshake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thestral.protocol.connection import Connection
from thestral.protocol.phases import DRAIN_GRACE

if TYPE_CHECKING:
    from thestral.errors import RemoteProtocolError
    from thestral.protocol.context import WorkerContext


class Preamble(Connection):
    """A connection that hands its transport over to the next protocol once its own part is done.

    Args:
        context: the worker's context.
        successor: creates the next connection, from the context and the protocol that ALPN has
            chosen (RFC 7301), which is None without ALPN.
    """

    def __init__(
        self,
        context: WorkerContext,
        successor: Callable[[WorkerContext, str | None], Connection],
    ) -> None:
        super().__init__(context)
        self._successor = successor

    def hand_over(self, transport: Any, alpn: str | None) -> Connection:
        """Put the next connection in place of this one, on the same transport or one above it, and
        return it.
        """
        connection: Connection = self._successor(self.context, alpn)
        self.give_way(connection, transport)
        return connection

    def refuse_as_http(self, error: RemoteProtocolError) -> None:
        """Answer a client that does not speak this protocol but may speak plain HTTP."""
        connection = self.hand_over(self.transport, None)
        connection.refuse(error)

    def drain(self) -> None:
        self.deadline = min(self.deadline, self.context.clock.after(DRAIN_GRACE))

    def on_deadline(self) -> None:
        self.abort()

"""When bytes leave: all output that a connection writes in one turn leaves together."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

from thestral._core.http1 import ResponseWriter

if TYPE_CHECKING:
    from thestral.net.transport import Protocol

# How many writers are kept for reuse. Each may hold up to twice output.OUTPUT_MAX.
SPARE_WRITERS = 16


class Turn:
    """The connections of a worker with output that waits for the end of the turn.

    A turn ends when a step of an application ends, because the application waits or returns, or
    when the loop has called everything that was ready, whichever comes first. The second is for
    tasks that an application created: the server does not see where their steps end.

    Args:
        loop: the running loop.
        context: the contextvars.Context in which the loop ends a turn.

    Attributes:
        steps: number of application steps that are running; each ends with end(). More than one is
            running if a step runs the loop.
        waiting: connections that have joined.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self.steps = 0
        self.waiting: list[Protocol] = []
        self._loop = loop
        self._context = context
        self._scheduled = False
        # The first _spare writers are not lent.
        self._writers: list[Any] = [None] * SPARE_WRITERS
        self._spare = 0

    def join(self, connection: Protocol) -> None:
        """Have a connection's end_turn() called at the end of this turn."""
        self.waiting.append(connection)
        if self.steps == 0 and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.loop_turned, context=self._context)

    def loop_turned(self) -> None:
        """Called by the loop after everything that was ready when a connection joined."""
        self._scheduled = False
        if self.waiting:
            self.end()

    def end(self) -> None:
        """End the turn: send the output of all connections that have joined."""
        waiting = self.waiting
        self.waiting = []
        for connection in waiting:
            try:
                connection.end_turn()
            except Exception as exc:
                # The output of the other connections still has to leave.
                self._loop.call_exception_handler(
                    {
                        "message": "The output of a connection could not be sent",
                        "exception": exc,
                        "protocol": connection,
                    }
                )
                broken: Any = connection
                broken.abort()

    # --- Writers ------------------------------------------------------------------------------

    def lend_writer(self) -> ResponseWriter:
        """Return an empty writer, for a connection that has none."""
        if self._spare == 0:
            return ResponseWriter()
        self._spare -= 1
        writer: ResponseWriter = self._writers[self._spare]
        return writer

    def take_back(self, writer: ResponseWriter) -> None:
        """Empty a lent writer, and keep it for reuse."""
        writer.truncate(0)
        if self._spare < SPARE_WRITERS:
            self._writers[self._spare] = writer
            self._spare += 1

"""When bytes leave: what connections send without the loop turning in between leaves together."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

from thestral._core.http1 import ResponseWriter

if TYPE_CHECKING:
    from thestral.net.transport import Protocol

# Writers that are kept for use again; each may hold twice connection.OUTPUT_MAX.
SPARE_WRITERS = 16


class Turn:
    """The connections of a worker that have output which waits for the end of the turn.

    A turn ends when a step of an application ends, because the application waits or returns, or
    when the loop has called everything that was ready, whichever comes first. The second is for
    tasks that an application made: their steps run without us.

    Args:
        loop: the running one.
        context: contextvars of the loop's call.

    Attributes:
        steps: applications' steps that run now, each of which ends with end(). There is more than
            one where a step runs the loop.
        waiting: connections that have joined.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self.steps = 0
        self.waiting: list[Protocol] = []
        self._loop = loop
        self._context = context
        self._scheduled = False
        # Those that are not lent are in front.
        self._writers: list[Any] = [None] * SPARE_WRITERS
        self._spare = 0

    def join(self, connection: Protocol) -> None:
        """Have a connection's end_turn() called at the end of this turn."""
        self.waiting.append(connection)
        if self.steps == 0 and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.loop_turned, context=self._context)

    def loop_turned(self) -> None:
        """The loop's call, behind everything that was ready when a connection joined."""
        self._scheduled = False
        if self.waiting:
            self.end()

    def end(self) -> None:
        """Let the output of all that have joined leave."""
        waiting = self.waiting
        self.waiting = []
        for connection in waiting:
            try:
                connection.end_turn()
            except Exception as exc:
                # The others' output still has to leave.
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
        """An empty writer, for a connection that has none."""
        if self._spare == 0:
            return ResponseWriter()
        self._spare -= 1
        writer: ResponseWriter = self._writers[self._spare]
        return writer

    def take_back(self, writer: ResponseWriter) -> None:
        """End what lend_writer() began."""
        writer.truncate(0)
        if self._spare < SPARE_WRITERS:
            self._writers[self._spare] = writer
            self._spare += 1

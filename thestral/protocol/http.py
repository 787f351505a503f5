"""An HTTP connection of any version: its phases, and how it closes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thestral.protocol.connection import Connection
from thestral.protocol.phases import CLOSING, FIRST_HEAD, LINGER_TIMEOUT, LINGERING, PHASES

if TYPE_CHECKING:
    from thestral.protocol.context import WorkerContext


class HTTPConnection(Connection):
    """The base of HTTP/1.1 and HTTP/2 connections.

    Attributes:
        since: Clock.now when the phase began.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self._phase = FIRST_HEAD
        self.since = 0.0
        self._eof = False

    def enter(self, phase: int) -> None:
        """Enter a phase, and start its time-out."""
        context = self.context
        self._phase = phase
        self.since = context.clock.now
        wait: float = context.waits[phase]
        self.deadline = context.clock.after(wait) if wait > 0.0 else 0.0

    def count_late(self) -> None:
        """Count the time-out of this phase, if it has an option."""
        kind = PHASES[self._phase].time_out
        if isinstance(kind, str):
            self.context.count_timeout(kind)

    def has_ended(self) -> bool:
        """Whether input from the client is ignored from now on."""
        return self._phase >= LINGERING or self.lost

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.deadline = 0.0
        self.write_deadline = 0.0
        self.write_paused = False
        self.context.discard(self)
        self.abandon()

    def linger(self) -> None:
        """Close the server's side, and keep reading for a moment, discarding the input."""
        self.enter(LINGERING)
        self.flush()
        self.resume_reading()
        if self.lost:
            return
        if self._eof or not self.transport.can_write_eof():
            self.close_flushing()
            return
        self.transport.write_eof()

    def stop_lingering(self) -> None:
        """Close, or linger on while output is unsent, which the client cannot have read yet (RFC
        9112 section 9.6). If the client reads nothing, write_deadline ends that.
        """
        if self.still_sends():
            self.deadline = self.context.clock.after(LINGER_TIMEOUT)
        else:
            self.enter(CLOSING)
            self.close_flushing()

    def still_sends(self) -> bool:
        return not self.is_broken() and bool(self.transport.get_write_buffer_size())

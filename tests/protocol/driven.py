"""A loop whose time stands still until a test moves it, for the clock of a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support import Running


class DrivenLoop:
    """The parts of a loop that a Clock uses."""

    def __init__(self) -> None:
        self.now = 1000.0  # seconds
        self.calls = []
        self.faults = []

    @classmethod
    def drive(cls, running: Running) -> DrivenLoop:
        """Take over the clock of a server that has no connection yet."""
        loop = cls()
        running.context.clock.loop = loop
        return loop

    def time(self) -> float:
        return self.now

    def call_later(self, delay, callback):
        self.calls.append((self.now + delay, callback))
        return asyncio.TimerHandle(self.now + delay, callback, (), self)

    def call_exception_handler(self, context) -> None:
        self.faults.append(context["exception"])

    def _timer_handle_cancelled(self, handle) -> None:
        self.calls.clear()

    def get_debug(self) -> bool:
        return False

    def run_next(self) -> None:
        """Move to the next call, and make it."""
        self.now, callback = self.calls.pop(0)
        callback()

    def move(self, seconds: float) -> None:
        """Advance the time, and make the calls that fall due meanwhile."""
        until = self.now + seconds
        while self.calls and self.calls[0][0] <= until:
            self.run_next()
        self.now = until

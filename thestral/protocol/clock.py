"""The clock of a worker: one timer, whose ticks advance the time from which deadlines are counted,
and call the observers, which check them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thestral.config import Config

# Names in a Date field, independent of the locale (RFC 9110 section 5.6.7).
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The options that set deadlines of connections and requests.
TIMED = (
    "timeout_head",
    "timeout_body",
    "timeout_keep_alive",
    "timeout_write",
    "timeout_request",
    "timeout_tls_handshake",
    "ws_ping_interval",
    "ws_ping_timeout",
    "ws_close_timeout",
)
# The clock ticks TICKS_WITHIN times within the shortest time-out, at an interval between these.
SLOWEST_TICK = 0.5  # seconds
FASTEST_TICK = 0.01  # seconds
TICKS_WITHIN = 8


class Timeouts:
    """How long connections and requests may take, in seconds; 0.0 means no limit.

    Args:
        config: resolved options.

    Attributes:
        interval: seconds between two ticks of the clock that checks these time-outs.
    """

    if TYPE_CHECKING:
        head: float
        body: float
        keep_alive: float
        write: float
        request: float
        tls_handshake: float
        ws_ping_interval: float
        ws_ping_timeout: float
        ws_close_timeout: float

    def __init__(self, config: Config) -> None:
        shortest = math.inf
        for option in TIMED:
            seconds = getattr(config, option) or 0.0
            setattr(self, option.removeprefix("timeout_"), seconds)
            if seconds:
                shortest = min(shortest, seconds)
        self.interval = min(SLOWEST_TICK, max(FASTEST_TICK, shortest / TICKS_WITHIN))


class Clock:
    """The time of the last tick. The clock ticks only while an observer needs it.

    Args:
        loop: the running loop.
        interval: seconds between two ticks.

    Attributes:
        now: loop time in seconds, up to one interval old.
        date: the value of a Date field.
        observers: called at each tick with `now`; each returns whether it needs another tick.
        on_second: called when `date` has changed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self.loop = loop
        self.interval = interval
        self.now = 0.0
        self.date = b""
        self.observers: list[Callable[[float], bool]] = []
        self.on_second: Callable[[], None] | None = None
        self._second = 0
        self._timer: asyncio.TimerHandle | None = None

    def after(self, seconds: float) -> float:
        """Return the deadline of a wait that begins now: never early, at most two ticks late."""
        return self.now + seconds + self.interval

    def start(self) -> None:
        """Start ticking, unless the clock already ticks."""
        if self._timer is None:
            self.refresh()
            self._timer = self.loop.call_later(self.interval, self.tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self) -> None:
        """Advance the time and call the observers. If one raises, the others are still called."""
        self.refresh()
        wanted = False
        for observer in self.observers:
            try:
                wanted = observer(self.now) or wanted
            except Exception as exc:
                wanted = True
                message = "An observer of the clock failed"
                self.loop.call_exception_handler({"message": message, "exception": exc})
        self._timer = self.loop.call_later(self.interval, self.tick) if wanted else None

    def refresh(self) -> None:
        """Read the clocks: loop time for deadlines, wall time for Date (RFC 9110 section 6.6.1)."""
        self.now = self.loop.time()
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date = date_of(second)
            if self.on_second is not None:
                self.on_second()


def date_of(second: int) -> bytes:
    """Return a Unix time as the value of a Date field (RFC 9110 section 5.6.7)."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(second)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{DAYS[weekday]}, {day:02} {MONTHS[month - 1]} {year} {clock} GMT".encode()

"""The clock of a worker: one timer, whose ticks advance the time that deadlines are counted from,
and look at everything that waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thestral.config import Config

# Names of a Date field's parts (RFC 9110 section 5.6.7), whatever the locale.
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The options that are deadlines of connections and requests.
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
# A tick comes this often, in seconds, or eight times within the shortest time-out.
SLOWEST_TICK = 0.5
FASTEST_TICK = 0.01
TICKS_WITHIN = 8


class Timeouts:
    """How long connections and requests may take, in seconds; 0.0 stands for no limit.

    Args:
        config: resolved options.

    Attributes:
        interval: between two ticks of the clock that looks at these.
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
    """The time as of the last tick. It ticks only while something waits for it.

    Args:
        loop: the running loop.
        interval: seconds between two ticks.

    Attributes:
        now: loop time in seconds, up to one interval old.
        date: the value of a Date field.
        observers: called at each tick with `now`; each tells whether it needs another tick.
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
        """The deadline of a wait that begins now: never early, and at most two ticks late."""
        return self.now + seconds + self.interval

    def start(self) -> None:
        """Tick, if the clock does not already: something waits."""
        if self._timer is None:
            self.refresh()
            self._timer = self.loop.call_later(self.interval, self.tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self) -> None:
        """Advance the time and call the observers. One that raises has had its turn, and the others
        still have theirs.
        """
        self.refresh()
        wanted = False
        for observer in self.observers:
            try:
                wanted = observer(self.now) or wanted
            except Exception as exc:
                wanted = True
                message = "A look at what waits for the clock failed"
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
    """A Unix time as the value of a Date field (RFC 9110 section 5.6.7)."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(second)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{DAYS[weekday]}, {day:02} {MONTHS[month - 1]} {year} {clock} GMT".encode()

"""Measures a worker's own process at regular intervals: how late its loop is, its tasks, the
garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

from thestral._core.log import monotonic
from thestral.protocol.connection import place_oldest

if TYPE_CHECKING:
    from thestral.protocol.context import WorkerContext

INTERVAL = 0.1  # seconds between two ticks
TICKS_PER_SECOND = 10
TICKS_PER_MINUTE = 600
# Counting asyncio's tasks takes about 0.3 us for each: many tasks are counted less often.
TASKS_PER_SECOND = 1000


class Sampler:
    """Ticks from start() to stop(), while the loop runs.

    Args:
        loop: the running loop.
        context: of the worker; its `metrics` are set.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: WorkerContext) -> None:
        assert context.metrics is not None
        self._loop = loop
        self._context = context
        self._metrics = context.metrics
        self._due = 0.0  # monotonic() at which the next tick is due
        self._ticks = 0
        self._next_count = 0  # the tick at which tasks are counted
        self._collecting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        gc.callbacks.append(self._on_collection)
        self._due = monotonic()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.callbacks.remove(self._on_collection)

    def _tick(self) -> None:
        self._metrics.tick(INTERVAL, monotonic() - self._due)
        if self._ticks >= self._next_count:
            tasks = len(asyncio.all_tasks(self._loop))
            self._metrics.set_tasks(tasks)
            self._next_count = self._ticks + TICKS_PER_SECOND * (1 + tasks // TASKS_PER_SECOND)
            place_oldest(self._context)
        self._ticks += 1
        if self._ticks % TICKS_PER_MINUTE == 0:
            self._metrics.begin_minute()
        self._due = monotonic() + INTERVAL  # uvloop's own clock stands still within a turn
        self._timer = self._loop.call_later(INTERVAL, self._tick)

    def _on_collection(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._collecting_since = monotonic()
        else:
            self._metrics.add_collection(info["generation"], monotonic() - self._collecting_since)

"""Workers as their supervisor sees them, and what it checks on each of them."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thestral.logging.loggers import error_logger
from thestral.process.health import Watch, resident_size
from thestral.process.worker import STACKS_SIGNAL

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from thestral.config import Config
    from thestral.process.metrics import Slot

# A worker is young for this long: if it dies or grows too large by then, a successor may do so too.
SETTLED = 30.0  # seconds
# How often a line about a worker that is not ready yet is logged.
REMINDER = 60.0  # seconds
# Time for faulthandler to write the stacks of a worker before it is killed.
STACKS_GRACE = 1.0  # seconds


@dataclass(eq=False)
class Worker:
    """One worker process, as its supervisor sees it. All times are those of time.monotonic().

    Attributes:
        number: the lowest that was free, from 1; a successor has its predecessor's.
        pipe: the supervisor's end of the pipe to the worker.
        started: when its process was started.
        replaces: the worker to stop once this one is ready.
        ready: when it began to serve; 0.0 while it starts.
        base: bytes of memory that it held when it became ready; 0 if unknown or not needed.
        reason: why it could not start, as the worker reported it.
        retiring: whether it has reached a limit, and a successor is to replace it.
        stopping: whether it has been told to stop.
        ends_first: no other worker starts until this one has ended, because a new one may need what
            this one holds.
        waits: whether it is stopping and still has requests that run.
        killed: whether the patrol has killed it.
        slot: where it counts.
        stop_by: when to kill it; 0.0 unless it is stopping.
        expires: when --limit-worker-lifetime has it replaced.
        remind: when to log again that it is not ready yet.
    """

    number: int
    process: Any
    pipe: Connection
    started: float
    watch: Watch
    replaces: Worker | None = None
    ready: float = 0.0
    base: int = 0
    reason: str = ""
    retiring: bool = False
    stopping: bool = False
    ends_first: bool = False
    waits: bool = False
    killed: bool = False
    slot: Slot | None = None
    stop_by: float = 0.0
    expires: float = math.inf
    remind: float = 0.0

    def __post_init__(self) -> None:
        self.remind = self.started + REMINDER


class Patrol:
    """Checks each worker's deadline, memory, lifetime and health.

    Args:
        config: the options.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # time.monotonic() before which no young worker is replaced for its memory
        self._next_for_size = 0.0

    def check(self, worker: Worker, now: float) -> None:
        """Kill a worker that is stuck or late to stop, and mark one for replacement that has grown
        too large or too old.

        Args:
            worker: a running worker.
            now: time.monotonic().
        """
        if worker.stop_by and now >= worker.stop_by:
            error_logger.error("Killing worker %d, which did not stop in time", worker.number)
            worker.process.kill()
            worker.killed = True
            worker.stop_by = 0.0
        elif not worker.stopping:
            if worker.ready:
                self._check_size(worker, now)
                worker.retiring |= now >= worker.expires
            self._check_health(worker, now)

    def note_base_size(self, worker: Worker) -> None:
        """Note the memory of a worker that has not served anything yet. If it is above
        --limit-max-rss already, log a warning once.
        """
        limit = self.config.limit_max_rss
        worker.base = resident_size(worker.watch.pid) or 0 if limit else 0
        if limit and worker.base > limit and self._next_for_size < math.inf:
            self._next_for_size = math.inf
            error_logger.warning(
                "Worker %d uses %d bytes at its start, and --limit-max-rss is %d:"
                " workers like it are not replaced because of their memory",
                worker.number,
                worker.base,
                limit,
            )

    def _check_size(self, worker: Worker, now: float) -> None:
        """Have a worker replaced if it uses too much memory and a new one would use less. Young
        workers are replaced at most every SETTLED seconds, in case all grow as soon as they serve.
        """
        limit = self.config.limit_max_rss
        if not limit or worker.retiring or worker.base > limit:
            return
        size = resident_size(worker.watch.pid) or 0
        young = now - worker.ready < SETTLED
        if size <= limit or (young and now < self._next_for_size):
            return
        self._next_for_size = max(self._next_for_size, now + SETTLED)
        error_logger.warning(
            "Worker %d uses %d bytes, %d at its start: replacing it",
            worker.number,
            size,
            worker.base,
        )
        worker.retiring = True

    def _check_health(self, worker: Worker, now: float) -> None:
        """Kill a worker that is deadlocked or stopped, that has blocked its event loop for too
        long, or that takes too long to start.
        """
        worker.watch.look(now)
        stuck = worker.watch.stuck(self.config.timeout_worker_healthcheck)
        silent = worker.watch.silent
        starting = 0.0 if worker.ready else now - worker.started
        name = f"Worker {worker.number} [{worker.watch.pid}]"
        if stuck is not None:
            text = "%s has been stuck for %.0f s: killing it (%s)"
            error_logger.error(text, name, stuck.seconds, stuck.text)
        elif silent >= (self.config.timeout_worker_blocked or math.inf):
            title = worker.watch.heartbeat.request()
            text = "%s has blocked its event loop for %.0f s%s: killing it"
            error_logger.error(text, name, silent, f" in {title}" if title else "")
        elif starting >= (self.config.timeout_worker_startup or math.inf):
            limit = self.config.timeout_worker_startup
            error_logger.error("%s was not ready within %.0f s: killing it", name, limit)
        else:
            if starting and now >= worker.remind:
                worker.remind = now + REMINDER
                error_logger.warning("%s has been starting for %.0f s", name, starting)
            return
        if STACKS_SIGNAL is not None:
            with contextlib.suppress(ProcessLookupError):
                # faulthandler writes the stacks, then the signal ends the worker.
                os.kill(worker.watch.pid, STACKS_SIGNAL)
        worker.killed = True
        worker.process.join(STACKS_GRACE)
        worker.process.kill()

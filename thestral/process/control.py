"""The admin port of a Supervisor: what it shows of the workers, and the orders it gives them."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal, Protocol

from thestral.admin.routes import Routes
from thestral.admin.server import AdminServer
from thestral.admin.status import Process, ServerInfo
from thestral.config import Config
from thestral.config.address import read_address
from thestral.logging.levels import set_level
from thestral.logging.loggers import error_logger
from thestral.metrics.snapshot import Snapshot
from thestral.net import sockets as listening
from thestral.process.metrics import Metrics
from thestral.process.patrol import Worker
from thestral.process.stacks import Dump
from thestral.process.worker import DUMP, LEVEL, STACKS

# Time for a worker to send its stacks.
STACKS_PATIENCE = 1.0  # seconds
# Time for faulthandler to write the stacks of a worker that does not answer.
DUMP_PATIENCE = 0.5  # seconds
NO_ANSWER = "It does not answer. What faulthandler sees:\n"
PERMISSIONS = 0o600  # of a Unix socket


class Supervised(Protocol):
    """The part of Supervisor that Control uses; it is documented there."""

    config: Config
    metrics: Metrics | None
    started: bool
    workers: list[Worker]
    wanted: int
    is_stopping: bool
    addresses: list[str]

    def reload(self) -> None: ...
    def resize(self, change: int) -> None: ...
    def tell(self, worker: Worker, message: Any) -> bool: ...


class Gathering:
    """The stacks of all workers, while they are being gathered.

    Attributes:
        done: called at the end with all of them.
        deadline: when to stop waiting, by time.monotonic().
        has_asked: whether the workers that do not answer have been sent the signal.
    """

    def __init__(self, workers: Sequence[Worker], done: Callable[[str], None]) -> None:
        self.done = done
        self.deadline = time.monotonic() + STACKS_PATIENCE
        self.has_asked = False
        self._parts: dict[Worker, list[str]] = {worker: [] for worker in workers}
        self._complete: set[Worker] = set()

    def add(self, worker: Worker, part: str | None) -> None:
        """Add a part of a worker's stacks; None ends them."""
        if part is None:
            self._complete.add(worker)
        elif worker in self._parts:
            self._parts[worker].append(part)

    def missing(self, running: Sequence[Worker]) -> list[Worker]:
        """The workers that are still running and have not answered."""
        return [
            worker for worker in self._parts if worker in running and worker not in self._complete
        ]

    def text(self, dumped: dict[Worker, str]) -> str:
        """All stacks.

        Args:
            dumped: faulthandler's stacks of the workers that have not answered.
        """
        found = []
        for worker, parts in self._parts.items():
            found.append(f"Worker {worker.number} [{worker.watch.pid}]:\n")
            if worker not in self._complete:
                parts = [NO_ANSWER if worker.ready else "It is starting.\n", dumped.get(worker, "")]
            found += [*parts, "\n"]
        return "".join(found) or "There is no worker.\n"


class Control:
    """The admin port of a Supervisor.

    Args:
        supervisor: the Supervisor.
        selecting: its selector.
    """

    def __init__(self, supervisor: Supervised, selecting: selectors.BaseSelector) -> None:
        self.config = supervisor.config
        self._supervisor = supervisor
        self._selecting = selecting
        self._server: AdminServer | None = None
        self._began = time.time()
        self._version = version("thestral")  # the package itself imports this module
        self._levels: dict[str, str] = {}  # set at run time, by the logger's name
        self._gatherings: dict[int, Gathering] = {}  # by number
        self._dumps: dict[Worker, Dump] = {}
        self._last = 0  # number of the last gathering

    # --- The port -----------------------------------------------------------------------------

    def bind(self) -> None:
        """Bind the address.

        Raises:
            BindError: it cannot be bound.
        """
        assert self.config.admin is not None
        address = read_address(self.config.admin)
        if address.path:
            sockets = [listening.bind_unix(address.path, PERMISSIONS)]
        else:
            sockets = listening.bind(address.host, address.port, option="--admin")
        self._server = AdminServer(sockets, self._selecting, Routes(self).answer)

    def open(self) -> None:
        """Begin to serve.

        Raises:
            BindError: another process listens on the address by now.
        """
        assert self._server is not None
        self._server.open()
        for address in self._server.addresses:
            error_logger.info("Admin port on %s", address)

    def close(self) -> None:
        for dump in self._dumps.values():
            dump.close()
        self._dumps.clear()
        if self._server is not None:
            self._server.close()

    def let_go(self) -> None:
        """In a forked worker, close its copies of the descriptors."""
        for dump in self._dumps.values():
            dump.close()
        if self._server is not None:
            self._server.let_go()

    def check(self, now: float) -> None:
        """End the gatherings and the connections whose time is over.

        Args:
            now: time.monotonic().
        """
        self._forget_ended()
        for number, gathering in list(self._gatherings.items()):
            self._finish(number, gathering, now)
        if self._server is not None:
            self._server.check(now)

    # --- For the port's routes: Controls --------------------------------------------------------

    def info(self) -> ServerInfo:
        supervisor = self._supervisor
        serving: Literal["serving", "starting"] = "serving" if supervisor.started else "starting"
        return ServerInfo(
            version=self._version,
            pid=os.getpid(),
            state="stopping" if supervisor.is_stopping else serving,
            started=self._began,
            addresses=supervisor.addresses,
            wanted=supervisor.wanted,
            processes=[self._process(worker) for worker in supervisor.workers],
        )

    def _process(self, worker: Worker) -> Process:
        age = time.monotonic() - worker.started
        watch = worker.watch
        number, pid, since = worker.number, watch.pid, time.time() - age
        if worker.stopping:
            return Process(number, pid, "stopping", since)
        stuck = watch.stuck(self.config.timeout_worker_healthcheck)
        if stuck is not None:
            return Process(number, pid, "stuck", since, stuck.text)
        if not watch.turns:
            why = f"its event loop has not turned for {watch.silent:.0f} s"
            return Process(number, pid, "stuck", since, why)
        return Process(number, pid, "serving" if worker.ready else "starting", since)

    def snapshot(self) -> Snapshot | None:
        metrics = self._supervisor.metrics
        return None if metrics is None else metrics.snapshot()

    def reload(self) -> str:
        error_logger.info("The admin port asks for a reload")
        self._supervisor.reload()
        return "The workers are being replaced, one by one"

    def resize(self, change: int) -> str:
        before = self._supervisor.wanted
        self._supervisor.resize(change)
        after = self._supervisor.wanted
        error_logger.info("The admin port asks for %d workers instead of %d", after, before)
        return f"Workers: {before} before, {after} from now on"

    def set_level(self, logger: str, level: str) -> str:
        self._levels[logger] = level
        set_level(logger, level)
        missing = [
            f"worker {worker.number} [{worker.watch.pid}]"
            for worker in self._supervisor.workers
            if not self._supervisor.tell(worker, (LEVEL, logger, level))
        ]
        error_logger.info("The admin port has set the level of %.100r to %s", logger, level)
        without = f"; not in {', '.join(missing)}, which does not read" if missing else ""
        return f"The level of {logger!r} is {level} now{without}"

    def gather_stacks(self, done: Callable[[str], None]) -> None:
        workers = self._supervisor.workers
        self._last += 1
        gathering = self._gatherings[self._last] = Gathering(workers, done)
        for worker in workers:
            self._supervisor.tell(worker, (STACKS, self._last))
        self._finish(self._last, gathering)

    # --- From the workers -----------------------------------------------------------------------

    def on_ready(self, worker: Worker) -> None:
        """Give a new worker the levels that have been set."""
        for logger, level in self._levels.items():
            self._supervisor.tell(worker, (LEVEL, logger, level))

    def on_message(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """Handle a worker's message for the admin port."""
        kind, *values = message
        if kind == STACKS:
            number, part = values
            gathering = self._gatherings.get(number)
            if gathering is not None:  # else it is too late
                gathering.add(worker, part)
                if part is None:
                    self._finish(number, gathering)
        elif kind == DUMP:
            with contextlib.suppress(OSError):  # it has ended
                self._dumps[worker] = Dump(worker.watch.pid, *values)

    def _finish(self, number: int, gathering: Gathering, now: float = 0.0) -> None:
        """End the gathering of stacks if all workers have answered, or its time is over. Workers
        that do not answer by the deadline are sent a signal, and get some more time.
        """
        missing = gathering.missing(self._supervisor.workers)
        if missing and now < gathering.deadline:
            return
        offered = [worker for worker in missing if worker in self._dumps]
        if offered and not gathering.has_asked:
            gathering.has_asked = True
            gathering.deadline = now + DUMP_PATIENCE
            for worker in offered:
                self._dumps[worker].ask()
            return
        del self._gatherings[number]
        gathering.done(gathering.text({worker: self._dumps[worker].read() for worker in offered}))

    def _forget_ended(self) -> None:
        for worker in [one for one in self._dumps if one not in self._supervisor.workers]:
            self._dumps.pop(worker).close()

"""Supervisor: the sockets, the worker processes, and the signals for all of them.

One thread and one selector: it waits for signals, pipes, ended processes and the clock, and holds
no lock. The sockets stay open here, so that no connection is refused while workers come and go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from thestral import cpus, notify, tls
from thestral import sockets as listening
from thestral.config import Config
from thestral.errors import BindError, ConfigError, WorkerError
from thestral.health import Watch, resident_size
from thestral.logging import configure, error_logger
from thestral.reloader import Reloader
from thestral.server import Server, load_configured, pid_file, terminated_quietly
from thestral.worker import (
    READY,
    RETIRE,
    SIGNALS,
    STACKS_SIGNAL,
    held_back,
    run_worker,
    set_title,
)

# How often workers are looked at, in seconds.
PATROL = 1.0
# Beyond its own graceful time-out, for the lifespan's shutdown; then a worker is killed.
STOP_MARGIN = 30.0
# Pauses before a worker that died is replaced, in seconds; the last one repeats.
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A worker that lived so long has not died of its start.
SETTLED = 30.0  # seconds
# Without any worker alive so many failures in a row end the server.
HOPELESS = 5
# For faulthandler to write what it has to.
STACKS_GRACE = 1.0
# Who has just saved a file does not wait for the requests of the old code.
RELOAD_PATIENCE = 3.0  # seconds


@dataclass(eq=False)
class Worker:
    """One worker process, as its supervisor sees it.

    Attributes:
        replaces: the worker that is stopped once this one is ready.
        stop_by: time.monotonic() at which it is killed; 0.0 while it may live.
    """

    number: int
    process: Any
    pipe: Connection
    started: float
    watch: Watch
    replaces: Worker | None = None
    ready: bool = False
    retiring: bool = False
    stopping: bool = False
    stop_by: float = 0.0
    expires: float = math.inf


class Supervisor:
    """Keeps worker processes that serve one application.

    Args:
        config: the options; `app` is a text, because each worker imports it.

    Raises:
        ConfigError: it is none, or another option cannot be had in other processes.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config.app, str):
            raise ConfigError("app", "with workers or reload expected 'module:attribute', a text")
        if config.preload and config.reload:
            raise ConfigError("preload", "not with --reload: new workers would have the old code")
        if not config.preload:
            check_picklable(config)
        self.config = config
        self._context: Any = multiprocessing.get_context("fork" if config.preload else "spawn")
        self._app: Any = None
        self._workers: list[Worker] = []
        self._sockets: list[socket.socket] = []
        self._selecting = selectors.DefaultSelector()
        self._reloader: Reloader | None = None
        self._target = worker_count(config)
        self._roll: list[Worker] = []  # still to be replaced
        self._rolling = False
        self._signals: list[str] = []  # names, not acted upon yet
        self._was_ready = False
        self._stopping = False
        self._failures = 0  # in a row
        self._next_start = 0.0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ThestralError: it could not start, or no worker can.
        """
        configure(self.config)
        tls.load(self.config)  # what is wrong is said once, and not by each worker
        self._sockets = listening.open_all(self.config)
        try:
            with pid_file(self.config.pid_file):
                error_logger.info("Started parent process [%d]", os.getpid())
                set_title("supervisor")
                if self.config.preload:
                    with terminated_quietly():
                        self._app = self._preload()
                with self._waking():
                    try:
                        self._supervise()
                    finally:
                        self._end_all()
        finally:
            listening.close_all(self._sockets)
        error_logger.info("Stopped parent process [%d]", os.getpid())

    def _preload(self) -> Any:
        """Import the application once for all workers: they share its memory until they write."""
        app = load_configured(self.config)
        gc.collect()
        gc.freeze()  # or the first collection in a worker would write to every object
        return app

    # --- The loop -----------------------------------------------------------------------------

    def _supervise(self) -> None:
        watchdog = notify.watchdog_interval()
        while not self._stopping or self._workers:
            self._grow_and_shrink()
            timeout = min(PATROL, watchdog or PATROL)
            for key, _ in self._selecting.select(timeout):
                key.data()
            self._take_signals()
            self._take_changes()
            self._reap()
            self._patrol()
            if watchdog:
                notify.notify("WATCHDOG=1")

    @contextlib.contextmanager
    def _waking(self) -> Generator[None]:
        """What wakes the selector: signals, and changed files."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        reader.setblocking(False)
        self._selecting.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))
        before = {number: signal.getsignal(number) for number in SIGNALS}
        old = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._note_signal)
        if self.config.reload:
            self._reloader = Reloader(self.config, lambda: writer.send(b"\0"))
            self._reloader.start()
        try:
            yield
        finally:
            if self._reloader is not None:
                self._reloader.stop()
            signal.set_wakeup_fd(old)
            for number in SIGNALS:
                signal.signal(number, before[number])
            self._selecting.close()
            reader.close()
            writer.close()

    def _note_signal(self, number: int, frame: object) -> None:
        self._signals.append(signal.Signals(number).name)

    def _take_signals(self) -> None:
        while self._signals:
            name = self._signals.pop(0)
            error_logger.info("Received %s", name)
            if name in ("SIGINT", "SIGTERM"):
                self._stop()
            elif self._stopping:
                continue
            elif name == "SIGHUP":
                self.roll()
            elif name == "SIGTTIN":
                self._target += 1
            elif name == "SIGTTOU":
                self._target = max(1, self._target - 1)

    def _take_changes(self) -> None:
        """Files have changed: new workers at once, the old ones go."""
        changed = self._reloader.take() if self._reloader is not None else []
        if not changed or self._stopping:
            return
        shown = ", ".join(repr(path) for path in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        error_logger.warning("Detected changes in %s%s. Reloading...", shown, more)
        self._next_start = 0.0
        for worker in self._workers:
            self._stop_worker(worker)
            worker.stop_by = min(worker.stop_by, time.monotonic() + RELOAD_PATIENCE)

    # --- Workers come -------------------------------------------------------------------------

    def _grow_and_shrink(self) -> None:
        """One step towards the number of workers that is wanted; a new one waits for the last to be
        ready.
        """
        if self._stopping or any(not (one.ready or one.stopping) for one in self._workers):
            return
        serving = [worker for worker in self._workers if not worker.stopping]
        retiring = next((worker for worker in serving if worker.retiring), None)
        self._roll = [worker for worker in self._roll if worker in serving]
        if time.monotonic() < self._next_start:
            return
        if len(serving) < self._target:
            self._start()
        elif len(serving) > self._target:
            self._stop_worker(serving[-1])
        elif retiring is not None:
            self._start(replaces=retiring)
        elif self._roll:
            self._start(replaces=self._roll.pop(0))

    def _start(self, replaces: Worker | None = None) -> None:
        try:
            self._launch(replaces)
        except (OSError, BindError) as exc:  # no descriptors, processes or memory left
            if not self._was_ready:
                raise WorkerError(f"Cannot start a worker: {exc}") from exc
            error_logger.error("Cannot start a worker: %s", exc)
            self._failures += 1
            self._give_up_rolling()
            self._pause()

    def _launch(self, replaces: Worker | None) -> None:
        taken = {worker.number for worker in self._workers if worker is not replaces}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as sent:
            ours, theirs = multiprocessing.Pipe()
            undo.callback(ours.close)
            sent.callback(theirs.close)
            shared: list[socket.socket] = []
            sent.callback(listening.close_all, shared)
            for sock in self._sockets:
                shared.append(self._shared(sock))
            # A forked worker closes what it has of ours, or nobody would see us end.
            inherited = [ours, *(one.pipe for one in self._workers)] if self.config.preload else []
            process = self._context.Process(
                target=run_worker,
                args=(self.config, number, shared, theirs, inherited, self._app),
                name=f"thestral worker {number}",
            )
            holding = set(SIGNALS)
            if not self.config.preload:
                holding.discard(signal.SIGTERM)  # until run_worker it just ends the process
                resource_tracker.ensure_running()  # its first start would let signals through
            with held_back(holding):
                process.start()
            undo.pop_all()
        worker = Worker(number, process, ours, time.monotonic(), Watch(process.pid), replaces)
        self._workers.append(worker)
        self._selecting.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))
        self._selecting.register(process.sentinel, selectors.EVENT_READ, lambda: None)

    def _shared(self, sock: socket.socket) -> socket.socket:
        """A socket for a worker: the same, or with SO_REUSEPORT one of its own."""
        own = None
        if self.config.reuse_port:
            own = listening.own_queue(sock, self.config.tcp_keepalive)
        return own or listening.duplicate(sock)

    def _hear(self, worker: Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._unregister(worker.pipe)
            return
        if message == READY:
            self._on_ready(worker)
        elif message == RETIRE:
            worker.retiring = True

    def _on_ready(self, worker: Worker) -> None:
        worker.ready = True
        self._failures = 0
        lifetime = self.config.limit_worker_lifetime
        if lifetime:
            worker.expires = time.monotonic() + lifetime * (1 + worker.number % 10 / 100)
        if worker.replaces in self._workers:  # it may have died meanwhile
            self._stop_worker(worker.replaces)
        worker.replaces = None
        if not self._was_ready:
            self._was_ready = True
            for sock in self._sockets:
                url = listening.url(sock, self.config.is_ssl)
                error_logger.info("Thestral running on %s (Press CTRL+C to quit)", url)
        serving = [other for other in self._workers if other.ready and not other.stopping]
        if len(serving) >= self._target and not self._roll:
            self._rolling = False
            notify.ready()

    def roll(self) -> None:
        """Replace every worker, one by one, each new one ready before the old one stops."""
        notify.reloading()
        self._rolling = True
        self._next_start = 0.0  # who asks has mended what was broken
        self._roll = [worker for worker in self._workers if not worker.stopping]

    def _give_up_rolling(self) -> None:
        if self._rolling:
            error_logger.error("Rolling restart given up: the old workers go on")
            self._roll.clear()
            self._rolling = False
            notify.ready()

    # --- Workers go ---------------------------------------------------------------------------

    def _stop(self) -> None:
        if not self._stopping:
            notify.stopping()
        self._stopping = True
        for worker in self._workers:
            # A second signal makes a worker that drains leave at once.
            worker.process.terminate()
            self._expect_end(worker)

    def _stop_worker(self, worker: Worker) -> None:
        if not worker.stopping:
            worker.process.terminate()
            self._expect_end(worker)

    def _expect_end(self, worker: Worker) -> None:
        worker.stopping = True
        allowed = self.config.timeout_graceful_shutdown + self.config.shutdown_delay + STOP_MARGIN
        worker.stop_by = worker.stop_by or time.monotonic() + allowed

    def _reap(self) -> None:
        for worker in list(self._workers):
            if worker.process.exitcode is None:
                continue
            self._workers.remove(worker)
            self._unregister(worker.pipe)
            self._unregister(worker.process.sentinel)
            worker.pipe.close()
            status = worker.process.exitcode
            if not worker.stopping:
                self._on_death(worker, status)
            worker.process.close()

    def _on_death(self, worker: Worker, status: int) -> None:
        """A worker has ended that should not have."""
        if self._reloader is not None:
            self._next_start = math.inf
            error_logger.error(
                "Worker %d ended (exit %d). Waiting for a change...", worker.number, status
            )
            return
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        pid = worker.watch.pid
        error_logger.error("Worker %d [%d] died (%s)", worker.number, pid, how)
        if not worker.ready and not self._was_ready:
            raise WorkerError("A worker could not start")
        young = time.monotonic() - worker.started < SETTLED
        self._failures = self._failures + 1 if young else 0
        if not worker.ready:
            self._give_up_rolling()
        if self._failures >= HOPELESS and not self._workers:
            raise WorkerError(f"No worker lives: {self._failures} in a row died at their start")
        self._pause()

    def _pause(self) -> None:
        """Wait before the next start, longer after each failure."""
        pause = BACK_OFF[min(max(self._failures, 1), len(BACK_OFF)) - 1]
        self._next_start = time.monotonic() + pause

    def _patrol(self) -> None:
        """Look at each worker: its time, its size, its health."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.stop_by and now >= worker.stop_by:
                error_logger.error("Killing worker %d, which does not stop", worker.number)
                worker.process.kill()
            elif worker.ready and not worker.stopping:
                size = self.config.limit_max_rss and resident_size(worker.watch.pid)
                if size and size > (self.config.limit_max_rss or 0) and not worker.retiring:
                    error_logger.warning("Worker %d holds %d bytes", worker.number, size)
                    worker.retiring = True
                worker.retiring |= now >= worker.expires
                self._examine(worker, now)

    def _examine(self, worker: Worker, now: float) -> None:
        stuck = worker.watch.stuck_for(now)
        if stuck < self.config.timeout_worker_healthcheck:
            return
        error_logger.error(
            "Worker %d [%d] has been stuck for %.0f s: killing it",
            worker.number,
            worker.watch.pid,
            stuck,
        )
        if STACKS_SIGNAL is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.watch.pid, STACKS_SIGNAL)  # faulthandler writes, then it dies
        worker.process.join(STACKS_GRACE)
        worker.process.kill()

    def _end_all(self) -> None:
        """Leave no worker behind, whatever happened here."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self.config.timeout_graceful_shutdown
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def _unregister(self, thing: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selecting.unregister(thing)


def run(app: str | Any, **options: Any) -> None:
    """Serve an application until told to stop.

    Args:
        app: "module:attribute", or an ASGI application.
        options: fields of Config.

    Raises:
        ConfigError: an option has a value that cannot be used.
        ThestralError: it could not start.
    """
    config = Config(app, **options)
    if is_needed(config):
        Supervisor(config).run()
    else:
        Server(config).run()


def is_needed(config: Config) -> bool:
    """Whether the options ask for worker processes."""
    return bool(
        worker_count(config) > 1
        or config.limit_max_requests
        or config.limit_max_rss
        or config.limit_worker_lifetime
        or config.preload
        or config.reload
    )


def worker_count(config: Config) -> int:
    if config.workers == "auto":
        return cpus.available()
    return int(config.workers or os.environ.get("WEB_CONCURRENCY", "") or 1)


def check_picklable(config: Config) -> None:
    """Each option must reach a process that starts afresh.

    Raises:
        ConfigError: with the option that cannot.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError) as exc:
            reason = f"{value!r:.100} cannot be sent to a worker: {exc}"
            raise ConfigError(field.name, reason) from exc

"""The supervisor: it holds the sockets, runs the worker processes, and handles signals for all.

It has one thread with one selector, which waits for signals, pipes, ended processes and the clock,
and it holds no lock. The sockets stay open here, so that no connection is refused while workers
come and go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import itertools
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from thestral.config import LARGEST_WORKERS, Config
from thestral.config.environment import say_not_read_again
from thestral.errors import BindError, ConfigError, WorkerError
from thestral.logging.loggers import error_logger
from thestral.logging.setup import configure
from thestral.net import sockets as listening
from thestral.net import tls
from thestral.process import systemd
from thestral.process.directory import directory_with_links, reenter
from thestral.process.health import Watch
from thestral.process.heartbeat import Heartbeat, beat_interval
from thestral.process.importer import load_application, load_function
from thestral.process.metrics import DIED, FAILED, KILLED, RECYCLED, STOPPED, Metrics
from thestral.process.patrol import SETTLED, Patrol, Worker
from thestral.process.reloader import Reloader
from thestral.process.server import FORCE_HINT, STOP_MARGIN, longest_start, longest_stop, pid_file
from thestral.process.signals import (
    QUIT,
    REQUEST_SIGNALS,
    SUPERVISOR_SIGNALS,
    act_on_request,
    call_own_handlers,
    is_free,
    is_terminal,
    taking,
    terminated_quietly,
)
from thestral.process.worker import (
    READY,
    REOPEN,
    RETIRE,
    WAITING,
    blocked,
    run_worker,
    set_title,
)

if TYPE_CHECKING:
    from thestral.process.control import Control

# Time between two checks of the workers, in seconds.
PATROL_INTERVAL = 1.0
# Pauses before a dead worker is replaced, in seconds, one for each failure; the last one repeats.
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# The server ends after this many failures in a row, if no worker is left.
MAX_FAILURES = 5
# A reload kills a worker that takes longer to stop: the developer who has just saved a file should
# not wait for requests of the old code.
RELOAD_PATIENCE = 3.0  # seconds
# After SIGQUIT a worker that takes longer to stop is killed.
QUIT_PATIENCE = 3.0  # seconds
# Shortest pause under --reload before an ended worker is started again without a changed file.
RELOAD_PAUSE = 1.0  # seconds
# Errors of a worker that needs what its predecessor still holds: a port, a lock, a file, memory.
HELD_BY_ANOTHER = (errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY, errno.EEXIST, errno.ENOMEM)


class Supervisor:
    """Starts, watches, replaces and stops the worker processes that serve one application.

    Args:
        config: the options; `app` must be an import string, because workers import it.

    Attributes:
        started: whether a worker has been ready.
        is_stopping: whether a shutdown has begun.
        workers: the worker processes.
        wanted: number of workers that it is to have.
        addresses: URLs of what it listens on, once it runs.
        metrics: what the workers count, if `admin` is set.
        left_behind: as in Server; always false, because the workers run the application.

    Raises:
        ConfigError: `app` is not a string, an option cannot be sent to another process, or
            --preload is combined with --reload.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config.app, str):
            reason = "--workers, --reload and --admin need an import string such as 'main:app'"
            raise ConfigError("app", reason)
        import multiprocessing  # a server without workers starts faster if it is not imported

        if config.preload and config.reload:
            reason = "not possible with --reload: new workers would get the old code"
            raise ConfigError("preload", reason)
        if not config.preload:
            check_picklable(config)
        self.config = config
        self._context: Any = multiprocessing.get_context("fork" if config.preload else "spawn")
        self._app: Any = None
        self._on_worker_exit: Callable[..., Any] | None = None
        self.workers: list[Worker] = []
        self._sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        # With SO_REUSEPORT each worker number has its own listening sockets. They stay open for the
        # worker's successor: closing them would reset the connections that wait in their queues.
        self._queues: dict[int, list[socket.socket]] = {}
        self._selecting = selectors.DefaultSelector()
        self._reloader: Reloader | None = None
        self._certificates: tls.Certificates | None = None
        self.wanted = config.worker_count
        self._roll: list[Worker] = []  # workers that a rolling restart has yet to replace
        self._rolling = False
        self._signals: list[int] = []  # received, but not handled yet
        self._stopped_by: list[int] = []  # signals that made it stop
        self.started = False
        self.left_behind = False
        self.is_stopping = False
        self._wait_logged = False
        self._failures = 0  # in a row
        self._last_reason = ""  # logged last for a worker that could not start, under --reload
        self._next_start = 0.0  # time.monotonic() before which no worker starts
        self._patrol = Patrol(config)
        self.metrics: Metrics | None = None
        self._control: Control | None = None
        if config.admin is not None:
            from thestral.process.control import Control  # most servers do without

            self.metrics = Metrics(self._all_sockets, self._certificate_ends)
            self._control = Control(self, self._selecting)
        self._on_terminal = is_terminal()
        self._directory = directory_with_links()

    def _certificate_ends(self) -> dict[str, float]:
        return {} if self._certificates is None else self._certificates.ends()

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ThestralError: the supervisor could not start, or cannot start a worker.
        """
        configure(self.config)
        # Loaded here too, so that warnings about them are logged once and not by each worker.
        self._certificates = tls.load(self.config)
        self._on_worker_exit = load_function(self.config.on_worker_exit, self.config.app_dir)
        self._sockets = listening.open_all(self.config)
        self.addresses = [listening.url(sock, self.config.is_ssl) for sock in self._sockets]
        try:
            if self._control is not None:
                self._control.bind()
            with pid_file(self.config.pid_file):
                error_logger.info("Started parent process [%d]", os.getpid())
                systemd.starting(longest_start(self.config))
                set_title("supervisor")
                if self.config.preload:
                    requests = dict.fromkeys(filter(is_free, REQUEST_SIGNALS), self._note_signal)
                    with terminated_quietly(), taking(requests):
                        self._app = self._preload()
                with self._wakeups():
                    try:
                        self._supervise()
                    finally:
                        self._end_all()
        finally:
            if self._control is not None:
                self._control.close()
            for number in list(self._queues):
                self._drop_queues(number)
            listening.close_all(self._sockets)
        error_logger.info("Stopped parent process [%d]", os.getpid())
        call_own_handlers(self._stopped_by)

    def _preload(self) -> Any:
        """Import the application once, for all workers: they share its memory until they write."""
        app = load_application(self.config)
        gc.collect()
        gc.freeze()  # else a worker's first collection would write to every object
        return app

    # --- The loop -----------------------------------------------------------------------------

    def _supervise(self) -> None:
        watchdog = systemd.watchdog_interval()
        beat = beat_interval(self.config.timeout_worker_blocked)
        interval = min(PATROL_INTERVAL, watchdog or PATROL_INTERVAL, beat)
        next_check = 0.0
        if self._control is not None:
            self._control.open()
        while not self.is_stopping or self.workers:
            self._grow_and_shrink()
            for key, _ in self._selecting.select(max(0.0, next_check - time.monotonic())):
                key.data()
            self._take_signals()
            self._take_changes()
            self._reap()
            now = time.monotonic()
            if now < next_check:
                continue
            next_check = now + interval
            self._check(now)
            if watchdog and all(worker.watch.turns or worker.stopping for worker in self.workers):
                systemd.notify("WATCHDOG=1")

    @contextlib.contextmanager
    def _wakeups(self) -> Generator[None]:
        """Have signals and changed files wake the selector."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        reader.setblocking(False)
        self._selecting.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))
        numbers = [*SUPERVISOR_SIGNALS, *filter(is_free, [QUIT, *REQUEST_SIGNALS])]
        old = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if self.config.reload:
            self._reloader = Reloader(self.config, lambda: writer.send(b"\0"))
            self._reloader.start()
        try:
            with taking(dict.fromkeys(numbers, self._note_signal)):
                yield
        finally:
            if self._reloader is not None:
                self._reloader.stop()
            signal.set_wakeup_fd(old)
            self._selecting.close()
            reader.close()
            writer.close()

    def _note_signal(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _take_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            name = signal.Signals(number).name
            if number in REQUEST_SIGNALS:
                self._act_on_request(number)
                continue
            error_logger.info("Received %s", name)
            gone = name == "SIGHUP" and self._on_terminal and not is_terminal()
            if gone or name in ("SIGINT", "SIGTERM"):
                self._stopped_by.append(number)
                self._stop()
            elif number == QUIT:
                self._stop(wait=False)
            elif self.is_stopping:
                continue
            elif name == "SIGHUP":
                self.reload()
            elif name == "SIGTTIN":
                self.resize(1)
            elif name == "SIGTTOU":
                self.resize(-1)

    def reload(self) -> None:
        """Replace every worker, and say which options stay as they are."""
        say_not_read_again()
        self.roll()

    def resize(self, change: int) -> None:
        """Have more or fewer workers, at least one."""
        self.wanted = min(max(1, self.wanted + change), LARGEST_WORKERS)

    def _act_on_request(self, number: int) -> None:
        act_on_request(number)
        if signal.Signals(number).name == "SIGUSR1":
            for worker in self.workers:
                self.tell(worker, REOPEN)

    def tell(self, worker: Worker, message: Any) -> bool:
        """Send a message to a worker, unless that would have to wait, because it has not read
        earlier ones; return whether it was sent.
        """
        with contextlib.suppress(OSError, ValueError):  # its pipe is closed: it is ending
            poll = select.poll()
            poll.register(worker.pipe, select.POLLOUT)
            if poll.poll(0) == [(worker.pipe.fileno(), select.POLLOUT)]:
                worker.pipe.send(message)
                return True
        return False

    def _take_changes(self) -> None:
        """Stop the workers if files have changed; new ones start once they have ended."""
        changed = self._reloader.take() if self._reloader is not None else []
        if not changed or self.is_stopping:
            return
        shown = ", ".join(repr(path) for path in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        error_logger.warning("Detected changes in %s%s. Reloading...", shown, more)
        self._next_start = 0.0
        self._failures = 0
        self._last_reason = ""
        for worker in self.workers:
            worker.ends_first = True
            self._stop_worker(worker)
            worker.stop_by = min(worker.stop_by, time.monotonic() + RELOAD_PATIENCE)

    # --- Starting workers ---------------------------------------------------------------------

    def _grow_and_shrink(self) -> None:
        """Take one step towards the wanted workers: missing ones start together, successors one by
        one.
        """
        if self.is_stopping or time.monotonic() < self._next_start:
            return
        if any(worker.ends_first for worker in self.workers):
            return
        staying = [worker for worker in self.workers if not worker.stopping]
        places = [worker for worker in staying if worker.replaces not in staying]
        retiring = [worker for worker in places if worker.retiring]
        self._roll = [worker for worker in self._roll if worker in staying]
        if len(places) > self.wanted:
            self._drop_queues(places[-1].number)
            self._stop_worker(places[-1])
        elif len(places) < self.wanted:
            for _ in range(self.wanted - len(places)):
                if time.monotonic() >= self._next_start:
                    self._start()
        elif len(staying) > len(places):
            return  # a successor is starting
        elif retiring:
            self._start(replaces=retiring[0])
        elif self._roll:
            self._start(replaces=self._roll.pop(0))

    def _start(self, replaces: Worker | None = None) -> None:
        try:
            self._launch(replaces)
        except (OSError, BindError) as exc:  # no descriptors, processes or memory left
            if not self.started:
                raise WorkerError(f"Cannot start a worker: {exc}") from exc
            error_logger.error("Cannot start a worker: %s", exc)
            self._failures += 1
            self._give_up_rolling()
            self._pause()

    def _launch(self, replaces: Worker | None) -> None:
        if self._reloader is not None:
            self._reloader.delete_bytecode()
        taken = {
            worker.number
            for worker in self.workers
            if worker is not replaces and not worker.stopping
        }
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as sent:
            ours, theirs = self._context.Pipe()
            undo.callback(ours.close)
            sent.callback(theirs.close)
            shared: list[socket.socket] = []
            sent.callback(listening.close_all, shared)
            for sock in self._queues_of(number):
                shared.append(listening.duplicate(sock))
            heartbeat = Heartbeat()
            undo.callback(heartbeat.close)
            sent.callback(heartbeat.close_descriptor)
            slot = None
            if self.metrics is not None:
                slot = self.metrics.take(number)
                undo.callback(self.metrics.give_back, slot, FAILED)
            inherited: list[Callable[[], None]] = []
            if self.config.preload:
                # A forked worker must close its copies of the supervisor's descriptors. Else no
                # worker would notice the end of the supervisor, and the port would stay open.
                pipes = [ours, *(one.pipe for one in self.workers)]
                inherited += [pipe.close for pipe in pipes]
                inherited += [partial(listening.let_go, sock) for sock in self._all_sockets()]
                inherited += [one.watch.heartbeat.close for one in self.workers]
                if self.metrics is not None:
                    inherited.append(partial(self.metrics.close, slot))
                if self._control is not None:
                    inherited.append(self._control.let_go)
            process = self._context.Process(
                target=run_worker,
                args=(self.config, number, shared, theirs, heartbeat, slot, inherited, self._app),
                name=f"thestral worker {number}",
            )
            holding = {*SUPERVISOR_SIGNALS, *REQUEST_SIGNALS}
            if not self.config.preload:
                holding.discard(signal.SIGTERM)  # before run_worker it simply ends the process
                from multiprocessing import resource_tracker

                resource_tracker.ensure_running()  # its start within start() unblocks signals
            with blocked(holding):
                process.start()
            undo.pop_all()
        now = time.monotonic()
        watch = Watch(process.pid, heartbeat)
        worker = Worker(number, process, ours, now, watch, replaces, slot=slot)
        self.workers.append(worker)
        self._selecting.register(ours, selectors.EVENT_READ, lambda: self._on_message(worker))
        self._selecting.register(process.sentinel, selectors.EVENT_READ, lambda: None)

    def _all_sockets(self) -> list[socket.socket]:
        return [*self._sockets, *itertools.chain(*self._queues.values())]

    def _queues_of(self, number: int) -> list[socket.socket]:
        """A worker's listening sockets: the shared ones, or with SO_REUSEPORT its number's own."""
        if not self.config.reuse_port:
            return self._sockets
        if number not in self._queues:
            idle = self.config.tcp_keepalive
            queues: list[socket.socket] = []
            try:
                for sock in self._sockets:
                    queues.append(listening.own_queue(sock, idle) or listening.duplicate(sock))
            except BaseException:
                listening.close_all(queues)
                raise
            self._queues[number] = queues
        return self._queues[number]

    def _drop_queues(self, number: int) -> None:
        """Close the listening sockets of a worker number. Once its worker has closed them too, the
        kernel gives new connections to the other workers.
        """
        queues = self._queues.pop(number, [])
        for sock in queues:
            listening.refuse_new(sock)
        listening.close_all(queues)

    def _on_message(self, worker: Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._unregister(worker.pipe)
            return
        if message == READY:
            self._on_ready(worker)
        elif message == RETIRE:
            worker.retiring = True
        elif message == WAITING:
            worker.waits = True
            self._log_waiting()
        elif isinstance(message, tuple):
            if self._control is not None:
                self._control.on_message(worker, message)
        else:
            worker.reason = message

    def _on_ready(self, worker: Worker) -> None:
        worker.ready = time.monotonic()
        worker.watch.look(worker.ready)  # what its threads do while the loop certainly turns
        if self.is_stopping:
            return
        self._failures = 0
        self._last_reason = ""
        self._patrol.note_base_size(worker)
        lifetime = self.config.limit_worker_lifetime
        if lifetime:
            worker.expires = time.monotonic() + lifetime * (1 + worker.number % 10 / 100)
        if worker.replaces in self.workers:  # else it has died in the meantime
            self._stop_worker(worker.replaces)
        worker.replaces = None
        if self._control is not None:
            self._control.on_ready(worker)
        if not self.started:
            self.started = True
            for url in self.addresses:
                error_logger.info("Thestral running on %s (Press CTRL+C to quit)", url)
        serving = [other for other in self.workers if other.ready and not other.stopping]
        if len(serving) >= self.wanted and not self._roll:
            self._rolling = False
            systemd.ready()

    def roll(self) -> None:
        """Replace every worker, one by one; an old worker stops once its successor is ready."""
        systemd.reloading()
        self._rolling = True
        if self._directory is not None and not self.config.preload:
            reenter(self._directory)
        if self._certificates is not None and not self._certificates.reload():
            self._give_up_rolling()  # no new worker could start
            return
        self._next_start = 0.0  # no back-off: the operator has probably repaired the application
        for worker in self.workers:
            if not worker.ready:  # it may be loading the old code, or hang in it
                self._stop_worker(worker)
        self._roll = [worker for worker in self.workers if not worker.stopping]

    def _give_up_rolling(self) -> None:
        if self._rolling:
            error_logger.error("Rolling restart abandoned: the old workers keep serving")
            self._roll.clear()
            self._rolling = False
            systemd.ready()

    # --- Stopping workers ---------------------------------------------------------------------

    def _stop(self, *, wait: bool = True) -> None:
        again = self.is_stopping
        if not again:
            systemd.stopping(longest_stop(self.config))
        self.is_stopping = True
        # The port closes with the last worker's descriptor. Later clients are then refused at once,
        # and do not wait in a queue from which nobody accepts.
        for sock in self._all_sockets():
            if not again and not self.config.shutdown_delay:  # workers accept during the delay
                listening.refuse_new(sock)
            listening.let_go(sock)
        for worker in self.workers:
            worker.process.terminate()
            if (again or not wait) and worker.process.is_alive():
                os.kill(worker.process.pid, QUIT)
            self._expect_end(worker)
            if not wait:
                worker.stop_by = min(worker.stop_by, time.monotonic() + QUIT_PATIENCE)
        if wait and not again:
            self._log_waiting()

    def _log_waiting(self) -> None:
        """Log once how long the shutdown may take, if it cannot complete at once."""
        if not self.is_stopping or self._wait_logged:
            return
        if self.config.shutdown_delay or any(worker.waits for worker in self.workers):
            self._wait_logged = True
            allowed = self.config.shutdown_delay + self.config.timeout_graceful_shutdown
            error_logger.info("Waiting for the workers, at most %g s%s", allowed, FORCE_HINT)

    def _stop_worker(self, worker: Worker) -> None:
        if not worker.stopping:
            worker.process.terminate()
            self._expect_end(worker)

    def _expect_end(self, worker: Worker) -> None:
        worker.stopping = True
        allowed = self.config.timeout_graceful_shutdown + self.config.shutdown_delay + STOP_MARGIN
        worker.stop_by = worker.stop_by or time.monotonic() + allowed

    def _reap(self) -> None:
        for worker in list(self.workers):
            if worker.process.exitcode is None:
                continue
            self.workers.remove(worker)
            self._unregister(worker.pipe)
            self._unregister(worker.process.sentinel)
            worker.pipe.close()
            worker.watch.heartbeat.close()
            if self.metrics is not None and worker.slot is not None:
                self.metrics.give_back(worker.slot, self._cause_of_end(worker))
            status = worker.process.exitcode
            self._call_exit_hook(worker, status)
            if not worker.stopping:
                self._on_death(worker, status)
            worker.process.close()

    def _call_exit_hook(self, worker: Worker, status: int) -> None:
        """Call on_worker_exit for a worker that has ended."""
        if self._on_worker_exit is None:
            return
        try:
            self._on_worker_exit(worker.number, worker.watch.pid, status)
        except (Exception, SystemExit):
            error_logger.exception("Exception in on_worker_exit")

    def _cause_of_end(self, worker: Worker) -> str:
        if worker.killed:
            return KILLED
        if not worker.stopping:
            return DIED if worker.ready else FAILED
        return RECYCLED if worker.retiring and not self.is_stopping else STOPPED

    def _on_death(self, worker: Worker, status: int) -> None:
        """Handle the end of a worker that was not told to stop."""
        if self._reloader is not None:
            self._on_death_reloading(worker, status)
            return
        if worker.reason:
            error_logger.error("%s", worker.reason)
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        pid = worker.watch.pid
        error_logger.error("Worker %d [%d] died (%s)", worker.number, pid, how)
        if not worker.ready and not self.started:
            raise WorkerError("A worker could not start")
        young = time.monotonic() - worker.started < SETTLED
        self._failures = self._failures + 1 if young else 0
        old = worker.replaces
        if not worker.ready and old in self.workers and needs_what_is_held(worker.reason):
            assert old is not None
            error_logger.warning(
                "Worker %d could not start while its predecessor runs: stopping that one first",
                worker.number,
            )
            old.ends_first = True
            self._stop_worker(old)
        elif not worker.ready:
            self._give_up_rolling()
        if self._failures >= MAX_FAILURES and not self.workers:
            raise WorkerError(
                f"No worker is left: {self._failures} in a row failed"
                f" within {SETTLED:g} s of their start"
            )
        self._pause()
        if self._next_start > time.monotonic():
            self._drop_queues(worker.number)  # so that other workers get the new connections

    def _on_death_reloading(self, worker: Worker, status: int) -> None:
        """Under --reload, have the worker started again at the next change, or after RELOAD_PAUSE,
        or longer after failed starts. The reason for a failed start is logged once and not at each
        attempt.
        """
        if not worker.ready:
            self._failures += 1
        self._pause(RELOAD_PAUSE)
        reason = worker.reason
        if reason and reason == self._last_reason:
            return
        self._last_reason = reason
        if reason:
            error_logger.error("%s", reason)
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        error_logger.error(
            "Worker %d ended (%s). Waiting for a change, or restarting it after a pause...",
            worker.number,
            how,
        )

    def _pause(self, least: float = 0.0) -> None:
        """Delay the next start, for longer after each failure.

        Args:
            least: the shortest delay, in seconds.
        """
        pause = BACK_OFF[min(max(self._failures, 1), len(BACK_OFF)) - 1]
        self._next_start = time.monotonic() + max(pause, least)

    def _check(self, now: float) -> None:
        """Check the certificates, the workers and the admin port."""
        if self._control is not None:
            self._control.check(now)
        if self._certificates is not None:
            self._certificates.current()
        for worker in self.workers:
            self._patrol.check(worker, now)

    def _end_all(self) -> None:
        """Stop and kill the workers that are left, if the loop ended by an exception."""
        for worker in self.workers:
            worker.process.terminate()
        deadline = time.monotonic() + self.config.timeout_graceful_shutdown
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            self._call_exit_hook(worker, worker.process.exitcode)
        self.workers.clear()

    def _unregister(self, thing: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selecting.unregister(thing)


def needs_what_is_held(reason: str) -> bool:
    """Whether, by its error's text, a worker could not start because its predecessor holds a
    resource that only one process can have.
    """
    return any(f"[Errno {number}]" in reason for number in HELD_BY_ANOTHER)


def check_picklable(config: Config) -> None:
    """Check that each option can be sent to a spawned process.

    Raises:
        ConfigError: an option's value cannot be pickled.
    """
    import pickle

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError) as exc:
            reason = f"{value!r:.100} cannot be sent to a worker: {exc}"
            raise ConfigError(field.name, reason) from exc

"""Supervisor: the sockets, the worker processes, and the signals for all of them.

One thread and one selector: it waits for signals, pipes, ended processes and the clock, and holds
no lock. The sockets stay open here, so that no connection is refused while workers come and go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import itertools
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from thestral.config import Config
from thestral.config.environment import say_not_read_again
from thestral.errors import BindError, ConfigError, WorkerError
from thestral.logging.loggers import error_logger
from thestral.logging.setup import configure
from thestral.net import sockets as listening
from thestral.net import tls
from thestral.process import systemd
from thestral.process.health import Watch, resident_size
from thestral.process.heartbeat import Heartbeat, beat_interval
from thestral.process.importer import load_application
from thestral.process.reloader import Reloader
from thestral.process.server import FORCE_HINT, STOP_MARGIN, longest_start, longest_stop, pid_file
from thestral.process.signals import (
    LEAVE,
    PARENT,
    REQUESTS,
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
    STACKS_SIGNAL,
    WAITING,
    held_back,
    run_worker,
    set_title,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# How often workers are looked at, in seconds.
PATROL = 1.0
# Pauses before a worker that died is replaced, in seconds; the last one repeats.
BACK_OFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A worker that lived so long has not died of its start.
SETTLED = 30.0  # seconds
# Without any worker alive so many failures in a row end the server.
HOPELESS = 5
# How often a worker is mentioned that is not ready yet.
REMINDER = 60.0  # seconds
# For faulthandler to write what it has to.
STACKS_GRACE = 1.0
# Who has just saved a file does not wait longer for the requests of the old code.
RELOAD_PATIENCE = 3.0  # seconds
# Behind SIGQUIT a worker that has not ended by then is killed.
LEAVE_PATIENCE = 3.0  # seconds
# Before a worker of --reload that has ended is started again without a change of a file.
RELOAD_PAUSE = 1.0  # seconds
# What a worker meets that wants what its predecessor still holds: a port, a lock, a file, memory.
HELD_BY_ANOTHER = (errno.EADDRINUSE, errno.EAGAIN, errno.EBUSY, errno.EEXIST, errno.ENOMEM)


@dataclass(eq=False)
class Worker:
    """One worker process, as its supervisor sees it.

    Attributes:
        replaces: the worker that is stopped once this one is ready.
        stop_by: time.monotonic() at which it is killed; 0.0 while it may live.
        remind: time.monotonic() at which to say that it is not ready yet.
        ready: time.monotonic() since when it serves; 0.0 while it starts.
        base: bytes of memory that it held when it was ready; 0 if unknown.
        reason: why it could not start, in its own words.
        ends_first: while it stops no other starts, which may want what it holds.
        waits: it stops, and its requests run on.
    """

    number: int
    process: Any
    pipe: Connection
    started: float
    watch: Watch
    remind: float
    replaces: Worker | None = None
    ready: float = 0.0
    base: int = 0
    reason: str = ""
    retiring: bool = False
    stopping: bool = False
    ends_first: bool = False
    waits: bool = False
    stop_by: float = 0.0
    expires: float = math.inf


class Supervisor:
    """Keeps worker processes that serve one application.

    Args:
        config: the options; `app` is a text, because each worker imports it.

    Attributes:
        started: whether a worker has been ready.
        left_behind: as Server's; what an application leaves is its workers' affair.

    Raises:
        ConfigError: it is none, or another option cannot be had in other processes.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config.app, str):
            reason = "--workers and --reload need an import string such as 'main:app'"
            raise ConfigError("app", reason)
        import multiprocessing  # a server on its own starts without

        if config.preload and config.reload:
            raise ConfigError("preload", "not possible with --reload: new workers get the old code")
        if not config.preload:
            check_picklable(config)
        self.config = config
        self._context: Any = multiprocessing.get_context("fork" if config.preload else "spawn")
        self._app: Any = None
        self._workers: list[Worker] = []
        self._sockets: list[socket.socket] = []
        # With SO_REUSEPORT each worker's number has queues of its own. They outlive the worker, for
        # the one that comes after it: closing them would reset the connections that wait there.
        self._queues: dict[int, list[socket.socket]] = {}
        self._selecting = selectors.DefaultSelector()
        self._reloader: Reloader | None = None
        self._certificates: tls.Certificates | None = None
        self._target = config.worker_count
        self._roll: list[Worker] = []  # still to be replaced
        self._rolling = False
        self._signals: list[int] = []  # not acted upon yet
        self._stopped_by: list[int] = []
        self.started = False
        self.left_behind = False
        self._stopping = False
        self._wait_told = False
        self._failures = 0  # in a row
        self._told = ""  # why a worker could not start, under --reload
        self._next_start = 0.0
        self._next_for_size = 0.0  # time.monotonic()
        self._on_terminal = is_terminal()
        self._directory = named_directory()

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ThestralError: it could not start, or no worker can.
        """
        configure(self.config)
        # What there is to say of them is said once, and not by each worker.
        self._certificates = tls.load(self.config)
        self._sockets = listening.open_all(self.config)
        try:
            with pid_file(self.config.pid_file):
                error_logger.info("Started parent process [%d]", os.getpid())
                systemd.starting(longest_start(self.config))
                set_title("supervisor")
                if self.config.preload:
                    requests = dict.fromkeys(filter(is_free, REQUESTS), self._note_signal)
                    with terminated_quietly(), taking(requests):
                        self._app = self._preload()
                with self._waking():
                    try:
                        self._supervise()
                    finally:
                        self._end_all()
        finally:
            for number in list(self._queues):
                self._drop_queues(number)
            listening.close_all(self._sockets)
        error_logger.info("Stopped parent process [%d]", os.getpid())
        call_own_handlers(self._stopped_by)

    def _preload(self) -> Any:
        """Import the application once for all workers: they share its memory until they write."""
        app = load_application(self.config)
        gc.collect()
        gc.freeze()  # or the first collection in a worker would write to every object
        return app

    # --- The loop -----------------------------------------------------------------------------

    def _supervise(self) -> None:
        watchdog = systemd.watchdog_interval()
        timeout = min(PATROL, watchdog or PATROL, beat_interval(self.config.timeout_worker_blocked))
        while not self._stopping or self._workers:
            self._grow_and_shrink()
            for key, _ in self._selecting.select(timeout):
                key.data()
            self._take_signals()
            self._take_changes()
            self._reap()
            self._patrol()
            if watchdog and all(worker.watch.turns or worker.stopping for worker in self._workers):
                systemd.notify("WATCHDOG=1")

    @contextlib.contextmanager
    def _waking(self) -> Generator[None]:
        """What wakes the selector: signals, and changed files."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        reader.setblocking(False)
        self._selecting.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))
        numbers = [*PARENT, *filter(is_free, [LEAVE, *REQUESTS])]
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
            if number in REQUESTS:
                self._act_on_request(number)
                continue
            error_logger.info("Received %s", name)
            gone = name == "SIGHUP" and self._on_terminal and not is_terminal()
            if gone or name in ("SIGINT", "SIGTERM"):
                self._stopped_by.append(number)
                self._stop()
            elif number == LEAVE:
                self._stop(wait=False)
            elif self._stopping:
                continue
            elif name == "SIGHUP":
                say_not_read_again()
                self.roll()
            elif name == "SIGTTIN":
                self._target += 1
            elif name == "SIGTTOU":
                self._target = max(1, self._target - 1)

    def _act_on_request(self, number: int) -> None:
        act_on_request(number)
        if signal.Signals(number).name == "SIGUSR1":
            for worker in self._workers:
                with contextlib.suppress(OSError, ValueError):  # its pipe is closed: it ends
                    worker.pipe.send(REOPEN)

    def _take_changes(self) -> None:
        """Files have changed: the old workers go, then new ones start."""
        changed = self._reloader.take() if self._reloader is not None else []
        if not changed or self._stopping:
            return
        shown = ", ".join(repr(path) for path in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        error_logger.warning("Detected changes in %s%s. Reloading...", shown, more)
        self._next_start = 0.0
        self._failures = 0
        self._told = ""
        for worker in self._workers:
            worker.ends_first = True
            self._stop_worker(worker)
            worker.stop_by = min(worker.stop_by, time.monotonic() + RELOAD_PATIENCE)

    # --- Workers come -------------------------------------------------------------------------

    def _grow_and_shrink(self) -> None:
        """A step towards the workers that are wanted: those that are missing start together, those
        that take another's place one by one.
        """
        if self._stopping or time.monotonic() < self._next_start:
            return
        if any(worker.ends_first for worker in self._workers):
            return
        staying = [worker for worker in self._workers if not worker.stopping]
        places = [worker for worker in staying if worker.replaces not in staying]
        retiring = [worker for worker in places if worker.retiring]
        self._roll = [worker for worker in self._roll if worker in staying]
        if len(places) > self._target:
            self._drop_queues(places[-1].number)
            self._stop_worker(places[-1])
        elif len(places) < self._target:
            for _ in range(self._target - len(places)):
                if time.monotonic() >= self._next_start:
                    self._start()
        elif len(staying) > len(places):
            return  # a successor starts
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
        taken = {
            worker.number
            for worker in self._workers
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
            sent.callback(heartbeat.let_go)
            inherited: list[Callable[[], None]] = []
            if self.config.preload:
                # A forked worker closes what it has of ours, or nobody would see us end, nor the
                # port.
                pipes = [ours, *(one.pipe for one in self._workers)]
                held = [*self._sockets, *itertools.chain(*self._queues.values())]
                inherited += [pipe.close for pipe in pipes]
                inherited += [partial(listening.let_go, sock) for sock in held]
                inherited += [one.watch.heartbeat.close for one in self._workers]
            process = self._context.Process(
                target=run_worker,
                args=(self.config, number, shared, theirs, heartbeat, inherited, self._app),
                name=f"thestral worker {number}",
            )
            holding = {*PARENT, *REQUESTS}
            if not self.config.preload:
                holding.discard(signal.SIGTERM)  # until run_worker it just ends the process
                from multiprocessing import resource_tracker

                resource_tracker.ensure_running()  # its first start would let signals through
            with held_back(holding):
                process.start()
            undo.pop_all()
        now = time.monotonic()
        watch = Watch(process.pid, heartbeat)
        worker = Worker(number, process, ours, now, watch, now + REMINDER, replaces)
        self._workers.append(worker)
        self._selecting.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))
        self._selecting.register(process.sentinel, selectors.EVENT_READ, lambda: None)

    def _queues_of(self, number: int) -> list[socket.socket]:
        """What a worker listens on: our sockets, or with SO_REUSEPORT those of its number."""
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
        """Hold the queues of a worker's number no longer: once it has closed them, too, the kernel
        gives new connections to the others.
        """
        queues = self._queues.pop(number, [])
        for sock in queues:
            listening.refuse_new(sock)
        listening.close_all(queues)

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
        elif message == WAITING:
            worker.waits = True
            self._say_waiting()
        else:
            worker.reason = message

    def _on_ready(self, worker: Worker) -> None:
        worker.ready = time.monotonic()
        if self._stopping:
            return
        self._failures = 0
        self._told = ""
        self._weigh_at_start(worker)
        lifetime = self.config.limit_worker_lifetime
        if lifetime:
            worker.expires = time.monotonic() + lifetime * (1 + worker.number % 10 / 100)
        if worker.replaces in self._workers:  # it may have died meanwhile
            self._stop_worker(worker.replaces)
        worker.replaces = None
        if not self.started:
            self.started = True
            for sock in self._sockets:
                url = listening.url(sock, self.config.is_ssl)
                error_logger.info("Thestral running on %s (Press CTRL+C to quit)", url)
        serving = [other for other in self._workers if other.ready and not other.stopping]
        if len(serving) >= self._target and not self._roll:
            self._rolling = False
            systemd.ready()

    def roll(self) -> None:
        """Replace every worker, one by one, each new one ready before the old one stops."""
        systemd.reloading()
        self._rolling = True
        if self._directory is not None and not self.config.preload:
            enter_again(self._directory)
        if self._certificates is not None and not self._certificates.reload():
            self._give_up_rolling()  # no new worker could start
            return
        self._next_start = 0.0  # who asks has mended what was broken
        for worker in self._workers:
            if not worker.ready:  # it may have what is to be replaced, or hang in it
                self._stop_worker(worker)
        self._roll = [worker for worker in self._workers if not worker.stopping]

    def _give_up_rolling(self) -> None:
        if self._rolling:
            error_logger.error("Rolling restart given up: the old workers go on")
            self._roll.clear()
            self._rolling = False
            systemd.ready()

    # --- Workers go ---------------------------------------------------------------------------

    def _stop(self, *, wait: bool = True) -> None:
        again = self._stopping
        if not again:
            systemd.stopping(longest_stop(self.config))
        self._stopping = True
        # The last worker that closes them ends the port: who comes later is refused at once, and
        # does not wait in a queue that nobody will take anything from.
        for sock in [*self._sockets, *itertools.chain(*self._queues.values())]:
            if not again and not self.config.shutdown_delay:  # during which they go on accepting
                listening.refuse_new(sock)
            listening.let_go(sock)
        for worker in self._workers:
            worker.process.terminate()
            if (again or not wait) and worker.process.is_alive():
                os.kill(worker.process.pid, LEAVE)
            self._expect_end(worker)
            if not wait:
                worker.stop_by = min(worker.stop_by, time.monotonic() + LEAVE_PATIENCE)
        if wait and not again:
            self._say_waiting()

    def _say_waiting(self) -> None:
        """Say how long a stop may take, once, if something holds it up."""
        if not self._stopping or self._wait_told:
            return
        if self.config.shutdown_delay or any(worker.waits for worker in self._workers):
            self._wait_told = True
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
        for worker in list(self._workers):
            if worker.process.exitcode is None:
                continue
            self._workers.remove(worker)
            self._unregister(worker.pipe)
            self._unregister(worker.process.sentinel)
            worker.pipe.close()
            worker.watch.heartbeat.close()
            status = worker.process.exitcode
            if not worker.stopping:
                self._on_death(worker, status)
            worker.process.close()

    def _on_death(self, worker: Worker, status: int) -> None:
        """A worker has ended that should not have."""
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
        if not worker.ready and old in self._workers and wants_what_is_held(worker.reason):
            assert old is not None
            error_logger.warning(
                "Worker %d could not start beside the one that it replaces: stopping that first",
                worker.number,
            )
            old.ends_first = True
            self._stop_worker(old)
        elif not worker.ready:
            self._give_up_rolling()
        if self._failures >= HOPELESS and not self._workers:
            raise WorkerError(f"No worker lives: {self._failures} in a row died at their start")
        self._pause()
        if self._next_start > time.monotonic():
            self._drop_queues(worker.number)  # others take what would wait there

    def _on_death_reloading(self, worker: Worker, status: int) -> None:
        """Start it again at the next change, or in a while: a killed one after a second. Why none
        can start is said once, not at each attempt.
        """
        if not worker.ready:
            self._failures += 1
        self._pause(RELOAD_PAUSE)
        reason = worker.reason
        if reason and reason == self._told:
            return
        self._told = reason
        if reason:
            error_logger.error("%s", reason)
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        error_logger.error(
            "Worker %d ended (%s). Waiting for a change, or starting it again in a while...",
            worker.number,
            how,
        )

    def _pause(self, least: float = 0.0) -> None:
        """Wait before the next start, longer after each failure."""
        pause = BACK_OFF[min(max(self._failures, 1), len(BACK_OFF)) - 1]
        self._next_start = time.monotonic() + max(pause, least)

    def _patrol(self) -> None:
        """Look at each worker: its time, its size, its health. And at the certificates."""
        now = time.monotonic()
        if self._certificates is not None:
            self._certificates.current()
        for worker in self._workers:
            if worker.stop_by and now >= worker.stop_by:
                error_logger.error("Killing worker %d, which does not stop", worker.number)
                worker.process.kill()
            elif not worker.stopping:
                if worker.ready:
                    self._weigh(worker, now)
                    worker.retiring |= now >= worker.expires
                self._examine(worker, now)

    def _weigh_at_start(self, worker: Worker) -> None:
        """Note what a worker holds that has served nothing yet; more than it may is told once."""
        limit = self.config.limit_max_rss
        worker.base = resident_size(worker.watch.pid) or 0 if limit else 0
        if limit and worker.base > limit and self._next_for_size < math.inf:
            self._next_for_size = math.inf
            error_logger.warning(
                "Worker %d holds %d bytes at its start, and --limit-max-rss is %d:"
                " such workers are not replaced for their memory",
                worker.number,
                worker.base,
                limit,
            )

    def _weigh(self, worker: Worker, now: float) -> None:
        """Have a worker replaced that holds too much memory, if a new one would hold less. If
        workers grow as soon as they serve, that is not done all the time.
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
            "Worker %d holds %d bytes, %d at its start: replacing it",
            worker.number,
            size,
            worker.base,
        )
        worker.retiring = True

    def _examine(self, worker: Worker, now: float) -> None:
        """Kill a worker in which nothing can happen any more, whose loop does not turn for longer
        than it may, or that takes too long to start.
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
            error_logger.error("%s has blocked its event loop for %.0f s: killing it", name, silent)
        elif starting >= (self.config.timeout_worker_startup or math.inf):
            error_logger.error("%s was not ready within %.0f s: killing it", name, starting)
        else:
            if starting and now >= worker.remind:
                worker.remind = now + REMINDER
                error_logger.warning("%s has been starting for %.0f s", name, starting)
            return
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


def wants_what_is_held(reason: str) -> bool:
    """Whether a start has failed, by its error's text, for something that only one may have."""
    return any(f"[Errno {number}]" in reason for number in HELD_BY_ANOTHER)


def named_directory() -> str | None:
    """The working directory as the shell names it, by $PWD: with its symbolic links, which may lead
    to another release later. None if that names another one.
    """
    named = os.environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, os.curdir) else None
    except OSError:
        return None


def enter_again(directory: str) -> None:
    """Follow a directory's symbolic links anew, for processes that are spawned from now on."""
    try:
        before = os.getcwd()
    except OSError:  # it is gone
        before = None
    try:
        os.chdir(directory)
        now = os.getcwd()
    except OSError as exc:
        error_logger.error("The working directory cannot be entered: %s", exc)
        return
    if now != before:
        error_logger.info("The working directory is now %r", now)
        sys.path[:] = [now if path == before else path for path in sys.path]


def check_picklable(config: Config) -> None:
    """Each option must reach a process that starts afresh.

    Raises:
        ConfigError: with the option that cannot.
    """
    import pickle

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError) as exc:
            reason = f"{value!r:.100} cannot be sent to a worker: {exc}"
            raise ConfigError(field.name, reason) from exc

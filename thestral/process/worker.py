"""A worker process under a Supervisor: one Server, which reports to the supervisor by a pipe."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from thestral.errors import ImportFailedError, Terminated, ThestralError
from thestral.logging.files import reopen_files
from thestral.logging.jsonlines import ThisProcess
from thestral.logging.levels import set_level
from thestral.logging.loggers import error_logger
from thestral.net import tls
from thestral.process.heartbeat import beat_interval
from thestral.process.importer import in_user_code, load_function
from thestral.process.leaving import exit_in_time, flush_output
from thestral.process.server import Server
from thestral.process.signals import QUIT, REQUEST_SIGNALS, SUPERVISOR_SIGNALS, do_nothing, is_free
from thestral.process.stacks import offer_dump, parts_of, stacks

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import FrameType

    from thestral.config import Config
    from thestral.process.heartbeat import Heartbeat
    from thestral.process.metrics import Slot
    from thestral.types import ASGIApplication

# Messages from a worker to its supervisor.
READY = "ready"
RETIRE = "retire"  # a limit is reached: replace this worker
WAITING = "waiting"  # SIGTERM has come, and requests are still running
# Any other string is the reason why the worker cannot start: the supervisor logs it, once for all.
# For the admin port: (STACKS, number, text) with a part of the stacks, or None after the last part;
# (DUMP, signal, descriptor): how to get them from a worker that does not answer.
DUMP = "dump"
# Messages from a supervisor to a worker.
REOPEN = "reopen"  # reopen log files. A SIGUSR1 would not do: the application may handle it
LEVEL = "level"  # in a tuple with a logger's name and its new level
STACKS = "stacks"  # in a tuple with a number, which the answer is to have: tell your stacks

# Makes faulthandler write the stacks of all threads, for which it does not need the GIL.
STACKS_SIGNAL = getattr(signal, "SIGABRT", None)


def run_worker(
    config: Config,
    number: int,
    sockets: Sequence[socket.socket],
    pipe: Connection,
    heartbeat: Heartbeat,
    slot: Slot | None,
    inherited: Sequence[Callable[[], None]],
    app: ASGIApplication | None,
) -> None:
    """Run a worker from its start to the end of its process.

    Args:
        config: the options.
        number: the worker's number, from 1.
        sockets: bound sockets to listen on.
        pipe: to the supervisor; end of file means that the supervisor is gone.
        heartbeat: shows the supervisor that the event loop is running.
        slot: where to count what the supervisor's admin port tells.
        inherited: functions that close the supervisor's pipes, sockets and shared memory, of which
            a forked worker has copies.
        app: the application if the supervisor has imported it before the fork.
    """
    ThisProcess.worker = number
    for close in inherited:
        close()
    heartbeat.close_descriptor()
    if slot is not None:
        slot.close_descriptor()
    set_title(f"worker {number}")
    # Ctrl-C reaches the whole process group, but the supervisor decides when a worker stops.
    for taken in [*SUPERVISOR_SIGNALS, *filter(is_free, REQUEST_SIGNALS)]:
        signal.signal(taken, signal.SIG_DFL if taken == signal.SIGTERM else do_nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*SUPERVISOR_SIGNALS, *REQUEST_SIGNALS])
    faulthandler.enable(all_threads=True)
    server = WorkerServer(config, number, pipe, heartbeat, app, slot)
    with ending_pools(), exit_in_time(server):
        try:
            server.run(sockets)
        except Terminated:
            sys.exit(0)
        except ThestralError as error:
            if server.started:
                error_logger.error("%s", error)
                sys.exit(1)
            server.tell(str(error))
            sys.exit(error.exit_status)
        except Exception:
            sys.excepthook(*sys.exc_info())  # multiprocessing would print more
            sys.exit(1)
        finally:
            flush_output()


@contextlib.contextmanager
def ending_pools() -> Generator[None]:
    """At the end, have the application's executors shut down, as the interpreter does at exit.

    multiprocessing, which runs this process, does so as well, but joins child processes first, and
    those of a pool only end once the pool is shut down.
    """
    try:
        yield
    finally:
        threading._shutdown()  # type: ignore[attr-defined]


@contextlib.contextmanager
def blocked(signals: Iterable[int]) -> Generator[None]:
    """Block signals, here and in a process that is started within the context."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_title(text: str) -> None:
    """Name the process for process lists: with the package setproctitle if it is installed, else by
    the name of the main thread (Linux, 15 characters).
    """
    try:
        from setproctitle import setproctitle  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:
            file.write(f"thestral {text}"[:15])
    else:
        setproctitle(f"thestral: {text}")


class WorkerServer(Server):
    """A Server that tells its supervisor when it is ready, and when a limit is reached."""

    signals = (signal.SIGTERM, QUIT)
    has_manager = False  # the supervisor talks to systemd

    def __init__(
        self,
        config: Config,
        number: int,
        pipe: Connection,
        heartbeat: Heartbeat,
        app: ASGIApplication | None,
        slot: Slot | None = None,
    ) -> None:
        super().__init__(config, loaded=app, slot=slot)
        self._number = number
        self._pipe = pipe
        self._heartbeat = heartbeat

    def prepare(self) -> None:
        """Call on_worker_start.

        Raises:
            ImportFailedError: it cannot be imported, or has raised an exception.
        """
        config = self.config
        start = load_function(config.on_worker_start, config.app_dir)
        if start is None:
            return
        try:
            start(self._number, os.getpid())
        except (Exception, SystemExit) as exc:
            what = f'on_worker_start, "{config.on_worker_start}", failed'
            raise ImportFailedError(in_user_code(what, exc)) from exc

    def announce(self) -> None:
        assert self._loop is not None
        self._loop.add_reader(self._pipe.fileno(), self._on_message)
        if self.watchdog is not None:
            self._heartbeat.note_watcher(self.watchdog.native_id)
        self._beat()
        if self.config.admin is not None:
            found = offer_dump()
            if found is not None:
                self.tell((DUMP, *found))
        self.tell(READY)

    def _beat(self) -> None:
        """Beat now and at regular intervals, as long as the loop runs."""
        assert self._loop is not None
        self._heartbeat.beat()
        self._loop.call_later(beat_interval(self.config.timeout_worker_blocked), self._beat)

    def on_blocked(self, title: str | None) -> None:
        """Have the supervisor name the request if it kills this process."""
        self._heartbeat.note_request(title or "")

    def retire(self) -> None:
        self.tell(RETIRE)

    def say_waiting(self, count: int) -> None:
        """Log the number of requests; the supervisor logs how long they may take and how Ctrl-C
        ends the wait.
        """
        error_logger.info("Waiting for running requests to finish: %d", count)
        self.tell(WAITING)

    def how_to_force(self) -> str:
        return ""

    def tell(self, message: str | tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone: _on_message will notice
            self._pipe.send(message)

    def load_certificates(self) -> tls.Certificates | None:
        """Load the certificates without warnings, which the supervisor logs."""
        return tls.load(self.config, quiet=True)

    def _pid_file(self) -> contextlib.AbstractContextManager[None]:
        """None: the PID file is the supervisor's."""
        return contextlib.nullcontext()

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """Drain at SIGTERM, however often it comes; at SIGQUIT do not wait for requests."""
        if number not in self._signals_taken:
            self._signals_taken.append(number)
        if number == QUIT:
            self.force_exit = True
        self.should_exit = True

    def _on_message(self) -> None:
        """Do what the supervisor asks for; stop if it is gone."""
        assert self._loop is not None
        with contextlib.suppress(EOFError, OSError):
            message = self._pipe.recv()
            if message == REOPEN:
                reopen_files()
            elif message[0] == LEVEL:
                set_level(*message[1:])
            elif message[0] == STACKS:
                for part in [*parts_of(stacks(self._loop)), None]:
                    self.tell((*message, part))
            return
        self._loop.remove_reader(self._pipe.fileno())
        error_logger.warning("The supervisor is gone: stopping")
        self.should_exit = True

"""A worker process under a Supervisor: one Server, and a pipe to say how it goes."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING

from thestral.errors import Terminated, ThestralError
from thestral.logging.files import reopen_files
from thestral.logging.loggers import error_logger
from thestral.net import tls
from thestral.process.heartbeat import beat_interval
from thestral.process.leaving import flush_output, left_in_time
from thestral.process.server import Server
from thestral.process.signals import LEAVE, PARENT, REQUESTS, do_nothing, is_free

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import FrameType

    from thestral.config import Config
    from thestral.process.heartbeat import Heartbeat
    from thestral.types import ASGIApplication

# What a worker tells its supervisor.
READY = "ready"
RETIRE = "retire"  # a limit is reached: replace me
WAITING = "waiting"  # requests run on after SIGTERM
# Any other text is why it cannot start: the supervisor says it once for all of them.
# What a supervisor asks a worker for. Not by SIGUSR1, for which the application may have a handler.
REOPEN = "reopen"  # log files, as they may have been renamed

# Makes faulthandler write the stacks of all threads, without the GIL.
STACKS_SIGNAL = getattr(signal, "SIGABRT", None)


def run_worker(
    config: Config,
    number: int,
    sockets: Sequence[socket.socket],
    pipe: Connection,
    heartbeat: Heartbeat,
    inherited: Sequence[Callable[[], None]],
    app: ASGIApplication | None,
) -> None:
    """The whole life of a worker process; ends it.

    Args:
        config: the options.
        number: the worker's, from 1.
        sockets: bound ones to listen on.
        pipe: to the supervisor; its end is the supervisor's end.
        heartbeat: for the supervisor to see that the event loop turns.
        inherited: what closes the supervisor's pipes, sockets and memory, which a fork has brought
            here.
        app: the application if the supervisor has loaded it before the fork.
    """
    for close in inherited:
        close()
    heartbeat.let_go()
    set_title(f"worker {number}")
    # Ctrl-C reaches the whole group; the supervisor says when to stop.
    for number in [*PARENT, *filter(is_free, REQUESTS)]:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else do_nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PARENT, *REQUESTS])
    faulthandler.enable(all_threads=True)
    server = WorkerServer(config, pipe, heartbeat, app)
    with pools_told(), left_in_time(server):
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
        finally:
            flush_output()


@contextlib.contextmanager
def pools_told() -> Generator[None]:
    """At the end, tell pools of the application that they end, as the interpreter does.

    multiprocessing, whose process this is, does it too, but joins the processes of a pool before.
    """
    try:
        yield
    finally:
        threading._shutdown()  # type: ignore[attr-defined]


@contextlib.contextmanager
def held_back(signals: Iterable[int]) -> Generator[None]:
    """Have signals wait, here and in a process that is started here."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_title(text: str) -> None:
    """Show in process lists what a process does: with setproctitle, or the name that Linux gives a
    thread.
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

    signals = (signal.SIGTERM, LEAVE)
    has_manager = False  # it is the supervisor who talks to systemd

    def __init__(
        self, config: Config, pipe: Connection, heartbeat: Heartbeat, app: ASGIApplication | None
    ) -> None:
        super().__init__(config, loaded=app)
        self._pipe = pipe
        self._heartbeat = heartbeat

    def announce(self) -> None:
        assert self._loop is not None
        self._loop.add_reader(self._pipe.fileno(), self._hear)
        self._beat()
        self.tell(READY)

    def _beat(self) -> None:
        """Show that the loop turns, now and from then on."""
        assert self._loop is not None
        self._heartbeat.beat()
        self._loop.call_later(beat_interval(self.config.timeout_worker_blocked), self._beat)

    def retire(self) -> None:
        self.tell(RETIRE)

    def say_waiting(self, count: int) -> None:
        """It is the supervisor who knows how long, and what Ctrl-C does."""
        error_logger.info("Waiting for running requests to finish: %d", count)
        self.tell(WAITING)

    def how_to_force(self) -> str:
        return ""

    def tell(self, message: str) -> None:
        with contextlib.suppress(OSError):  # it is gone, as we are about to be told
            self._pipe.send(message)

    def load_certificates(self) -> tls.Certificates | None:
        """The supervisor says what there is to say of them."""
        return tls.load(self.config, quiet=True)

    def _pid_file(self) -> contextlib.AbstractContextManager[None]:
        """The file names the supervisor."""
        return contextlib.nullcontext()

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM drains, however often it comes; SIGQUIT does not wait."""
        if number not in self._signals_taken:
            self._signals_taken.append(number)
        if number == LEAVE:
            self.force_exit = True
        self.should_exit = True

    def _hear(self) -> None:
        """The supervisor asks for something, or is gone."""
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.recv() == REOPEN:
                reopen_files()
            return
        assert self._loop is not None
        self._loop.remove_reader(self._pipe.fileno())
        error_logger.warning("The supervisor is gone; stopping.")
        self.should_exit = True

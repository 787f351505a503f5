"""A worker process under a Supervisor: one Server, and a pipe to say how it goes."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from thestral.errors import Terminated, ThestralError
from thestral.logging import error_logger
from thestral.server import Server

if TYPE_CHECKING:
    from thestral.config import Config
    from thestral.types import ASGIApplication

# What a worker tells its supervisor.
READY = "ready"
RETIRE = "retire"  # a limit is reached: replace me

STARTUP_FAILURE = 3
# Makes faulthandler write the stacks of all threads, without the GIL.
STACKS_SIGNAL = getattr(signal, "SIGABRT", None)


def run_worker(
    config: Config,
    number: int,
    sockets: Sequence[socket.socket],
    pipe: Connection,
    inherited: Sequence[Connection],
    app: ASGIApplication | None,
) -> None:
    """The whole life of a worker process; ends it.

    Args:
        config: the options.
        number: the worker's, from 1.
        sockets: bound ones to listen on.
        pipe: to the supervisor; its end is the supervisor's end.
        inherited: the supervisor's ends of pipes, to be closed.
        app: the application if the supervisor has loaded it before the fork.
    """
    for connection in inherited:
        connection.close()
    set_title(f"worker {number}")
    # After a fork the supervisor's handlers are here, too.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches the whole group; the supervisor says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGHUP", "SIGTTIN", "SIGTTOU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable(all_threads=True)
    server = WorkerServer(config, pipe, app)
    try:
        server.run(sockets)
    except Terminated:
        sys.exit(0)
    except ThestralError as error:
        error_logger.error("%s", error)
        sys.exit(1 if server.started else STARTUP_FAILURE)
    if server.left_behind:
        os._exit(0)


def set_title(text: str) -> None:
    """Show in process lists what a process does: with setproctitle, or the name that Linux gives a
    thread.
    """
    try:
        from setproctitle import setproctitle
    except ImportError:
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(f"thestral {text}"[:15])
    else:
        setproctitle(f"thestral: {text}")


class WorkerServer(Server):
    """A Server that tells its supervisor when it is ready, and when a limit is reached."""

    def __init__(self, config: Config, pipe: Connection, app: ASGIApplication | None) -> None:
        super().__init__(config, loaded=app)
        self._pipe = pipe

    def announce(self) -> None:
        assert self._loop is not None
        self._loop.add_reader(self._pipe.fileno(), self._supervisor_gone)
        self._pipe.send(READY)

    def retire(self) -> None:
        self._pipe.send(RETIRE)

    def say_stopping(self) -> None:
        """It is the supervisor who talks to systemd."""

    def _supervisor_gone(self) -> None:
        """Nothing is ever sent this way, so that it is readable means that the pipe is closed."""
        assert self._loop is not None
        self._loop.remove_reader(self._pipe.fileno())
        error_logger.warning("The supervisor is gone; stopping.")
        self.should_exit = True

"""The end of a server process in bounded time, whatever the application has left running in it.

Threads that are not daemons and child processes of multiprocessing get GRACE to end by themselves.
The interpreter would wait for all of them for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

from thestral.logging.loggers import error_logger
from thestral.logging.uncaught import report

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

GRACE = 1.0  # seconds
POLL_INTERVAL = 0.02  # seconds between two checks of what has not ended


class Runs(Protocol):
    left_behind: bool  # whether a task has not ended although it was cancelled


@contextlib.contextmanager
def exit_in_time(server: Runs) -> Generator[None]:
    """Call leave() at the end of the context, however it ends: the last thing in a process."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):
            report(end.code)
            end.code = 1
        leave(server.left_behind, end.code or 0)
        raise
    except BaseException:
        leave(server.left_behind, 1)
        raise
    leave(server.left_behind)


def leave(stuck: bool, status: int = 0) -> None:
    """Make sure that the process ends in time.

    The interpreter ends the process, so that atexit handlers run and pools end their idle threads,
    while a thread deals with what does not end.

    Args:
        stuck: whether a task has not ended although it was cancelled: the process then ends here,
            without the interpreter.
        status: the exit status.
    """
    if stuck:
        end_remaining(status, stuck)
    elif other_threads() or child_processes():
        threading.Thread(target=end_remaining, args=(status,), name="leaving", daemon=True).start()


def end_remaining(status: int, stuck: bool = False) -> None:
    """Wait for the application's threads and child processes; then end child processes that are
    left, and this process if threads or, with `stuck`, tasks are left.
    """
    wait_for_remaining()
    for name, verb in (("terminate", "terminating"), ("kill", "killing")):
        processes = child_processes()
        for process in processes:
            error_logger.warning(
                "Process %r [%d] of the application has not ended: %s it",
                process.name,
                process.pid,
                verb,
            )
            with contextlib.suppress(OSError, ValueError):  # it has ended in the meantime
                getattr(process, name)()
        if processes:
            wait_for_remaining()  # also for threads that waited for a process
    if stuck or other_threads():
        error_logger.warning("Tasks or threads of the application have not ended: abandoning them")
        logging.shutdown()
        flush_output()
        os._exit(status)


def wait_for_remaining() -> None:
    """Wait until no thread and no child process is left, at most GRACE."""
    deadline = time.monotonic() + GRACE
    while (other_threads() or child_processes()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)


def other_threads() -> list[threading.Thread]:
    """Threads for which the interpreter would wait."""
    here = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not (thread.daemon or thread in here)]


def child_processes() -> list[BaseProcess]:
    """Live child processes of multiprocessing, including those of pools."""
    module = sys.modules.get("multiprocessing.process")
    return module.active_children() if module is not None else []


def flush_output() -> None:
    """Write what stdout and stderr have buffered, or discard it if the write fails, as when the
    terminal is gone: else the interpreter would exit with status 120, and a worker with 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

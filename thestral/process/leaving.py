"""How a process of the server ends, whatever the application has left running in it.

Threads and child processes of multiprocessing get GRACE to end by themselves. The interpreter would
wait for them without end: for threads that are no daemons, and for every child.
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

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

GRACE = 1.0  # seconds
LOOK = 0.02  # seconds between two looks at what has to end


class Ends(Protocol):
    left_behind: bool  # whether a task is left that cannot be ended


@contextlib.contextmanager
def left_in_time(server: Ends) -> Generator[None]:
    """Do the last that a process does, and leave() however that ends."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):  # as the interpreter does
            print(end.code, file=sys.stderr)
            end.code = 1
        leave(server.left_behind, end.code or 0)
        raise
    except BaseException:
        leave(server.left_behind, 1)
        raise
    leave(server.left_behind)


def leave(stuck: bool, status: int = 0) -> None:
    """See to it that the process ends in time.

    The interpreter ends it, so that handlers of atexit run and pools end their idle threads; a
    thread beside it sees to what does not end.

    Args:
        stuck: whether a task is left that cannot be ended: end the process from here.
        status: the exit status.
    """
    if stuck:
        end_the_rest(status, stuck)
    elif other_threads() or child_processes():
        threading.Thread(target=end_the_rest, args=(status,), name="leaving", daemon=True).start()


def end_the_rest(status: int, stuck: bool = False) -> None:
    """Wait for the application's threads and processes, then end those processes, and this one if
    threads are left.
    """
    wait_for_the_rest()
    for name, verb in (("terminate", "terminating"), ("kill", "killing")):
        processes = child_processes()
        for process in processes:
            error_logger.warning(
                "Process %r [%d] of the application has not ended: %s it",
                process.name,
                process.pid,
                verb,
            )
            with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
                getattr(process, name)()
        if processes:
            wait_for_the_rest()  # also for threads that waited for a process
    if stuck or other_threads():
        error_logger.warning("Leaving tasks or threads of the application behind that do not end.")
        logging.shutdown()
        flush_output()
        os._exit(status)


def wait_for_the_rest() -> None:
    """Wait until no thread and no process is left, for GRACE at most."""
    deadline = time.monotonic() + GRACE
    while (other_threads() or child_processes()) and time.monotonic() < deadline:
        time.sleep(LOOK)


def other_threads() -> list[threading.Thread]:
    """Threads that the interpreter would wait for."""
    here = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not (thread.daemon or thread in here)]


def child_processes() -> list[BaseProcess]:
    """Processes of multiprocessing, also those of pools, that live."""
    module = sys.modules.get("multiprocessing.process")
    return module.active_children() if module is not None else []


def flush_output() -> None:
    """Write what stdout and stderr still hold, or give it up where nobody takes it any more, as a
    terminal that is gone: the interpreter would end with status 120 for it, a worker with 1.
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

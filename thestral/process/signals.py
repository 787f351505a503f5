"""Signals: which of them the processes of a server take, and handlers that leave alone what the
program has set itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from thestral._csrc import lib
from thestral.errors import Terminated
from thestral.logging.files import reopen_files
from thestral.logging.loggers import error_logger

Handler = Callable[[int, FrameType | None], Any] | int | None  # as signal.getsignal() gives it


class Taken(NamedTuple):
    """A signal that taking() has given a handler of ours.

    Attributes:
        programs: the handler that stood there before.
        ours: the handler in its place.
        address: of the C function that calls it.
    """

    programs: Handler
    ours: Handler
    address: int


def known(*names: str) -> list[signal.Signals]:
    """Signals by name, but for those that the platform does not have."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


# Taken by the parent of workers. It holds them back from a worker until that has set its own
# handlers; a spawned one may be terminated all the time.
PARENT = known("SIGINT", "SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU")
# Taken by every process, unless the program has a handler of its own: open log files anew, and a
# line that says that the signal has no meaning. At their default they would end the process.
REQUESTS = known("SIGUSR1", "SIGUSR2")
# End a process without waiting for requests. A second SIGTERM does not do that to a worker: a
# service manager may send it to each process, and the parent sends it, too.
LEAVE = getattr(signal, "SIGQUIT", signal.SIGTERM)

_taken: dict[int, Taken] = {}  # by signal
_forking = threading.local()  # the signals that a thread which forks had blocked before


def do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal that is not meant for this process. Not SIG_IGN, which programs that the
    application starts would inherit: nothing could interrupt them.
    """


def is_free(number: int) -> bool:
    """Whether the program has no handler of its own for a signal, and does not ignore it. Also none
    in C, such as faulthandler.register() sets and Python's table does not show.
    """
    return signal.getsignal(number) == signal.SIG_DFL and lib.th_signal_handler(number) == 0


def is_terminal() -> bool:
    """Whether stderr is a terminal that is still there."""
    return os.isatty(2)


@contextlib.contextmanager
def taking(handlers: Mapping[signal.Signals, Handler]) -> Generator[None]:
    """Have signals call these handlers meanwhile; not outside the main thread, where nobody can.

    What was there before comes back at the end, but where the program has set another meanwhile.
    Processes that the application forks meanwhile get it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    outer = dict(_taken)
    for number, handler in handlers.items():
        old = before[number]
        if number in outer and old == outer[number].ours:
            old = outer[number].programs
        _taken[number] = Taken(old, handler, lib.th_signal_handler(number))
    try:
        yield
    finally:
        for number in handlers:
            if stands(number):
                signal.signal(number, before[number])
        _taken.clear()
        _taken.update(outer)


def stands(number: int) -> bool:
    """Whether a handler of ours is still the one that the signal calls."""
    taken = _taken[number]
    return signal.getsignal(number) == taken.ours and (
        lib.th_signal_handler(number) == taken.address
    )


def hold_back() -> None:
    """Have signals wait while the application forks: one that comes to the new process before
    give_back() would be lost.
    """
    if _taken:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _taken)


def let_through() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def give_back() -> None:
    """Undo taking() in a process that the application has forked, which SIGTERM should end: the
    server's handlers would only set flags there, and write to the parent's event loop.

    Not for SIGINT, which Ctrl-C sends to the whole group: a pool of processes lives on until the
    requests that need it are answered.
    """
    for number in filter(stands, _taken):
        programs = _taken[number].programs
        signal.signal(number, do_nothing if number == signal.SIGINT else programs)
    if _taken:
        signal.set_wakeup_fd(-1)
    _taken.clear()
    let_through()


@contextlib.contextmanager
def terminated_quietly() -> Generator[None]:
    """Until the server takes signals itself, SIGTERM raises Terminated: nothing has begun."""
    with taking({signal.SIGTERM: raise_terminated}):
        yield


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def act_on_request(number: int) -> None:
    """Do what one of REQUESTS asks for, or say that it asks for nothing."""
    name = signal.Signals(number).name
    if name == "SIGUSR1":
        error_logger.info("Received %s", name)
        reopen_files()
    else:
        error_logger.info("Received %s: nothing is bound to it", name)


def call_own_handlers(taken: Sequence[int]) -> None:
    """Raise signals again that the server has taken, the last one first, where the program or its
    application has a handler of its own: what that closes should be closed.

    A default one would end the process as a failure, which a stop on demand is not.
    """
    for number in reversed(taken):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=give_back)

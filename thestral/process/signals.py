"""Which signals the server's processes handle, and how they set and restore handlers without
disturbing those that the program has set itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from thestral._csrc import lib
from thestral.errors import Terminated
from thestral.logging.files import reopen_files
from thestral.logging.loggers import error_logger

Handler = Callable[[int, FrameType | None], Any] | int | None  # what signal.getsignal() returns


class Taken(NamedTuple):
    """A signal for which taking() has installed one of the server's handlers.

    Attributes:
        programs: the handler that the program had installed before.
        ours: the server's handler.
        address: address of the C function that the kernel calls.
    """

    programs: Handler
    ours: Handler
    address: int


def known(*names: str) -> list[signal.Signals]:
    """The named signals that the platform has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


# Signals handled by the supervisor. They stay blocked in a new worker until it has set its own
# handlers, except SIGTERM in a spawned worker, which may be terminated at any time.
SUPERVISOR_SIGNALS = known("SIGINT", "SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU")
# Signals handled by every process, unless the program has a handler of its own: SIGUSR1 reopens log
# files, SIGUSR2 only logs that it has no meaning. The default action would end the process.
REQUEST_SIGNALS = known("SIGUSR1", "SIGUSR2")
# Ends a process without waiting for requests. A second SIGTERM does not do so in a worker, because
# a service manager may send SIGTERM to each process, and the supervisor sends it as well.
QUIT = getattr(signal, "SIGQUIT", signal.SIGTERM)

_taken: dict[int, Taken] = {}  # by signal number
_forking = threading.local()  # mask: the signals that the thread had blocked before its fork


def do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal that is not meant for this process. SIG_IGN would not do: programs that the
    application starts would inherit it, and could not be interrupted.
    """


def is_free(number: int) -> bool:
    """Whether the program neither handles nor ignores a signal. Counts handlers in C too, such as
    those of faulthandler.register(), which signal.getsignal() does not show.
    """
    return signal.getsignal(number) == signal.SIG_DFL and lib.th_signal_handler(number) == 0


def free_signal() -> int | None:
    """The highest real-time signal that the program does not use; None if there is none."""
    if sys.platform != "linux":
        return None
    return next(filter(is_free, range(signal.SIGRTMAX, signal.SIGRTMIN, -1)), None)


def is_terminal() -> bool:
    """Whether stderr is a terminal that is still there."""
    return os.isatty(2)


@contextlib.contextmanager
def taking(handlers: Mapping[signal.Signals, Handler]) -> Generator[None]:
    """Install handlers for the duration of the context; does nothing outside the main thread, where
    Python cannot set handlers.

    At the end the previous handlers are restored, except where the program has set another one in
    the meantime. A process that the application forks within the context restores them at once.
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
            if is_installed(number):
                signal.signal(number, before[number])
        _taken.clear()
        _taken.update(outer)


def is_installed(number: int) -> bool:
    """Whether the server's handler is still the one that the signal calls."""
    taken = _taken[number]
    return signal.getsignal(number) == taken.ours and (
        lib.th_signal_handler(number) == taken.address
    )


def block_before_fork() -> None:
    """Block signals while the application forks: one that reached the new process before
    restore_in_child() would be lost.
    """
    if _taken:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _taken)


def unblock_after_fork() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def restore_in_child() -> None:
    """Undo taking() in a process that the application has forked. The server's handlers would only
    set flags there and wake the parent's event loop, so SIGTERM would not end the process.

    SIGINT does nothing there: Ctrl-C sends it to the whole process group, and a process pool must
    live until the requests that need it are answered.
    """
    for number in filter(is_installed, _taken):
        programs = _taken[number].programs
        signal.signal(number, do_nothing if number == signal.SIGINT else programs)
    if _taken:
        signal.set_wakeup_fd(-1)
    _taken.clear()
    unblock_after_fork()


@contextlib.contextmanager
def terminated_quietly() -> Generator[None]:
    """Make SIGTERM raise Terminated until the server handles signals itself: there is nothing to
    shut down yet.
    """
    with taking({signal.SIGTERM: raise_terminated}):
        yield


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def act_on_request(number: int) -> None:
    """Reopen log files at SIGUSR1; log that SIGUSR2 has no meaning."""
    name = signal.Signals(number).name
    if name == "SIGUSR1":
        error_logger.info("Received %s", name)
        reopen_files()
    else:
        error_logger.info("Received %s: this signal has no effect", name)


def call_own_handlers(taken: Sequence[int]) -> None:
    """Raise the signals that stopped the server again, the last one first, where the program or the
    application has a handler of its own, which may have something to close.

    The default action is left out: it would end the process with a failure, and a requested stop
    is not one.
    """
    for number in reversed(taken):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=block_before_fork,
        after_in_parent=unblock_after_fork,
        after_in_child=restore_in_child,
    )

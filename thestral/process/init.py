"""The first process of a container, PID 1.

The kernel makes every orphan a child of PID 1, and keeps its exit status until PID 1 collects it. A
server cannot collect the status of every child: the application has started some of them, and
waits for those itself. So the server runs in a child, and PID 1 only collects exit statuses and
passes signals on.
"""

from __future__ import annotations

import contextlib
import os
import signal

from thestral.process.signals import known

# Signals that are not passed on: a process raises them by a fault of its own, or cannot block them.
NOT_PASSED_ON = known("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGABRT")
NOT_PASSED_ON += known("SIGKILL", "SIGSTOP")
SI_KERNEL = 128  # si_code of a signal from the kernel, such as a terminal's, and not from a process
KILLED = 128  # plus the signal's number: exit status for a process that a signal has killed
# Environment variables with the PID of the process that they are meant for.
PID_VARIABLES = ("LISTEN_PID", "WATCHDOG_PID")


def is_first() -> bool:
    return os.getpid() == 1


def leave_first_process() -> None:
    """If this process is PID 1, fork and return in the child only; PID 1 looks after the child and
    ends with its exit status.
    """
    if not is_first() or not hasattr(signal, "sigwaitinfo"):
        return
    first = str(os.getpid())
    taken = {int(number) for number in signal.valid_signals()} - set(NOT_PASSED_ON)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    child = os.fork()
    if child:
        os._exit(look_after(child, taken))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for name in PID_VARIABLES:
        if os.environ.get(name) == first:
            os.environ[name] = str(os.getpid())


def look_after(child: int, taken: set[int]) -> int:
    """Pass signals on to a child, and collect the exit status of every process, until the child
    ends.

    Args:
        child: the child's PID.
        taken: the signals to pass on; the caller has blocked them.

    Returns:
        The exit status to end with.
    """
    while True:
        came = signal.sigwaitinfo(taken)
        if came.si_signo == signal.SIGCHLD:
            status = reap(child)
            if status is not None:
                return status
        # The terminal sends SIGINT and the like to the child as well, but SIGHUP to PID 1 only.
        elif came.si_code != SI_KERNEL or came.si_signo == signal.SIGHUP:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, came.si_signo)


def reap(child: int) -> int | None:
    """Collect the exit status of each process that has ended; returns the child's if it is among
    them.
    """
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else KILLED - code

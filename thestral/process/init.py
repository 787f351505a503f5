"""The first process of a container, PID 1.

The kernel hands it every process whose parent has ended, and keeps the exit status of each until
PID 1 asks for it. A server cannot ask for all: some are of processes that its application has
started and waits for itself. So the server is a child, and the first process does nothing else than
to ask, and to pass signals on.
"""

from __future__ import annotations

import contextlib
import os
import signal

from thestral.process.signals import known

# What a fault of a process raises in itself. They are not passed on, nor can the last two be.
FAULTS = known("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGABRT")
FAULTS += known("SIGKILL", "SIGSTOP")
SI_KERNEL = 128  # si_code of a signal that no process has sent: a terminal has
KILLED = 128  # exit status of a process that a signal has killed, less the signal's number
# Variables that say which process they are meant for, by its PID.
ADDRESSED = ("LISTEN_PID", "WATCHDOG_PID")


def is_first() -> bool:
    return os.getpid() == 1


def leave_first_process() -> None:
    """Return in a child process if this one is the first; that stays behind, and ends with the
    child's exit status.
    """
    if not is_first() or not hasattr(signal, "sigwaitinfo"):
        return
    first = str(os.getpid())
    taken = {int(number) for number in signal.valid_signals()} - set(FAULTS)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    child = os.fork()
    if child:
        os._exit(look_after(child, taken))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for name in ADDRESSED:
        if os.environ.get(name) == first:
            os.environ[name] = str(os.getpid())


def look_after(child: int, taken: set[int]) -> int:
    """Pass signals on to a child, and take the exit status of every process, until the child ends.

    Args:
        child: its PID.
        taken: the signals, which are blocked.

    Returns:
        The exit status to end with.
    """
    while True:
        came = signal.sigwaitinfo(taken)
        if came.si_signo == signal.SIGCHLD:
            status = reap(child)
            if status is not None:
                return status
        # A terminal sends SIGINT and the like to the child, too, but SIGHUP to this process alone.
        elif came.si_code != SI_KERNEL or came.si_signo == signal.SIGHUP:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, came.si_signo)


def reap(child: int) -> int | None:
    """Take the exit status of each process that has ended; returns the child's, if it is one."""
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

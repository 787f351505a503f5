"""Checks from outside whether a worker is alive: what the kernel says of its threads, and whether
its event loop is running. The worker itself need not run any code for it.

A worker that computes is alive, however long it holds the GIL: its processor time grows. A worker
whose main thread waits for the network, a file or the clock, or for a lock with a time-out, may
continue. A process is deadlocked if all its threads wait for its locks without a time-out: no
thread is left to release one.

Most applications also have threads that sleep or poll for ever, for monitoring or schedules. Such a
thread could release the lock that the event loop waits for, but then it would be working for the
loop, and would have begun to do so after the loop had stopped. A thread that slept and polled
before that is taken to be unrelated. That is good evidence and not proof, so it must last longer.

A C extension may wait while it holds the GIL. The sign of that is a thread that wants the GIL and
does not get it although no thread uses the processor.
"""

from __future__ import annotations

import contextlib
import enum
import os
import platform
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from thestral.process.heartbeat import Heartbeat

# Positions of futex(2)'s arguments, with the call's number at 0, and the bits of its operation.
OPERATION, TIMEOUT = 2, 4
PRIVATE, REALTIME = 128, 256
COMMANDS = 127
WAIT_BITSET = 9  # the command whose time-out is a point in time and not a duration
TIME = struct.Struct("@ll")  # seconds, and a fraction
# Unit of a time-out's fraction, in seconds; MILLISECONDS: the argument itself is the time-out.
MILLISECONDS, MICRO, NANO = 0.0, 1e-6, 1e-9
# A poll with a longer time-out waits for its descriptors, and not for the clock.
LONGEST_POLL = 5.0  # seconds
# A thread that waits for the GIL wakes after this time at most to request it
# (sys.getswitchinterval(), 5 ms, and a margin). Such a time-out does not end the wait.
GIL_INTERVAL = 0.006  # seconds
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # per second of processor time
# Up to these shares of one processor do not count as progress: for the process, and more for each
# thread that wakes 200 times a second to request the GIL (0.1 % measured).
LEAST_SHARE = 0.05
GIL_SHARE = 0.005
LARGEST_FILE = 1 << 16  # bytes to read of a file in /proc
# Longest time between two checks that counts. After a longer one the supervisor itself has been
# stopped or suspended, probably with its workers.
LONGEST_STEP = 2.0  # seconds
# Time without a turn after which the event loop counts as blocked.
LATE = 3.0  # seconds


class Calls(NamedTuple):
    """Numbers of the system calls in which threads wait.

    Attributes:
        futex: futex(2), in which every lock waits.
        sleeps: calls that wait for the clock only.
        signal: pause(2), which only a signal ends.
        polls: calls that wait for descriptors, each with the position of its time-out and the unit
            of the time-out's fraction.
    """

    futex: int
    sleeps: Collection[int]
    signal: int | None
    polls: dict[int, tuple[int, float]]


CALLS = {
    "x86_64": Calls(
        futex=202,
        sleeps=(35, 230),  # nanosleep, clock_nanosleep
        signal=34,
        polls={
            7: (3, MILLISECONDS),  # poll
            23: (5, MICRO),  # select
            232: (4, MILLISECONDS),  # epoll_wait
            270: (5, NANO),  # pselect6
            271: (3, NANO),  # ppoll
            281: (4, MILLISECONDS),  # epoll_pwait
            441: (4, NANO),  # epoll_pwait2
        },
    ),
    "aarch64": Calls(
        futex=98,
        sleeps=(101, 115),
        signal=None,
        polls={22: (4, MILLISECONDS), 72: (5, NANO), 73: (3, NANO), 441: (4, NANO)},
    ),
}.get(platform.machine())


class Wait(enum.Enum):
    """Kinds of things that a thread waits for."""

    NOTHING = enum.auto()  # it runs, or is ready to run
    LOCK = enum.auto()  # a lock of its process, without a time-out; or a signal
    GIL = enum.auto()  # a lock, with the short time-out of a wait for the GIL
    CLOCK = enum.auto()  # the clock, a lock with a time-out, or descriptors for a short time
    OTHERS = enum.auto()  # events from outside: the network, files, other processes


@dataclass
class Symptom:
    """A sign that a process is stuck.

    Attributes:
        text: description for the log.
        patience: how many times as long as a proven deadlock it must last to count.
        seconds: how long it has been seen without a break.
    """

    text: str
    patience: int
    seconds: float = 0.0
    _seen: bool = False

    def note(self, seen: bool, step: float) -> None:
        """Note whether a check has seen it, `step` seconds after the last check."""
        self.seconds = self.seconds + step if seen and self._seen else 0.0
        self._seen = seen


@dataclass
class Watch:
    """Checks a process, and remembers what earlier checks have seen.

    Attributes:
        pid: the process.
        heartbeat: the heartbeat of the event loop in its main thread.
        silent: seconds for which the loop has not turned; 0.0 before its first turn.
    """

    pid: int
    heartbeat: Heartbeat
    silent: float = 0.0
    _beat: int = 0
    _looked: float = 0.0  # time of the last check
    _spent: float = 0.0  # processor time at the last check
    _switches: int = 0  # how often the main thread had begun to wait at the last check
    _habits: dict[int, Wait | None] = field(default_factory=dict)  # how each thread usually waits
    _brief: set[int] = field(default_factory=set)  # threads with short waits while the loop turned
    _want_gil: set[int] = field(default_factory=set)
    _stopped: Symptom = field(default_factory=lambda: Symptom("a signal has stopped it", 1))
    _deadlock: Symptom = field(
        default_factory=lambda: Symptom("every thread waits for a lock", 1),
    )
    _loop: Symptom = field(
        default_factory=lambda: Symptom(
            "the event loop waits for a lock, and other threads only sleep or poll", 3
        )
    )
    _gil: Symptom = field(
        default_factory=lambda: Symptom("a call that holds the GIL waits", 3),
    )

    @property
    def turns(self) -> bool:
        """Whether the loop is turning, or has not started yet."""
        return self.silent < LATE

    def stuck(self, patience: float) -> Symptom | None:
        """The reason why the process is stuck; None if it is not.

        Args:
            patience: seconds that a proven deadlock must have lasted.
        """
        for symptom in (self._stopped, self._deadlock, self._loop, self._gil):
            if symptom.seconds and symptom.seconds >= patience * symptom.patience:
                return symptom
        return None

    def look(self, now: float) -> None:
        """Check the process.

        Args:
            now: time.monotonic().
        """
        elapsed = now - self._looked
        step = elapsed if elapsed <= LONGEST_STEP else 0.0
        beat = self.heartbeat.last()
        turned = beat != self._beat
        blocked = bool(beat) and not turned
        self.silent = self.silent + step if blocked else 0.0
        threads = waits(self.pid)
        threads.pop(self.heartbeat.watcher(), None)
        waiting = sum(wait is Wait.GIL for wait in threads.values())
        spent = processor_time(self.pid)
        idle = spent - self._spent < elapsed * (LEAST_SHARE + waiting * GIL_SHARE)
        switches = voluntary_switches(self.pid)
        same_wait = blocked and switches == self._switches >= 0  # of the main thread
        self._note_habits(threads, blocked)
        self._note_gil_waiters(threads, blocked)
        self._looked, self._beat, self._spent, self._switches = now, beat, spent, switches
        stopped = is_stopped(self.pid)
        conclusive = idle and bool(threads) and not (stopped or turned)
        self._stopped.note(idle and stopped, step)
        self._deadlock.note(conclusive and self._is_deadlocked(threads), step)
        self._loop.note(conclusive and same_wait and self._is_loop_stuck(threads), step)
        self._gil.note(conclusive and self._is_gil_held(threads, same_wait), step)

    def _note_habits(self, threads: dict[int, Wait], blocked: bool) -> None:
        """Note how each thread waits while the loop turns. For a thread that was only seen running
        then, the first wait seen later counts.
        """
        known = self._habits
        if blocked:
            threads = {
                thread: known[thread] or wait for thread, wait in threads.items() if thread in known
            }
        else:
            self._brief = seen_or_known(Wait.GIL, threads, self._brief)
        self._habits = {thread: habit(wait, known.get(thread)) for thread, wait in threads.items()}

    def _is_deadlocked(self, threads: dict[int, Wait]) -> bool:
        """Whether the main thread waits for a lock without a time-out, and every other thread does
        so too or waits for the GIL.
        """
        others = set(threads.values()) <= {Wait.LOCK, Wait.GIL}
        return others and threads.get(self.pid) is Wait.LOCK

    def _is_loop_stuck(self, threads: dict[int, Wait]) -> bool:
        """Whether the main thread waits for a lock, and every other thread waits for a lock too, or
        sleeps and polls as it did before. A thread may be seen running between two such waits.
        """
        if threads.get(self.pid) is not Wait.LOCK:
            return False
        others = {thread: wait for thread, wait in threads.items() if wait is not Wait.LOCK}
        idle = all(self._habits.get(thread) is Wait.CLOCK for thread in others)
        return idle and Wait.OTHERS not in others.values()

    def _note_gil_waiters(self, threads: dict[int, Wait], blocked: bool) -> None:
        """Note which threads want the GIL while the loop is blocked. A thread with equally short
        waits for something else had them before the loop was blocked, and is left out. A thread
        that gets the GIL goes on to wait for something else.
        """
        waiters = seen_or_known(Wait.GIL, threads, self._want_gil) - self._brief
        self._want_gil = waiters if blocked else set()

    def _is_gil_held(self, threads: dict[int, Wait], same_wait: bool) -> bool:
        """Whether a thread wants the GIL, and no running thread could hold it."""
        running = {thread for thread, wait in threads.items() if wait is Wait.NOTHING}
        main_waits = same_wait or self.pid in self._want_gil
        return bool(self._want_gil) and running <= self._want_gil and main_waits


def habit(wait: Wait, before: Wait | None) -> Wait | None:
    """How a thread usually waits; None if that is not known yet.

    A thread that sleeps and polls is also seen at the work for which it wakes up: that does not
    change its habit.

    Args:
        wait: how it waits now.
        before: its habit so far.
    """
    if wait in (Wait.NOTHING, Wait.GIL) or (wait is Wait.OTHERS and before is Wait.CLOCK):
        return before
    return wait


def seen_or_known(wait: Wait, threads: dict[int, Wait], known: set[int]) -> set[int]:
    """Threads that wait so now, or that did before and are running between two such waits."""
    return {
        thread
        for thread, now in threads.items()
        if now is wait or (now is Wait.NOTHING and thread in known)
    }


def waits(pid: int) -> dict[int, Wait]:
    """Return what each thread of a process waits for; empty if that cannot be known."""
    found = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[int(thread)] = wait_of(pid, read(f"/proc/{pid}/task/{thread}/syscall"))
    except (OSError, IndexError, ValueError, struct.error):
        return {}  # the process is gone, or must not be inspected
    return found


def wait_of(pid: int, call: str) -> Wait:
    """Return what a thread waits for.

    Args:
        pid: its process, from whose memory time-outs are read.
        call: the thread's /proc/PID/task/TID/syscall (proc(5)): number and arguments, or "running".
    """
    words = call.split()
    if words[0] in ("running", "-1"):
        return Wait.NOTHING
    number = int(words[0])
    arguments = [0, *(int(word, 16) for word in words[1:7])]
    if CALLS is None:
        return Wait.OTHERS
    if number == CALLS.futex:
        operation, timeout = arguments[OPERATION], arguments[TIMEOUT]
        if not operation & PRIVATE:
            return Wait.OTHERS  # another process may release the lock
        if not timeout:
            return Wait.LOCK
        left = time_at(pid, timeout, NANO)
        if operation & COMMANDS == WAIT_BITSET:
            left -= time.time() if operation & REALTIME else time.monotonic()
        return Wait.CLOCK if left > GIL_INTERVAL else Wait.GIL
    if number in CALLS.sleeps:
        return Wait.CLOCK
    if number == CALLS.signal:
        return Wait.LOCK
    if number in CALLS.polls:
        position, fraction = CALLS.polls[number]
        seconds = poll_time(pid, arguments[position], fraction)
        return Wait.CLOCK if seconds <= LONGEST_POLL else Wait.OTHERS
    return Wait.OTHERS


def poll_time(pid: int, argument: int, fraction: float) -> float:
    """Time-out of a wait for descriptors, in seconds.

    Args:
        pid: the process.
        argument: the time-out in milliseconds, or its address.
        fraction: unit of the time-out's fraction, in seconds; or MILLISECONDS.
    """
    if fraction == MILLISECONDS:
        milliseconds = argument & 0xFFFFFFFF  # a C int; negative means without a time-out
        return milliseconds / 1000 if milliseconds < 0x80000000 else float("inf")
    return time_at(pid, argument, fraction) if argument else float("inf")


def time_at(pid: int, address: int, fraction: float) -> float:
    """Seconds of a timespec or timeval at an address of a process's memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        whole, part = TIME.unpack(memory.read(TIME.size))
    return float(whole + part * fraction)


def read(path: str) -> str:
    """Content of a file in /proc, read with one system call so that it is consistent.

    Raises:
        OSError: the process is gone, or this one has no permission to inspect it.
    """
    with open(path, "rb", buffering=0) as file:
        return file.read(LARGEST_FILE).decode("ascii", "replace")


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; empty if it cannot be read."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return []


def processor_time(pid: int) -> float:
    """Processor time that a process has used, user and system, in seconds."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def voluntary_switches(pid: int) -> int:
    """How often the main thread has begun to wait; -1 if that cannot be known."""
    try:
        lines = read(f"/proc/{pid}/task/{pid}/status").splitlines()
    except OSError:
        return -1
    found = [line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches:")]
    return int(found[0]) if found else -1


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP or a terminal."""
    return stat(pid)[:1] == ["T"]


def resident_size(pid: int) -> int | None:
    """Resident memory of a process in bytes; None where that cannot be known."""
    try:
        pages = int(read(f"/proc/{pid}/statm").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Whether a worker is alive, seen from outside: what the kernel says of its threads, and whether
its event loop turns. The worker itself need not run a line of code for it.

A worker that computes is alive, however long it holds the GIL: its processor time grows. One whose
main thread waits for the network, a file or the clock, also in a lock's time-out, may go on. A
process is deadlocked if each of its threads waits for one of its own locks without a time-out.

Most applications also have threads that sleep or poll for ever, for monitoring or schedules. Such a
thread could release the lock that the event loop waits for, but then it would be working for the
loop, and would have begun to after the loop stopped turning. If it slept and polled before that, it
is taken to go about its own business. That is good evidence, not proof, so it must last longer.

A C extension may wait while it holds the GIL. It shows by another thread that wants the GIL and
does not get it, although nobody uses the processor.
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

# Arguments of futex(2), counted with the call's number in front, and bits of the operation.
OPERATION, TIMEOUT = 2, 4
PRIVATE, REALTIME = 128, 256
COMMANDS = 127
WAIT_BITSET = 9  # of the commands the one whose time-out is a point in time
TIME = struct.Struct("@ll")  # seconds, and a fraction
# What the fraction of a time-out counts, in seconds; in milliseconds the argument is the time-out.
MILLISECONDS, MICRO, NANO = 0.0, 1e-6, 1e-9
# A longer wait for descriptors is a wait for what comes there.
LONGEST_POLL = 5.0  # seconds
# A thread that waits for the GIL looks after so many seconds whether it should ask for it
# (sys.getswitchinterval()). That is no time-out that could change anything.
GIL_INTERVAL = 0.006
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# Shares of one processor that are no progress: of a process, and of each thread that wakes 200
# times a second to ask for the GIL (0.1 % measured).
LEAST_SHARE = 0.05
GIL_SHARE = 0.005
LARGEST_FILE = 1 << 16  # bytes of a file in /proc
# Longest time between two looks that counts, in seconds: a supervisor that has not looked for
# longer was stopped or suspended itself, probably with its workers.
LONGEST_STEP = 2.0
# A loop that has not turned for so many seconds does not turn now.
LATE = 3.0


class Calls(NamedTuple):
    """Numbers of system calls.

    Attributes:
        futex: by which every lock waits.
        sleeps: that wait for the clock alone.
        signal: pause(2), which only a signal ends.
        polls: that wait for descriptors: position of the time-out, and what its fraction counts.
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
    """What a thread waits for."""

    NOTHING = enum.auto()  # it runs, or would if it had a processor
    LOCK = enum.auto()  # of its process, without a time-out; or a signal
    GIL = enum.auto()  # a lock, for the moment that one waits for the GIL
    CLOCK = enum.auto()  # or a lock with a time-out, or descriptors for a short time
    OTHERS = enum.auto()  # what may come from outside: network, files, other processes


@dataclass
class Symptom:
    """Something that may be wrong with a process.

    Attributes:
        text: for the log.
        patience: how many times longer than in a proven deadlock it must last to count.
        seconds: for which it has been seen without a break.
    """

    text: str
    patience: int
    seconds: float = 0.0
    _seen: bool = False

    def note(self, seen: bool, step: float) -> None:
        """Note a look, so many seconds after the last."""
        self.seconds = self.seconds + step if seen and self._seen else 0.0
        self._seen = seen


@dataclass
class Watch:
    """What was seen of a process.

    Attributes:
        pid: the process.
        heartbeat: of its event loop, which runs in its main thread.
        silent: seconds for which the loop has not turned; 0.0 before it has turned at all.
    """

    pid: int
    heartbeat: Heartbeat
    silent: float = 0.0
    _beat: int = 0
    _looked: float = 0.0
    _spent: float = 0.0
    _switches: int = 0  # of the main thread, between waiting and running
    _habits: dict[int, Wait | None] = field(default_factory=dict)
    _quick: set[int] = field(default_factory=set)
    _asking: set[int] = field(default_factory=set)
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
        """Whether the loop turns, or has not begun to."""
        return self.silent < LATE

    def stuck(self, patience: float) -> Symptom | None:
        """Why nothing can happen in the process any more; None if something can.

        Args:
            patience: seconds that a proven deadlock must have lasted.
        """
        for symptom in (self._stopped, self._deadlock, self._loop, self._gil):
            if symptom.seconds and symptom.seconds >= patience * symptom.patience:
                return symptom
        return None

    def look(self, now: float) -> None:
        """Look again.

        Args:
            now: time.monotonic().
        """
        elapsed = now - self._looked
        step = elapsed if elapsed <= LONGEST_STEP else 0.0
        beat = self.heartbeat.last()
        turned = beat != self._beat
        stands = bool(beat) and not turned
        self.silent = self.silent + step if stands else 0.0
        threads = waits(self.pid)
        waiting = sum(wait is Wait.GIL for wait in threads.values())
        spent = processor_time(self.pid)
        idle = spent - self._spent < elapsed * (LEAST_SHARE + waiting * GIL_SHARE)
        switches = voluntary_switches(self.pid)
        rests = stands and switches == self._switches >= 0
        self._note_habits(threads, stands)
        self._note_asking(threads, stands)
        self._looked, self._beat, self._spent, self._switches = now, beat, spent, switches
        stopped = is_stopped(self.pid)
        may_tell = idle and bool(threads) and not (stopped or turned)
        self._stopped.note(idle and stopped, step)
        self._deadlock.note(may_tell and self._is_deadlocked(threads), step)
        self._loop.note(may_tell and rests and self._is_beyond_help(threads), step)
        self._gil.note(may_tell and self._is_gil_kept(threads, rests), step)

    def _note_habits(self, threads: dict[int, Wait], stands: bool) -> None:
        """Note how each thread waits while the loop turns. Of one that was there then, but was only
        met as it ran, the first wait counts that is seen.
        """
        known = self._habits
        if stands:
            threads = {
                thread: known[thread] or wait for thread, wait in threads.items() if thread in known
            }
        else:
            self._quick = seen_or_known(Wait.GIL, threads, self._quick)
        self._habits = {thread: habit(wait, known.get(thread)) for thread, wait in threads.items()}

    def _is_deadlocked(self, threads: dict[int, Wait]) -> bool:
        """Whether every thread waits for a lock of this process, and none of them for a time
        only.
        """
        others = set(threads.values()) <= {Wait.LOCK, Wait.GIL}
        return others and threads.get(self.pid) is Wait.LOCK

    def _is_beyond_help(self, threads: dict[int, Wait]) -> bool:
        """Whether the main thread waits for a lock, and every other does so, too, or goes on to
        sleep and poll; it may be met between two waits.
        """
        if threads.get(self.pid) is not Wait.LOCK:
            return False
        others = {thread: wait for thread, wait in threads.items() if wait is not Wait.LOCK}
        idle = all(self._habits.get(thread) is Wait.CLOCK for thread in others)
        return idle and Wait.OTHERS not in others.values()

    def _note_asking(self, threads: dict[int, Wait], stands: bool) -> None:
        """Note which threads want the GIL while the loop does not turn. One that waits as briefly
        for something else did so before; one that gets the GIL will wait for something else.
        """
        asking = seen_or_known(Wait.GIL, threads, self._asking) - self._quick
        self._asking = asking if stands else set()

    def _is_gil_kept(self, threads: dict[int, Wait], rests: bool) -> bool:
        """Whether a thread wants the GIL, and none runs that could hold it."""
        running = {thread for thread, wait in threads.items() if wait is Wait.NOTHING}
        at_rest = rests or self.pid in self._asking
        return bool(self._asking) and running <= self._asking and at_rest


def habit(wait: Wait, before: Wait | None) -> Wait | None:
    """How a thread usually waits that is met so; None if that is not known yet. One that sleeps and
    polls also does what it wakes up for.
    """
    if wait in (Wait.NOTHING, Wait.GIL) or (wait is Wait.OTHERS and before is Wait.CLOCK):
        return before
    return wait


def seen_or_known(wait: Wait, threads: dict[int, Wait], known: set[int]) -> set[int]:
    """Threads that wait so now, and those that did and are met between two such waits."""
    return {
        thread
        for thread, now in threads.items()
        if now is wait or (now is Wait.NOTHING and thread in known)
    }


def waits(pid: int) -> dict[int, Wait]:
    """What each thread waits for; empty if that cannot be known."""
    found = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[int(thread)] = wait_of(pid, read(f"/proc/{pid}/task/{thread}/syscall"))
    except (OSError, IndexError, ValueError, struct.error):
        return {}  # the process is gone, or we may not look
    return found


def wait_of(pid: int, call: str) -> Wait:
    """What a thread waits for that makes a system call, as proc(5) has it: number, arguments."""
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
            return Wait.OTHERS  # another process may give the lock
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
    """Seconds that a wait for descriptors may take."""
    if fraction == MILLISECONDS:
        milliseconds = argument & 0xFFFFFFFF  # an int, which is negative for "without end"
        return milliseconds / 1000 if milliseconds < 0x80000000 else float("inf")
    return time_at(pid, argument, fraction) if argument else float("inf")


def time_at(pid: int, address: int, fraction: float) -> float:
    """Seconds in a timespec or timeval of a process's memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        whole, part = TIME.unpack(memory.read(TIME.size))
    return float(whole + part * fraction)


def read(path: str) -> str:
    """A file of /proc, which is read whole or not at all.

    Raises:
        OSError: its process is gone, or we may not look.
    """
    with open(path, "rb", buffering=0) as file:
        return file.read(LARGEST_FILE).decode("ascii", "replace")


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; empty if there is none."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return []


def processor_time(pid: int) -> float:
    """Seconds, user and system."""
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
    """Whether it was stopped, by SIGSTOP or a terminal."""
    return stat(pid)[:1] == ["T"]


def resident_size(pid: int) -> int | None:
    """Bytes of memory that it holds; None where that cannot be seen."""
    try:
        pages = int(read(f"/proc/{pid}/statm").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Whether a worker is alive, seen from outside: what the kernel says of its threads.

A worker that computes is alive however long it holds the GIL, because its processor time grows. One
that waits for the network, a file or a clock may go on, also if the clock is a lock's time-out. One
whose every thread waits for a lock that only one of them could give is dead: nothing will wake it.
None of this needs the worker to run a line of code, so a busy one is never taken for a dead one.
"""

from __future__ import annotations

import os
import platform
import struct
import time
from dataclasses import dataclass
from pathlib import Path

# Number of futex(2), by which every lock waits.
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
# Arguments of futex, counted with the call's number in front, and bits of the operation.
OPERATION, TIMEOUT = 2, 4
PRIVATE, REALTIME = 128, 256
COMMANDS = 127
WAIT_BITSET = 9  # of the commands the one whose time-out is a point in time
TIMESPEC = struct.Struct("@ll")  # seconds, nanoseconds
# A thread that waits for the GIL looks after so many seconds whether it should ask for it
# (sys.getswitchinterval()). That is no time-out that could change anything.
GIL_INTERVAL = 0.006
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# A thread that waits for the GIL wakes 200 times a second to ask for it: no progress.
LEAST_SHARE = 0.05  # of one processor


@dataclass
class Watch:
    """What was seen of a process.

    Attributes:
        pid: the process.
        since: time.monotonic() since when nothing could have happened in it; 0.0 if all is well.
    """

    pid: int
    since: float = 0.0
    _looked: float = 0.0
    _spent: float = 0.0

    def stuck_for(self, now: float) -> float:
        """Look again; returns for how many seconds the process has been stuck."""
        spent = processor_time(self.pid)
        elapsed = now - self._looked
        idle = spent - self._spent < elapsed * LEAST_SHARE
        self._looked = now
        self._spent = spent
        if not (idle and (is_stopped(self.pid) or is_deadlocked(self.pid))):
            self.since = 0.0
            return 0.0
        self.since = self.since or now
        return now - self.since


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def processor_time(pid: int) -> float:
    """Seconds, user and system."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def is_stopped(pid: int) -> bool:
    """Whether it was stopped, by SIGSTOP or a terminal."""
    return stat(pid)[:1] == ["T"]


def is_deadlocked(pid: int) -> bool:
    """Whether every thread waits for a lock of this process, and none of them for a time only."""
    if FUTEX is None:
        return False
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            words = Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()
            if words[0] != str(FUTEX):
                return False
            operation, timeout = int(words[OPERATION], 16), int(words[TIMEOUT], 16)
            if not operation & PRIVATE:
                return False  # another process may give the lock
            if timeout and (thread == str(pid) or is_long(pid, operation, timeout)):
                return False
    except (OSError, IndexError, ValueError):
        return False  # it is gone, or we may not look
    return bool(threads)


def is_long(pid: int, operation: int, address: int) -> bool:
    """Whether a time-out of futex is longer than those of threads that wait for the GIL.

    Args:
        pid: the process.
        operation: of the call.
        address: of the time-out in the process's memory.
    """
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        seconds, nanoseconds = TIMESPEC.unpack(memory.read(TIMESPEC.size))
    left: float = seconds + nanoseconds / 1e9
    if operation & COMMANDS == WAIT_BITSET:
        left -= time.time() if operation & REALTIME else time.monotonic()
    return left > GIL_INTERVAL


def resident_size(pid: int) -> int | None:
    """Bytes of memory that it holds; None where that cannot be seen."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

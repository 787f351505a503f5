"""Whether a worker is alive, seen from outside: what the kernel says of its threads.

A worker that computes is alive however long it holds the GIL, because its processor time grows. One
that waits for the network, a file or a clock may go on. One whose every thread waits for a lock
that only one of them could give is dead: nothing will wake it. None of this needs the worker to run
a line of code, so a busy one is never taken for a dead one.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Number of futex(2), by which every lock waits.
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
TIMEOUT_ARGUMENT = 4  # of futex, counted with the call's number in front
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
    """Whether the main thread waits for a lock without end, and all others for locks."""
    if FUTEX is None:
        return False
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            words = Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()
            if words[0] != str(FUTEX):
                return False
            if thread == str(pid) and int(words[TIMEOUT_ARGUMENT], 16) != 0:
                return False
    except (OSError, IndexError):
        return False  # it is gone, or we may not look
    return bool(threads)


def resident_size(pid: int) -> int | None:
    """Bytes of memory that it holds; None where that cannot be seen."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Processor time and memory of a process and its descendants, as Linux counts them."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

CPUCLOCK_SCHED = 2  # linux/posix-timers.h: user and system time of a whole process


class ProcessTree:
    """A process and all that descend from it; processes that have ended count no more."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        """Those that live; a parent is before its children."""
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # Behind the name in parentheses, which may hold anything: state, parent.
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
        found = [self.pid] if self.pid in parents else []
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def processor_time(self) -> float:
        """Seconds of user and system time of all threads, to the nanosecond."""
        spent = 0.0
        for pid in self.pids():
            try:
                spent += time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
            except OSError:
                continue
        return spent

    def resident(self) -> int:
        """Bytes of memory now; a page that processes share counts for each."""
        return sum(self._status(pid, "VmRSS") for pid in self.pids()) * 1024

    def peak(self) -> int:
        """The most bytes each process has ever held, added up."""
        return sum(self._status(pid, "VmHWM") for pid in self.pids()) * 1024

    def wake_ups(self) -> int:
        """How often a thread has gone to sleep of its own will, and so has been woken."""
        found = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*"):
                found += self._status(f"{pid}/task/{task.name}", "voluntary_ctxt_switches")
        return found

    def descriptors(self) -> int:
        """Open files and sockets."""
        found = 0
        for pid in self.pids():
            with suppress(OSError):  # gone meanwhile
                found += len(os.listdir(f"/proc/{pid}/fd"))
        return found

    @staticmethod
    def _status(task: int | str, field: str) -> int:
        try:
            text = Path(f"/proc/{task}/status").read_text()
        except OSError:
            return 0
        found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

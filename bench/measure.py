"""Processor time and memory of a process and its descendants, as Linux counts them."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

CPUCLOCK_SCHED = 2  # linux/posix-timers.h: user and system time of a whole process


class ProcessTree:
    """A process and its descendants; ended processes do not count."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        """Return the living processes, each parent before its children."""
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # State and parent follow the name in parentheses, which may contain anything.
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
        found = [self.pid] if self.pid in parents else []
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def processor_time(self) -> float:
        """Return seconds of user and system time of all threads, exact to the nanosecond."""
        spent = 0.0
        for pid in self.pids():
            try:
                spent += time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
            except OSError:
                continue
        return spent

    def resident(self) -> int:
        """Return bytes of resident memory; a page that processes share counts for each."""
        return sum(self._status(pid, "VmRSS") for pid in self.pids()) * 1024

    def peak(self) -> int:
        """Return bytes of resident memory of each process at its highest, added up."""
        return sum(self._status(pid, "VmHWM") for pid in self.pids()) * 1024

    def wake_ups(self) -> int:
        """Return the number of voluntary context switches: each is a sleep that something ended."""
        found = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*"):
                found += self._status(f"{pid}/task/{task.name}", "voluntary_ctxt_switches")
        return found

    def descriptors(self) -> int:
        """Return the number of open files and sockets."""
        found = 0
        for pid in self.pids():
            with suppress(OSError):  # it has ended
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

"""The supervisor's side of the slots in which workers count: it gives a free slot to each new
process, and reads all of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

from thestral._csrc import ffi, lib
from thestral.metrics.snapshot import (
    Counts,
    Queue,
    Snapshot,
    WorkerState,
    read_counts,
    read_worker,
)
from thestral.process.health import TICKS, resident_size
from thestral.process.memory import SharedMemory

SLOT_SIZE: int = ffi.sizeof("th_slot")  # bytes
# Linux' struct tcp_info: the first byte is the state. Of a listening socket, tcpi_unacked is the
# number of connections that wait, and tcpi_sacked the number that may wait.
TCP_INFO = struct.Struct("=B23xII")
TCP_LISTEN = 10
# Causes of a worker's end.
STOPPED = "stopped"  # by a signal, a reload, a rolling restart, or for a lower number of workers
RECYCLED = "recycled"  # it had reached a limit
KILLED = "killed"  # by the supervisor: it was stuck, or late to start or to stop
FAILED = "failed"  # it could not start
DIED = "died"  # by itself, or killed by somebody else
CAUSES = (STOPPED, RECYCLED, KILLED, FAILED, DIED)


class Slot(SharedMemory):
    """The memory of a th_slot (csrc/metrics.h). Pages that are never written take no memory.

    Attributes:
        number: of the worker that has it; 0 without a supervisor.
    """

    def __init__(self, number: int = 0, descriptor: int = -1) -> None:
        super().__init__(SLOT_SIZE, descriptor)
        self.number = number
        self._buffer: Any = ffi.from_buffer(self.memory)
        self.slot: Any = ffi.cast("th_slot *", self._buffer)

    def close(self) -> None:
        self.slot = None
        ffi.release(self._buffer)
        super().close()

    def __reduce__(self) -> tuple[Any, ...]:
        return receive, (self.number, self.duplicate())


def receive(number: int, sent: Any) -> Slot:
    """Rebuild, in a new process, the slot that __reduce__ has sent."""
    return Slot(number, sent.detach())


class Metrics:
    """All slots of a server. A slot whose process has ended is kept for the next one, so counts
    never get lost.

    Args:
        sockets: returns the listening sockets, whose queues are measured.
        certificates: returns the ends of the certificates' validity; see Snapshot.

    Attributes:
        starts: number of processes that got a slot.
        ends: number of processes that have ended, by cause.
    """

    def __init__(
        self,
        sockets: Callable[[], Iterable[socket.socket]],
        certificates: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._taken: list[Slot] = []
        self._free: list[Slot] = []
        self.starts = 0
        self.ends = dict.fromkeys(CAUSES, 0)
        self._sockets = sockets
        self._certificates = certificates

    def take(self, number: int) -> Slot:
        """Return a slot for a process that is about to start. Processes of the same number may run
        at the same time, each with a slot of its own.

        Raises:
            OSError: no descriptor or no memory is left.
        """
        last = [slot for slot in self._free if slot.number == number]
        slot = last[0] if last else self._free[0] if self._free else Slot()
        if slot in self._free:
            self._free.remove(slot)
        slot.number = number
        self._taken.append(slot)
        self.starts += 1
        return slot

    def give_back(self, slot: Slot, cause: str) -> None:
        """Take back the slot of a process that has ended.

        Args:
            cause: one of CAUSES.
        """
        lib.th_slot_leave(slot.slot)
        self._taken.remove(slot)
        self._free.append(slot)
        self.ends[cause] += 1

    def snapshot(self) -> Snapshot:
        """Read all slots. Takes some milliseconds, depending on the number of routes."""
        now = lib.th_now()
        counts = Counts()
        workers = []
        for slot in [*self._taken, *self._free]:
            worker = read_worker(slot.slot, now)
            if worker is None:
                counts += read_counts(slot.slot)
                continue
            counts += worker.counts
            look_at(worker)
            workers.append(worker)
        workers.sort(key=lambda worker: (worker.number, -worker.age))
        return Snapshot(
            workers,
            counts,
            self.starts,
            dict(self.ends),
            queues_of(self._sockets()),
            self._certificates(),
        )

    def close(self, but: Slot | None = None) -> None:
        """Unmap all slots, except the one that this process goes on using."""
        for slot in [*self._taken, *self._free]:
            if slot is not but:
                slot.close()


def look_at(worker: WorkerState) -> None:
    """Ask the system which resources a process uses; works even while the process is stuck."""
    worker.resident = resident_size(worker.pid)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{worker.pid}/stat") as file:
            # The name in parentheses may itself contain spaces and parentheses.
            fields = file.read().rpartition(")")[2].split()
        worker.processor = (int(fields[11]) + int(fields[12])) / TICKS
    with contextlib.suppress(OSError):
        worker.descriptors = len(os.listdir(f"/proc/{worker.pid}/fd"))


def queues_of(sockets: Iterable[socket.socket]) -> list[Queue]:
    """The queues of listening TCP sockets; only Linux reports them."""
    found: dict[str, Queue] = {}
    for sock in sockets if sys.platform == "linux" else ():
        if sock.family == socket.AF_UNIX:
            continue
        with contextlib.suppress(OSError):
            data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            state, waiting, most = TCP_INFO.unpack(data)
            if state == TCP_LISTEN:
                host, port = sock.getsockname()[:2]
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                queue = found.setdefault(address, Queue(address, 0, 0))
                queue.waiting += waiting  # with SO_REUSEPORT there is one for each worker
                queue.most += most
    return list(found.values())

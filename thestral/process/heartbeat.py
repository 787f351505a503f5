"""When a worker's event loop last turned, in memory that the worker shares with its supervisor."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import Any

# How often the loop writes, in seconds, or four times within the shortest block that counts.
SLOWEST_BEAT = 1.0
BEATS_PER_BLOCK = 4
TURNED = struct.Struct("@q")  # nanoseconds of CLOCK_MONOTONIC


class Heartbeat:
    """Eight bytes that one process writes and another reads: no lock, no system call, and nothing
    to wait for if either of them is stuck.

    It can be sent to a process that starts, by fork or by spawn; let_go() follows there and here.

    Args:
        descriptor: of the memory [default: new memory].

    Raises:
        OSError: no descriptor or memory is left.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor if descriptor >= 0 else new_memory(TURNED.size)
        try:
            self._memory = mmap.mmap(self._descriptor, TURNED.size)
        except BaseException:
            self.let_go()
            raise

    def beat(self) -> None:
        TURNED.pack_into(self._memory, 0, time.monotonic_ns())

    def last(self) -> int:
        """time.monotonic_ns() of the last beat; 0 before the first."""
        turned: int = TURNED.unpack_from(self._memory)[0]
        return turned

    def let_go(self) -> None:
        """Close the descriptor, which only a process that starts needs."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        self.let_go()
        self._memory.close()

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.reduction import DupFd  # only a supervisor sends

        return receive, (DupFd(self._descriptor),)


def receive(sent: Any) -> Heartbeat:
    """What __reduce__ has sent, in the process that was started."""
    return Heartbeat(sent.detach())


def new_memory(size: int) -> int:
    """Descriptor of memory without a name, filled with zeros."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("thestral")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def beat_interval(blocked: float | None) -> float:
    """Seconds between two beats.

    Args:
        blocked: for how many seconds a loop may not turn; None if nobody asks.
    """
    return min(SLOWEST_BEAT, (blocked or SLOWEST_BEAT * BEATS_PER_BLOCK) / BEATS_PER_BLOCK)

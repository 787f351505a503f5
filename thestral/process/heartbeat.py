"""When a worker's event loop last turned, and what blocks it, in memory that the worker shares with
its supervisor.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from typing import Any

SLOWEST_BEAT = 1.0  # longest time between two beats, in seconds
BEATS_PER_BLOCK = 4  # fewest beats within --timeout-worker-blocked
# Nanoseconds of CLOCK_MONOTONIC; number of the watchdog's thread; length of the request's name.
TURNED = struct.Struct("@q")
WATCHER = struct.Struct("@q")
LENGTH = struct.Struct("@q")
AT_WATCHER = TURNED.size
AT_LENGTH = AT_WATCHER + WATCHER.size
AT_TITLE = AT_LENGTH + LENGTH.size
SIZE = 1024  # bytes of the memory


class Heartbeat:
    """Shared memory that one process writes and another reads: without a lock or a system call, so
    that neither waits if the other is stuck.

    A heartbeat can be sent to a new process by fork or by spawn. Both processes then call
    close_descriptor().

    Args:
        descriptor: descriptor of the memory; -1 for new memory.

    Raises:
        OSError: no descriptor or no memory is left.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor if descriptor >= 0 else new_memory(SIZE)
        try:
            self._memory = mmap.mmap(self._descriptor, SIZE)
        except BaseException:
            self.close_descriptor()
            raise

    def beat(self) -> None:
        TURNED.pack_into(self._memory, 0, time.monotonic_ns())

    def last(self) -> int:
        """time.monotonic_ns() of the last beat; 0 before the first."""
        turned: int = TURNED.unpack_from(self._memory)[0]
        return turned

    def note_watcher(self, thread: int) -> None:
        """Note the kernel's number of the watchdog's thread."""
        WATCHER.pack_into(self._memory, AT_WATCHER, thread)

    def watcher(self) -> int:
        """The watchdog's thread; 0 if there is none."""
        thread: int = WATCHER.unpack_from(self._memory, AT_WATCHER)[0]
        return thread

    def note_request(self, title: str) -> None:
        """Note the request in which the loop is blocked; "" once it turns."""
        data = title.encode("utf-8", "replace")[: SIZE - AT_TITLE]
        LENGTH.pack_into(self._memory, AT_LENGTH, 0)
        self._memory[AT_TITLE : AT_TITLE + len(data)] = data
        LENGTH.pack_into(self._memory, AT_LENGTH, len(data))

    def request(self) -> str:
        """The request in which the loop is blocked; "" if it is not, or that is not known."""
        length: int = LENGTH.unpack_from(self._memory, AT_LENGTH)[0]
        return self._memory[AT_TITLE : AT_TITLE + length].decode("utf-8", "replace")

    def close_descriptor(self) -> None:
        """Close the descriptor, which is only needed to start a process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        self.close_descriptor()
        self._memory.close()

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.reduction import DupFd  # only a supervisor needs it

        return receive, (DupFd(self._descriptor),)


def receive(sent: Any) -> Heartbeat:
    """Rebuild, in a new process, the heartbeat that __reduce__ has sent."""
    return Heartbeat(sent.detach())


def new_memory(size: int) -> int:
    """Descriptor of anonymous memory, filled with zeros."""
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
        blocked: seconds after which a loop counts as blocked; None if there is no limit.
    """
    return min(SLOWEST_BEAT, (blocked or SLOWEST_BEAT * BEATS_PER_BLOCK) / BEATS_PER_BLOCK)

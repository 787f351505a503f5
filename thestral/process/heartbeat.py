"""When a worker's event loop last turned, and what blocks it, in memory that the worker shares with
its supervisor.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from thestral.process.memory import SharedMemory

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


class Heartbeat(SharedMemory):
    """When the loop last turned, and what blocks it. Both processes call close_descriptor() once
    the new one has been started.

    Args:
        descriptor: as in SharedMemory.

    Raises:
        OSError: as in SharedMemory.
    """

    def __init__(self, descriptor: int = -1) -> None:
        super().__init__(SIZE, descriptor)

    def beat(self) -> None:
        TURNED.pack_into(self.memory, 0, time.monotonic_ns())

    def last(self) -> int:
        """time.monotonic_ns() of the last beat; 0 before the first."""
        turned: int = TURNED.unpack_from(self.memory)[0]
        return turned

    def note_watcher(self, thread: int) -> None:
        """Note the kernel's number of the watchdog's thread."""
        WATCHER.pack_into(self.memory, AT_WATCHER, thread)

    def watcher(self) -> int:
        """The watchdog's thread; 0 if there is none."""
        thread: int = WATCHER.unpack_from(self.memory, AT_WATCHER)[0]
        return thread

    def note_request(self, title: str) -> None:
        """Note the request in which the loop is blocked; "" once it turns."""
        data = title.encode("utf-8", "replace")[: SIZE - AT_TITLE]
        LENGTH.pack_into(self.memory, AT_LENGTH, 0)
        self.memory[AT_TITLE : AT_TITLE + len(data)] = data
        LENGTH.pack_into(self.memory, AT_LENGTH, len(data))

    def request(self) -> str:
        """The request in which the loop is blocked; "" if it is not, or that is not known."""
        length: int = LENGTH.unpack_from(self.memory, AT_LENGTH)[0]
        return self.memory[AT_TITLE : AT_TITLE + length].decode("utf-8", "replace")

    def __reduce__(self) -> tuple[Any, ...]:
        return receive, (self.duplicate(),)


def receive(sent: Any) -> Heartbeat:
    """Rebuild, in a new process, the heartbeat that __reduce__ has sent."""
    return Heartbeat(sent.detach())


def beat_interval(blocked: float | None) -> float:
    """Seconds between two beats.

    Args:
        blocked: seconds after which a loop counts as blocked; None if there is no limit.
    """
    return min(SLOWEST_BEAT, (blocked or SLOWEST_BEAT * BEATS_PER_BLOCK) / BEATS_PER_BLOCK)

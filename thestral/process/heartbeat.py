"""When a worker's event loop last turned, in memory that the worker shares with its supervisor."""

from __future__ import annotations

import struct
import time
from typing import Any

from thestral.process.memory import SharedMemory

SLOWEST_BEAT = 1.0  # longest time between two beats, in seconds
BEATS_PER_BLOCK = 4  # fewest beats within --timeout-worker-blocked
TURNED = struct.Struct("@q")  # nanoseconds of CLOCK_MONOTONIC


class Heartbeat(SharedMemory):
    """Eight bytes of shared memory. Both processes call close_descriptor() once the new one has
    been started.

    Args:
        descriptor: as in SharedMemory.

    Raises:
        OSError: as in SharedMemory.
    """

    def __init__(self, descriptor: int = -1) -> None:
        super().__init__(TURNED.size, descriptor)

    def beat(self) -> None:
        TURNED.pack_into(self.memory, 0, time.monotonic_ns())

    def last(self) -> int:
        """time.monotonic_ns() of the last beat; 0 before the first."""
        turned: int = TURNED.unpack_from(self.memory)[0]
        return turned

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

"""Memory that a process shares with its supervisor."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any


class SharedMemory:
    """Anonymous memory, which can be sent to a new process by fork or by spawn. One process writes
    and others read, without a lock or a system call, so that nobody waits if another is stuck.

    Args:
        size: in bytes.
        descriptor: descriptor of the memory; -1 for new memory, filled with zeros.

    Raises:
        OSError: no descriptor or no memory is left.
    """

    def __init__(self, size: int, descriptor: int = -1) -> None:
        self._descriptor = descriptor if descriptor >= 0 else new_memory(size)
        try:
            self.memory = mmap.mmap(self._descriptor, size)
        except BaseException:
            self.close_descriptor()
            raise

    def close_descriptor(self) -> None:
        """Close the descriptor, which is only needed to start a process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        self.close_descriptor()
        self.memory.close()

    def duplicate(self) -> Any:
        """The descriptor, as multiprocessing sends it."""
        from multiprocessing.reduction import DupFd  # only a supervisor needs it

        return DupFd(self._descriptor)


def new_memory(size: int) -> int:
    """Descriptor of anonymous memory, filled with zeros."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("thestral")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor

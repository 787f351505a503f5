"""Memory that ends at a page nobody may touch: a read or write beyond it kills the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

from thestral._csrc import ffi

PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guard:
    """At least `room` bytes, then a page without access.

    Args:
        room: bytes that place() and space() can ask for.
    """

    def __init__(self, room: int = PAGE) -> None:
        self._room = -(-room // PAGE) * PAGE
        self._memory = mmap.mmap(-1, self._room + PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        if _libc.mprotect(start + self._room, PAGE, PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        self._end = ffi.cast("char *", start + self._room)

    def place(self, data: bytes) -> Any:
        """A pointer to data, whose last byte is the last that may be read."""
        pointer = self.space(len(data))
        ffi.memmove(pointer, data, len(data))
        return pointer

    def space(self, size: int) -> Any:
        """A pointer to exactly that many bytes, filled with 0xee."""
        assert size <= self._room
        ffi.memmove(self._end - size, b"\xee" * size, size)
        return self._end - size

    def poison(self) -> None:
        """Overwrite all of it, as its next owner would."""
        self.space(self._room)

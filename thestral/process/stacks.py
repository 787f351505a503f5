"""The stacks of this process: of its threads, and of the tasks of its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from thestral.process.memory import new_memory
from thestral.process.signals import free_signal

MOST_TASKS = 200
DEEPEST = 100  # calls of a thread's stack, the innermost, or awaits of a task
LARGEST_TEXT = 1 << 18  # characters
# A longer message may go through a pipe in two parts: a process that is stopped between them would
# keep the reader waiting.
LARGEST_PART = 3000  # characters, of at most 4 bytes each


def stacks(loop: asyncio.AbstractEventLoop) -> str:
    """Return the stacks of all threads and of the tasks of a loop, as text.

    To be called in the loop. The stack of the loop's own thread is left out: it only shows this
    call.
    """
    here = threading.get_ident()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if ident != here:
            lines.append(f"Thread {names.get(ident, '?')!r} [{ident}]:\n")
            lines += traceback.format_stack(frame, DEEPEST)
    tasks = list(asyncio.all_tasks(loop))
    for task in tasks[:MOST_TASKS]:
        lines.append(f"Task {task.get_name()!r}:\n")
        lines += stack_of(task)
    if len(tasks) > MOST_TASKS:
        lines.append(f"and {len(tasks) - MOST_TASKS} more tasks\n")
    text = "".join(lines)
    return text if len(text) <= LARGEST_TEXT else text[:LARGEST_TEXT] + "... (cut)\n"


def stack_of(task: asyncio.Task[Any]) -> list[str]:
    """Return the stack of a task, as lines: each coroutine that it awaits, the innermost last.
    asyncio's own Task.get_stack() has only the outermost.
    """
    calls = [
        traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)
        for frame in frames_of(task.get_coro())
    ]
    return traceback.StackSummary.from_list(calls).format() or ["  (not in Python)\n"]


def frames_of(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine or generator, and of what it awaits."""
    for _ in range(DEEPEST):
        for frame, awaits in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom")):
            found = getattr(awaited, frame, None)
            if found is not None:
                yield found
                awaited = getattr(awaited, awaits, None)
                break
        else:
            return


def parts_of(text: str) -> list[str]:
    """Split a text into parts that each fit into one message."""
    return [text[start : start + LARGEST_PART] for start in range(0, len(text), LARGEST_PART)]


# --- From a process that does not answer ----------------------------------------------------------


def offer_dump() -> tuple[int, int] | None:
    """Make faulthandler write the stacks of all threads to a file in memory when a signal comes.
    It needs neither the GIL nor the loop for that.

    Returns:
        The signal, an unused one, and the file's descriptor; None where the system has no such
        signals.
    """
    number = free_signal()
    if number is None:
        return None
    import fcntl

    memory = new_memory(0)
    # The reader empties the file; with O_APPEND the next dump starts at the beginning again.
    fcntl.fcntl(memory, fcntl.F_SETFL, os.O_APPEND)
    faulthandler.register(number, memory, all_threads=True)
    return number, memory


class Dump:
    """Reads from another process the stacks that it offers by offer_dump().

    Raises:
        OSError: the process has ended.
    """

    def __init__(self, pid: int, number: int, descriptor: int) -> None:
        self._pid = pid
        self._signal = number
        self._file = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)

    def ask(self) -> None:
        """Ask for the stacks. They are written as soon as the kernel lets the process run."""
        os.ftruncate(self._file, 0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, self._signal)

    def read(self) -> str:
        """The stacks that have been written; "" if there are none (yet)."""
        return os.pread(self._file, LARGEST_TEXT, 0).decode("utf-8", "replace")

    def close(self) -> None:
        os.close(self._file)

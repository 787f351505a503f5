"""Log output to a pipe, socket or terminal that nobody may read: wait for the reader, but not for
ever; then drop lines, and say how many.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

# Bytes written at once. A pipe takes this much in one piece (PIPE_BUF), so that lines of several
# workers do not mix, and without blocking if it polls as writable.
BATCH = 4096
# The same for a terminal, which may poll as writable with 256 bytes of room, and makes a line feed
# two bytes.
TERMINAL_BATCH = 128  # bytes
# How long to wait for a reader that has fallen behind.
READER_PATIENCE = 1000  # milliseconds
# The longest form of a character in a stream: \U0001f600, where the encoding lacks it.
LONGEST_CHARACTER = 10  # bytes


class BoundedStreamHandler(logging.StreamHandler[Any]):
    """A StreamHandler that drops lines where others would block for ever.

    It waits READER_PATIENCE for the reader of a pipe, a socket or a terminal. Then lines are lost,
    without another wait, until the stream takes some again; the error log says how many.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__(stream)
        self._lost = 0  # lines since the reader fell behind
        self._line_is_cut = False  # the start of a line was written, its end is lost

    def handle(self, record: logging.LogRecord) -> Any:
        # Not within emit(), which holds the lock: another handler may be telling in its turn.
        if self._lost:
            self._tell_lost()
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count its lines as lost."""
        poll = poll_of(self.stream)
        if poll is None:
            super().emit(record)
            return
        try:
            text = self.format(record) + self.terminator
            if self._lost:
                self._lost += count_lines(text)
            else:
                self._write(text, poll)
        except RecursionError:  # as in StreamHandler.emit()
            raise
        except Exception:
            self.handleError(record)

    def _write(self, text: str, poll: select.poll) -> None:
        stream = self.stream
        deadline = time.monotonic() + READER_PATIENCE / 1000
        written = 0
        for piece in pieces(text, TERMINAL_BATCH if os.isatty(stream.fileno()) else BATCH):
            left = max(0.0, deadline - time.monotonic())
            if not poll.poll(left * 1000):
                self._lost += count_lines(text[written:])
                return
            stream.write(piece)
            stream.flush()
            written += len(piece)
            self._line_is_cut = not piece.endswith("\n")

    def _tell_lost(self) -> None:
        """Say how many lines were lost, if somebody reads again."""
        with self.lock or nullcontext():
            poll = poll_of(self.stream)
            if poll is not None and not poll.poll(0):
                return
            lost, self._lost = self._lost, 0
            if self._line_is_cut:
                self._line_is_cut = False
                with suppress(OSError, ValueError):  # the next line meets the same error
                    self.stream.write("\n")
        name = str(getattr(self.stream, "name", "it")).strip("<>")
        error_logger.error("%d lines of the log were lost: nobody read %s", lost, name)
        if self._lost:  # this one, too
            self._lost += lost

    def flush(self) -> None:
        """Write what the stream holds, unless nobody reads; say how many lines were lost."""
        poll = poll_of(self.stream)
        if poll is None or poll.poll(0):
            super().flush()
        if self._lost:
            self._tell_lost()


class LastResortHandler(BoundedStreamHandler):
    """Writes what loggers without a handler log to stderr, as logging's own does."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass  # StreamHandler.__init__() sets it


def bound_last_resort() -> None:
    """Replace logging's handler of last resort, if it is logging's own. asyncio writes there what
    the application's tasks have raised.
    """
    handler = logging.lastResort
    if handler is not None and type(handler).__module__ == logging.__name__:
        logging.lastResort = LastResortHandler()
        logging.lastResort.setLevel(handler.level)


def count_lines(text: str) -> int:
    return text.count("\n") or 1


def pieces(text: str, most: int) -> Iterator[str]:
    """Cut a text into pieces of at most `most` bytes, behind a line's end where there is one."""
    length = most if text.isascii() else most // LONGEST_CHARACTER
    start = 0
    while len(text) - start > length:
        end = text.rfind("\n", start, start + length) + 1 or start + length
        yield text[start:end]
        start = end
    yield text[start:]


def poll_of(stream: Any) -> select.poll | None:
    """A poll for room in a pipe, socket or terminal; None for what does not wait for a reader."""
    try:
        file = stream.fileno()
        mode = os.fstat(file).st_mode
    except (AttributeError, OSError, ValueError):  # no file, or a closed one
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)):
        return None
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return poll


def is_stderr(stream: Any) -> bool:
    """Whether what the error log says goes the same way."""
    try:
        return os.path.sameopenfile(stream.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False


error_logger = logging.getLogger("uvicorn.error")

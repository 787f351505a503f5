"""Log output to a pipe, socket or terminal whose reader may stall: wait for it, but not forever;
then drop lines and count them.
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

# Bytes per write. A pipe takes this much atomically (PIPE_BUF), so that the lines of several
# workers do not mix, and without blocking once poll() says that it is writable.
BATCH = 4096
# The same for a terminal, which may count as writable with room for 256 bytes, and turns a line
# feed into two bytes.
TERMINAL_BATCH = 128  # bytes
# How long to wait for a stalled reader.
READER_PATIENCE = 1000  # milliseconds
# The longest encoding of a character: \U0001f600, written as an escape.
LONGEST_CHARACTER = 10  # bytes


class BoundedStreamHandler(logging.StreamHandler[Any]):
    """A StreamHandler that drops lines instead of blocking forever.

    It waits READER_PATIENCE for the reader of a pipe, a socket or a terminal. Then it drops lines
    without waiting again, until the stream is writable; the error log says how many were lost.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__(stream)
        self._lost = 0  # lines, since the reader stalled
        self._line_is_cut = False  # the start of a line was written, its end is lost

    def handle(self, record: logging.LogRecord) -> Any:
        # Not in emit(), which holds the lock: the report goes to another handler, which may report
        # to this one at the same time.
        if self._lost:
            self._report_lost()
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
        except RecursionError:  # like StreamHandler.emit()
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

    def _report_lost(self) -> None:
        """Log how many lines were lost, once somebody reads again."""
        with self.lock or nullcontext():
            poll = poll_of(self.stream)
            if poll is not None and not poll.poll(0):
                return
            lost, self._lost = self._lost, 0
            if self._line_is_cut:
                self._line_is_cut = False
                with suppress(OSError, ValueError):  # the next line will report the error
                    self.stream.write("\n")
        name = str(getattr(self.stream, "name", "it")).strip("<>")
        error_logger.error("%d lines of the log were lost: nobody read %s", lost, name)
        if self._lost:  # the report was lost, too
            self._lost += lost

    def flush(self) -> None:
        """Flush the stream, unless its reader has stalled; log how many lines were lost."""
        poll = poll_of(self.stream)
        if poll is None or poll.poll(0):
            super().flush()
        if self._lost:
            self._report_lost()


class LogFileHandler(BoundedStreamHandler, logging.FileHandler):
    """Appends to a file, which SIGUSR1 reopens (thestral.logging.files). If its path leads to a
    pipe or a terminal, it drops lines as its base class does.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        logging.FileHandler.__init__(self, path, encoding="utf-8", errors="backslashreplace")
        self._lost = 0
        self._line_is_cut = False


class LastResortHandler(BoundedStreamHandler):
    """Writes to stderr for loggers without a handler, like logging's own last resort."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass  # StreamHandler.__init__() assigns it


def bound_last_resort(formatter: logging.Formatter | None = None) -> None:
    """Replace logging's own handler of last resort by one that cannot block. asyncio's reports of
    exceptions in the application's tasks may end there.

    Args:
        formatter: None leaves the message as it is.
    """
    handler = logging.lastResort
    if handler is not None and type(handler).__module__ == logging.__name__:
        logging.lastResort = LastResortHandler()
        logging.lastResort.setLevel(handler.level)
    if isinstance(logging.lastResort, LastResortHandler):
        logging.lastResort.setFormatter(formatter)


def count_lines(text: str) -> int:
    return text.count("\n") or 1


def pieces(text: str, most: int) -> Iterator[str]:
    """Cut a text into pieces of at most `most` bytes, at line ends where possible."""
    length = most if text.isascii() else most // LONGEST_CHARACTER
    start = 0
    while len(text) - start > length:
        end = text.rfind("\n", start, start + length) + 1 or start + length
        yield text[start:end]
        start = end
    yield text[start:]


def poll_of(stream: Any) -> select.poll | None:
    """Return a poll for writing to a pipe, socket or terminal; None for other streams."""
    try:
        file = stream.fileno()
        mode = os.fstat(file).st_mode
    except (AttributeError, OSError, ValueError):  # not a file, or closed
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)):
        return None
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return poll


def is_stderr(stream: Any) -> bool:
    """Whether a stream is the same file as stderr, to which the error log goes."""
    try:
        return os.path.sameopenfile(stream.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False


error_logger = logging.getLogger("uvicorn.error")

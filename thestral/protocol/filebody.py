"""A file, or a part of one, as the body of a response: http.response.pathsend and zerocopysend."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from thestral.errors import LocalProtocolError
from thestral.protocol.messages import byte_count_of

if TYPE_CHECKING:
    from thestral.protocol.connection import Stream

# How much of a file is read at once, where the kernel cannot send it.
PIECE = 256 * 1024  # bytes


class FileBody:
    """A file that is being sent. The server closes its descriptor, which is its own.

    Args:
        number: the descriptor.
        offset: where to begin.
        size: how much to send, in bytes.

    Attributes:
        left: bytes still to be sent.
        is_whole: whether all of the file is sent, from its beginning.
        is_last: whether the body ends with the file.
        original: the application's file, if its position is to be advanced; None if not.
    """

    def __init__(self, number: int, offset: int, size: int) -> None:
        self._number = number
        self._at = offset
        self.left = size
        self.is_whole = False
        self.is_last = True
        self.original: Any = None

    def send_piece(self, stream: Stream) -> int:
        """Send as much as the stream takes at once.

        Returns:
            number of bytes; 0 also at the end of a file that has become shorter.
        """
        sent = stream.write_file(self._number, self._at, self.left)
        if sent < 0:
            data = os.pread(self._number, min(PIECE, self.left), self._at)
            sent = len(data)
            stream.write(data, False)
        self._at += sent
        self.left -= sent
        return sent

    def advance_original(self) -> None:
        """Move the position of the application's file behind what was sent."""
        if self.original is not None:
            with contextlib.suppress(ValueError, OSError):  # the application has closed the file
                seek(self.original, self._at)

    def close(self) -> None:
        if self._number >= 0:
            os.close(self._number)
            self._number = -1
            self.original = None


def open_path(message: dict[str, Any]) -> FileBody:
    """Open the file that pathsend names. A relative path is resolved in the working directory.

    Raises:
        LocalProtocolError: `path` is not a path.
        OSError: the file cannot be opened.
    """
    path = message.get("path")
    try:
        number = os.open(os.fspath(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        raise LocalProtocolError(f"{message['type']}: {path!r:.100} is not a path") from exc
    try:
        file = FileBody(number, 0, size_of(number))
    except BaseException:
        os.close(number)
        raise
    file.is_whole = True
    return file


def open_duplicate(message: dict[str, Any]) -> FileBody:
    """Open the part of a file that zerocopysend names. The descriptor is duplicated, so the
    application may close its own at any time.

    Raises:
        LocalProtocolError: `file` has no open descriptor, or offset or count is not a number of
            bytes.
        OSError: it is not a regular file.
    """
    given = message.get("file")
    offset = byte_count_of(message, "offset")
    count = byte_count_of(message, "count")
    try:
        number = os.dup(given if type(given) is int else given.fileno())  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError, OverflowError, OSError) as exc:
        raise LocalProtocolError(
            f"{message['type']}: file {given!r:.100} has no open file descriptor"
        ) from exc
    original = None
    try:
        size = size_of(number)
        if offset < 0:
            # Both descriptors share one position, and the application may close its own, whose
            # number then may belong to another file.
            original = number if type(given) is int else given
            offset = position_of(original)
    except BaseException:
        os.close(number)
        raise
    left = max(size - offset, 0)
    file = FileBody(number, offset, left if count < 0 else min(left, count))
    file.is_last = not message.get("more_body", False)
    file.original = original
    return file


def position_of(file: Any) -> int:
    """Return the position of a file object or a descriptor."""
    return file.tell() if hasattr(file, "tell") else os.lseek(file, 0, os.SEEK_CUR)


def seek(file: Any, position: int) -> None:
    """Set the position of a file object or a descriptor."""
    if hasattr(file, "seek"):
        file.seek(position)
    else:
        os.lseek(file, position, os.SEEK_SET)


def size_of(file: int) -> int:
    """Return the size of an open file, in bytes.

    Raises:
        OSError: it is not a regular file, so it has no size.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return found.st_size

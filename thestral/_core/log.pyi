"""Builds log lines as bytes in a buffer; client data is escaped when it is appended."""

from collections.abc import Callable, Iterable
from typing import final

def monotonic() -> float:
    """Return the seconds of a clock that never goes backwards."""

def wall_clock() -> float:
    """Return the seconds since 1970."""

def escaped(data: bytes) -> str:
    r"""Escape bytes for one line of a log: \", \\, and \xHH for what is not printable ASCII."""

def find_field(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of the first field with a lower-case name; None if there is none."""

@final
class Uuids:
    """Makes UUIDs of version 7 (RFC 9562 section 5.7), which begin with the time and sort by it.

    It keeps random bytes for the next ones, so each thread and each process needs its own.

    Args:
        source: returns as many random bytes as it is asked for, as os.urandom() does.
    """

    def __new__(cls, source: Callable[[int], bytes]) -> Uuids: ...
    def new(self, now: float) -> str:
        """Return a new UUID.

        Args:
            now: seconds since 1970.

        Raises:
            ValueError: the source has returned another number of bytes.
        """

@final
class LineBuffer:
    """Complete lines that wait to be written, and the line being built.

    Args:
        json: whether to escape values as JSON strings, or else as in Apache's logs.
    """

    json: bool

    def __new__(cls, json: bool) -> LineBuffer: ...
    def append(self, data: bytes) -> None:
        """Append UTF-8, unescaped."""

    def append_value(self, data: bytes) -> None:
        """Append bytes from a client, escaped."""

    def append_text(self, text: str) -> None:
        """Append a string, escaped."""

    def append_decimal(self, value: int) -> None:
        """Append a number, which must not be negative."""

    def append_fraction(self, value: int, scale: int) -> None:
        """Append value/scale as decimals, ".0042" for 42 of 10000; scale is a power of 10."""

    def size(self) -> int:
        """Return the size of the complete lines, in bytes."""

    def end_line(self) -> None:
        """Complete the current line."""

    def drop_line(self) -> None:
        """Discard the current line."""

    def take_line(self) -> str:
        """Remove the current line from the buffer, and return it."""

    def take(self, limit: int, whole: bool) -> str:
        """Remove the first lines, of at most `limit` bytes together, and return them.

        Args:
            whole: if the first line is longer, whether to return all of it, or only a piece.
        """

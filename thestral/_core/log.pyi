"""Lines of a log as bytes: a buffer of them, client data escaped on its way in."""

from collections.abc import Iterable
from typing import final

def monotonic() -> float:
    """Seconds of a clock that never goes back."""

def wall_clock() -> float:
    """Seconds since 1970."""

def escaped(data: bytes) -> str:
    r"""Printable ASCII in one line: \" and \\, and \xHH for what is not printable ASCII."""

def find_field(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Value of the first field of that lower-case name."""

@final
class LineBuffer:
    """Lines that wait to be written, and the one being made.

    Args:
        json: escape values as JSON strings, else as Apache does.
    """

    json: bool

    def __new__(cls, json: bool) -> LineBuffer: ...
    def append(self, data: bytes) -> None:
        """UTF-8, as it is."""

    def append_value(self, data: bytes) -> None:
        """Bytes of a client, escaped."""

    def append_text(self, text: str) -> None:
        """Text, escaped."""

    def append_decimal(self, value: int) -> None:
        """A number that is not negative."""

    def append_fraction(self, value: int, scale: int) -> None:
        """value/scale behind the decimal point, ".0042" for 42 of 10000; scale is a power of 10."""

    def size(self) -> int:
        """Bytes of the lines that have ended."""

    def end_line(self) -> None:
        """What was appended is a line."""

    def drop_line(self) -> None:
        """Forget what was appended since the last line ended."""

    def take_line(self) -> str:
        """What was appended since the last line ended; it leaves the buffer."""

    def take(self, limit: int, whole: bool) -> str:
        """The first lines, of at most `limit` bytes together; they leave the buffer.

        Args:
            whole: whether a first line longer than that comes all the same, or a piece of it does.
        """

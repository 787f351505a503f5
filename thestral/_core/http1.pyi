"""The HTTP/1.1 codec (RFC 9112): sans-io, testable with a bytes literal."""

from collections.abc import Iterable
from enum import IntEnum
from typing import final

from thestral._core.head import RequestHead
from thestral._core.socket import ReadBuffer

class Event(IntEnum):
    """What next_event() came to."""

    NEED_DATA = 0
    HEAD = 1
    BODY = 2
    END = 3

def reason_phrase(status: int) -> str:
    """Reason phrase of a status code (IANA registry), "" if it has none."""

@final
class RequestParser:
    """Requests of one connection, pulled: feed(), then next_event() until NEED_DATA.

    Args:
        request_line: most bytes of a request line, without its CRLF; more is 414.
        head: most bytes of a field section, and of a trailer section; more is 431.
        fields: most field lines in either; more is 431.
        body: most bytes of a body; more is 413. 0 for no limit.
    """

    def __new__(cls, request_line: int, head: int, fields: int, body: int) -> RequestParser: ...
    def feed(self, data: bytes) -> None:
        """Hand over bytes as they came; they are kept alive until used up."""

    def borrow(self, buffer: ReadBuffer) -> None:
        """Hand over what was received, where it is; before its owner needs the place: keep()."""

    def keep(self) -> None:
        """Copy what was borrowed and is not used up."""

    def next_event(self) -> int:
        """Advance to the next Event.

        After HEAD read_head() has the new request's head, after BODY read_body() has the next part
        of its body. After END the next call goes on to the next request.

        Raises:
            RemoteProtocolError: the request must be refused; every later call raises it again.
        """
    def read_head(self) -> RequestHead:
        """The head of the new request, after HEAD."""

    def read_body(self) -> bytes: ...
    def left(self) -> int:
        """Bytes fed and not read yet."""
    def take_left(self) -> bytes:
        """Those bytes: they belong to another protocol. The parser is of no more use."""
    def is_idle(self) -> bool:
        """Whether no byte of a next request has come."""
    def is_head(self) -> bool:
        """Whether what is being read, or was refused, is a HEAD request as far as it has come."""

@final
class ResponseWriter:
    """Serialises what a connection sends in a turn into one growing buffer.

    A mark is a position in it: take(mark) and truncate(mark) remove what was written behind it.
    """

    content_length: int
    """Bytes that the headers announce; -1 if they do not."""
    close: bool
    """Whether the headers hold Connection: close."""
    has_date: bool
    has_server: bool

    def begin(self, status: int) -> int:
        """Begin a head: forget what the last one said, and write the status line.

        Returns:
            the mark where it begins.
        """
    def write_status(self, status: int) -> None:
        """Write a status line alone, as an interim response has it."""
    def write_headers(self, headers: Iterable[Iterable[bytes]], drop_content_length: bool) -> None:
        """Write the application's fields in order, all but transfer-encoding.

        Raises:
            LocalProtocolError: a name that is no token, a value with a control character, not
                bytes, or lengths that contradict each other; names the field.
        """
    def write_content_length(self, length: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def write_chunk_head(self, size: int) -> None:
        """The size line of a chunk (RFC 9112 section 7.1)."""
    def write_chunk(self, data: bytes) -> None:
        """A whole chunk, not of size 0, which would be the last one."""
    def size(self) -> int: ...
    def truncate(self, mark: int) -> None:
        """Remove what was written behind a mark; nothing if all of it is gone already."""
    def send(self, fd: int) -> int:
        """Send all there is; how many bytes were taken, or an Outcome. It stays here."""
    def peek(self, mark: int) -> bytes:
        """What take() would give."""
    def take(self, mark: int) -> bytes: ...

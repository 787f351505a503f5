"""The HTTP/1.1 codec (RFC 9112): sans-io, testable with a bytes literal."""

from collections.abc import Iterable
from enum import IntEnum
from typing import final

from thestral._core.head import RequestHead
from thestral._core.socket import ReadBuffer

class Event(IntEnum):
    """Results of next_event()."""

    NEED_DATA = 0
    HEAD = 1
    BODY = 2
    END = 3

def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status code (IANA registry), "" if it has none."""

def length_of(value: bytes) -> int:
    """Return the number in a Content-Length, in bytes (RFC 9110 section 8.6); -1 if it is not a
    decimal number below 2**63.
    """

@final
class RequestParser:
    """Parses the requests of one connection: feed(), then next_event() until NEED_DATA.

    Args:
        request_line: maximum bytes of a request line, without its CRLF; more get 414.
        head: maximum bytes of a field section, and of a trailer section; more get 431.
        fields: maximum field lines in either; more get 431.
        body: maximum bytes of a body; more get 413. 0 means no limit.
    """

    def __new__(cls, request_line: int, head: int, fields: int, body: int) -> RequestParser: ...
    def feed(self, data: bytes) -> None:
        """Pass in received bytes; the parser holds them until they are read."""

    def borrow(self, buffer: ReadBuffer) -> None:
        """Pass in received bytes without copying. Call keep() before the buffer is used again."""

    def keep(self) -> None:
        """Copy the borrowed bytes that are not read yet."""

    def next_event(self) -> int:
        """Advance to the next Event.

        After HEAD, read_head() returns the new request's head; after BODY, read_body() returns the
        next part of its body. After END, the next call continues with the next request.

        Raises:
            RemoteProtocolError: the request must be refused; every later call raises it again.
        """
    def read_head(self) -> RequestHead:
        """Return the head of the new request, after HEAD."""

    def read_body(self) -> bytes: ...
    def left(self) -> int:
        """Return how many bytes are fed but not read yet."""
    def take_left(self) -> bytes:
        """Return these bytes, for another protocol. The parser must not be used after this."""
    def is_idle(self) -> bool:
        """Whether no byte of the next request has been received."""
    def is_head(self) -> bool:
        """Whether the request being read or refused is a HEAD request, as far as is known."""
    def is_http2(self) -> bool:
        """Whether the request was refused because it is HTTP/2's preface."""
    def take_head(self) -> bytes:
        """Return what has been received of the refused request and behind it. The parser must not
        be used after this.
        """

@final
class ResponseWriter:
    """Serialises a connection's output of a turn into one growing buffer.

    A mark is a position in the buffer: take(mark) and truncate(mark) remove everything after it.
    """

    content_length: int
    """Value of the headers' Content-Length in bytes; -1 without one."""
    close: bool
    """Whether the headers contain Connection: close."""
    has_date: bool
    has_server: bool

    def begin(self, status: int) -> int:
        """Start a head: reset the attributes above and write the status line.

        Returns:
            the mark where the head starts.
        """
    def write_status(self, status: int) -> None:
        """Write only a status line, as for an interim response."""
    def write_headers(self, headers: Iterable[Iterable[bytes]], drop_content_length: bool) -> None:
        """Write the application's fields in order, without Transfer-Encoding.

        Raises:
            LocalProtocolError: a name is not a token, a value contains a control character,
                something is not bytes, or lengths contradict each other; names the field.
        """
    def write_content_length(self, length: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def write_chunk_head(self, size: int) -> None:
        """Write the size line of a chunk (RFC 9112 section 7.1)."""
    def write_chunk(self, data: bytes) -> None:
        """Write a whole chunk. It must not be empty, which would make it the last one."""
    def size(self) -> int: ...
    def truncate(self, mark: int) -> None:
        """Remove everything after a mark, if there is anything."""
    def send(self, fd: int) -> int:
        """Send the whole buffer and keep it; return how many bytes were sent, or an Outcome."""
    def peek(self, mark: int) -> bytes:
        """Return what take() would, and keep it."""
    def take(self, mark: int) -> bytes: ...

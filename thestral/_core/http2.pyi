"""The HTTP/2 codec (RFC 9113, RFC 7541): sans-io, testable with a bytes literal."""

from collections.abc import Iterable
from enum import IntEnum
from typing import final

from thestral._core.head import RequestHead
from thestral._core.http1 import ResponseWriter
from thestral._core.socket import ReadBuffer
from thestral.errors import RemoteProtocolError

class Event(IntEnum):
    """Results of next_event()."""

    NEED_DATA = 0
    HEAD = 1
    BODY = 2
    END = 3
    RESET = 4
    REFUSED = 5
    PONG = 6

class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113 section 7): the codes that the server chooses."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x2
    SETTINGS_TIMEOUT = 0x4
    CANCEL = 0x8
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC

@final
class ResponseFields:
    """The fields of a response, checked and in the form that HTTP/2 requires."""

    content_length: int
    """Value of Content-Length in bytes; -1 without one."""
    has_date: bool
    has_server: bool

    def announce(self, length: int) -> None:
        """Add Content-Length."""
    def pairs(self) -> list[tuple[bytes, bytes]]: ...

def check_fields(headers: Iterable[Iterable[bytes]], drop_content_length: bool) -> ResponseFields:
    """Check the application's fields: names become lower-case, values lose blanks at their ends,
    fields of a connection are dropped (RFC 9113 section 8.2).

    Raises:
        LocalProtocolError: as ResponseWriter.write_headers().
    """

@final
class FrameCodec:
    """Reads and writes the frames of one connection: feed(), then next_event() until NEED_DATA.

    Windows, states of streams and budgets against abuse are kept here; csrc/http2.h documents them.
    What a stream's methods are given as `id` is its identifier.

    Args:
        streams: maximum open streams; more are refused by RST_STREAM.
        connection_window: bytes of bodies that a peer may send before they are consumed().
        stream_window_max: bytes to which a stream's window grows.
        head: maximum bytes of a field section, 32 for each field included; more get 431.
        fields: maximum fields of a head; more get 431.
        body: maximum bytes of a body; more get 413. 0 means no limit.
        websocket: whether extended CONNECT is accepted (RFC 8441).
        now: seconds, from a clock that never goes back.
    """

    def __new__(
        cls,
        streams: int,
        connection_window: int,
        stream_window_max: int,
        head: int,
        fields: int,
        body: int,
        websocket: bool,
        now: float,
    ) -> FrameCodec: ...
    def feed(self, data: bytes, now: float) -> None:
        """Pass in received bytes; the codec holds them until they are read."""
    def borrow(self, buffer: ReadBuffer, now: float) -> None:
        """Pass in received bytes without copying. Call keep() before the buffer is used again."""
    def keep(self) -> None:
        """Copy the borrowed bytes that are not read yet."""
    def next_event(self) -> int:
        """Advance to the next Event; stream() tells whose it is.

        HEAD: read_head() returns the head of a new request. BODY: read_body() returns the next part
        of its content. END: the request is complete. RESET: the stream is over, because the peer
        has reset it, or for what error() tells. REFUSED: the request gets the response of error().
        PONG: the PING of write_ping() is acknowledged.

        Raises:
            RemoteProtocolError: the connection must end, with GOAWAY of this status; every later
                call raises it again.
        """
    def read_head(self) -> RequestHead: ...
    def read_body(self) -> bytes: ...
    def stream(self) -> int:
        """Return the identifier of the event's stream."""
    def ended(self) -> bool:
        """Whether the request of HEAD or REFUSED is complete, so that no END follows."""
    def is_head(self) -> bool:
        """Whether the method of the head that has just come is HEAD."""
    def error(self) -> RemoteProtocolError:
        """Return why a stream was REFUSED, or RESET by the server; None if the peer reset it."""

    def reset_code(self) -> int:
        """The error code of the last RESET: the client's, or the one that the codec has sent."""
    def left(self) -> int:
        """Return how many bytes are fed but not read yet."""
    def is_reading_head(self) -> bool:
        """Whether a field block is incomplete, or the peer's first SETTINGS have not come."""
    def settings_acked(self) -> bool:
        """Whether the peer has acknowledged the server's settings."""
    def last_id(self) -> int:
        """Return the highest identifier of a stream that was processed."""
    def sendable(self, id: int, size: int) -> int:
        """Return how many of `size` bytes of content may be sent on a stream now, in one frame; 0
        if a larger frame will be possible soon. The result may be more than `size`.
        """
    def may_receive(self, id: int) -> bool:
        """Whether the peer may send content on a stream."""
    def urgency(self, id: int) -> int:
        """Return a stream's urgency, 0 to 7, the least urgent (RFC 9218 section 4.1)."""
    def is_incremental(self, id: int) -> bool:
        """Whether the peer can use a response piece by piece (RFC 9218 section 4.2)."""
    def consumed(self, id: int, size: int, waits: bool) -> None:
        """Note that bytes of content were taken or dropped, so the peer may send more.

        Args:
            waits: whether the application waits for more; a window that is used up then grows.
        """
    def set_stalled(self, stalled: bool) -> None:
        """Note whether the peer reads nothing; acknowledgements are then counted, not queued."""
    def rest(self) -> None:
        """Free what is needed only while a head is read or a stream is open."""
    def completed(self) -> None:
        """Note that a response is complete, which pays for what a peer may do for nothing."""
    def has_output(self) -> bool:
        """Whether the codec has frames of its own to send."""
    def write_output(self, writer: ResponseWriter) -> None:
        """Write them."""
    def write_head(
        self,
        writer: ResponseWriter,
        id: int,
        status: int,
        fields: ResponseFields,
        more: list[tuple[bytes, bytes]],
        end: bool,
    ) -> None:
        """Write the head of a response with the fields, and `more` fields behind them."""
    def write_trailers(self, writer: ResponseWriter, id: int, fields: ResponseFields) -> None: ...
    def write_data(
        self, writer: ResponseWriter, id: int, data: bytes, start: int, size: int, end: bool
    ) -> None:
        """Write data[start:start + size], which sendable() must allow."""
    def write_data_head(self, writer: ResponseWriter, id: int, size: int, end: bool) -> None:
        """Write the head of a DATA frame, for write_part() to fill with `size` bytes."""
    def write_part(self, writer: ResponseWriter, data: bytes, start: int, size: int) -> None: ...
    def write_reset(self, writer: ResponseWriter, id: int, code: int) -> None:
        """Reset a stream, if it is open."""
    def write_goaway(self, writer: ResponseWriter, last: bool, code: int, text: str) -> None:
        """Write GOAWAY: new streams are refused if it is the `last` one."""
    def write_ping(self, writer: ResponseWriter) -> None: ...

"""The WebSocket codec of a server (RFC 6455 section 5, RFC 7692): sans-io, testable with a bytes
literal.
"""

from enum import IntEnum
from typing import final

class Event(IntEnum):
    """Results of next_event()."""

    NEED_DATA = 0
    MESSAGE = 1
    PING = 2
    CLOSE = 3

def is_close_code(code: int) -> bool:
    """Whether an endpoint may send the close code (RFC 6455 section 7.4)."""

@final
class FrameParser:
    """Parses the messages of one connection: feed(), then next_event() until NEED_DATA.

    Args:
        max_size: maximum bytes of an inflated message; more get 1009.
    """

    def __new__(cls, max_size: int) -> FrameParser: ...
    def use_deflate(self, window_bits: int, takeover: bool) -> None:
        """Inflate messages: permessage-deflate was negotiated (RFC 7692 section 7).

        Args:
            window_bits: size of the client's window, 9 to 15.
            takeover: whether the client keeps its window between messages.
        """
    def feed(self, data: bytes) -> None:
        """Pass in received bytes; the parser holds them until they are read."""
    def next_event(self) -> int:
        """Advance to the next Event.

        After MESSAGE, read_message() returns it. After PING, read_control() returns the payload for
        the Pong. After CLOSE, close_code is set, and read_control() returns the reason; later data
        is not read. Pongs are ignored.

        Raises:
            RemoteProtocolError: the connection must be failed; `status` has the close code. Every
                later call raises it again.
        """
    def read_message(self) -> str | bytes:
        """Return the message, once; a str for a Text message."""
    def read_control(self) -> bytes: ...
    close_code: int
    """1005 if the Close has no code."""
    def left(self) -> int:
        """Return how many bytes are fed but not read yet."""

@final
class FrameWriter:
    """Turns each message into one frame, unmasked, as a server sends it."""

    def use_deflate(
        self, window_bits: int, takeover: bool, level: int, memory_level: int, min_size: int
    ) -> None:
        """Compress messages: permessage-deflate was negotiated (RFC 7692 section 7).

        Args:
            window_bits: size of the server's window, 9 to 15.
            takeover: whether the server keeps its window between messages.
            level, memory_level: zlib's, 1 to 9.
            min_size: size in bytes below which messages are sent uncompressed.
        """
    def message(self, data: str | bytes) -> bytes:
        """Return a Text or Binary frame.

        Raises:
            LocalProtocolError: the text contains a surrogate.
        """
    def ping(self) -> bytes: ...
    def pong(self, payload: bytes) -> bytes: ...
    def close(self, code: int, reason: bytes) -> bytes:
        """Return a Close frame; code 1005 makes one without a code."""
    def forget(self) -> None:
        """Free the window's memory; the next message will not refer to earlier ones."""

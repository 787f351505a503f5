"""The WebSocket codec of a server (RFC 6455 section 5, RFC 7692): sans-io, testable with a bytes
literal.
"""

from enum import IntEnum
from typing import final

class Event(IntEnum):
    """What next_event() came to."""

    NEED_DATA = 0
    MESSAGE = 1
    PING = 2
    CLOSE = 3

def is_close_code(code: int) -> bool:
    """Whether an endpoint may send the close code (RFC 6455 section 7.4)."""

@final
class FrameParser:
    """Messages of one connection, pulled: feed(), then next_event() until NEED_DATA.

    Args:
        max_size: most bytes of a message, inflated; more is 1009.
    """

    def __new__(cls, max_size: int) -> FrameParser: ...
    def use_deflate(self, window_bits: int, takeover: bool) -> None:
        """permessage-deflate was agreed on (RFC 7692 section 7).

        Args:
            window_bits: of the client's window, 9 to 15.
            takeover: whether the client's window stays from message to message.
        """
    def feed(self, data: bytes) -> None:
        """Hand over bytes as they came; they are kept alive until used up."""
    def next_event(self) -> int:
        """Advance to the next Event.

        After MESSAGE read_message() has it, after PING read_control() has what the Pong must carry,
        after CLOSE there are close_code and, from read_control(), the reason; what follows a Close
        is not read. Pongs are passed over.

        Raises:
            RemoteProtocolError: the connection must be failed with the close code in its status;
                every later call raises it again.
        """
    def read_message(self) -> str | bytes:
        """The message, once; text is valid UTF-8."""
    def read_control(self) -> bytes: ...
    close_code: int
    """1005 if the frame has none."""
    def left(self) -> int:
        """Bytes fed and not read yet."""

@final
class FrameWriter:
    """Messages to frames, each message in one, unmasked as a server's are."""

    def use_deflate(
        self, window_bits: int, takeover: bool, level: int, memory_level: int, min_size: int
    ) -> None:
        """permessage-deflate was agreed on (RFC 7692 section 7).

        Args:
            window_bits: of our window, 9 to 15.
            takeover: whether our window stays from message to message.
            level, memory_level: zlib's, 1 to 9.
            min_size: shorter messages go uncompressed, in bytes.
        """
    def message(self, data: str | bytes) -> bytes:
        """A Text or Binary frame.

        Raises:
            LocalProtocolError: the text holds a surrogate.
        """
    def ping(self) -> bytes: ...
    def pong(self, payload: bytes) -> bytes: ...
    def close(self, code: int, reason: bytes) -> bytes:
        """A Close frame; 1005 stands for one without code."""
    def forget(self) -> None:
        """Give the window's memory back: the next message does not refer to earlier ones."""

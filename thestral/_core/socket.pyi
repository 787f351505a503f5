"""Stream sockets and epoll by file descriptor, on Linux. Nothing here blocks."""

from enum import IntEnum
from typing import final

class Bit(IntEnum):
    """What is watched for, and what has come."""

    READABLE = 1
    WRITABLE = 2
    HANGUP = 4  # the peer sends no more
    BROKEN = 8  # socket_error() says why
    LISTENING = 16  # to watch for: a listening socket

class Outcome(IntEnum):
    """What receive(), send() and flush() return in place of a number of bytes."""

    BLOCKED = -1  # not now
    FAILED = -2  # system_error() says why

_Address = str | bytes | tuple[str, int] | tuple[str, int, int, int] | None

def system_error() -> OSError:
    """Why the last call failed; to be asked at once."""

def accept(listener: int) -> tuple[int, _Address] | None:
    """Descriptor and peer of a new connection, as socket.accept() has them; None if none waits.

    Raises:
        OSError: none can be accepted: too many files, no memory.
    """

def own_address(fd: int) -> _Address:
    """As socket.getsockname(); None if it has none."""

def send(fd: int, data: bytes) -> int:
    """How many bytes were taken, or an Outcome."""

def socket_error(fd: int) -> OSError | None:
    """Take the error that a socket holds."""

def end_output(fd: int) -> bool:
    """Close our side; False with a system_error()."""

def send_at_once(fd: int) -> bool:
    """TCP_NODELAY."""

def drop_syn(fd: int) -> bool:
    """Have the kernel ignore who asks a TCP socket for a connection from now on."""

def close(fd: int) -> bool: ...

@final
class ReadBuffer:
    """Where bytes are received; its owner lends it for as long as a call takes.

    Args:
        capacity: bytes.

    Attributes:
        size: bytes that the last receive() brought.
    """

    capacity: int
    size: int
    def __new__(cls, capacity: int) -> ReadBuffer: ...
    def receive(self, fd: int) -> int:
        """How many bytes came, 0 at the peer's end, or an Outcome."""

    def take(self) -> bytes:
        """A copy of what came."""

@final
class SendQueue:
    """Bytes that a socket has not taken yet; none is copied.

    Attributes:
        size: how many.
    """

    size: int
    def push(self, data: bytes, offset: int) -> None:
        """Append data[offset:]."""

    def flush(self, fd: int) -> int:
        """Send what one call can send: how much, or BLOCKED if the socket is full, or FAILED."""

@final
class Ready:
    """What one Poll.take() has found."""

    def fd(self, index: int) -> int: ...
    def bits(self, index: int) -> int: ...

@final
class Poll:
    """An epoll. A connection is reported when something changes: who leaves bytes unread must come
    back by itself. A listening socket is reported as long as connections wait.

    Attributes:
        fd: readable while something is ready; -1 once closed.

    Raises:
        OSError: from each method.
    """

    fd: int
    def add(self, fd: int, bits: int) -> None: ...
    def change(self, fd: int, bits: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def take(self, ready: Ready) -> int:
        """How many places of `ready` were filled."""

    def close(self) -> None: ...

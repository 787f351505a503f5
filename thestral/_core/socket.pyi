"""Stream sockets and epoll by file descriptor, on Linux. Nothing here blocks."""

from enum import IntEnum
from typing import final

class Bit(IntEnum):
    """Events to watch for, and events that have occurred."""

    READABLE = 1
    WRITABLE = 2
    HANGUP = 4  # the peer has closed its side
    BROKEN = 8  # socket_error() says why
    LISTENING = 16  # only to watch: a listening socket

class Outcome(IntEnum):
    """What receive(), send() and flush() return instead of a number of bytes."""

    BLOCKED = -1  # the call would block
    FAILED = -2  # system_error() says why

_Address = str | bytes | tuple[str, int] | tuple[str, int, int, int] | None

def system_error() -> OSError:
    """Return why the last call failed. To be called directly after it."""

def accept(listener: int) -> tuple[int, _Address] | None:
    """Return a new connection's descriptor and its peer's address, in the form of
    socket.getpeername(); None if no connection is waiting.

    Raises:
        OSError: accept(2) failed: too many open files, out of memory.
    """

def own_address(fd: int) -> _Address:
    """Return the local address, like socket.getsockname(); None if it cannot be read."""

def send(fd: int, data: bytes) -> int:
    """Return how many bytes the kernel took, or an Outcome."""

def socket_error(fd: int) -> OSError | None:
    """Return and clear a socket's pending error; None if there is none."""

def end_output(fd: int) -> bool:
    """Close our side; False if that failed, see system_error()."""

def send_at_once(fd: int) -> bool:
    """Make the kernel send small segments at once (TCP_NODELAY)."""

def drop_syn(fd: int) -> bool:
    """Make the kernel drop new connection attempts (SYN) to a TCP socket; False if that failed."""

def close(fd: int) -> bool: ...

@final
class ReadBuffer:
    """A buffer to receive into; its owner lends it for the duration of a call.

    Args:
        capacity: bytes.

    Attributes:
        size: number of bytes that the last receive() got.
    """

    capacity: int
    size: int
    def __new__(cls, capacity: int) -> ReadBuffer: ...
    def receive(self, fd: int) -> int:
        """Return how many bytes were received, 0 at end of file, or an Outcome."""

    def take(self) -> bytes:
        """Return a copy of the received bytes."""

@final
class SendQueue:
    """Bytes that a socket has not accepted yet, kept without copying.

    Attributes:
        size: number of bytes.
    """

    size: int
    def push(self, data: bytes, offset: int) -> None:
        """Append data[offset:]."""

    def flush(self, fd: int) -> int:
        """Send as much as one system call can.

        Returns:
            number of bytes sent; BLOCKED if the kernel did not take everything offered; or FAILED.
        """

@final
class Ready:
    """The sockets that one Poll.take() reported."""

    def fd(self, index: int) -> int: ...
    def bits(self, index: int) -> int: ...

@final
class Poll:
    """An epoll instance. A connection is reported only on changes (edge-triggered), so the caller
    must remember to read bytes that it left unread. A listening socket is reported as long as
    connections are waiting.

    Attributes:
        fd: readable while a socket is ready; -1 once closed.

    Raises:
        OSError: in each method.
    """

    fd: int
    def add(self, fd: int, bits: int) -> None: ...
    def change(self, fd: int, bits: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def take(self, ready: Ready) -> int:
        """Fill `ready` without waiting; return how many sockets are in it, at most 256."""

    def close(self) -> None: ...

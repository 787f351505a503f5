"""The server's own transports, for the sockets of a Poller: TCP and Unix sockets on Linux only.
Elsewhere the loop's own transports are used.
"""

from __future__ import annotations

import os
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from thestral._core.socket import (
    Bit,
    Outcome,
    ReadBuffer,
    SendQueue,
    close,
    end_output,
    send,
    socket_error,
    system_error,
)
from thestral.net.poller import Poller, Watched

if TYPE_CHECKING:
    from thestral._core.http1 import ResponseWriter

READABLE = int(Bit.READABLE)
WRITABLE = int(Bit.WRITABLE)
HANGUP = int(Bit.HANGUP)
BROKEN = int(Bit.BROKEN)
BLOCKED = int(Outcome.BLOCKED)
FAILED = int(Outcome.FAILED)

# Send calls for the queued bytes of one connection in a turn; each fills the kernel's send buffer.
SENDS_PER_TURN = 8
# While the turn is corked, larger responses leave at once.
CORK_SIZE = 16 * 1024  # bytes
# The default of asyncio's transports.
HIGH_WATER = 64 * 1024  # bytes


class Protocol:
    """The user of a transport: asyncio.Protocol with two more methods."""

    def receive_from(self, buffer: ReadBuffer) -> None:
        """Read everything in `buffer`, which is valid during the call only."""
        raise NotImplementedError

    def end_turn(self) -> None:
        """Send the output that waits for the end of the turn; see Turn."""


class SocketTransport(Watched):
    """The transport of one connection, with the interface of asyncio.Transport.

    connection_lost() is called once, from the loop, and never within a call to the transport.

    Args:
        poller: the worker's poller.
        fd: the connected socket; the transport closes it.
        peer: the peer's address, in the form of socket.getpeername().
        own: the local address, in the form of socket.getsockname().
    """

    def __init__(self, poller: Poller, fd: int, peer: Any, own: Any) -> None:
        super().__init__(poller, fd)
        self._protocol: Any = None
        self._receiver: Protocol | None = None
        self._peer = peer
        self._own = own
        self._socket: socket.socket | None = None  # made on demand: get_extra_info("socket")
        self._error: BaseException | None = None
        # Unsent output: held back while the turn is corked, or queued because the kernel's buffer
        # is full. At most one of the two is set.
        self._held: bytes | None = None
        self._queue: SendQueue | None = None
        self._high = HIGH_WATER
        self._low = HIGH_WATER // 4
        self._paused = False
        self._ended = False  # the peer has sent its end
        self._eof = False  # write_eof() was called
        self._closing = False
        self._lost = False
        self._writing_paused = False
        self._armed = False  # also watched for WRITABLE

    def begin(self, protocol: Any) -> None:
        """Watch the socket and attach the protocol, which gets connection_made()."""
        self._poller.watch(self, READABLE)
        self.set_protocol(protocol)
        try:
            protocol.connection_made(self)
        except Exception as exc:
            self._fail("connection_made", exc)
        except BaseException:
            self._lose(None)
            raise

    # --- Called by the poller -----------------------------------------------------------------

    def ready(self, bits: int) -> None:
        if bits & WRITABLE and not self._lost:
            if self._queue is not None or self._writing_paused:
                self._flush()
            elif self._armed:
                self._armed = False
                self._poller.change(self, READABLE)
        bits &= ~WRITABLE
        if not bits or self._lost:
            return
        if not (self._paused or self._ended or self._closing):
            self._receive(bits)
            return
        # Reading is paused or over, but a reset must end the connection all the same.
        if bits & BROKEN:
            error = socket_error(self.fd)
            if error is not None:
                self._lose(error)
                return
        self._pending |= bits

    def on_deferred(self) -> None:
        if self._lost:
            self._finish()
            return
        bits = self._pending
        self._pending = 0
        self.ready(bits)

    def _receive(self, bits: int) -> None:
        """Read once; if more may be left, continue in the next turn, after the other sockets."""
        poller = self._poller
        buffer = poller.borrow()
        size = buffer.receive(self.fd)
        if size <= 0:
            poller.give_back(buffer)
            if size == 0:
                self._end()
            elif size == FAILED:
                self._lose(system_error())
            return
        try:
            if self._receiver is not None:
                receiver = self._receiver
                receiver.receive_from(buffer)
            else:
                protocol = self._protocol
                protocol.data_received(buffer.take())
        except Exception as exc:
            self._fail("data_received", exc)
        except BaseException:
            self._lose(None)
            raise
        finally:
            poller.give_back(buffer)
        # A read that does not fill the buffer has taken every byte, but an end or an error (HANGUP,
        # BROKEN) may follow them.
        if size == buffer.capacity or bits & (HANGUP | BROKEN):
            self._pending |= bits
            if not (self._paused or self._closing):
                poller.defer(self)

    def _end(self) -> None:
        """The peer has closed its side."""
        self._ended = True
        protocol = self._protocol
        try:
            stays = protocol.eof_received()
        except Exception as exc:
            self._fail("eof_received", exc)
            return
        except BaseException:
            self._lose(None)
            raise
        if not stays:
            self.close()

    def _flush(self) -> None:
        """The kernel's send buffer has room again."""
        queued = self._queue is not None
        if queued:
            self._send()
            if self._lost:
                return
        if self._writing_paused and self.get_write_buffer_size() <= self._low:
            self._writing_paused = False
            protocol = self._protocol
            try:
                protocol.resume_writing()
            except Exception as exc:
                self._report("resume_writing", exc)
        if self._queue is not None or not queued:
            return
        if self._closing:
            self._lose(None)
        elif self._eof and not end_output(self.fd):
            self._lose(system_error())

    def _send(self) -> None:
        """Send as much of the queue as the kernel takes."""
        queue = self._queue
        assert queue is not None
        sends = 0
        while queue.size > 0:
            if sends == SENDS_PER_TURN:
                self._pending |= WRITABLE
                self._poller.defer(self)
                return
            sent = queue.flush(self.fd)
            if sent == FAILED:
                self._lose(system_error())
                return
            if sent == BLOCKED:
                self._arm()
                return
            sends += 1
        self._queue = None

    def _arm(self) -> None:
        """Ask epoll for WRITABLE. On a Unix socket it keeps reporting that whenever the peer reads,
        so the first report that finds nothing to send ends the watch (see ready()).
        """
        if not self._armed:
            self._armed = True
            self._poller.change(self, READABLE | WRITABLE)

    # --- The end ------------------------------------------------------------------------------

    def _lose(self, exc: BaseException | None) -> None:
        """End the connection; the protocol gets connection_lost() in the next turn."""
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._held = None
        self._queue = None
        self._error = exc
        self._poller.unwatch(self)
        self._poller.defer(self)

    def _fail(self, call: str, exc: BaseException) -> None:
        """The protocol raised, so its state is unknown: report that and end the connection."""
        self._report(call, exc)
        self._lose(exc)

    def _report(self, call: str, exc: BaseException) -> None:
        self._poller.loop.call_exception_handler(
            {
                "message": f"{call}() of a connection failed",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    def _finish(self) -> None:
        protocol = self._protocol
        try:
            protocol.connection_lost(self._error)
        except Exception as exc:
            self._report("connection_lost", exc)
        finally:
            self._protocol = None
            self._receiver = None
            self._error = None
            fd = self.fd
            self.fd = -1
            if self._socket is not None:
                self._socket.close()
            else:
                close(fd)

    # --- Writing ------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send at once as much as the kernel takes, and queue the rest. Ignored after close().

        Raises:
            RuntimeError: after write_eof().
        """
        self.uncork()
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        if type(data) is not bytes:
            data = bytes(data)  # the caller may change its buffer
        if self._queue is not None:
            self._queue.push(data, 0)
            self._stall()
            return
        if not data:
            return
        self._poller.writes += 1
        if self._poller.corking and len(data) <= CORK_SIZE:
            self._hold(data)
        else:
            self._send_at_once(data)

    def write_from(self, writer: ResponseWriter) -> None:
        """write() everything in `writer`, without copying the part that is sent at once."""
        self.uncork()
        size = writer.size()
        corking = self._poller.corking and size <= CORK_SIZE
        if corking or self._closing or self._eof or self._queue is not None:
            self.write(writer.take(0))
            return
        self._poller.writes += 1
        sent = writer.send(self.fd)
        if sent == size:
            writer.truncate(0)
        else:
            self._queue_rest(writer.take(0), sent)

    def _hold(self, data: bytes) -> None:
        self._held = data
        self._poller.cork(self)

    def uncork(self) -> None:
        data = self._held
        if data is not None:
            self._held = None
            self._send_at_once(data)

    def _send_at_once(self, data: bytes) -> None:
        sent = send(self.fd, data)
        if sent < len(data):
            self._queue_rest(data, sent)

    def _queue_rest(self, data: bytes, sent: int) -> None:
        """Queue the rest of `data` after a send, whose result (bytes or an Outcome) is `sent`."""
        if sent == FAILED:
            self._lose(system_error())
            return
        self._queue = SendQueue()
        self._queue.push(data, max(sent, 0))
        self._arm()
        self._stall()

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces at once, without joining them.

        Raises:
            RuntimeError: after write_eof().
        """
        self.uncork()
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("writelines() after write_eof()")
        waits = self._queue is not None
        queue = self._queue if self._queue is not None else SendQueue()
        for part in parts:
            queue.push(part if type(part) is bytes else bytes(part), 0)
        self._queue = queue
        if not waits:
            self._send()
        if self._queue is not None:
            self._stall()

    def send_file(self, file: int, offset: int, size: int) -> int:
        """Send part of a file with sendfile(2), unless queued output is still ahead of it.

        Returns:
            number of bytes that the kernel took; 0 also at the file's end, and while output is
            queued. If the kernel takes no more for now, the protocol gets pause_writing().

        Raises:
            OSError: sendfile(2) does not work with this file.
        """
        self.uncork()
        if self._closing or self._eof:
            return 0
        sent = 0
        if self._queue is None:
            try:
                sent = os.sendfile(self.fd, file, offset, size)
            except BlockingIOError:
                pass
            except ConnectionError as exc:
                self._lose(exc)
                return 0
            else:
                if sent == size or sent == 0:
                    return sent
            self._arm()
        if not self._writing_paused:
            self._writing_paused = True
            protocol = self._protocol
            protocol.pause_writing()
        return sent

    def _stall(self) -> None:
        """Call pause_writing() if the queue is above the high-water mark."""
        assert self._queue is not None
        if self._writing_paused or self._queue.size <= self._high:
            return
        self._writing_paused = True
        protocol = self._protocol
        try:
            protocol.pause_writing()
        except Exception as exc:
            self._report("pause_writing", exc)

    def write_eof(self) -> None:
        """Close our side once everything is written; the peer may keep sending."""
        self.uncork()
        if self._closing or self._eof:
            return
        self._eof = True
        if self._queue is None and not end_output(self.fd):
            self._lose(system_error())

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the queue sizes, in bytes, at which pause_writing() and resume_writing() are called.

        Raises:
            ValueError: not 0 <= low <= high.
        """
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"low {low!r} and high {high!r}: expected 0 <= low <= high")
        self._high = high
        self._low = low
        if self._queue is not None:
            self._stall()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        if self._queue is not None:
            return self._queue.size
        return 0 if self._held is None else len(self._held)

    # --- Reading and closing ------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._pending and not self._closing:
                self._poller.defer(self)

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def close(self) -> None:
        """Stop reading, and close once everything is written."""
        self.uncork()
        if self._closing:
            return
        self._closing = True
        if self._queue is None:
            self._lose(None)

    def on_poller_close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.uncork()  # without corking it would have been sent by now
        self._lose(None)

    def is_closing(self) -> bool:
        """Whether close() was called or the connection has failed."""
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self._receiver = protocol if isinstance(protocol, Protocol) else None

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "peername", "sockname" or "socket", and `default` for any other name."""
        if name == "peername":
            return self._peer
        if name == "sockname":
            return self._own
        if name == "socket":
            return self._open_socket()
        return default

    def _open_socket(self) -> TransportSocket | None:
        if self._socket is None:
            if self.fd < 0:
                return None
            # From here on it closes the descriptor. If the transport closed it, too, the number
            # might already belong to another connection.
            self._socket = socket.socket(fileno=self.fd)
            self._socket.setblocking(False)
        return TransportSocket(self._socket)

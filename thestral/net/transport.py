"""Sockets that the worker owns: all of them behind one epoll, and that behind one reader of the
loop, on any loop. For TCP and Unix sockets on Linux; elsewhere the loop's own transports serve.

A turn of the loop takes what is ready, reads each connection once, and calls its protocol from
there. Interest is edge-triggered: a connection is registered when it is accepted, and again only
while the kernel takes no more bytes; pausing costs nothing, and nothing can spin.

A turn with many of them is corked: what each is answered leaves together, so that a peer of them
all, a proxy or a load generator, is woken once and not by each.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from thestral._core.log import monotonic
from thestral._core.socket import (
    Bit,
    Outcome,
    Poll,
    ReadBuffer,
    Ready,
    SendQueue,
    accept,
    close,
    end_output,
    own_address,
    send,
    send_at_once,
    socket_error,
    system_error,
)
from thestral.logging.loggers import error_logger

if TYPE_CHECKING:
    from thestral._core.http1 import ResponseWriter

READABLE = int(Bit.READABLE)
WRITABLE = int(Bit.WRITABLE)
HANGUP = int(Bit.HANGUP)
BROKEN = int(Bit.BROKEN)
LISTENING = int(Bit.LISTENING)
BLOCKED = int(Outcome.BLOCKED)
FAILED = int(Outcome.FAILED)

FAMILIES = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))
# One buffer for all connections of a worker, and what one of them may read in a turn.
READ_SIZE = 256 * 1024  # bytes
# Sends of queued bytes in a turn, of one connection; each takes what the kernel has room for.
SENDS_PER_TURN = 8
ACCEPTS_PER_TURN = 64
# So many that are ready are many; with few, a peer would only wait. Measured in bench/README.md.
CORK_FROM = 16  # sockets
# How long answers wait for each other, between two of them; what is longer waits for none.
CORK_TIME = 0.0005  # seconds
CORK_SIZE = 16 * 1024  # bytes
# Without a descriptor or memory for one more connection, accepting rests; asyncio's figure.
ACCEPT_REST = 1.0  # seconds
# Defaults of asyncio's transports.
HIGH_WATER = 64 * 1024  # bytes
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (compared with)


def can_own(sockets: Iterable[socket.socket]) -> bool:
    """Whether connections that these sockets accept can be owned."""
    return sys.platform == "linux" and all(sock.family in FAMILIES for sock in sockets)


class Protocol:
    """What is above a transport, as asyncio.Protocol describes it, with two calls more."""

    def receive_from(self, buffer: ReadBuffer) -> None:
        """Take all there is in `buffer`, which is lent for the call."""
        raise NotImplementedError

    def end_turn(self) -> None:
        """Send what has waited for the end of the turn; see Turn."""


class Watched:
    """What a Poller watches. A bit that cannot be dealt with now waits in _pending."""

    def __init__(self, poller: Poller, fd: int) -> None:
        self._poller = poller
        self.fd = fd
        self._pending = 0
        self._deferred = False
        self._corked = False  # known to the poller as one of those that are

    def ready(self, bits: int) -> None:
        """Something has changed."""
        raise NotImplementedError

    def come_back(self) -> None:
        """The turn after Poller.defer()."""
        bits = self._pending
        self._pending = 0
        self.ready(bits)

    def uncork(self) -> None:
        """Send what was to wait for the others."""


def place(entries: list[Any], index: int) -> Any:
    """An entry by its type, which the .pxd says."""
    return entries[index]


class Poller:
    """The sockets of a worker, behind one reader of its loop.

    Args:
        loop: the running one.

    Attributes:
        open: sockets that are watched.
        turns: how often the loop had something for us.
        corks: whether what is written now waits for what others are answered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = contextvars.copy_context()
        self._poll = Poll()
        # What is in use is not here: the loop may be run within a callback of its own.
        self._ready: Ready | None = None
        self._buffer: ReadBuffer | None = None
        self._watched: list[Watched | None] = []  # by descriptor
        self._later: list[Watched] = []
        self._scheduled = False
        self._corked: list[Watched] = []
        self.corks = False
        self.open = 0
        self.turns = 0
        loop.add_reader(self._poll.fd, self.turn)

    def listen(self, sock: socket.socket, factory: Callable[[], Any]) -> Listener:
        """Accept connections of a listening socket; `factory` makes a protocol for each."""
        return Listener(self, sock, factory)

    def turn(self) -> None:
        """The loop's call: deal with at most 256 sockets that are ready."""
        self.turns += 1
        ready = self._ready if self._ready is not None else Ready()
        self._ready = None
        count = self._poll.take(ready)
        done = 0
        self.corks = count >= CORK_FROM
        since = monotonic() if self.corks else 0.0
        try:
            while done < count:
                # One that was closed in this turn is still open for the kernel: its number is not
                # another's yet.
                entry = place(self._watched, ready.fd(done))
                bits = ready.bits(done)
                done += 1
                if entry is not None:
                    entry.ready(bits)
                if self._corked and monotonic() - since > CORK_TIME:
                    self.uncork()
                    since = monotonic()
        finally:
            # A KeyboardInterrupt; what is ready is reported once.
            while done < count:
                entry = place(self._watched, ready.fd(done))
                if entry is not None:
                    entry._pending |= ready.bits(done)
                    self.defer(entry)
                done += 1
            self._ready = ready
            self.corks = False
            self.uncork()

    def cork(self, entry: Watched) -> None:
        """Call its uncork() when others of this turn have been answered."""
        if not entry._corked:
            entry._corked = True
            self._corked.append(entry)

    def uncork(self) -> None:
        """Send what connections wait with for each other."""
        entries = self._corked
        if not entries:
            return
        self._corked = []
        done = 0
        try:
            while done < len(entries):
                entry = place(entries, done)
                done += 1
                entry._corked = False
                entry.uncork()
        finally:
            if done < len(entries):
                self._corked = entries[done:] + self._corked
                self.uncork()

    def watch(self, entry: Watched, bits: int) -> None:
        """
        Raises:
            OSError: the kernel's limit of watches is reached.
        """
        fd = entry.fd
        self._poll.add(fd, bits)
        while fd >= len(self._watched):
            self._watched.append(None)
        self._watched[fd] = entry
        self.open += 1

    def change(self, entry: Watched, bits: int) -> None:
        """Watch for something else."""
        self._poll.change(entry.fd, bits)

    def unwatch(self, entry: Watched) -> None:
        self._watched[entry.fd] = None
        self.open -= 1
        self._poll.remove(entry.fd)

    def defer(self, entry: Watched) -> None:
        """Call its come_back() in the loop's next turn."""
        if entry._deferred:
            return
        entry._deferred = True
        self._later.append(entry)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.catch_up, context=self._context)

    def catch_up(self) -> None:
        """The loop's call: those that were deferred."""
        self._scheduled = False
        entries = self._later
        self._later = []
        done = 0
        try:
            while done < len(entries):
                entry = place(entries, done)
                done += 1
                entry._deferred = False
                entry.come_back()
        finally:
            while done < len(entries):
                entry = place(entries, done)
                entry._deferred = False
                self.defer(entry)
                done += 1

    def borrow(self) -> ReadBuffer:
        buffer = self._buffer
        self._buffer = None
        return buffer if buffer is not None else ReadBuffer(READ_SIZE)

    def give_back(self, buffer: ReadBuffer) -> None:
        self._buffer = buffer

    def close(self) -> None:
        """Leave the loop; connections that are left are aborted, and hear of it at once."""
        for entry in self._watched.copy():
            if isinstance(entry, SocketTransport):
                entry.abort()
        self.catch_up()
        self.loop.remove_reader(self._poll.fd)
        self._poll.close()


class SocketTransport(Watched):
    """A connection's transport, as asyncio.Transport describes it.

    connection_lost() is called once, from the loop, and never within a call to the transport.

    Args:
        poller: of the worker.
        fd: the socket; owned from now on.
        peer: its address, as socket.getpeername() has it.
        own: the address at our end.
    """

    def __init__(self, poller: Poller, fd: int, peer: Any, own: Any) -> None:
        super().__init__(poller, fd)
        self._protocol: Any = None
        self._receiver: Protocol | None = None
        self._peer = peer
        self._own = own
        self._socket: socket.socket | None = None  # made when somebody asks for it
        self._lost_by: BaseException | None = None
        # What has not been sent: to leave with what others are answered, or because the kernel has
        # not taken all. There is never both.
        self._held: bytes | None = None
        self._queue: SendQueue | None = None
        self._high = HIGH_WATER
        self._low = HIGH_WATER // 4
        self._paused = False
        self._ended = False  # the peer's side
        self._eof = False  # our side, once all is written
        self._closing = False
        self._lost = False
        self._writing_paused = False
        self._armed = False  # watched for WRITABLE, too

    def begin(self, protocol: Any) -> None:
        """Join a protocol."""
        self._poller.watch(self, READABLE)
        self.set_protocol(protocol)
        try:
            protocol.connection_made(self)
        except Exception as exc:
            self._fail("connection_made", exc)
        except BaseException:
            self._lose(None)
            raise

    # --- The poller's calls -------------------------------------------------------------------

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
        # Nobody reads, but a reset is not only the reader's concern.
        if bits & BROKEN:
            error = socket_error(self.fd)
            if error is not None:
                self._lose(error)
                return
        self._pending |= bits

    def come_back(self) -> None:
        if self._lost:
            self._finish()
            return
        bits = self._pending
        self._pending = 0
        self.ready(bits)

    def _receive(self, bits: int) -> None:
        """Read once; who has more to read comes back after the others."""
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
        # A read that does not fill the buffer has taken all there was; an end is behind it.
        if size == buffer.capacity or bits & (HANGUP | BROKEN):
            self._pending |= bits
            if not (self._paused or self._closing):
                poller.defer(self)

    def _end(self) -> None:
        """The peer sends no more."""
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
        """The kernel takes bytes again."""
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
        """Send what is queued, as far as the kernel takes it."""
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
        """Have the kernel say when it takes bytes again. It goes on saying so unasked on a Unix
        socket, so that the first time that nobody needed it ends this.
        """
        if not self._armed:
            self._armed = True
            self._poller.change(self, READABLE | WRITABLE)

    # --- The end ------------------------------------------------------------------------------

    def _lose(self, exc: BaseException | None) -> None:
        """The connection is over; its protocol hears of it from the loop."""
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._held = None
        self._queue = None
        self._lost_by = exc
        self._poller.unwatch(self)
        self._poller.defer(self)

    def _fail(self, call: str, exc: BaseException) -> None:
        """The protocol has raised: nobody knows its state, so the connection ends."""
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
            protocol.connection_lost(self._lost_by)
        except Exception as exc:
            self._report("connection_lost", exc)
        finally:
            self._protocol = None
            self._receiver = None
            self._lost_by = None
            fd = self.fd
            self.fd = -1
            if self._socket is not None:
                self._socket.close()
            else:
                close(fd)

    # --- Writing ------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send at once what the kernel takes; the rest waits. After close() nothing is sent.

        Raises:
            RuntimeError: after write_eof().
        """
        self.uncork()
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        if type(data) is not bytes:
            data = bytes(data)  # it may change
        if self._queue is not None:
            self._queue.push(data, 0)
            self._stall()
            return
        if not data:
            return
        if self._poller.corks and len(data) <= CORK_SIZE:
            self._hold(data)
        else:
            self._send_at_once(data)

    def write_from(self, writer: ResponseWriter) -> None:
        """write() all that a writer holds, with no copy of what is sent at once."""
        self.uncork()
        size = writer.size()
        corks = self._poller.corks and size <= CORK_SIZE
        if corks or self._closing or self._eof or self._queue is not None:
            self.write(writer.take(0))
            return
        sent = writer.send(self.fd)
        if sent == size:
            writer.truncate(0)
        else:
            self._keep(writer.take(0), sent)

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
            self._keep(data, sent)

    def _keep(self, data: bytes, sent: int) -> None:
        """Of what the kernel should have sent it has sent so much, or nothing."""
        if sent == FAILED:
            self._lose(system_error())
            return
        self._queue = SendQueue()
        self._queue.push(data, max(sent, 0))
        self._arm()
        self._stall()

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces, uncopied, as one.

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
        """Send bytes of a file behind what waits, without reading them (sendfile(2)).

        Returns:
            how many the kernel took; 0 also at the file's end. If it takes no more for now, the
            protocol is told to pause.

        Raises:
            OSError: such a file cannot be sent in this way.
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
        """Bytes wait: tell the protocol if they are too many."""
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
        """Close our side once all is written; the peer may go on."""
        self.uncork()
        if self._closing or self._eof:
            return
        self._eof = True
        if self._queue is None and not end_output(self.fd):
            self._lose(system_error())

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Where pause_writing() and resume_writing() are called, in bytes; see asyncio.

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
        """Read no more, and close once all is written."""
        self.uncork()
        if self._closing:
            return
        self._closing = True
        if self._queue is None:
            self._lose(None)

    def abort(self) -> None:
        """Close at once."""
        self.uncork()  # it would have left already, but for the others
        self._lose(None)

    def is_closing(self) -> bool:
        """True as soon as an error is seen, too."""
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self._receiver = protocol if isinstance(protocol, Protocol) else None

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """ "peername", "sockname", "socket"."""
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
            # It is what closes the descriptor then: one that is closed twice may be another's.
            self._socket = socket.socket(fileno=self.fd)
            self._socket.setblocking(False)
        return TransportSocket(self._socket)


class Listener(Watched):
    """A listening socket."""

    def __init__(self, poller: Poller, sock: socket.socket, factory: Callable[[], Any]) -> None:
        super().__init__(poller, sock.fileno())
        sock.setblocking(False)
        self._sock = sock
        self._factory = factory
        name = sock.getsockname()
        # An address of every interface does not say which one a connection has come by.
        self._own = None if isinstance(name, tuple) and name[0] in ANY_ADDRESS else name
        self._tcp = isinstance(name, tuple)
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False
        self._poller.watch(self, LISTENING)

    def ready(self, bits: int) -> None:
        accepted = 0
        try:
            while accepted < ACCEPTS_PER_TURN and self._accept():
                accepted += 1
        except OSError as exc:
            self._rest(exc)

    def _accept(self) -> bool:
        """Accept one connection; False if there is none.

        Raises:
            OSError: there is no place for it.
        """
        accepted = accept(self.fd)
        if accepted is None:
            return False
        self._complained = False
        fd, peer = accepted
        self._open(fd, peer)
        return True

    def _open(self, fd: int, peer: Any) -> None:
        if self._tcp:
            send_at_once(fd)
        own = self._own if self._own is not None else own_address(fd)
        transport = SocketTransport(self._poller, fd, peer, own)
        try:
            transport.begin(self._factory())
        except BaseException as exc:
            if not transport.is_closing():
                close(fd)
            if not isinstance(exc, Exception):
                raise
            self._poller.loop.call_exception_handler(
                {"message": "A connection could not be taken", "exception": exc}
            )

    def _rest(self, exc: OSError) -> None:
        """Every try would fail as this one did: leave the others their turn for a moment."""
        if not self._complained:
            self._complained = True
            error_logger.error("No connection can be accepted for now: %s", exc.strerror)
        self._poller.unwatch(self)
        self._timer = self._poller.loop.call_later(ACCEPT_REST, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._poller.watch(self, LISTENING)

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """As asyncio.Server has it."""
        return () if self._sock.fileno() < 0 else (TransportSocket(self._sock),)

    def close(self) -> None:
        """As asyncio.Server has it, too."""
        self.stop(0)

    def stop(self, most: int) -> None:
        """Accept what waits already, at most so many, and close the socket."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._poller.unwatch(self)
        with contextlib.suppress(OSError):
            while most > 0 and self._accept():
                most -= 1
        self._sock.close()

"""The seam: Connection owns a transport, Stream is one exchange on it, Cycle is the ASGI side of
one scope.

Stream and Cycle know each other and call each other directly. What differs between protocols and
matters to ASGI is a value on Stream; Cycle never asks which protocol it is.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
import sys
import warnings
from typing import TYPE_CHECKING, Any

from thestral._core.coroutine import is_held_once
from thestral._core.log import monotonic
from thestral.errors import ClientDisconnected
from thestral.logging.loggers import error_logger
from thestral.logging.names import title_of
from thestral.net.transport import Protocol, SocketTransport
from thestral.protocol.exchange import Exchange
from thestral.types import Headers

if TYPE_CHECKING:
    from thestral._core.http1 import ResponseWriter
    from thestral._core.socket import ReadBuffer
    from thestral.errors import RemoteProtocolError
    from thestral.net.forwarded import Proxied
    from thestral.protocol.context import WorkerContext

# Written and not taken by the kernel: above this, send() waits. The transport wakes it at a
# quarter.
WRITE_HIGH_WATER = 64 * 1024  # bytes
# Output waits for the end of the turn until it is this much; then it leaves at once.
OUTPUT_MAX = 64 * 1024  # bytes
# Bodies and frames from this size on are not copied behind the other output.
GATHER_MIN = 16 * 1024  # bytes
# An application that is never made to wait sends this much before others get their turn: about
# 0.2 ms of work, of which the loop's turn is 1 %.
BURST_MAX = 256  # messages and KiB, added up
# And this long, if it works or blocks between its messages. Then nothing that it sends waits, too.
BURST_TIME = 0.005  # seconds
# struct linger: on, 0 seconds. close() then resets.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# Starlette's exceptions for a client that is gone.
FRAMEWORK_DISCONNECTS = ("ClientDisconnect", "WebSocketDisconnect")


class Connection(Protocol):
    """One transport: its output, its deadlines, its pauses. An asyncio Protocol by shape.

    deadline is what the peer owes us (loop time, 0.0 for nothing); write_deadline is when a peer
    that takes none of our bytes is given up.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.transport: Any = None
        self.owned: SocketTransport | None = None  # the same, if it is one of ours
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int | None] | None = None
        self.proxied: Proxied | None = None  # what a trusted peer's PROXY head says
        self.scheme = "http"
        self.tls: dict[str, Any] | None = None  # ASGI's extension of that name
        self.scope_template: dict[str, Any] = {}
        self.deadline = 0.0
        self.write_deadline = 0.0
        self.written = 0  # bytes handed to the transport
        self.taken = 0  # of those, bytes that had left it at the last tick
        self.write_paused = False
        self.reading_paused = False
        self.lost = False
        # Output that has not left: large pieces, and what has been written behind the last of them.
        self._pieces: list[bytes] | None = None
        self._pieces_size = 0  # bytes
        self._writer: ResponseWriter | None = None  # lent by the turn
        self._corked = False  # within a call that ends with end_turn()
        self._joined = False  # the turn calls end_turn()

    def open(self, transport: asyncio.Transport) -> None:
        """Take the transport and read from it who is at either end."""
        self.transport = transport
        self.owned = transport if isinstance(transport, SocketTransport) else None
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.tls = transport.get_extra_info("tls")
        proxied = self.proxied
        if proxied is not None:
            self.client, self.server = proxied.client, proxied.server
            if self.tls is None:  # what we have seen ourselves comes first
                self.tls = proxied.tls
        else:
            peer = transport.get_extra_info("peername")
            own = transport.get_extra_info("sockname")
            if isinstance(peer, tuple):
                self.client = (str(peer[0]), int(peer[1]))
            if isinstance(own, tuple):
                self.server = (str(own[0]), int(own[1]))
            elif own:
                self.server = (own.decode() if isinstance(own, bytes) else str(own), None)
        if self.tls is not None or (proxied is not None and proxied.secure):
            self.scheme = "https"
        self.context.add(self)

    def trusts_peer(self) -> bool:
        """Whether the peer that is connected is a trusted proxy, whomever its PROXY head names: one
        that may not be believed has no head that is read.
        """
        return self.proxied is not None or self.context.settings.trusted.trusts_peer(
            self.client, self.server
        )

    def connection_made(self, transport: asyncio.Transport) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def eof_received(self) -> bool:
        """The peer sends no more; false closes the connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.context.discard(self)

    def receive_from(self, buffer: ReadBuffer) -> None:
        self.data_received(buffer.take())

    def refuse(self, error: RemoteProtocolError) -> None:
        """Answer bytes that a Preamble has seen, and that are not this protocol's."""
        raise NotImplementedError

    # --- Output -------------------------------------------------------------------------------

    def output(self) -> ResponseWriter:
        """The writer of what is to leave by the end of the turn; emit() has to follow."""
        writer = self._writer
        if writer is None:
            writer = self.context.turn.lend_writer()
            self._writer = writer
        return writer

    def append(self, data: bytes) -> None:
        """Put bytes behind the output; emit() has to follow."""
        writer = self.output()
        if self.copies(len(data)):
            writer.write(data)
            return
        pieces = self._pieces
        if pieces is None:
            pieces = self._pieces = []
        if writer.size():
            self._pieces_size += writer.size()
            pieces.append(writer.take(0))
        self._pieces_size += len(data)
        pieces.append(data)

    def copies(self, size: int) -> bool:
        """Whether so many bytes are few enough to copy."""
        return size < GATHER_MIN

    def emit(self) -> None:
        """Let the output leave by the end of the turn, and at once if it is much."""
        writer = self._writer
        if writer is not None and self._pieces_size + writer.size() >= OUTPUT_MAX:
            self.flush()
        self.expect_turn_end()

    def expect_turn_end(self) -> None:
        """Have end_turn() called at the end of this turn."""
        if not (self._corked or self._joined):
            self._joined = True
            self.context.turn.join(self)

    def end_turn(self) -> None:
        self._joined = False
        self.flush()

    def flush(self) -> None:
        """Let the output leave now."""
        writer = self._writer
        if writer is None:
            return
        self._writer = None
        pieces = self._pieces
        if pieces is None:
            if writer.size():
                self.write_from(writer)
        else:
            self._pieces = None
            self._pieces_size = 0
            if writer.size():
                pieces.append(writer.take(0))
            self.write_gathered(pieces)
        self.context.turn.take_back(writer)

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; from now on the peer has to take them."""
        if not self.is_broken():
            self.written += len(data)
            if self.owned is not None:
                self.owned.write(data)
            else:
                self.transport.write(data)

    def write_from(self, writer: ResponseWriter) -> None:
        """write() all that a writer holds."""
        if self.owned is None or self.is_broken():
            self.write(writer.take(0))
        else:
            self.written += writer.size()
            self.owned.write_from(writer)

    def write_gathered(self, parts: list[bytes]) -> None:
        """Hand over several pieces at once, uncopied where the transport does that well."""
        if not self.is_broken():
            for part in parts:
                self.written += len(part)
            if self.owned is not None or self.context.gathers:
                self.transport.writelines(parts)
            else:
                self.transport.write(b"".join(parts))

    def is_broken(self) -> bool:
        """Whether nothing can be written any more.

        A transport knows before connection_lost comes round, and an application that only ever
        awaits send() would never let it come.
        """
        if self.lost:
            return True
        owned = self.owned
        if not (self.transport.is_closing() if owned is None else owned.is_closing()):
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """The peer is gone: tell who waits for it."""

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.lost:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused and not self.lost:
            self.reading_paused = False
            self.transport.resume_reading()

    def close_flushing(self) -> None:
        """Close once all is written; a peer that does not take it is given timeout_write."""
        self.deadline = 0.0
        if self.lost:
            return
        self.transport.close()

    def abort(self) -> None:
        """Drop the connection at once, with a reset.

        The peer can then tell it from a response that ends with the connection, and the kernel
        does not keep what a stalled peer has not taken.
        """
        if self.lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.writable()

    def writable(self) -> None:
        """Called when the peer has taken enough that writing may go on."""

    def check_deadlines(self, now: float) -> None:
        """Called by the clock. Of the bytes that wait, some must leave within timeout_write."""
        if self.lost:
            return
        if self.owned is not None:
            unsent = self.owned.get_write_buffer_size()
        else:
            unsent = self.transport.get_write_buffer_size()
        taken = self.written - unsent
        if unsent == 0 and not self.write_paused:
            self.write_deadline = 0.0
        elif self.write_deadline == 0.0 or taken > self.taken:
            self.write_deadline = self.context.clock.after(self.context.timeouts.write)
        self.taken = taken
        if 0.0 < self.write_deadline <= now:
            self.abort()
        elif 0.0 < self.deadline <= now:
            self.deadline = 0.0
            self.on_deadline()

    def on_deadline(self) -> None:
        """Called when the peer has not sent in time what it owes."""

    def drain(self) -> None:
        """The server shuts down: finish what runs, close what is idle."""


class Stream(Exchange):
    """One exchange: what a Cycle may ask of the protocol below it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._cycle: Cycle = None  # type: ignore[assignment]  # the connection attaches it at once
        self.ended = False

    def attach(self, cycle: Cycle | None) -> None:
        """Set the cycle; None cuts the link, so that nothing waits for the garbage collector."""
        self._cycle = cycle  # type: ignore[assignment]

    def cycle(self) -> Cycle:
        """The cycle, by a reference of the caller's own.

        Compiled, a call through an attribute holds none, and what the cycle is told may cut the
        link.
        """
        return self._cycle

    def end(self, aborted: bool) -> None:
        """Note that the exchange is over: its response is complete or broken off, or has become a
        tunnel. Every exchange comes here; calls after the first do nothing.

        Args:
            aborted: the response is not complete.
        """
        if self.ended:
            return
        self.ended = True
        access_log = self.connection.context.access_log
        if access_log.enabled:
            access_log.record(self, aborted)

    def start(self, status: int, headers: Headers) -> None:
        """Hold a head, which leaves with the next write(). Until then withdraw() takes it back.

        Raises:
            LocalProtocolError: the head cannot be sent; none is held.
        """
        raise NotImplementedError

    def write(self, data: bytes, end: bool) -> None:
        """Send a part of the body, behind the head if that is held; or bytes of a tunnel. `end`
        closes either.

        Raises:
            LocalProtocolError: the body does not have the announced length; the response is over.
        """
        raise NotImplementedError

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response.

        Raises:
            as start().
        """
        self.start(status, headers)
        self.write(body, True)

    def withdraw(self) -> None:
        """Forget the head that is held, if one is."""
        raise NotImplementedError

    def announced(self) -> int:
        """Bytes of content that the head announces and that are still to come; -1 if it does not
        say."""
        raise NotImplementedError

    def announce(self, size: int) -> None:
        """Have a head that is held announce so many bytes of content."""
        raise NotImplementedError

    def write_file(self, file: int, offset: int, size: int) -> int:
        """Send bytes of a file as a part of the body, without reading them.

        Returns:
            how many were taken; 0 also where the file ends; -1 if they must be read and written.
        """
        raise NotImplementedError

    def write_trailers(self, headers: Headers) -> None:
        """End the body with trailer fields, if there is a place for them and the peer takes them
        (RFC 9110 section 6.5).

        Raises:
            LocalProtocolError: they cannot be sent; the response is not over.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Let what was written leave now, and not at the end of the turn."""
        raise NotImplementedError

    def inform(self, status: int, headers: Headers) -> None:
        """Send an interim response, 100 or 103 (RFC 9110 section 15.2), if the peer reads them."""
        raise NotImplementedError

    def open_tunnel(self, headers: Headers) -> None:
        """Accept an upgrade: from now on on_data() and write() carry the bytes of another protocol.

        Raises:
            LocalProtocolError: as respond().
        """
        raise NotImplementedError

    def wake_at(self, when: float) -> None:
        """Have the cycle's on_deadline() called at a loop time, once; 0.0 for never.

        For a tunnel: of a request and its response the stream knows what is owed.
        """
        raise NotImplementedError

    def want_body(self) -> None:
        """The application waits for the body: a peer that waits for 100 gets it now."""
        raise NotImplementedError

    def consumed(self, size: int) -> None:
        """The application has taken `size` bytes of body, so that more may be read."""
        raise NotImplementedError

    def reset(self) -> None:
        """Give the exchange up; the peer sees that it is incomplete."""
        raise NotImplementedError

    def cut(self) -> None:
        """End an incomplete exchange once all that was written has been sent."""
        raise NotImplementedError

    def is_writable(self) -> bool:
        """Whether a writer may go on at once."""
        raise NotImplementedError


class Cycle:
    """The ASGI side of one scope: what a Stream tells it, and how receive() and send() wait.

    counted says whether limit_concurrency and timeout_request are about it.
    """

    def __init__(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        self.scope = scope
        self.stream = stream
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self.counted = False
        self.deadline = 0.0  # of the application; 0.0 for none
        self._burst = 0  # messages and KiB of this turn
        self._burst_began = 0.0  # 0.0 if there is none
        self._sent_at = 0.0
        self._blocks = False  # it has let time go by within a turn, and may do so again
        self._timed_out = False
        self._cancelled = False  # by the server
        self._disconnected = False  # receive() says so
        self._gone = False  # nothing is sent any more
        self._readers: list[asyncio.Future[None]] | None = None
        self._writers: list[asyncio.Future[None]] | None = None

    def on_data(self, data: bytes) -> None:
        """A part of the body, or bytes of a tunnel."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The request is complete."""
        raise NotImplementedError

    def on_disconnect(self) -> None:
        """The peer will send no more, but may still read."""
        self._disconnected = True
        self.wake_readers()

    def on_closed(self) -> None:
        """The peer is gone, or has been sent away."""
        self._gone = True
        self._disconnected = True
        self.wake_readers()
        self.on_writable()

    def on_over(self) -> None:
        """The response has come to its end, complete or refused."""

    def on_writable(self) -> None:
        """The peer has taken enough."""
        if self._writers is not None:
            self.wake(self._writers)

    def on_turn_end(self) -> None:
        """All output leaves now."""
        self._burst = 0
        self._burst_began = 0.0

    def on_deadline(self) -> None:
        """The time has come that was given to Stream.wake_at()."""

    def on_drain(self) -> None:
        """The server shuts down."""

    def on_timeout(self) -> None:
        """The application has taken longer than timeout_request: cancel it."""
        self.deadline = 0.0
        self._timed_out = True
        error_logger.error("Cancelled after timeout_request: %s", self.title())
        self.cancel()

    def cancel(self) -> None:
        """Cancel the application: it has had its time."""
        self._cancelled = True
        if self.task is not None:
            self.task.cancel()

    def on_return(self, exc: BaseException | None) -> None:
        """The application has returned, or raised `exc`."""
        raise NotImplementedError

    async def receive(self) -> dict[str, Any]:
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> Sending:
        """Take a message of the application; to be awaited: ends when another may come.

        Raises:
            LocalProtocolError: not a message that may come now; it says why.
            ClientDisconnected: an OSError; the client is gone.
        """
        return self.sending(message)

    async def send_as_coroutine(self, message: dict[str, Any]) -> None:
        """The same, where a function cannot be marked as one that gives coroutines."""
        await self.sending(message)

    def sending(self, message: Any) -> Sending:
        context = self.context
        sending: Sending = context.spare_sending
        if sending is not None and is_held_once(sending):
            context.spare_sending = None
            sending.taken = False
        else:
            sending = Sending.__new__(Sending)  # __init__ would cost a tuple of arguments
        sending.cycle = self
        sending.message = message
        return sending

    def take(self, message: Any) -> bool:
        """Do what a message asks for; false if proceed() is to be called once the peer reads.

        Raises:
            as send().
        """
        raise NotImplementedError

    def proceed(self, waited: bool) -> bool:
        """Go on with what take() has begun; as take().

        Args:
            waited: for the client to read, so that what was taken may not have arrived; or only for
                the others to have their turn.
        """
        if waited and self._gone:
            raise ClientDisconnected("the client is gone")
        return self._gone or self.stream.is_writable()

    def may_go_on(self) -> bool:
        """Whether the application may send more in this turn: the client reads, and others have
        not waited for long.
        """
        if not (self._gone or self.stream.is_writable()):
            return False
        now = monotonic()
        self._blocks = (self._blocks or self._burst_began > 0.0) and (
            now - self._sent_at >= BURST_TIME
        )
        self._sent_at = now
        if self._burst_began == 0.0:
            self._burst_began = now
        if self._blocks:
            self.stream.flush()
        return self._burst < BURST_MAX and now - self._burst_began < BURST_TIME

    def count(self, size: int) -> None:
        """Note that a message of so many bytes has been sent in this turn."""
        self._burst += 1 + size // 1024

    # --- What both kinds of scope need ----------------------------------------------------------

    def title(self) -> str:
        """What the log calls it."""
        return title_of(self.scope)

    def until_readable(self) -> asyncio.Future[None]:
        """To be awaited: ends when receive() may have something."""
        if self._readers is None:
            self._readers = []
        return self.add_waiter(self._readers)

    def until_writable(self) -> asyncio.Future[None]:
        """To be awaited: ends when the peer has taken enough, or is gone."""
        if self._writers is None:
            self._writers = []
        return self.add_waiter(self._writers)

    def add_waiter(self, waiters: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        """A future and no coroutine, which would cost more than all else of a short wait."""
        # Polling with a time limit must not leave a cancelled one each time.
        while waiters and waiters[len(waiters) - 1].done():
            waiters.pop()
        waiter: asyncio.Future[None] = self.context.loop.create_future()
        waiters.append(waiter)
        return waiter

    def wake_readers(self) -> None:
        if self._readers is not None:
            self.wake(self._readers)

    def wake(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    def is_disconnect(self, exc: BaseException) -> bool:
        """Whether an exception only says that the client is gone: ours, or a framework's word for
        it.
        """
        if not (self._disconnected or self._gone):
            return False
        if isinstance(exc, BaseExceptionGroup):
            return all(self.is_disconnect(member) for member in exc.exceptions)
        return isinstance(exc, ClientDisconnected) or type(exc).__name__ in FRAMEWORK_DISCONNECTS

    def log_raised(self, exc: BaseException) -> None:
        """Log what the application raised, unless it is only the end of its client or server."""
        if self.is_disconnect(exc):
            return
        own = self._timed_out or self.context.draining
        if isinstance(exc, asyncio.CancelledError) and own:
            return  # the server's own doing, which it has logged
        error_logger.error("Exception in ASGI application (%s)", self.title(), exc_info=exc)


class Sending:
    """What send() gives: a coroutine by behaviour, awaited once, at a third of a coroutine's cost.

    Nothing happens before it is awaited, as with a coroutine. One that is through is used again for
    the next message of whichever cycle, unless somebody still has it.
    """

    def __init__(self) -> None:
        self.cycle: Cycle | None = None  # until it is through
        self.message: Any = None
        self.taken = False  # the message, whatever it is
        self.waiting: Any = None  # an iterator over a future

    def __await__(self) -> Sending:
        return self

    def __iter__(self) -> Sending:
        return self

    def __next__(self) -> Any:
        """A future to wait for; ends once the message is taken and the peer reads."""
        cycle = self.cycle
        if cycle is None:
            raise RuntimeError("send() was awaited already")
        waited = self.waiting is not None
        if waited:
            for future in self.waiting:
                return future
            self.waiting = None
        self.cycle = None  # whatever is raised now, it is through
        if not self.taken:
            self.taken = True
            message = self.message
            self.message = None
            cycle.context.expect_own_thread()
            done = cycle.take(message)
        else:
            cycle._burst = 0  # the loop has turned since
            cycle._burst_began = 0.0
            done = cycle.proceed(waited)
        if done:
            cycle.context.spare_sending = self
            raise StopIteration
        self.cycle = cycle
        if cycle._gone or cycle.stream.is_writable():
            return None  # there is more, but others have their turn first
        self.waiting = cycle.until_writable().__await__()
        for future in self.waiting:
            return future
        return None

    def send(self, value: Any) -> Any:
        return next(self)

    def throw(self, *error: Any) -> Any:
        """Raise within the wait: as a coroutine takes it, an exception or (type, value, tb)."""
        waiting = self.waiting
        self.cycle = None
        self.taken = True
        self.message = None
        if waiting is not None:
            return waiting.throw(*error)
        raise error[1] if len(error) > 1 and error[1] is not None else error[0]

    def close(self) -> None:
        self.cycle = None
        self.taken = True
        self.message = None

    def __del__(self) -> None:
        if not self.taken:
            warnings.warn("send() was never awaited", RuntimeWarning, stacklevel=1)


# Some ask whether send() is a coroutine function, as asgiref's async_to_sync does. Python 3.11 has
# no mark for one that looks like none.
MARKS_SEND = sys.version_info >= (3, 12)
if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(Cycle.send)

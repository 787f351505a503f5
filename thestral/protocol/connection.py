# cython: binding=True
# Only a function that is not built in can be marked as a coroutine function: see MARKS_SEND.
"""The seam between protocols and ASGI: a Connection owns a transport, a Stream is one exchange on
it, a Cycle is the ASGI side of one scope.

Stream and Cycle call each other directly. Differences between protocols that ASGI sees are values
on Stream; Cycle never asks which protocol it serves.
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
from thestral.logging.running import about
from thestral.net.transport import SocketTransport
from thestral.protocol.exchange import Exchange
from thestral.protocol.output import Output
from thestral.types import Headers

if TYPE_CHECKING:
    from thestral._core.socket import ReadBuffer
    from thestral.errors import RemoteProtocolError
    from thestral.net.forwarded import Proxied
    from thestral.protocol.context import WorkerContext

# When the transport holds more output than this, send() waits until no more than a quarter of it is
# left.
WRITE_HIGH_WATER = 64 * 1024  # bytes
# How much an application may send before the loop gets a turn: about 0.2 ms of work. The turn costs
# 1 % of that.
BURST_MAX = 256  # messages and KiB, added up
# How long an application that computes or blocks between its messages may send before the loop gets
# a turn. After that its output no longer waits for the end of the turn.
BURST_TIME = 0.005  # seconds
# struct linger: on, 0 seconds. close() then sends a reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# How many running requests the metrics show.
PLACES = 64
# Names of Starlette's exceptions for a client that is gone.
FRAMEWORK_DISCONNECTS = ("ClientDisconnect", "WebSocketDisconnect")


class Connection(Output):
    """A transport with its output, its deadlines and its pauses. It has the methods of an asyncio
    Protocol.

    Attributes:
        deadline: loop time by which the peer must have sent what it owes; 0.0 for none.
        write_deadline: loop time at which a peer that reads nothing gets a reset; 0.0 for none.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int | None] | None = None
        self.proxied: Proxied | None = None  # contents of a trusted peer's PROXY head
        self.scheme = "http"
        self.tls: dict[str, Any] | None = None  # the ASGI extension "tls"
        self.scope_template: dict[str, Any] = {}
        self.deadline = 0.0
        self.write_deadline = 0.0
        self.taken = 0  # of the bytes `written`, those that had left the transport at the last tick
        self.write_paused = False
        self.reading_paused = False

    def open(self, transport: asyncio.Transport) -> None:
        """Set the transport, and read the addresses of both ends from it."""
        self.transport = transport
        self.owned = transport if isinstance(transport, SocketTransport) else None
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.tls = transport.get_extra_info("tls")
        proxied = self.proxied
        if proxied is not None:
            self.client, self.server = proxied.client, proxied.server
            if self.tls is None:  # TLS that ends here overrides TLS that ended at the proxy
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
        """Whether the peer of the transport is a trusted proxy, whichever client its PROXY head
        names. PROXY heads are read only from trusted peers.
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

    def take_over(self, data: bytes) -> None:
        """Go on with bytes that another connection has received in place of this one."""
        self.data_received(data)

    def count_received(self, size: int) -> None:
        if self.context.metrics is not None:
            self.context.metrics.add_received(size)

    def give_way(self, successor: Connection, transport: Any) -> None:
        """Put another connection in place of this one, on the same transport or one above it."""
        successor.proxied = self.proxied
        self.context.discard(self)
        self.lost = True  # the transport is the next connection's now
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if self.context.draining:
            successor.drain()

    def wind_down(self) -> None:
        """Called when the server is about to shut down, but still accepts requests."""

    def refuse(self, error: RemoteProtocolError) -> None:
        """Answer bytes that a Preamble has seen, and that are not this protocol's."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.lost:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused and not self.lost:
            self.reading_paused = False
            self.transport.resume_reading()

    def close_flushing(self) -> None:
        """Close once all output has been written. A peer that reads none of it gets a reset after
        timeout_write.
        """
        self.deadline = 0.0
        if self.lost:
            return
        self.transport.close()

    def abort(self) -> None:
        """Drop the connection at once, with a reset.

        The reset tells the peer that a response whose end is the end of the connection is
        incomplete, and makes the kernel drop the bytes that a stalled peer has not read.
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
        """Called when the peer has read enough for writing to go on."""

    def check_deadlines(self, now: float) -> None:
        """Called by the clock: while output waits, the peer must read some within timeout_write."""
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
            self.context.count_timeout("write")
            self.abort()
        elif 0.0 < self.deadline <= now:
            self.deadline = 0.0
            self.on_deadline()

    def on_deadline(self) -> None:
        """Called when the deadline has passed and the peer has not sent what it owes."""

    def drain(self) -> None:
        """Called when the server shuts down: finish the exchange, or close if there is none."""


class Stream(Exchange):
    """One exchange: the calls that a Cycle may make to the protocol below it."""

    if TYPE_CHECKING:
        connection: Connection
        _cycle: Cycle  # None before attach(), which follows at once, and after the exchange
        ended: bool

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def attach(self, cycle: Cycle | None) -> None:
        """Set the cycle. None cuts the link, so that both objects are freed without the garbage
        collector.
        """
        self._cycle = cycle  # type: ignore[assignment]

    def cycle(self) -> Cycle:
        """Return the cycle, with a reference that the caller owns.

        In compiled code a call through the attribute would not keep the cycle alive, and such a
        call may cut the link.
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
        if self.head_at_ns != 0 and self.connection.context.metrics is not None:
            self.connection.context.metrics.end(self, self.connection.scope_template)
        access_log = self.connection.context.access_log
        if access_log.enabled:
            access_log.record(self, aborted)

    def is_counted(self) -> bool:
        """Whether it is a running request that the metrics count."""
        return self.head_at_ns != 0 and not self.ended

    def count_abort(self) -> None:
        """Count the exchange as one whose client has left before the end of the response."""
        if self.is_counted() and self.connection.context.metrics is not None:
            self.connection.context.metrics.abort()

    def note_progress(self) -> None:
        """Note, if the exchange is counted, how much of the content has come and gone."""
        if self.head_at_ns != 0 and self.connection.context.metrics is not None:
            self.connection.context.metrics.progress(self)

    def receive(self, size: int) -> None:
        """Note that a part of the request's content has come."""
        self.received += size
        self.note_progress()

    def start(self, status: int, headers: Headers) -> None:
        """Hold a head, which leaves with the next write(). Until then withdraw() drops it.

        Raises:
            LocalProtocolError: the head is invalid; no head is held.
        """
        raise NotImplementedError

    def write(self, data: bytes, end: bool) -> None:
        """Send a part of the body, after the head if that is held; or bytes of a tunnel. `end` ends
        the body or closes the tunnel.

        Raises:
            LocalProtocolError: the body does not have the announced length; the response is over.
        """
        raise NotImplementedError

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete response.

        Raises:
            LocalProtocolError: as start().
        """
        self.start(status, headers)
        self.write(body, True)

    def withdraw(self) -> None:
        """Drop the head if it is held."""
        raise NotImplementedError

    def announced(self) -> int:
        """Return how many bytes of the announced content are still to be sent; -1 if the head
        announces no length.
        """
        raise NotImplementedError

    def announce(self, size: int) -> None:
        """Have the held head announce `size` bytes of content."""
        raise NotImplementedError

    def write_file(self, file: int, offset: int, size: int) -> int:
        """Send bytes of a file as a part of the body, without reading them.

        Returns:
            how many bytes were taken; 0 if the peer must read first, or at the end of the file; -1
            if the caller must read the bytes and write() them.
        """
        raise NotImplementedError

    def write_trailers(self, headers: Headers) -> None:
        """End the body, with trailer fields if the framing has a place for them and the peer
        accepts them (RFC 9110 section 6.5).

        Raises:
            LocalProtocolError: a field is invalid or not allowed; the response is not over.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Send now what was written, instead of at the end of the turn."""
        raise NotImplementedError

    def inform(self, status: int, headers: Headers) -> None:
        """Send an interim response, 100 or 103 (RFC 9110 section 15.2), if the peer knows them."""
        raise NotImplementedError

    def open_tunnel(self, headers: Headers) -> None:
        """Accept an upgrade: from now on on_data() and write() carry bytes of the other protocol.

        Raises:
            LocalProtocolError: as respond().
        """
        raise NotImplementedError

    def wake_at(self, when: float) -> None:
        """Have the cycle's on_deadline() called once, at a loop time; 0.0 for never.

        Only for a tunnel: a request and its response have the connection's time-outs.
        """
        raise NotImplementedError

    def want_body(self) -> None:
        """Note that the application waits for the body: send 100 to a peer that expects it."""
        raise NotImplementedError

    def consumed(self, size: int) -> None:
        """Note that the application has received `size` bytes of body, so more may be read."""
        raise NotImplementedError

    def reset(self) -> None:
        """Abort the exchange, so that the peer sees that it is incomplete."""
        raise NotImplementedError

    def cut(self) -> None:
        """End an incomplete exchange once everything that was written has been sent."""
        raise NotImplementedError

    def is_writable(self) -> bool:
        """Whether the cycle may write more without waiting for the peer."""
        raise NotImplementedError


class Cycle:
    """The ASGI side of one scope: the calls from its Stream, and how receive() and send() wait.

    Attributes:
        counted: whether limit_concurrency and timeout_request apply.
        deadline: loop time at which timeout_request cancels the application; 0.0 for never.
    """

    if TYPE_CHECKING:  # what begin() does not set begins as None, 0 or False
        scope: dict[str, Any]
        stream: Stream
        context: WorkerContext
        task: asyncio.Task[None] | None
        counted: bool
        deadline: float
        _burst: int  # messages and KiB sent in this turn
        _burst_began: float  # 0.0 if nothing has been sent in this turn
        _sent_at: float
        _blocks: bool  # the application has computed or blocked within a turn, and may again
        _timed_out: bool
        _cancelled: bool  # the server has cancelled the application
        _disconnected: bool  # receive() reports a disconnect
        _gone: bool  # nothing can be sent any more
        _readers: list[asyncio.Future[None]] | None
        _writers: list[asyncio.Future[None]] | None

    def __init__(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        self.begin(scope, stream, context)

    def begin(self, scope: dict[str, Any], stream: Stream, context: WorkerContext) -> None:
        """Initialise the cycle. Called after __new__() where __init__() would cost each request a
        tuple of arguments.
        """
        self.scope = scope
        self.stream = stream
        self.context = context

    def on_data(self, data: bytes) -> None:
        """Called with a part of the body, or bytes of a tunnel."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Called when the request is complete."""
        raise NotImplementedError

    def on_disconnect(self) -> None:
        """Called when the peer will send no more; it may still read."""
        self._disconnected = True
        self.wake_readers()

    def on_closed(self) -> None:
        """Called when the peer is gone, or the server has dropped it."""
        self._gone = True
        self._disconnected = True
        self.wake_readers()
        self.on_writable()

    def on_over(self) -> None:
        """Called when the response is over, complete or cut."""

    def on_writable(self) -> None:
        """Called when the peer has read enough for writing to go on."""
        if self._writers is not None:
            self.wake(self._writers)

    def on_turn_end(self) -> None:
        """Called at the end of the turn, before the output leaves."""
        self._burst = 0
        self._burst_began = 0.0

    def on_deadline(self) -> None:
        """Called at the time that was given to Stream.wake_at()."""

    def on_drain(self) -> None:
        """Called when the server shuts down."""

    def on_timeout(self) -> None:
        """Cancel an application that has run longer than timeout_request."""
        self.deadline = 0.0
        self._timed_out = True
        self.context.count_timeout("request")
        title = self.title()
        error_logger.error("Cancelled after timeout_request: %s", title, extra=self.extra())
        self.cancel()

    def cancel(self) -> None:
        """Cancel the application, whose time is over."""
        self._cancelled = True
        if self.task is not None:
            self.task.cancel()

    def on_return(self, exc: BaseException | None) -> None:
        """Called when the application has returned, or raised `exc`."""
        raise NotImplementedError

    async def receive(self) -> dict[str, Any]:
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> Sending:
        """Send a message of the application. Await the result: it ends when the application may
        send the next message.

        Raises:
            LocalProtocolError: the message is invalid, or not allowed now.
            ClientDisconnected: an OSError; the client is gone.
        """
        return self.sending(message)

    async def send_as_coroutine(self, message: dict[str, Any]) -> None:
        """As send(), for Python 3.11, which cannot mark send() as a coroutine function."""
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
        """Act on a message. If it returns false, call proceed() once the peer reads.

        Raises:
            as send().
        """
        raise NotImplementedError

    def proceed(self, waited: bool) -> bool:
        """Go on with the message that take() has begun; returns and raises as take() does.

        Args:
            waited: true if send() waited for the client to read, so the message may not have
                arrived; false if it only gave the loop a turn.
        """
        if waited and self._gone:
            raise ClientDisconnected("the client is gone")
        return self._gone or self.stream.is_writable()

    def may_go_on(self) -> bool:
        """Whether the application may send more in this turn: the client reads, and the loop has
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
        """Note that a message of `size` bytes has been sent in this turn."""
        self._burst += 1 + size // 1024

    # --- What both kinds of scope need ----------------------------------------------------------

    def title(self) -> str:
        """Return the name of the request for the log."""
        return title_of(self.scope, self.stream.trace)

    def extra(self) -> dict[str, Any] | None:
        """Return `extra` for a record about the request that is made outside its task."""
        return about(self.stream.trace)

    def until_readable(self) -> asyncio.Future[None]:
        """Return a future that ends when receive() may have a message."""
        if self._readers is None:
            self._readers = []
        return self.add_waiter(self._readers)

    def until_writable(self) -> asyncio.Future[None]:
        """Return a future that ends when the peer has read enough, or is gone."""
        if self._writers is None:
            self._writers = []
        return self.add_waiter(self._writers)

    def add_waiter(self, waiters: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        """Add a future to `waiters`. A coroutine would cost more than the rest of a short wait."""
        # An application that polls with a time limit must not leave a cancelled future each time.
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
        """Whether an exception only says that the client is gone: the server's own, or that of a
        framework.
        """
        if not (self._disconnected or self._gone):
            return False
        if isinstance(exc, BaseExceptionGroup):
            return all(self.is_disconnect(member) for member in exc.exceptions)
        return isinstance(exc, ClientDisconnected) or type(exc).__name__ in FRAMEWORK_DISCONNECTS

    def log_raised(self, exc: BaseException) -> None:
        """Log an exception of the application, unless its client or the server ended it."""
        if self.is_disconnect(exc):
            return
        own = self._timed_out or self.context.draining
        if isinstance(exc, asyncio.CancelledError) and own:
            return  # the server cancelled the application, and has logged that
        error_logger.error("Exception in ASGI application (%s)", self.title(), exc_info=exc)


def place_oldest(context: WorkerContext) -> None:
    """Have the places for running requests taken by the oldest ones, if there were more requests
    than places.
    """
    metrics = context.metrics
    if metrics is None or not metrics.is_crowded():
        return
    streams: list[Stream] = [
        cycle.stream  # type: ignore[attr-defined]
        for cycle in context.cycles
    ]
    running = sorted([stream for stream in streams if stream.is_counted()], key=began_at)
    for stream in running[PLACES:]:
        metrics.displace(stream)
    for stream in running[:PLACES]:
        if stream.place < 0:
            metrics.place(stream)


def began_at(stream: Stream) -> int:
    return stream.head_at_ns


class Sending:
    """The result of send(): behaves like a coroutine, at a third of the cost.

    As with a coroutine, nothing happens until it is awaited, and it can be awaited once. A finished
    object is used again for the next message of any cycle, unless somebody still holds it.
    """

    def __init__(self) -> None:
        self.cycle: Cycle | None = None  # None once it has finished
        self.message: Any = None
        self.taken = False  # whether the message has been passed to take()
        self.waiting: Any = None  # an iterator over a future

    def __await__(self) -> Sending:
        return self

    def __iter__(self) -> Sending:
        return self

    def __next__(self) -> Any:
        """Return a future to wait for; stop once the message is sent and another may follow."""
        cycle = self.cycle
        if cycle is None:
            raise RuntimeError("send() was awaited already")
        waited = self.waiting is not None
        if waited:
            for future in self.waiting:
                return future
            self.waiting = None
        self.cycle = None  # an exception ends it, too
        if not self.taken:
            self.taken = True
            message = self.message
            self.message = None
            cycle.context.expect_own_thread()
            done = cycle.take(message)
        else:
            cycle._burst = 0  # the loop has had its turn
            cycle._burst_began = 0.0
            done = cycle.proceed(waited)
        if done:
            cycle.context.spare_sending = self
            raise StopIteration
        self.cycle = cycle
        if cycle._gone or cycle.stream.is_writable():
            return None  # give the loop a turn before going on
        self.waiting = cycle.until_writable().__await__()
        for future in self.waiting:
            return future
        return None

    def send(self, value: Any) -> Any:
        return next(self)

    def throw(self, *error: Any) -> Any:
        """Raise an exception inside the wait. Arguments as for a coroutine: an exception, or
        (type, value, traceback).
        """
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


# Some callers ask whether send() is a coroutine function, as asgiref's async_to_sync does. Python
# 3.11 cannot mark a function as one.
MARKS_SEND = sys.version_info >= (3, 12)
if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(Cycle.send)

"""TLS on a connection: the handshake, then a transport that encrypts (RFC 8446).

The loop knows plain sockets alone. TLS of its own, asyncio's or uvloop's, has no half-close, hides
what the kernel has not taken, and cannot tell plain HTTP from a bad handshake; here one code does
all three on every loop, and the deadlines are those of the worker's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from thestral.errors import RemoteProtocolError
from thestral.logging.names import client_address
from thestral.net.transport import Protocol, SocketTransport
from thestral.protocol.phases import LINGER_TIMEOUT
from thestral.protocol.preamble import Preamble

if TYPE_CHECKING:
    from thestral._core.socket import ReadBuffer
    from thestral.protocol.connection import Connection
    from thestral.protocol.context import WorkerContext

# Most plain text of a record (RFC 8446 section 5.1): one read takes a record whole, so that OpenSSL
# keeps nothing back.
RECORD_MAX = 16 * 1024  # bytes
# Encrypted bytes that are gathered before the transport gets them: what a large write costs in
# memory beside itself.
GATHER_MAX = 256 * 1024  # bytes
# How a handshake begins (RFC 8446 section 5.1); HTTP begins with a letter.
HANDSHAKE_RECORD = 22


class TLSHandshake(Preamble):
    """A connection until its handshake is complete; then a TLSTransport takes its place.

    The connection above that comes into being when the client has shown that it speaks TLS.
    """

    def __init__(
        self,
        context: WorkerContext,
        successor: Callable[[WorkerContext, str | None], Connection],
    ) -> None:
        super().__init__(context, successor)
        assert context.certificates is not None
        self._contexts = context.certificates.current()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._secure = self._contexts.front.wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )
        self._begun = False
        self._failed = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.open(transport)
        self.deadline = self.context.clock.after(self.context.timeouts.tls_handshake)

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        if not self._begun:
            self._begun = True
            if data[0] != HANDSHAKE_RECORD:
                reason = "plain HTTP on a TLS port; use https://"
                self.refuse_as_http(RemoteProtocolError(400, reason, data))
                return
        self._incoming.write(data)
        try:
            self._secure.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as exc:
            self._fail(exc)
        else:
            self._complete()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.write(self._outgoing.read())

    def _complete(self) -> None:
        """Put the transport that encrypts between ours and a connection of the protocol that was
        agreed on.
        """
        self._flush()  # with the session's tickets
        transport = TLSTransport(self.transport, self._secure, self._incoming, self._outgoing)
        transport.tls = self._contexts.extension(self._secure)
        self.transport.set_protocol(transport)
        self.hand_over(transport, self._secure.selected_alpn_protocol())
        transport.begin()

    def _fail(self, error: ssl.SSLError) -> None:
        """The client has been told by an alert; it may still be sending, and must read it first."""
        client = client_address(self) or "a client"
        reason = error.reason or error.strerror
        self.context.refusals.info(
            self.context.clock.now, "TLS handshake with %s failed: %s", client, reason
        )
        self._failed = True
        self._flush()
        if not self.is_broken():
            self.deadline = self.context.clock.after(LINGER_TIMEOUT)
            self.transport.write_eof()

    def on_deadline(self) -> None:
        if self._failed:
            self.close_flushing()
            return
        if self._begun:
            client = client_address(self) or "a client"
            self.context.refusals.info(
                self.context.clock.now, "TLS handshake with %s not completed in time", client
            )
        Preamble.on_deadline(self)


class TLSTransport(Protocol):
    """A transport for the connection above it, a protocol for the transport below.

    What is written is encrypted at once and handed down, so that the transport below has the only
    buffer, with its limits. Closing our side sends close_notify and closes the socket's side, too;
    either end may do so and still read (RFC 8446 section 6.1). A client that ends without
    close_notify is taken as one that has sent it: HTTP knows by its own framing what is incomplete.
    """

    def __init__(
        self,
        below: Any,
        secure: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self.tls: dict[str, Any] | None = None
        self._below = below
        self._owned: SocketTransport | None = None  # the same, if it is one of ours
        if isinstance(below, SocketTransport):
            self._owned = below
        self._above: Connection | None = None
        self._secure = secure
        # What the stdlib's SSLObject hands each call on to; private, and the same since 3.5.
        self._inner = getattr(secure, "_sslobj", secure)
        self._incoming = incoming
        self._outgoing = outgoing
        self._sent = False  # encrypted bytes have been handed down since the last read
        self._ended = False  # the client's side
        self._closed = False  # ours

    def set_protocol(self, above: Connection) -> None:
        self._above = above

    def begin(self) -> None:
        """Give the connection above what came with the handshake's end."""
        if self._incoming.pending:
            self._decrypt()

    # --- The transport below calls ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._closed or self._ended:
            return  # nobody would read it
        self._incoming.write(data)
        self._decrypt()

    def receive_from(self, buffer: ReadBuffer) -> None:
        self.data_received(buffer.take())

    def eof_received(self) -> bool:
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        above = self._above
        self._above = None
        self._closed = True
        if above is not None:
            above.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    def _decrypt(self) -> None:
        """Hand up all that is complete, in one piece."""
        data: bytes | None = None
        more: list[bytes] | None = None
        ended = False
        self._sent = False
        try:
            while True:
                piece = self._inner.read(RECORD_MAX)
                if not piece:
                    ended = True  # close_notify
                    break
                if data is None:
                    data = piece
                elif more is None:
                    more = [data, piece]
                else:
                    more.append(piece)
                if not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._fail(exc)
            return
        above = self._above
        assert above is not None
        if data is not None:
            above.data_received(data if more is None else b"".join(more))
        if not self._sent and self._outgoing.pending:
            self._flush()  # a new key was asked for
        if ended:
            self._end()

    def _end(self) -> None:
        """The client sends no more."""
        above = self._above
        if self._ended or above is None:
            return
        self._ended = True
        if not above.eof_received():
            self.close()

    def _fail(self, error: ssl.SSLError) -> None:
        """Bytes that are no TLS: OpenSSL has made an alert of it, and nothing more can be read."""
        above = self._above
        assert above is not None
        client = client_address(above) or "a client"
        context = above.context
        reason = error.reason or error.strerror
        context.refusals.info(context.clock.now, "TLS with %s failed: %s", client, reason)
        self._flush()
        self._closed = True
        self._below.close()
        above.is_broken()

    def _flush(self) -> None:
        """Hand down what is encrypted."""
        above = self._above
        data: bytes = self._outgoing.read()
        self._sent = True
        if above is not None and not self.is_closing():
            # The connection compares what it has written with what the transport below still has.
            above.written += len(data)
            if self._owned is not None:
                self._owned.write(data)
            else:
                self._below.write(data)

    # --- The connection above calls -----------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._closed and self._above is not None:
            self._encrypt(data)
            self._flush()

    def writelines(self, parts: Iterable[bytes]) -> None:
        if not self._closed and self._above is not None:
            for data in parts:
                self._encrypt(data)
            self._flush()

    def _encrypt(self, data: bytes) -> None:
        size = len(data)
        above = self._above
        if size == 0 or above is None:
            return
        above.written -= size  # counted as it goes down, encrypted
        taken: int = self._inner.write(data)
        if taken < size:
            view = memoryview(data)
            while taken < size:
                if self._outgoing.pending >= GATHER_MAX:
                    self._flush()
                taken += self._inner.write(view[taken:])

    def write_eof(self) -> None:
        if not self._closed:
            self._say_goodbye()
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closed:
            self._say_goodbye()
        self._below.close()

    def abort(self) -> None:
        self._closed = True
        self._below.abort()

    def _say_goodbye(self) -> None:
        """Send close_notify; what comes from now on is not read."""
        self._closed = True
        with contextlib.suppress(ssl.SSLError):  # it would also wait for the client's
            self._secure.unwrap()
        self._flush()

    def is_closing(self) -> bool:
        if self._owned is not None:
            return self._owned.is_closing()
        closing: bool = self._below.is_closing()
        return closing

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        if self._owned is not None:
            return self._owned.get_write_buffer_size()
        size: int = self._below.get_write_buffer_size()
        return size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports; "tls" is ASGI's extension."""
        if name == "tls":
            return self.tls
        if name == "ssl_object":
            return self._secure
        return self._below.get_extra_info(name, default)

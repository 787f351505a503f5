"""TLS on a connection: the handshake, then a transport that encrypts (RFC 8446).

The event loop handles plain sockets only. The TLS of asyncio and uvloop has no half-close, does not
tell how much output the kernel has not accepted yet, and reports plain HTTP as a bad handshake.
This module does all three, alike on every loop, with the deadlines of the worker's clock.
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

# Most plain text in a record (RFC 8446 section 5.1). Each read asks for this much, so that OpenSSL
# never keeps part of a record.
RECORD_MAX = 16 * 1024  # bytes
# Encrypted bytes are passed to the transport below in pieces of about this size. This bounds the
# additional memory that a large write needs.
GATHER_MAX = 256 * 1024  # bytes
# The first byte of a handshake (RFC 8446 section 5.1). HTTP begins with a letter.
HANDSHAKE_RECORD = 22


class TLSHandshake(Preamble):
    """A connection until its handshake is complete. Then a TLSTransport takes its place, with a
    connection of the negotiated protocol above it.
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
        """Put a TLSTransport above the plain transport, and a connection of the negotiated protocol
        above that.
        """
        self._flush()  # the end of the handshake, with session tickets
        transport = TLSTransport(self.transport, self._secure, self._incoming, self._outgoing)
        transport.tls = self._contexts.extension(self._secure)
        self.transport.set_protocol(transport)
        self.hand_over(transport, self._secure.selected_alpn_protocol())
        transport.begin()

    def _fail(self, error: ssl.SSLError) -> None:
        """Log why the handshake failed, and send OpenSSL's alert. Close only the server's side for
        now: closing both could reset the connection before the client has read the alert.
        """
        client = client_address(self) or "a client"
        reason = error.reason or error.strerror
        self.context.refusals.info(
            self.context.clock.now, "TLS handshake with %s failed: %s", client, reason
        )
        if self.context.metrics is not None:
            self.context.metrics.fail_handshake()
        self._failed = True
        self._flush()
        if not self.is_broken():
            self.deadline = self.context.clock.after(LINGER_TIMEOUT)
            self.transport.write_eof()

    def on_deadline(self) -> None:
        if self._failed:
            self.close_flushing()
            return
        self.context.count_timeout("tls_handshake")
        if self._begun:
            client = client_address(self) or "a client"
            self.context.refusals.info(
                self.context.clock.now, "TLS handshake with %s not completed in time", client
            )
        Preamble.on_deadline(self)


class TLSTransport(Protocol):
    """A transport for the connection above it, and a protocol for the transport below it.

    Written data is encrypted at once and passed on, so the only buffer is that of the transport
    below, with its limits. write_eof() sends close_notify and closes the socket's writing side.
    Either end may close its side and still read (RFC 8446 section 6.1). If a client closes its side
    without close_notify, it is treated as if it had sent one: HTTP's own framing tells whether a
    message is complete.
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
        self._owned: SocketTransport | None = None  # `below`, if it is the server's own
        if isinstance(below, SocketTransport):
            self._owned = below
        self._above: Connection | None = None
        self._secure = secure
        # The object to which the stdlib's SSLObject forwards each call. The attribute is private,
        # and has had this name since 3.5.
        self._inner = getattr(secure, "_sslobj", secure)
        self._incoming = incoming
        self._outgoing = outgoing
        self._sent = False  # encrypted bytes have been handed down since the last read
        self._ended = False  # the client has closed its side
        self._closed = False  # the server has closed its side

    def set_protocol(self, above: Connection) -> None:
        self._above = above

    def begin(self) -> None:
        """Pass on the data that arrived together with the end of the handshake."""
        if self._incoming.pending:
            self._decrypt()

    # --- The transport below calls ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._closed or self._ended:
            return  # the connection above would ignore it
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
        """Decrypt all complete records, and pass their contents on in one piece."""
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
            self._flush()  # OpenSSL's answer to a key update
        if ended:
            self._end()

    def _end(self) -> None:
        """Tell the connection above that the client will send no more."""
        above = self._above
        if self._ended or above is None:
            return
        self._ended = True
        if not above.eof_received():
            self.close()

    def _fail(self, error: ssl.SSLError) -> None:
        """Log invalid TLS, send OpenSSL's alert, and close: nothing more can be read."""
        above = self._above
        assert above is not None
        client = client_address(above) or "a client"
        context = above.context
        reason = error.reason or error.strerror
        context.refusals.info(context.clock.now, "TLS with %s failed: %s", client, reason)
        self._flush()
        self._closed = True
        self._below.close()
        above.abandon()

    def _flush(self) -> None:
        """Pass the encrypted bytes to the transport below."""
        above = self._above
        data: bytes = self._outgoing.read()
        self._sent = True
        if above is not None and not self.is_closing():
            # The connection subtracts the buffer size of the transport below from `written`, so it
            # must count encrypted bytes.
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
        above.written -= size  # _flush() adds the encrypted bytes instead
        taken: int = self._inner.write(data)
        if taken < size:
            view = memoryview(data)
            while taken < size:
                if self._outgoing.pending >= GATHER_MAX:
                    self._flush()
                taken += self._inner.write(view[taken:])

    def write_eof(self) -> None:
        if not self._closed:
            self._send_close_notify()
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closed:
            self._send_close_notify()
        self._below.close()

    def abort(self) -> None:
        self._closed = True
        self._below.abort()

    def _send_close_notify(self) -> None:
        """Send close_notify. Data that arrives from now on is ignored."""
        self._closed = True
        with contextlib.suppress(ssl.SSLError):  # raised because the client's has not arrived
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
        """As in asyncio's transports; "tls" is ASGI's extension."""
        if name == "tls":
            return self.tls
        if name == "ssl_object":
            return self._secure
        return self._below.get_extra_info(name, default)

"""A TLS client that can close its side and still read, which ssl.SSLSocket cannot."""

from __future__ import annotations

import contextlib
import socket
import ssl

RECORD_MAX = 16 * 1024


class TLSClient:
    """Replaces a socket in tests that were written for plain connections.

    Attributes:
        secure: the ssl.SSLObject.
        raw: the socket below.
        notified: whether the server has sent close_notify.
    """

    def __init__(
        self, raw: socket.socket, context: ssl.SSLContext, name: str = "localhost"
    ) -> None:
        self.raw = raw
        self.notified = False
        self._unsent = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.secure = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        while True:
            try:
                self.secure.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._read_more()
            else:
                break
        self._flush()

    def _flush(self) -> None:
        """Send encrypted bytes; keep those that a non-blocking socket does not accept."""
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self.raw.send(self._unsent) :]

    def _read_more(self) -> None:
        data = self.raw.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.secure.write(view) :]
            self._flush()

    def send(self, data: bytes) -> int:
        """Send at most one record, once all earlier bytes have been sent."""
        self._flush()
        taken = self.secure.write(data[:RECORD_MAX])
        with contextlib.suppress(BlockingIOError):
            self._flush()
        return taken

    def encrypted(self, data: bytes) -> bytes:
        """Encrypt `data`; the caller sends the result."""
        self.secure.write(data)
        return self._outgoing.read()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                data = self.secure.read(size)
            except ssl.SSLWantReadError:
                self._read_more()
            except ssl.SSLZeroReturnError:
                self.notified = True
                return b""
            except ssl.SSLEOFError:
                return b""
            else:
                if not data:
                    self.notified = True
                return data

    def shutdown(self, how: int) -> None:
        """Send close_notify, and close our side of the socket."""
        assert how == socket.SHUT_WR
        with contextlib.suppress(ssl.SSLError):  # the server has not sent its close_notify
            self.secure.unwrap()
        self._flush()
        self.raw.shutdown(how)

    def settimeout(self, seconds: float | None) -> None:
        self.raw.settimeout(seconds)

    def setblocking(self, flag: bool) -> None:
        self.raw.setblocking(flag)

    def setsockopt(self, *option: object) -> None:
        self.raw.setsockopt(*option)

    def getsockname(self) -> object:
        return self.raw.getsockname()

    def fileno(self) -> int:
        return self.raw.fileno()

    def close(self) -> None:
        self.raw.close()

    def __enter__(self) -> TLSClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

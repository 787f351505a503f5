"""The PROXY protocol, versions 1 and 2: a proxy puts a head in front of each connection that it
forwards, which names the client and says whether it uses TLS.
https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thestral._csrc import ffi, lib
from thestral.errors import RemoteProtocolError
from thestral.logging.names import client_address
from thestral.net.certificate import escaped
from thestral.net.forwarded import Proxied, plain_address
from thestral.net.tls import VERSION_NUMBERS, known_suites
from thestral.protocol.preamble import Preamble

if TYPE_CHECKING:
    from thestral.net.forwarded import Address
    from thestral.protocol.connection import Connection
    from thestral.protocol.context import WorkerContext


class ProxyHandshake(Preamble):
    """A connection until its PROXY head is complete. Then a connection of the next protocol takes
    its place, and gets the contents of the head.

    Whether a head is due depends on the peer's address alone, as section 2 requires: trusted peers
    must send one, others must not.
    """

    def __init__(
        self,
        context: WorkerContext,
        successor: Callable[[WorkerContext, str | None], Connection],
    ) -> None:
        super().__init__(context, successor)
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.open(transport)
        if self.context.settings.trusted.trusts_peer(self.client, self.server):
            self.deadline = self.context.clock.after(self.context.timeouts.head)
        else:
            self._complete(None, b"")

    def data_received(self, data: bytes) -> None:
        data = self._received + data  # bounded by TH_PROXY_HEAD_MAX
        head = ffi.new("th_proxy *")
        size = lib.th_proxy_read(data, len(data), head)
        if size > 0:
            self._complete(proxied_by(data, head), data[size:])
        elif size == 0:
            self._received = data
        else:
            self._fail(size, data)

    def _complete(self, proxied: Proxied | None, rest: bytes) -> None:
        self.proxied = proxied
        connection = self.hand_over(self.transport, None)
        if rest:
            connection.data_received(rest)

    def _fail(self, status: int, data: bytes) -> None:
        """Refuse a trusted peer that sent no valid head. The reason goes into the response or the
        log, because the proxy or the server is configured wrongly.
        """
        reason = f"{ffi.string(lib.th_status_text(status)).decode()} from a trusted proxy"
        if self.context.metrics is not None:
            self.context.metrics.fail_handshake()
        if self.context.certificates is None:
            self.refuse_as_http(RemoteProtocolError(400, reason, data[:64]))
        else:
            client = client_address(self) or "a client"
            context = self.context
            context.refusals.info(context.clock.now, "Refused %s: %s", client, reason)
            self.abort()


def proxied_by(data: bytes, head: Any) -> Proxied | None:
    """Return the contents of a head; None if the proxy made the connection for itself."""
    if head.family == lib.TH_PROXY_NONE:
        return None
    client, server = ends_of(data, head)
    secure = bool(head.tls & lib.TH_PROXY_TLS) if head.tls_reported else None
    return Proxied(client, server, secure, tls_of(data, head))


def ends_of(data: bytes, head: Any) -> tuple[tuple[str, int] | None, Address | None]:
    """Return client and server in the form that a scope has them."""
    source, destination = slice_of(data, head.source), slice_of(data, head.destination)
    if head.family == lib.TH_PROXY_UNIX:
        path = destination.decode("utf-8", "replace")
        return None, (path, None) if path else None
    return (
        (address_of(source, head.version), head.source_port),
        (address_of(destination, head.version), head.destination_port),
    )


def tls_of(data: bytes, head: Any) -> dict[str, Any] | None:
    """Return ASGI's tls extension for the client's connection to the proxy; None if the head has no
    TLS version.

    The head has only the common name of a client's certificate, so client_cert_name has no more.
    """
    version = VERSION_NUMBERS.get(slice_of(data, head.tls_version).decode("latin-1"))
    if version is None or not head.tls & lib.TH_PROXY_TLS:
        return None
    name = error = None
    if head.tls & (lib.TH_PROXY_TLS_CERT_CONN | lib.TH_PROXY_TLS_CERT_SESSION):
        if head.tls_verify:
            error = f"the proxy did not verify the certificate: {head.tls_verify}"
        elif head.tls_name.length:
            with contextlib.suppress(UnicodeDecodeError):
                name = "CN=" + escaped(slice_of(data, head.tls_name).decode())
    return {
        "server_cert": None,
        "client_cert_chain": (),
        "client_cert_name": name,
        "client_cert_error": error,
        "tls_version": version,
        "cipher_suite": known_suites().get(slice_of(data, head.tls_cipher).decode("latin-1")),
    }


def slice_of(data: bytes, where: Any) -> bytes:
    return data[where.offset : where.offset + where.length]


def address_of(data: bytes, version: int) -> str:
    """Return an address as text. In version 1 `data` is text, which has been checked."""
    return str(plain_address(data.decode() if version == 1 else data))

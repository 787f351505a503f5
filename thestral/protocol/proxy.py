"""The PROXY protocol, versions 1 and 2: a proxy that passes bytes on says first who sends them,
and whether over TLS.
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
    """A connection until the PROXY head is complete; then one of the next protocol takes its place,
    with what the head says of the client.

    Trusted peers begin with the head, all others must not: nothing is guessed from the bytes, as
    section 2 asks.
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
        """A trusted peer without a head is a mistake in a configuration: say so where it shows."""
        reason = f"{ffi.string(lib.th_status_text(status)).decode()} from a trusted proxy"
        if self.context.certificates is None:
            self.refuse_as_http(RemoteProtocolError(400, reason, data[:64]))
        else:
            client = client_address(self) or "a client"
            context = self.context
            context.refusals.info(context.clock.now, "Refused %s: %s", client, reason)
            self.abort()


def proxied_by(data: bytes, head: Any) -> Proxied | None:
    """What a th_proxy says; None if the proxy speaks for itself."""
    if head.family == lib.TH_PROXY_NONE:
        return None
    client, server = ends_of(data, head)
    return Proxied(client, server, bool(head.tls & lib.TH_PROXY_TLS), tls_of(data, head))


def ends_of(data: bytes, head: Any) -> tuple[tuple[str, int] | None, Address | None]:
    """Client and server as in a scope."""
    source, destination = slice_of(data, head.source), slice_of(data, head.destination)
    if head.family == lib.TH_PROXY_UNIX:
        path = destination.decode("utf-8", "replace")
        return None, (path, None) if path else None
    return (
        (address_of(source, head.version), head.source_port),
        (address_of(destination, head.version), head.destination_port),
    )


def tls_of(data: bytes, head: Any) -> dict[str, Any] | None:
    """ASGI's tls extension of the client's connection to the proxy; None without its version.

    Of the client's certificate the proxy names the owner's common name alone, so that is all of
    client_cert_name.
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
    """An address's text; in version 1 it is one already, checked."""
    return str(plain_address(data.decode() if version == 1 else data))

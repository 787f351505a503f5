"""Which protocols a connection speaks, one after the other: the PROXY protocol, TLS, HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thestral.protocol.http1 import HTTP1Connection
from thestral.protocol.http2 import HTTP2Connection
from thestral.protocol.proxy import ProxyHandshake
from thestral.protocol.tls import TLSHandshake

if TYPE_CHECKING:
    from thestral.protocol.connection import Connection
    from thestral.protocol.context import WorkerContext


def new_connection(context: WorkerContext) -> Connection:
    """The first protocol of an accepted connection."""
    if context.metrics is not None:
        context.metrics.accept()
    if context.settings.proxy_protocol:
        return ProxyHandshake(context, new_behind_proxy)
    return new_behind_proxy(context, None)


def new_behind_proxy(context: WorkerContext, alpn: str | None) -> Connection:
    """The protocol that follows a PROXY head, or comes first without one."""
    if context.certificates is not None:
        return TLSHandshake(context, new_http)
    return new_http(context, alpn)


def new_http(context: WorkerContext, alpn: str | None) -> Connection:
    """The version of HTTP that a connection speaks.

    Args:
        context: of the worker.
        alpn: the protocol that client and server have agreed on (RFC 7301); None if they have
            not negotiated one.
    """
    if context.settings.http2 is None:
        return HTTP1Connection(context)
    if alpn == "h2":
        return HTTP2Connection(context)
    # By prior knowledge (RFC 9113 section 3.3); over TLS a client has to say so by ALPN.
    return HTTP1Connection(context, None if context.certificates is not None else HTTP2Connection)

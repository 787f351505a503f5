"""The http and websocket scopes (ASGI HTTP and WebSocket message format 2.3 to 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thestral.errors import RemoteProtocolError
from thestral.protocol.handshake import offered_subprotocols

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral.protocol.connection import Connection

WEBSOCKET_ASGI = {"version": "3.0", "spec_version": "2.5"}


def scope_template(connection: Connection) -> dict[str, Any]:
    """Return the scope that each request of a connection starts from, as a copy."""
    return {
        "type": "http",
        "http_version": "1.1",
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "root_path": connection.context.settings.root_path,
        # Set for each request. They are listed here so that a copy need not grow.
        "asgi": None,
        "method": "",
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "headers": None,
        "state": None,
        "extensions": None,
    }


def http_scope(head: RequestHead, connection: Connection) -> dict[str, Any]:
    """Return the scope of a request.

    Raises:
        RemoteProtocolError: as secure_scheme().
    """
    scope = connection.scope_template.copy()
    context = connection.context
    settings = context.settings
    root_path = settings.root_path
    head.fill(scope)
    if head.version != 11:
        scope["http_version"] = head.http_version
    if head.https_target and connection.tls is None:
        scope["scheme"] = secure_scheme(connection)
    if head.forwarded and settings.forwarding is not None:
        settings.forwarding.apply(
            scope, connection.client, connection.server, connection.proxied is not None
        )
        root_path = scope["root_path"]
    if root_path:
        mount(scope, root_path)
    scope["state"] = context.state.copy()
    # Each request gets its own copies, so what an application writes here reaches no other request.
    scope["asgi"] = context.http_asgi.fresh()
    offered = context.http_1_0_extensions if head.version == 10 else context.http_extensions
    extensions = offered.fresh()
    if connection.tls is not None:
        extensions["tls"] = fresh_tls(connection.tls)
    scope["extensions"] = extensions
    return scope


def fresh_tls(tls: dict[str, Any]) -> dict[str, Any]:
    """Copy ASGI's tls extension, with its list."""
    return {**tls, "client_cert_chain": list(tls["client_cert_chain"])}


def secure_scheme(connection: Connection) -> str:
    """Return the scheme of a request for an https target that arrived without TLS (RFC 9110 section
    7.4). What a PROXY head says about TLS overrides the target: a proxy may pass on what its
    client wrote, and HAProxy 2.6 writes "https" into all its requests over HTTP/2.

    Raises:
        RemoteProtocolError: the peer is not a trusted proxy, so the request is refused.
    """
    proxied = connection.proxied
    if proxied is not None and proxied.secure is not None:
        return "https" if proxied.secure else "http"
    if not connection.trusts_peer():
        raise RemoteProtocolError(421, "https target over a connection without TLS")
    return "https"


def websocket_scope(scope: dict[str, Any]) -> dict[str, Any]:
    """Turn an http scope into a websocket scope, and return it.

    Raises:
        RemoteProtocolError: the offered subprotocols are not a list of tokens.
    """
    del scope["method"]
    scope["type"] = "websocket"
    scope["asgi"] = WEBSOCKET_ASGI.copy()
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = offered_subprotocols(scope["headers"])
    tls = scope["extensions"].get("tls")
    scope["extensions"] = {"websocket.http.response": {}}
    if tls is not None:
        scope["extensions"]["tls"] = tls
    return scope


def mount(scope: dict[str, Any], root_path: str) -> None:
    """Put root_path in front of the path, unless the path already has it because a proxy kept it.

    "*" is not a path but stands for the server as a whole (RFC 9112 section 3.2.4).
    """
    path: str = scope["path"]
    if path != "*" and path != root_path and not path.startswith(root_path + "/"):
        scope["path"] = root_path + path
        scope["raw_path"] = root_path.encode() + scope["raw_path"]

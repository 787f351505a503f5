"""How log lines name requests and clients."""

from __future__ import annotations

from typing import Any, Protocol

from thestral._core.log import escaped, find_field
from thestral._csrc import lib

# A longer X-Request-ID is not logged.
LONGEST_REQUEST_ID = 128  # bytes


class HasClient(Protocol):
    client: Any  # (host, port), or None


def client_address(connection: HasClient) -> str:
    """host:port of the peer; "" if it has none, as on a Unix socket."""
    client = connection.client
    return f"{client[0]}:{client[1]}" if client else ""


def request_id(fields: Any) -> bytes | None:
    """Return a request's X-Request-ID, unless it is too long or has invisible characters."""
    try:
        value = find_field(fields, b"x-request-id") if fields else None
    except (TypeError, ValueError):  # the application has altered its scope
        return None
    if not value or len(value) > LONGEST_REQUEST_ID:
        return None
    return value if lib.th_is_visible(value, len(value)) else None


def title_of(scope: dict[str, Any]) -> str:
    """Return a request's name in the log: one line, whatever the client has sent."""
    # Not `path`, which is percent-decoded and may contain line breaks.
    path = scope.get("raw_path")
    title = f"{scope.get('method', 'WebSocket')} {escaped(path) if path else '?'}"
    identity = request_id(scope.get("headers"))
    return f"{title}, request id {escaped(identity)}" if identity else title

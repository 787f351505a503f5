"""How log lines name requests and clients."""

from __future__ import annotations

from typing import Any, Protocol

from thestral._core.log import escaped, find_field
from thestral._csrc import lib

# The longest X-Request-ID that is shown.
LONGEST_REQUEST_ID = 128  # bytes


class HasClient(Protocol):
    client: Any  # (host, port), or None


def client_address(connection: HasClient) -> str:
    """host:port of the peer; "" if it has none, as on a Unix socket."""
    client = connection.client
    return f"{client[0]}:{client[1]}" if client else ""


def request_id(fields: Any) -> bytes | None:
    """X-Request-ID among the fields of a request, if it is fit to be shown."""
    try:
        value = find_field(fields, b"x-request-id") if fields else None
    except (TypeError, ValueError):  # the application has changed its scope
        return None
    if not value or len(value) > LONGEST_REQUEST_ID:
        return None
    return value if lib.th_is_visible(value, len(value)) else None


def title_of(scope: dict[str, Any]) -> str:
    """What the log calls a request: in one line, whatever the client has sent."""
    # Not the path, whose escapes are resolved: it may hold the end of a line.
    path = scope.get("raw_path")
    title = f"{scope.get('method', 'WebSocket')} {escaped(path) if path else '?'}"
    identity = request_id(scope.get("headers"))
    return f"{title}, request id {escaped(identity)}" if identity else title

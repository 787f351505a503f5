"""How log lines name requests and clients."""

from __future__ import annotations

from typing import Any, Protocol

from thestral._core.log import escaped, find_field
from thestral._csrc import lib
from thestral.logging.running import Identity

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
    return value if value and sane_id(value) else None


def sane_id(value: bytes) -> bool:
    """Whether the value of X-Request-ID can be used: 1 to 128 visible characters."""
    return 0 < len(value) <= LONGEST_REQUEST_ID and bool(lib.th_is_visible(value, len(value)))


def title_of(scope: dict[str, Any], identity: Identity | None = None) -> str:
    """Return a request's name in the log: one line, whatever the client has sent.

    Args:
        identity: its ids; None takes the id from its fields.
    """
    # Not `path`, which is percent-decoded and may contain line breaks.
    path = scope.get("raw_path")
    title = f"{scope.get('method', 'WebSocket')} {escaped(path) if path else '?'}"
    if identity is not None:
        return title + with_id(identity)
    found = request_id(scope.get("headers"))
    return f"{title}, request id {escaped(found)}" if found else title


def with_id(identity: Identity | None) -> str:
    """Return the end of a line, which names a request by its id; "" if it has none."""
    if identity is None or not identity.request_id:
        return ""
    return f", request id {escaped(identity.request_id.encode())}"

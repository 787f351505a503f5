from typing import Any, final

@final
class RequestHead:
    """The head of a request, the same for every version of HTTP; codecs make it."""

    version: int
    """10 or 11; 20 for HTTP/2."""
    http_version: str
    """The version in the form of a scope, "1.1"."""
    method: str
    method_number: int
    """llhttp's number of the method."""
    path: str
    """Percent-decoded; invalid UTF-8 becomes U+FFFD."""
    raw_path: bytes
    """As received, without the query."""
    query: bytes
    headers: list[tuple[bytes, bytes]]
    """Fields in order, with lower-case names."""
    content_length: int
    """Value of Content-Length in bytes; 0 without one."""
    chunked: bool
    head_only: bool
    """Whether the method is HEAD."""
    keep_alive: bool
    """Whether the client wants the connection kept (RFC 9112 section 9.3)."""
    expect_continue: bool
    """Whether the client waits for 100 (RFC 9110 section 10.1.1)."""
    upgrade: bool
    """Whether this is a valid request to upgrade to WebSocket (RFC 9110 section 7.8)."""
    websocket: bool
    """Whether this is a WebSocket handshake, valid or not: upgrade, or a Sec-WebSocket-Key."""
    forwarded: bool
    """Whether there is a proxy's field: Forwarded, or one of X-Forwarded-*."""
    trailers: bool
    """Whether the client accepts trailer fields (RFC 9110 section 10.1.4)."""
    https_target: bool
    """Whether the target is in absolute-form with an https URI (RFC 9110 section 7.4)."""

    def fill(self, scope: dict[str, Any]) -> None:
        """Put method, path, raw_path, query_string and headers into a scope."""

@final
class Template:
    """A dict of which each request gets its own copy.

    Args:
        items: values must be immutable, or empty dicts, which are copied, too.
    """

    def __init__(self, items: dict[str, Any]) -> None: ...
    def fresh(self) -> dict[str, Any]:
        """Return a copy that nobody else holds. One of the last copies is reused if it has no
        other references and is unchanged, at a third of the cost of a new one.
        """

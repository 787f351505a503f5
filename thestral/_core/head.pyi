from typing import Any, final

@final
class RequestHead:
    """The head of a request, as every version of HTTP has it; codecs make it."""

    version: int
    """10, 11; 20 for HTTP/2."""
    http_version: str
    """The same as a scope has it, "1.1"."""
    method: str
    path: str
    """Percent-decoded; what is not UTF-8 becomes U+FFFD."""
    raw_path: bytes
    """As it came, without the query."""
    query: bytes
    headers: list[tuple[bytes, bytes]]
    """Fields in order, with lower-case names."""
    content_length: int
    """Bytes that Content-Length announces; 0 without one."""
    chunked: bool
    head_only: bool
    """Whether the method is HEAD."""
    keep_alive: bool
    """Whether the client wants the connection kept (RFC 9112 section 9.3)."""
    expect_continue: bool
    """Whether the client waits for 100 (RFC 9110 section 10.1.1)."""
    upgrade: bool
    """Whether the client asks rightly for an upgrade to WebSocket (RFC 9110 section 7.8)."""
    websocket: bool
    """Whether it asks for a WebSocket, rightly or not: upgrade, or a Sec-WebSocket-Key field."""
    forwarded: bool
    """Whether a proxy's field is there: Forwarded, or one of X-Forwarded-*."""
    trailers: bool
    """Whether the client takes trailer fields (RFC 9110 section 10.1.4)."""
    https_target: bool
    """Whether absolute-form asks for an https URI (RFC 9110 section 7.4)."""

    def fill(self, scope: dict[str, Any]) -> None:
        """Put method, path, raw_path, query_string and headers into a scope."""

@final
class Template:
    """A dict that each request gets a copy of its own of.

    Args:
        items: whose values are empty dicts, of which each copy has its own too, or immutable.
    """

    def __init__(self, items: dict[str, Any]) -> None: ...
    def fresh(self) -> dict[str, Any]:
        """A copy that nobody else has: the last one, if nobody holds it any more and nobody has
        changed it, which costs a third of making one.
        """

"""A request and its response, for any version of HTTP: values that the access log needs, and the
count of the response's content (RFC 9110).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thestral._core.log import monotonic
from thestral._core.metrics import Counted, now
from thestral.errors import LocalProtocolError, RemoteProtocolError
from thestral.types import Headers

if TYPE_CHECKING:
    from thestral._core.metrics import WorkerMetrics
    from thestral.protocol.trace import Trace

# The fields of responses that the server writes itself.
PLAIN_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
RETRY_AFTER = [(b"retry-after", b"1")]  # seconds
# Fields for framing, routing, authentication or reading the content must not be trailers (RFC 9110
# section 6.5.1).
NO_TRAILERS = frozenset(
    b"authorization cache-control connection content-encoding content-length content-range"
    b" content-type expires host location retry-after set-cookie te trailer transfer-encoding"
    b" upgrade vary www-authenticate".split()
)


def omits_length(status: int) -> bool:
    """Whether a response with this status must not have the application's Content-Length (RFC 9110
    sections 8.6 and 15.3.6).
    """
    return status == 204 or status == 205


class Exchange(Counted):
    """A request and its response, as the client sees them. They are kept apart from the scope,
    which the application may change.

    Attributes:
        Those of Counted; `client` is by what trusted proxies report.
        raw_path: the request's path, with root_path in front, if the access log is enabled.
        fields: the request's fields, if the access log needs them.
        began: monotonic() at the request's head, if the access log needs it.
        first_byte_ns: now() at the response's head, if the response did not leave with it.
        head: the response's head, as sent, if the access log needs it.
        bodiless: whether the response has no content, whatever its fields say (RFC 9110 section
            6.4.1).
        surplus: bytes of content beyond the length that the head promises; they are not sent.
        trace: ids and times of the request, if an option needs them.
    """

    if TYPE_CHECKING:
        raw_path: bytes
        fields: tuple[tuple[bytes, bytes], ...] | None
        began: float
        first_byte_ns: int
        head: bytes | None
        bodiless: bool
        surplus: int
        trace: Trace | None
        _promised: bool  # whether the head promises a length
        _left: int  # bytes still to be sent of that length

    def keep_request(self, scope: dict[str, Any], fields: bool, timed: bool) -> None:
        """Keep for the access log what the application may change in its scope.

        Args:
            scope: the scope, not yet seen by the application.
            fields: whether the log needs the request's fields.
            timed: whether it needs the time at which the request began.
        """
        self.client = scope["client"]
        self.raw_path = scope["raw_path"]
        if fields:
            self.fields = tuple(scope["headers"])
        if timed:
            self.began = monotonic()

    def measure(self, metrics: WorkerMetrics, scope: dict[str, Any]) -> None:
        """Have the exchange counted.

        Args:
            scope: as in keep_request().
        """
        if self.request.forwarded:
            self.client = scope["client"]
        metrics.begin(self)

    def note_head(self) -> None:
        """Note that the head of the response leaves before its end."""
        if self.head_at_ns != 0 and self.first_byte_ns == 0:
            self.first_byte_ns = now()

    def promise(self, status: int, head_only: bool, length: int) -> None:
        """Note how much content the head promises.

        Args:
            status: status of the response.
            head_only: whether the request is a HEAD request.
            length: bytes of content, or -1 if the head gives no length.
        """
        self.bodiless = head_only or status == 304 or omits_length(status)
        self._promised = length >= 0 and not self.bodiless
        self._left = length if self._promised else 0

    def left(self) -> int:
        """Return the bytes still to be sent of the promised length; -1 if none was promised."""
        return self._left if self._promised else -1

    def missing(self) -> int:
        """Return how many bytes would be missing if the content ended now."""
        return self._left

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit into the promised length."""
        return not self._promised or size <= self._left

    def take(self, size: int) -> int:
        """Count a part of the content.

        Returns:
            how many bytes may be sent; the rest is added to `surplus`, or dropped if the response
            is bodiless.
        """
        if self.bodiless:
            return 0
        if self._promised:
            if size > self._left:
                self.surplus += size - self._left
                size = self._left
            self._left -= size
        self.sent += size
        return size


def too_long(surplus: int) -> LocalProtocolError:
    """The error for an application that has sent more than the head promises."""
    return LocalProtocolError(
        f"the body is at least {surplus} bytes longer than its content-length; the rest is not sent"
    )


def too_short(missing: int) -> LocalProtocolError:
    """The error for an application that has ended the content too early."""
    return LocalProtocolError(f"the body is {missing} bytes shorter than its content-length")


def check_trailers(fields: Headers) -> None:
    """Check that fields may be sent as trailers.

    Raises:
        LocalProtocolError: a field is not allowed in a trailer section.
    """
    for name, _ in fields:
        if bytes(name).lower() in NO_TRAILERS:
            raise LocalProtocolError(f"response trailer {name!r:.100} belongs in the head")


def overloaded() -> RemoteProtocolError:
    """The refusal when limit_concurrency or limit_connections is reached (RFC 9110 section
    15.6.4).
    """
    return RemoteProtocolError(503, "too busy", headers=RETRY_AFTER)

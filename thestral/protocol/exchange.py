"""A request and its response, as every version of HTTP has them: what the access log says of them,
and the response's content, counted (RFC 9110).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thestral.errors import LocalProtocolError
from thestral.types import Headers

if TYPE_CHECKING:
    from thestral._core.head import RequestHead

# RFC 9110 section 6.5.1: fields that frame, route or guard a message, or say how to read its
# content.
NO_TRAILERS = frozenset(
    b"authorization cache-control connection content-encoding content-length content-range"
    b" content-type expires host location retry-after set-cookie te trailer transfer-encoding"
    b" upgrade vary www-authenticate".split()
)


def omits_length(status: int) -> bool:
    """Whether a response of this status must not have the application's Content-Length (RFC 9110
    sections 8.6 and 15.3.6).
    """
    return status == 204 or status == 205


class Exchange:
    """A request and its response, as its client sees them. The application may write what it likes
    into its scope, so the request is kept beside it.

    Attributes:
        client: who sent the request, by what its proxies say.
        scope: what the application got; None if no head could be read.
        request: its head; None if none could be read.
        raw_path: of the request, with root_path in front, if the access log is enabled.
        fields: of the request, if the access log wants them.
        began: monotonic() at the request's head, if the access log wants it.
        status: of the final response once it has begun, else 0.
        head: of the response, as sent, if the access log wants it.
        bodiless: the response has no content, whatever its fields say (RFC 9110 section 6.4.1).
        sent: bytes of its content.
        surplus: bytes that the application has sent beyond the length that the head promises.
    """

    if TYPE_CHECKING:
        client: tuple[str, int] | None
        scope: dict[str, Any] | None
        request: RequestHead
        raw_path: bytes
        fields: tuple[tuple[bytes, bytes], ...] | None
        began: float
        status: int
        head: bytes | None
        bodiless: bool
        sent: int
        surplus: int
        _promised: bool  # a length
        _left: int  # of it

    def promise(self, status: int, head_only: bool, length: int) -> None:
        """Note what a head says as it is sent.

        Args:
            status: of the response.
            head_only: whether it answers a HEAD request.
            length: the content's, or -1 if the head does not say.
        """
        self.bodiless = head_only or status == 304 or omits_length(status)
        self._promised = length >= 0 and not self.bodiless
        self._left = length if self._promised else 0

    def left(self) -> int:
        """What is still to be sent of the promised length; -1 if none was promised."""
        return self._left if self._promised else -1

    def missing(self) -> int:
        """What would be missing if the content ended now."""
        return self._left

    def has_room(self, size: int) -> bool:
        """Whether a part of this size fits the promised length."""
        return not self._promised or size <= self._left

    def take(self, size: int) -> int:
        """Count a part of the content.

        Returns:
            how much of it may be sent; the rest is `surplus`, or belongs to a bodiless response.
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
    """The application has sent more than it has promised."""
    return LocalProtocolError(
        f"the body is {surplus} bytes or more longer than its content-length; not sent"
    )


def too_short(missing: int) -> LocalProtocolError:
    """The application has ended the content too early."""
    return LocalProtocolError(f"the body is {missing} bytes shorter than its content-length")


def check_trailers(fields: Headers) -> None:
    """
    Raises:
        LocalProtocolError: a field may not stand in a trailer section.
    """
    for name, _ in fields:
        if bytes(name).lower() in NO_TRAILERS:
            raise LocalProtocolError(f"response trailer {name!r:.100} belongs into the head")

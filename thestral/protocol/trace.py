"""What --request-id, --server-timing, --access-log-slow and a JSON log know of each request: its
ids and times. Without them there is no Tracer, and requests have no Trace.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from thestral._core.log import Uuids, monotonic, wall_clock
from thestral.logging.ids import read_traceparent
from thestral.logging.names import sane_id

if TYPE_CHECKING:
    from thestral.types import Headers

ID_NAME = b"x-request-id"
ID_LENGTH = len(ID_NAME)


class HasPeer(Protocol):
    """What a Tracer calls on a connection."""

    def trusts_peer(self) -> bool: ...


class Trace:
    """The ids and times of one request.

    Attributes:
        request_id, trace_id, span_id: "" for one that is unknown.
        began: monotonic() when the head had arrived.
        started: when the application took its first step; 0.0 before.
        answered: when it, or the server for it, began the response; 0.0 before.
        first_byte: when the response's head was written; 0.0 before.
        sends_id: whether the response is to say the id, which the application has not set itself.
    """

    if TYPE_CHECKING:
        request_id: str
        trace_id: str
        span_id: str
        began: float
        started: float
        answered: float
        first_byte: float
        sends_id: bool

    def answer(self, headers: Headers) -> None:
        """Note that a response begins, with these fields."""
        self.answered = monotonic()
        if self.sends_id:
            for name, _ in headers:
                # Content-Type is as long, and in every response.
                if len(name) == ID_LENGTH and name[0] in b"xX" and bytes(name).lower() == ID_NAME:
                    self.sends_id = False


class Tracer:
    """Makes the Trace of each request of a worker, and the fields that show it.

    Args:
        makes_ids: whether each request has an id (--request-id).
        sends_ids: whether responses say it; not if --header has that field.
        marks: whether log records find the request that is running.
        timing: whether responses get Server-Timing.
    """

    def __init__(self, makes_ids: bool, sends_ids: bool, marks: bool, timing: bool) -> None:
        self.makes_ids = makes_ids
        self.marks = marks
        self._sends_ids = makes_ids and sends_ids
        self._timing = timing
        self._uuids = Uuids(os.urandom)

    def begin(self, scope: dict[str, Any] | None, connection: HasPeer) -> Trace:
        """Return the Trace of a request, and put its id into the scope's state.

        Args:
            scope: None if the request's head is invalid.
        """
        trace: Trace = Trace.__new__(Trace)
        trace.began = monotonic()
        trace.request_id = trace.trace_id = trace.span_id = ""
        trace.sends_id = self._sends_ids
        given: bytes | None = None
        parent: bytes | None = None
        headers: list[tuple[bytes, bytes]] = scope["headers"] if scope is not None else []
        for name, value in headers:
            # A field that comes twice is invalid: nobody knows which of the two is meant.
            if name == ID_NAME:
                given = value if given is None else b""
            elif name == b"traceparent":
                parent = value if parent is None else b""
        if given is not None and not sane_id(given):
            given = None
        if given is not None and (not self.makes_ids or connection.trusts_peer()):
            trace.request_id = given.decode()
        elif self.makes_ids:
            trace.request_id = self._uuids.new(wall_clock())
        ids = read_traceparent(parent) if parent is not None else None
        if ids is not None:
            trace.trace_id, trace.span_id = ids
        if self.makes_ids and scope is not None:
            scope["state"]["request_id"] = trace.request_id
        return trace

    def fields(self, trace: Trace) -> list[tuple[bytes, bytes]]:
        """Return the fields for the response's head, which is written now."""
        now = trace.first_byte = monotonic()
        fields = []
        if trace.sends_id:
            fields.append((ID_NAME, trace.request_id.encode()))
        if self._timing:
            fields.append((b"server-timing", server_timing(trace, now)))
        return fields


def server_timing(trace: Trace, now: float) -> bytes:
    """Return the value of Server-Timing (W3C Server Timing), in milliseconds: how long the request
    waited for the application, and how long that took to begin its response.
    """
    if trace.started == 0.0:  # the server has answered in its place
        return b"queue;dur=%.3f" % ((now - trace.began) * 1000)
    ended = trace.answered if trace.answered > 0.0 else now
    return b"queue;dur=%.3f, app;dur=%.3f" % (
        (trace.started - trace.began) * 1000,
        (ended - trace.started) * 1000,
    )

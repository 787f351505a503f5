from typing import Any, final

from typing_extensions import disjoint_base

from thestral._core.head import RequestHead

SLOT_SIZE: int
"""Bytes of memory that a WorkerMetrics needs."""

def now() -> int:
    """CLOCK_MONOTONIC in nanoseconds."""

@disjoint_base
class Counted:
    """What the counts need of a request, and where it stands among those that are running.

    Attributes:
        client: address of the client; None if unknown.
        scope: the application's scope; None if no head could be read.
        request: the request's head; None if no head could be read.
        status: status of the final response once it has begun, else 0.
        received: bytes of the request's content so far.
        sent: bytes of the response's content so far.
        head_at_ns: now() at the request's head; 0 if it is not counted.
        place: its place among the running requests; -1 if it has none.
    """

    client: tuple[str, int] | None
    scope: dict[str, Any] | None
    request: RequestHead
    status: int
    received: int
    sent: int
    head_at_ns: int
    place: int

@final
class WorkerMetrics:
    """Writes what a process counts into a th_slot (csrc/metrics.h), which others read.

    Args:
        memory: a writable buffer of SLOT_SIZE bytes, which nobody else writes; filled with zeros,
            or left by another WorkerMetrics, whose counts go on.
        pid: of this process.
        number: of the worker; 0 without a supervisor.
        template: returns the template of the route in a scope; None counts no routes.

    Raises:
        ValueError: the memory is too small, or has another layout.
    """

    def __new__(cls, memory: Any, pid: int, number: int, template: Any = None) -> WorkerMetrics: ...
    def leave(self) -> None:
        """Note that the process counts no more."""

    # --- Requests

    def begin(self, request: Counted) -> None:
        """Count a request whose head has come, and give it a place."""

    def place(self, request: Counted) -> None:
        """Give a place to a request that begin() had none for."""

    def displace(self, request: Counted) -> None:
        """Take the place from a request that goes on."""

    def is_crowded(self) -> bool:
        """Whether a request found no place since the last call."""

    def end(self, request: Counted, template: dict[str, Any]) -> None:
        """Count a request that has ended.

        Args:
            template: what its scope was copied from: if nothing was added, there is no route.
        """

    def progress(self, request: Counted) -> None:
        """Note how much content a running request has received and sent."""

    def abort(self) -> None:
        """Count a request whose client has left before the end of the response."""

    def refuse(self, status: int) -> None:
        """Count a request that the server has answered itself. Only 400 to 599 is counted."""

    def time_out(self, kind: str) -> None:
        """Count a time-out.

        Raises:
            KeyError: there is no such kind.
        """

    # --- Connections

    def add_received(self, size: int) -> None: ...
    def add_sent(self, size: int) -> None: ...
    def accept(self) -> None: ...
    def refuse_connection(self) -> None: ...
    def fail_handshake(self) -> None: ...
    def set_connections(self, count: int) -> None:
        """Set the number of open connections."""

    # --- WebSockets and HTTP/2

    def open_websocket(self) -> None: ...
    def close_websocket(self, code: int) -> None: ...
    def receive_message(self, message: str | bytes) -> None: ...
    def send_message(self, message: str | bytes) -> None: ...
    def open_stream(self) -> None: ...
    def close_stream(self) -> None: ...
    def receive_reset(self, code: int) -> None: ...
    def send_reset(self, code: int) -> None: ...
    def send_goaway(self, code: int) -> None: ...

    # --- The process

    def tick(self, interval: float, late: float) -> None:
        """Note that the loop turns.

        Args:
            interval: seconds until the next tick.
            late: seconds by which this one is late.
        """

    def begin_minute(self) -> None:
        """Begin a new minute of the longest block; the last but one is forgotten."""

    def set_tasks(self, count: int) -> None: ...
    def add_collection(self, generation: int, seconds: float) -> None:
        """Count a run of the garbage collector."""

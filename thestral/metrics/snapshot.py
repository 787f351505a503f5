"""Reads a th_slot (csrc/metrics.h) into dataclasses, which can be added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from thestral._csrc import ffi, lib

SECOND = 1e9  # nanoseconds
METHODS = [
    ffi.string(lib.th_metrics_method(index)).decode() for index in range(lib.TH_METRICS_METHODS)
]
TIMEOUTS = [
    ffi.string(lib.th_metrics_timeout(kind)).decode() for kind in range(lib.TH_METRICS_TIMEOUTS)
]
# The status of a request whose client left before the response began.
NO_STATUS = "none"
CLASSES = [NO_STATUS, *(f"{first}xx" for first in range(1, lib.TH_METRICS_CLASSES))]
# In place of a route: for requests without a route, and for routes that the table has no room for.
NO_ROUTE = ""
OTHER_ROUTES = "other"
OTHER = "other"  # stands for codes without a place of their own
FIRST_STATUS = 400
FIRST_CLOSE_CODE = 1000
# Upper bounds of a histogram's buckets in seconds; the last one has none.
BOUNDS: list[float] = [
    lib.th_histogram_bound(bucket) / SECOND for bucket in range(lib.TH_HISTOGRAM_BUCKETS - 1)
]


class Key(NamedTuple):
    """The properties by which requests are counted.

    Attributes:
        method: one of METHODS.
        route: template of the route, such as "/items/{item_id}"; or NO_ROUTE or OTHER_ROUTES.
        status: one of CLASSES.
    """

    method: str
    route: str
    status: str


@dataclass
class Histogram:
    """Durations. A bucket's bounds differ by at most an eighth, so quantile() is off by at most
    that.

    Attributes:
        sum: of all durations, in seconds.
        buckets: number of durations in each bucket; BOUNDS has their upper bounds.
    """

    sum: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * lib.TH_HISTOGRAM_BUCKETS)

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def __add__(self, other: Histogram) -> Histogram:
        pairs = zip(self.buckets, other.buckets, strict=True)
        return Histogram(self.sum + other.sum, [one + two for one, two in pairs])

    def __sub__(self, other: Histogram) -> Histogram:
        """The durations that were added since an earlier snapshot."""
        pairs = zip(self.buckets, other.buckets, strict=True)
        return Histogram(self.sum - other.sum, [one - two for one, two in pairs])

    def quantile(self, share: float) -> float:
        """The duration in seconds that a share of all does not exceed; 0.0 if there are none.

        Args:
            share: from 0.0 to 1.0; 0.5 is the median.
        """
        count = self.count
        if count == 0:
            return 0.0
        rank = share * count
        below = 0
        for bucket, size in enumerate(self.buckets):
            if size and below + size >= rank:
                if bucket >= len(BOUNDS):
                    return BOUNDS[-1]
                lower = BOUNDS[bucket - 1] if bucket else 0.0
                return lower + (BOUNDS[bucket] - lower) * (rank - below) / size
            below += size
        return BOUNDS[-1]

    def cumulative(self, bounds: Sequence[int]) -> list[int]:
        """How many durations are below BOUNDS[bound], for each of the ascending `bounds`."""
        found = []
        total = start = 0
        for bound in bounds:
            total += sum(self.buckets[start : bound + 1])
            start = bound + 1
            found.append(total)
        return found


@dataclass
class Counts:
    """Counts, which only grow. Their names are those of th_slot, which explains them.

    Attributes:
        requests: durations of the requests that have ended, from the head to the end of the
            response.
        refused: by status.
        timeouts: by kind, one of TIMEOUTS.
        websockets_closed: by close code.
        resets_received, resets_sent, goaways_sent: by HTTP/2's error code.
        collections: runs of the garbage collector, by generation.
        collecting: time of these runs, in seconds.
    """

    begun: int = 0
    aborted: int = 0
    received: int = 0
    sent: int = 0
    connections_accepted: int = 0
    connections_refused: int = 0
    handshakes_failed: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    message_bytes_received: int = 0
    message_bytes_sent: int = 0
    streams: int = 0
    collecting: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    timeouts: dict[str, int] = field(default_factory=dict)
    websockets_closed: dict[str, int] = field(default_factory=dict)
    resets_received: dict[str, int] = field(default_factory=dict)
    resets_sent: dict[str, int] = field(default_factory=dict)
    goaways_sent: dict[str, int] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)
    requests: dict[Key, Histogram] = field(default_factory=dict)
    first_byte: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)

    def __add__(self, other: Counts) -> Counts:
        """The sum of both, field by field."""
        return Counts(
            **{name: added(one, getattr(other, name)) for name, one in vars(self).items()}
        )

    @property
    def ended(self) -> int:
        """Number of requests that have ended."""
        return sum(histogram.count for histogram in self.requests.values())

    def by_route(self) -> dict[str, Histogram]:
        """Durations by route alone."""
        found: dict[str, Histogram] = {}
        for key, histogram in self.requests.items():
            found[key.route] = found.get(key.route, Histogram()) + histogram
        return found

    def by_status(self) -> dict[str, int]:
        """Numbers of requests by class of status alone."""
        found = dict.fromkeys(CLASSES, 0)
        for key, histogram in self.requests.items():
            found[key.status] += histogram.count
        return found


def added(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        found = dict(one)
        for key, value in other.items():
            found[key] = found[key] + value if key in found else value
        return found
    return one + other


@dataclass
class RunningRequest:
    """A request that is running.

    Attributes:
        method: one of METHODS.
        path: as the client has sent it, without the query, cut at 128 bytes.
        client: address of the client, with the port; "" if unknown.
        version: "1.0", "1.1" or "2".
        age: seconds since its head.
        received, sent: bytes of content so far.
    """

    method: str
    path: str
    client: str
    version: str
    age: float
    received: int
    sent: int


@dataclass
class WorkerState:
    """The present state of a process that serves.

    Attributes:
        number: the worker's number; 0 for a server without a supervisor.
        age: seconds since it began.
        silent: seconds by which the next turn of its loop is overdue; grows while it is stuck.
        requests: number of requests that it has begun itself.
        in_flight: requests that are running.
        tasks: asyncio's tasks.
        longest_block: longest time that its loop has not turned, in this minute or the one before,
            in seconds.
        counts: those of its slot, including those of the processes that had the slot before.
        running: the oldest requests first.
        resident: bytes of memory; None if that cannot be known.
        processor: seconds of processor time; None likewise.
        descriptors: number of open descriptors; None likewise.
    """

    number: int
    pid: int
    age: float
    silent: float
    requests: int
    in_flight: int
    connections_open: int
    websockets_open: int
    streams_open: int
    tasks: int
    longest_block: float
    counts: Counts
    running: list[RunningRequest] = field(default_factory=list)
    resident: int | None = None
    processor: float | None = None
    descriptors: int | None = None


@dataclass
class Queue:
    """Connections that wait to be accepted on a listening socket, as the kernel says.

    Attributes:
        address: of the socket.
        waiting: their number.
        most: how many may wait.
    """

    address: str
    waiting: int
    most: int


@dataclass
class Snapshot:
    """The state of all workers at one moment.

    Attributes:
        workers: those that are running, ordered by their numbers.
        counts: the sum over all workers, including those that have ended.
        starts: number of worker processes that were started.
        ends: number of worker processes that have ended, by cause.
        queues: those of the listening sockets.
        certificates: the end of each certificate's validity in seconds since 1970, by its file.
    """

    workers: list[WorkerState]
    counts: Counts
    starts: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    queues: list[Queue] = field(default_factory=list)
    certificates: dict[str, float] = field(default_factory=dict)


# --- Reading a slot -------------------------------------------------------------------------------

PLAIN = [
    field.name
    for field in dataclasses.fields(Counts)
    if field.type == "int"  # annotations are strings here
]
VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}


def histogram_of(histogram: Any) -> Histogram:
    """A th_histogram as a Histogram."""
    buckets = ffi.unpack(histogram.buckets, lib.TH_HISTOGRAM_BUCKETS)
    return Histogram(histogram.sum / SECOND, buckets)


def table(values: Any, names: Sequence[str]) -> dict[str, int]:
    """The counts of an array, by name."""
    return dict(zip(names, ffi.unpack(values, len(names)), strict=True))


def found_in(values: Any, names: Sequence[str]) -> dict[str, int]:
    """As table(), without those that are 0."""
    return {name: count for name, count in table(values, names).items() if count}


def numbered(first: int, size: int, last: str = "") -> list[str]:
    """Names of an array whose indices are numbers from `first`; `last` replaces the last one."""
    names = [str(number) for number in range(first, first + size)]
    return [*names[:-1], last] if last else names


STATUSES = numbered(FIRST_STATUS, lib.TH_METRICS_STATUSES)
CLOSE_CODES = numbered(FIRST_CLOSE_CODE, lib.TH_METRICS_CLOSE_CODES, OTHER)
ERROR_CODES = numbered(0, lib.TH_METRICS_ERROR_CODES, OTHER)
GENERATIONS = numbered(0, lib.TH_METRICS_GENERATIONS)


def route_of(row: Any, index: int) -> str:
    if index < lib.TH_METRICS_METHODS:
        return NO_ROUTE
    if index < 2 * lib.TH_METRICS_METHODS:
        return OTHER_ROUTES
    name: bytes = ffi.buffer(row.name, row.length)[:]
    return name.decode(errors="replace")


def read_requests(slot: Any) -> dict[Key, Histogram]:
    found: dict[Key, Histogram] = {}
    for index in range(2 * lib.TH_METRICS_METHODS + slot.routes):
        row = slot.rows[index]
        for number, status in enumerate(CLASSES):
            histogram = row.durations[number]
            if histogram.sum:  # far cheaper than reading all buckets
                key = Key(METHODS[row.method], route_of(row, index), status)
                found[key] = histogram_of(histogram)
    return found


def read_counts(slot: Any) -> Counts:
    """The counts of a th_slot."""
    if slot.version == 0:
        return Counts()
    return Counts(
        **{name: int(getattr(slot, name)) for name in PLAIN},
        collecting=slot.collecting / SECOND,
        refused=found_in(slot.refused, STATUSES),
        timeouts=table(slot.timeouts, TIMEOUTS),
        websockets_closed=found_in(slot.websockets_closed, CLOSE_CODES),
        resets_received=found_in(slot.resets_received, ERROR_CODES),
        resets_sent=found_in(slot.resets_sent, ERROR_CODES),
        goaways_sent=found_in(slot.goaways_sent, ERROR_CODES),
        collections=table(slot.collections, GENERATIONS),
        requests=read_requests(slot),
        first_byte=histogram_of(slot.first_byte),
        lag=histogram_of(slot.lag),
    )


def read_running(slot: Any, now: int) -> list[RunningRequest]:
    """The running requests of a th_slot, the oldest first.

    Args:
        now: lib.th_now().
    """
    copy = ffi.new("th_running *")
    found = []
    for place in range(lib.TH_METRICS_RUNNING):
        if not lib.th_running_read(ffi.addressof(slot.running, place), copy):
            continue
        client = ffi.buffer(copy.client, copy.client_length)[:].decode(errors="replace")
        if client and copy.port:
            client = f"[{client}]:{copy.port}" if ":" in client else f"{client}:{copy.port}"
        found.append(
            RunningRequest(
                method=METHODS[copy.method],
                path=ffi.buffer(copy.path, copy.path_length)[:].decode(errors="replace"),
                client=client,
                version=VERSIONS[copy.version],
                age=max(0, now - copy.began) / SECOND,
                received=copy.received,
                sent=copy.sent,
            )
        )
    return sorted(found, key=lambda running: -running.age)


def read_worker(slot: Any, now: int) -> WorkerState | None:
    """The process that has a th_slot; None if none has it."""
    if slot.version == 0 or slot.pid == 0:
        return None
    due = slot.ticked + slot.interval
    return WorkerState(
        number=slot.number,
        pid=slot.pid,
        age=max(0, now - slot.started) / SECOND,
        silent=max(0, now - due) / SECOND if slot.interval else 0.0,
        requests=slot.begun - slot.inherited,
        in_flight=slot.in_flight,
        connections_open=slot.connections_open,
        websockets_open=slot.websockets_open,
        streams_open=slot.streams_open,
        tasks=slot.tasks,
        longest_block=max(slot.longest_block) / SECOND,
        counts=read_counts(slot),
        running=read_running(slot, now),
    )

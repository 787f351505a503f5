"""Compares two answers of /status: rates, quantiles, shares of a processor."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from thestral.metrics.snapshot import BOUNDS, NO_ROUTE, Histogram

Status = dict[str, Any]
CLASSES = ("2xx", "3xx", "4xx", "5xx")
UNROUTED = "(no route)"


@dataclass(frozen=True)
class Durations:
    """The requests that ended within a period.

    Attributes:
        rate: requests per second.
        p50, p95, p99: quantiles of their durations in seconds; None if there were none.
    """

    rate: float
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class WorkerRow:
    """A worker. None stands for a value that is not known (yet).

    Attributes:
        age: seconds since its process was started.
        lag: p99 of the delay of its loop's timers, in seconds.
        block: longest block of its loop in the last minute or two, including a present one, in
            seconds.
        processor: share of one processor; 1.0 is all of it.
        memory: resident bytes.
    """

    number: int
    pid: int
    state: str
    age: float
    durations: Durations
    in_flight: int
    connections: int
    lag: float | None
    block: float
    processor: float | None
    memory: int | None


@dataclass(frozen=True)
class RouteRow:
    """A route.

    Attributes:
        total: its requests since the server was started.
        client_errors, server_errors: requests per second with a status of 4xx and 5xx.
    """

    route: str
    durations: Durations
    total: int
    client_errors: float
    server_errors: float


@dataclass(frozen=True)
class RunningRow:
    """A request that is running."""

    age: float
    worker: int
    method: str
    path: str
    client: str
    sent: int


@dataclass(frozen=True)
class Frame:
    """Everything that `thestral top` shows at one moment.

    Attributes:
        classes: requests per second, by class of status.
        aborted, refused, timeouts: per second.
        received, sent: bytes per second.
        processor, memory: sums over the workers.
        lag: the longest of any worker.
    """

    version: str
    pid: int
    state: str
    uptime: float
    wanted: int
    durations: Durations
    classes: dict[str, float]
    aborted: float
    refused: float
    timeouts: float
    received: float
    sent: float
    in_flight: int
    connections: int
    websockets: int
    processor: float
    memory: int
    lag: float | None
    workers: list[WorkerRow] = field(default_factory=list)
    routes: list[RouteRow] = field(default_factory=list)
    running: list[RunningRow] = field(default_factory=list)


def histogram_in(spread: dict[str, Any] | None) -> Histogram:
    """Read a histogram of /status."""
    found = Histogram()
    if spread is not None:
        found.sum = spread["seconds"]
        for bound, count in spread["buckets"]:
            found.buckets[-1 if bound is None else bisect_left(BOUNDS, bound)] += count
    return found


def durations_of(now: Histogram, before: Histogram, seconds: float) -> Durations:
    new = now - before
    if not new.count:
        return Durations(0.0, None, None, None)
    p50, p95, p99 = (new.quantile(share) for share in (0.5, 0.95, 0.99))
    return Durations(new.count / seconds, p50, p95, p99)


def frame_of(now: Status, before: Status | None) -> Frame:
    """Make a frame from answers of /status.

    Args:
        now: the latest answer.
        before: an earlier one; without it, or if the server has been restarted since, rates are
            means since the start.
    """
    if before is None or before["pid"] != now["pid"]:
        before = {"workers": [], "requests": [], "totals": {}}
        seconds = now["uptime"]
    else:
        seconds = now["now"] - before["now"]
    span = max(float(seconds), 0.001)
    totals, earlier = now.get("totals", {}), before.get("totals", {})

    def rate(name: str) -> float:
        return (sum_of(totals.get(name)) - sum_of(earlier.get(name))) / span

    workers = worker_rows(now, before, span)
    requests = [histogram_in(one) for one in now.get("requests", [])]
    requests_before = [histogram_in(one) for one in before.get("requests", [])]
    counted = [worker for worker in now["workers"] if "requests" in worker]
    return Frame(
        version=now["version"],
        pid=now["pid"],
        state=now["state"],
        uptime=now["uptime"],
        wanted=now["workers_wanted"],
        durations=durations_of(summed(requests), summed(requests_before), span),
        classes=classes_of(now, before, span),
        aborted=rate("aborted"),
        refused=rate("refused"),
        timeouts=rate("timeouts"),
        received=rate("received"),
        sent=rate("sent"),
        in_flight=sum(worker["in_flight"] for worker in counted),
        connections=sum(worker["connections"] for worker in counted),
        websockets=sum(worker["websockets"] for worker in counted),
        processor=sum(row.processor or 0.0 for row in workers),
        memory=sum(row.memory or 0 for row in workers),
        lag=max((row.lag for row in workers if row.lag is not None), default=None),
        workers=workers,
        routes=route_rows(now, before, span),
        running=running_rows(now),
    )


def sum_of(value: Any) -> float:
    """A count, or the sum of a table of counts."""
    return float(sum(value.values()) if isinstance(value, dict) else value or 0)


def summed(histograms: Iterable[Histogram]) -> Histogram:
    return sum(histograms, Histogram())


def worker_rows(now: Status, before: Status, seconds: float) -> list[WorkerRow]:
    earlier = {worker["pid"]: worker for worker in before["workers"] if "requests" in worker}
    found = []
    for worker in now["workers"]:
        old = earlier.get(worker["pid"])
        # The counts in its memory include those of earlier processes.
        known = old or (worker if earlier else {})
        lag = histogram_in(worker.get("lag")) - histogram_in(known.get("lag"))
        spent = worker.get("cpu_seconds")
        processor = None
        if old is not None and spent is not None and old["cpu_seconds"] is not None:
            processor = max(0.0, spent - old["cpu_seconds"]) / seconds
        durations = durations_of(
            histogram_in(worker.get("durations")), histogram_in(known.get("durations")), seconds
        )
        found.append(
            WorkerRow(
                number=worker["number"],
                pid=worker["pid"],
                state=worker["state"],
                age=now["now"] - worker["since"],
                durations=durations,
                in_flight=worker.get("in_flight", 0),
                connections=worker.get("connections", 0),
                lag=lag.quantile(0.99) if lag.count else None,
                block=max(
                    worker.get("longest_block_seconds", 0.0), worker.get("silent_seconds", 0.0)
                ),
                processor=processor,
                memory=worker.get("resident_bytes"),
            )
        )
    return found


def classes_of(now: Status, before: Status, seconds: float) -> dict[str, float]:
    counts = dict.fromkeys(CLASSES, 0)
    for answer, sign in ((now, 1), (before, -1)):
        for one in answer.get("requests", []):
            if one["status"] in counts:
                counts[one["status"]] += sign * one["count"]
    return {name: count / seconds for name, count in counts.items()}


def route_rows(now: Status, before: Status, seconds: float) -> list[RouteRow]:
    found = []
    old = by_route(before)
    for route, requests in by_route(now).items():
        past = old.get(route, [])

        found.append(
            RouteRow(
                route=route or UNROUTED,
                durations=durations_of(
                    summed(map(histogram_in, requests)), summed(map(histogram_in, past)), seconds
                ),
                total=sum(one["count"] for one in requests),
                client_errors=(count_of(requests, "4xx") - count_of(past, "4xx")) / seconds,
                server_errors=(count_of(requests, "5xx") - count_of(past, "5xx")) / seconds,
            )
        )
    return found


def count_of(requests: list[dict[str, Any]], status: str) -> int:
    """The number of requests with a class of status."""
    return sum(one["count"] for one in requests if one["status"] == status)


def by_route(answer: Status) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in answer.get("requests", []):
        found.setdefault(one["route"] if one["route"] != NO_ROUTE else "", []).append(one)
    return found


def running_rows(now: Status) -> list[RunningRow]:
    found = [
        RunningRow(
            age=one["age"],
            worker=worker["number"],
            method=one["method"],
            path=one["path"],
            client=one["client"],
            sent=one["sent"],
        )
        for worker in now["workers"]
        for one in worker.get("running", [])
    ]
    return sorted(found, key=lambda row: -row.age)

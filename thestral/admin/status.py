"""The answer to /status: the server, its options, workers and running requests, as JSON."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import Any, Literal

from thestral.config import Config, default_of, options
from thestral.metrics.snapshot import (
    BOUNDS,
    Counts,
    Histogram,
    RunningRequest,
    Snapshot,
    WorkerState,
)

MOST_RUNNING = 20  # running requests that are shown of each worker, the oldest
HIDDEN = "***"  # in place of a secret
# Tables of Counts that /status shows unchanged.
TABLES = (
    *("refused", "timeouts", "websockets_closed", "resets_received", "resets_sent"),
    *("goaways_sent", "collections"),
)

State = Literal["starting", "serving", "stuck", "stopping"]


@dataclass(frozen=True)
class Process:
    """A worker process, as its supervisor knows it.

    Attributes:
        state: "serving" also while its successor starts.
        since: when it was started, in seconds since 1970.
        why: the sign that the worker is stuck; "" if it is not.
    """

    number: int
    pid: int
    state: State
    since: float
    why: str = ""


@dataclass(frozen=True)
class ServerInfo:
    """The server, as its supervisor knows it.

    Attributes:
        state: "starting" until a worker has been ready.
        started: when, in seconds since 1970.
        addresses: those of the application, not of the admin port.
        wanted: number of workers that there should be.
    """

    version: str
    pid: int
    state: Literal["starting", "serving", "stopping"]
    started: float
    addresses: list[str]
    wanted: int
    processes: list[Process]


def status_of(info: ServerInfo, config: Config, snapshot: Snapshot | None) -> dict[str, Any]:
    """Return the answer to /status. Durations are seconds; points in time, seconds since 1970."""
    counted = {worker.pid: worker for worker in snapshot.workers} if snapshot is not None else {}
    found: dict[str, Any] = {
        "version": info.version,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "pid": info.pid,
        "state": info.state,
        "now": time.time(),
        "started": info.started,
        "uptime": time.time() - info.started,
        "addresses": info.addresses,
        "workers_wanted": info.wanted,
        "workers": [worker_of(process, counted.get(process.pid)) for process in info.processes],
    }
    if snapshot is not None:
        found |= {
            "worker_starts": snapshot.starts,
            "worker_ends": snapshot.ends,
            "totals": totals_of(snapshot.counts),
            "requests": requests_of(snapshot.counts),
            "queues": [vars(queue) for queue in snapshot.queues],
            "certificates": snapshot.certificates,
        }
    return found | {"options": options_of(config)}


def worker_of(process: Process, counted: WorkerState | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": process.number,
        "pid": process.pid,
        "state": process.state,
        "since": process.since,
    }
    if process.why:
        found["why"] = process.why
    if counted is None:  # it is starting
        return found
    return found | {
        "requests": counted.requests,
        "in_flight": counted.in_flight,
        "connections": counted.connections_open,
        "websockets": counted.websockets_open,
        "streams": counted.streams_open,
        "tasks": counted.tasks,
        "resident_bytes": counted.resident,
        "cpu_seconds": counted.processor,
        "descriptors": counted.descriptors,
        "silent_seconds": counted.silent,
        "longest_block_seconds": counted.longest_block,
        "lag": spread(counted.counts.lag),
        "durations": spread(sum(counted.counts.requests.values(), Histogram())),
        "running": [running_of(running) for running in counted.running[:MOST_RUNNING]],
    }


def running_of(running: RunningRequest) -> dict[str, Any]:
    return vars(running)


def totals_of(counts: Counts) -> dict[str, Any]:
    """The counts of all workers, also of those that have ended."""
    plain = {name: value for name, value in vars(counts).items() if isinstance(value, (int, float))}
    return {
        "ended": counts.ended,
        **plain,
        **{name: getattr(counts, name) for name in TABLES},
        "first_byte": spread(counts.first_byte),
    }


def requests_of(counts: Counts) -> list[dict[str, Any]]:
    """The requests that have ended, by method, route and class of status."""
    return [
        {**key._asdict(), "count": histogram.count, **spread(histogram)}
        for key, histogram in counts.requests.items()
    ]


def spread(histogram: Histogram) -> dict[str, Any]:
    """Return a histogram: the sum, and for each bucket that is not empty its upper bound (None for
    the last one) with the number of durations.
    """
    return {
        "seconds": histogram.sum,
        "buckets": [
            [BOUNDS[bucket] if bucket < len(BOUNDS) else None, count]
            for bucket, count in enumerate(histogram.buckets)
            if count
        ],
    }


def options_of(config: Config) -> dict[str, dict[str, Any]]:
    """The value of each option, and where it comes from."""
    found = {}
    for name, spec in options():
        value = getattr(config, name)
        source = config.sources.get(name) or ("default" if value == default_of(name) else "program")
        if spec.secret and value is not None:
            value = HIDDEN
        found[name] = {"value": plain(value), "source": source}
    return found


def plain(value: Any) -> Any:
    """Return a value for JSON. Dicts are hidden: a logging configuration may contain secrets."""
    if isinstance(value, dict):
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)

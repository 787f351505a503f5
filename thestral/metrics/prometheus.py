"""A Snapshot as text for Prometheus: its text format 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from thestral._csrc import lib
from thestral.metrics.snapshot import BOUNDS, Histogram, Snapshot, WorkerState

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# The buckets of a histogram that Prometheus gets: one for each power of two, from 2^17 ns
# (0.13 ms) to 2^37 ns (137 s). As these are bounds of our own buckets, too, the numbers are exact.
TOLD = [
    index
    for index in range(len(BOUNDS))
    if (bound := lib.th_histogram_bound(index)) & (bound - 1) == 0 and 2**17 <= bound <= 2**37
]

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """A metric.

    Attributes:
        name: without the suffix _total of a counter.
        kind: counter, gauge, histogram or info.
        help: its description.
        unit: seconds or bytes, and the name ends with it; else "".
    """

    name: str
    kind: str
    help: str
    unit: str = ""


@dataclass(frozen=True)
class Sample:
    """A value of a metric; `suffix` follows the name."""

    suffix: str
    labels: Labels
    value: float


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "http_server_request_duration_seconds",
            "histogram",
            "Time from a request's head to the end of its response, by method, route and class of"
            " status.",
            "seconds",
        ),
        Family(
            "http_server_first_byte_seconds",
            "histogram",
            "Time from a request's head to the head of its response.",
            "seconds",
        ),
        Family("http_server_active_requests", "gauge", "Requests that are running, by worker."),
        Family("thestral_requests", "counter", "Requests that have begun."),
        Family(
            "thestral_requests_aborted",
            "counter",
            "Requests whose client left before the end of the response.",
        ),
        Family(
            "thestral_refusals",
            "counter",
            "Requests that the server itself has answered with an error, by status.",
        ),
        Family("thestral_timeouts", "counter", "Time-outs, by kind."),
        Family("thestral_received_bytes", "counter", "Bytes received, without TLS.", "bytes"),
        Family("thestral_sent_bytes", "counter", "Bytes sent, without TLS.", "bytes"),
        Family("thestral_connections_open", "gauge", "Open connections, by worker."),
        Family("thestral_connections_accepted", "counter", "Connections that were accepted."),
        Family(
            "thestral_connections_refused",
            "counter",
            "Connections that were refused because of --limit-connections.",
        ),
        Family(
            "thestral_handshakes_failed",
            "counter",
            "Handshakes of TLS that failed, and malformed heads of the PROXY protocol.",
        ),
        Family(
            "thestral_accept_queue",
            "gauge",
            "Connections that wait to be accepted, by listening address (Linux).",
        ),
        Family(
            "thestral_accept_queue_limit",
            "gauge",
            "How many connections may wait to be accepted, by listening address (Linux).",
        ),
        Family(
            "thestral_tls_certificate_not_after_seconds",
            "gauge",
            "End of a TLS certificate's validity in seconds since 1970, by its file.",
            "seconds",
        ),
        Family("thestral_websockets_open", "gauge", "Open WebSockets, by worker."),
        Family("thestral_websockets_closed", "counter", "WebSockets that have ended, by code."),
        Family("thestral_websocket_messages", "counter", "Messages of WebSockets, by direction."),
        Family(
            "thestral_websocket_message_bytes",
            "counter",
            "Contents of WebSocket messages, uncompressed, by direction.",
            "bytes",
        ),
        Family("thestral_http2_streams", "counter", "Requests that came by HTTP/2."),
        Family("thestral_http2_streams_open", "gauge", "Open streams of HTTP/2, by worker."),
        Family(
            "thestral_http2_resets",
            "counter",
            "Streams of HTTP/2 that were reset, by direction and error code.",
        ),
        Family("thestral_http2_goaways", "counter", "GOAWAY frames sent, by error code."),
        Family(
            "thestral_loop_lag_seconds",
            "histogram",
            "How late the event loop calls its timers, measured ten times a second.",
            "seconds",
        ),
        Family(
            "thestral_loop_longest_block_seconds",
            "gauge",
            "Longest time that the event loop was late in the last one or two minutes, by worker.",
            "seconds",
        ),
        Family(
            "thestral_loop_silent_seconds",
            "gauge",
            "How long the event loop's next turn is overdue right now, by worker.",
            "seconds",
        ),
        Family("thestral_tasks", "gauge", "Tasks of asyncio, by worker."),
        Family(
            "thestral_gc_collections",
            "counter",
            "Runs of Python's garbage collector, by generation.",
        ),
        Family("thestral_gc_seconds", "counter", "Time of Python's garbage collector.", "seconds"),
        Family("thestral_workers", "gauge", "Processes that serve."),
        Family("thestral_worker_starts", "counter", "Processes that were started to serve."),
        Family("thestral_worker_ends", "counter", "Processes that have ended, by cause."),
        Family("thestral_worker_age_seconds", "gauge", "Age of a worker.", "seconds"),
        Family(
            "thestral_worker_resident_bytes",
            "gauge",
            "Resident memory, by worker (Linux).",
            "bytes",
        ),
        Family(
            "thestral_worker_cpu_seconds",
            "counter",
            "Processor time of the worker's current process (Linux).",
            "seconds",
        ),
        Family("thestral_worker_descriptors", "gauge", "Open descriptors, by worker (Linux)."),
        Family("thestral_build", "info", "The server's version."),
    )
}


def samples(snapshot: Snapshot, version: str) -> dict[str, list[Sample]]:
    """Return the values of a snapshot, by the name of the metric. A metric without values has an
    empty list.
    """
    counts = snapshot.counts
    found: dict[str, list[Sample]] = {name: [] for name in FAMILIES}

    def plain(name: str, value: float, **labels: str) -> None:
        suffix = {"counter": "_total", "info": "_info"}.get(FAMILIES[name].kind, "")
        found[name].append(Sample(suffix, tuple(labels.items()), value))

    def by(name: str, label: str, values: Mapping[str, float], **labels: str) -> None:
        for key, value in values.items():
            plain(name, value, **labels, **{label: key})

    for key, histogram in counts.requests.items():
        labels = (("method", key.method), ("route", key.route), ("status", key.status))
        found["http_server_request_duration_seconds"] += spread(histogram, labels)
    found["http_server_first_byte_seconds"] += spread(counts.first_byte, ())
    found["thestral_loop_lag_seconds"] += spread(counts.lag, ())
    plain("thestral_requests", counts.begun)
    plain("thestral_requests_aborted", counts.aborted)
    by("thestral_refusals", "status", counts.refused)
    by("thestral_timeouts", "kind", counts.timeouts)
    plain("thestral_received_bytes", counts.received)
    plain("thestral_sent_bytes", counts.sent)
    plain("thestral_connections_accepted", counts.connections_accepted)
    plain("thestral_connections_refused", counts.connections_refused)
    plain("thestral_handshakes_failed", counts.handshakes_failed)
    for queue in snapshot.queues:
        plain("thestral_accept_queue", queue.waiting, address=queue.address)
        plain("thestral_accept_queue_limit", queue.most, address=queue.address)
    by("thestral_tls_certificate_not_after_seconds", "file", snapshot.certificates)
    by("thestral_websockets_closed", "code", counts.websockets_closed)
    messages = {"received": counts.messages_received, "sent": counts.messages_sent}
    sizes = {"received": counts.message_bytes_received, "sent": counts.message_bytes_sent}
    by("thestral_websocket_messages", "direction", messages)
    by("thestral_websocket_message_bytes", "direction", sizes)
    plain("thestral_http2_streams", counts.streams)
    by("thestral_http2_resets", "code", counts.resets_received, direction="received")
    by("thestral_http2_resets", "code", counts.resets_sent, direction="sent")
    by("thestral_http2_goaways", "code", counts.goaways_sent)
    by("thestral_gc_collections", "generation", counts.collections)
    plain("thestral_gc_seconds", counts.collecting)
    plain("thestral_workers", len(snapshot.workers))
    plain("thestral_worker_starts", snapshot.starts)
    by("thestral_worker_ends", "cause", snapshot.ends)
    for name, values in gauges(snapshot.workers).items():
        by(name, "worker", values)
    plain("thestral_build", 1, version=version)
    return found


def gauges(workers: Iterable[WorkerState]) -> dict[str, dict[str, float]]:
    """Return the values of each worker, by the metric's name and the worker's number. During a
    rolling restart two processes have the same number: then quantities are added up, and of times
    the longest is taken.
    """
    found: dict[str, dict[str, float]] = {}
    for worker in workers:
        number = str(worker.number)
        held = {
            "http_server_active_requests": worker.in_flight,
            "thestral_connections_open": worker.connections_open,
            "thestral_websockets_open": worker.websockets_open,
            "thestral_http2_streams_open": worker.streams_open,
            "thestral_tasks": worker.tasks,
            "thestral_worker_resident_bytes": worker.resident,
            "thestral_worker_cpu_seconds": worker.processor,
            "thestral_worker_descriptors": worker.descriptors,
        }
        times = {
            "thestral_loop_longest_block_seconds": worker.longest_block,
            "thestral_loop_silent_seconds": worker.silent,
            "thestral_worker_age_seconds": worker.age,
        }
        for name, value in held.items():
            if value is not None:
                values = found.setdefault(name, {})
                values[number] = values.get(number, 0) + value
        for name, seconds in times.items():
            values = found.setdefault(name, {})
            values[number] = max(values.get(number, 0.0), seconds)
    return found


def spread(histogram: Histogram, labels: Labels) -> Iterator[Sample]:
    """The samples of a histogram."""
    below = histogram.cumulative(TOLD)
    for bound, count in zip(TOLD, below, strict=True):
        yield Sample("_bucket", (*labels, ("le", number(BOUNDS[bound]))), count)
    count = histogram.count
    yield Sample("_bucket", (*labels, ("le", "+Inf")), count)
    yield Sample("_sum", labels, histogram.sum)
    yield Sample("_count", labels, count)


def number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def escaped(text: str, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def lines(snapshot: Snapshot, version: str, openmetrics: bool) -> Iterator[str]:
    for name, values in samples(snapshot, version).items():
        family = FAMILIES[name]
        kind, shown = family.kind, name
        if not openmetrics:
            # In the older format a counter has the name of its sample, and info is not a type.
            shown += {"counter": "_total", "info": "_info"}.get(kind, "")
            kind = "gauge" if kind == "info" else kind
        yield f"# HELP {shown} {escaped(family.help, openmetrics)}"
        yield f"# TYPE {shown} {kind}"
        if openmetrics and family.unit:
            yield f"# UNIT {shown} {family.unit}"
        for sample in values:
            pairs = ",".join(f'{label}="{escaped(text, True)}"' for label, text in sample.labels)
            shown_labels = f"{{{pairs}}}" if pairs else ""
            yield f"{name}{sample.suffix}{shown_labels} {number(sample.value)}"
    if openmetrics:
        yield "# EOF"


def text(snapshot: Snapshot, version: str, openmetrics: bool = False) -> str:
    """A snapshot as text for Prometheus.

    Args:
        version: of the server.
        openmetrics: whether to write OpenMetrics 1.0 (OPENMETRICS_TYPE) instead of the text format
            0.0.4 (TEXT_TYPE).
    """
    return "".join(f"{line}\n" for line in lines(snapshot, version, openmetrics))

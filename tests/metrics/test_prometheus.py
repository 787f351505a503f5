"""The text for Prometheus, read by its own client's parsers; and the page that explains it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from support import Running
from test_counts import App, ask, snapshot

from thestral.metrics.prometheus import FAMILIES, text
from thestral.metrics.snapshot import (
    BOUNDS,
    Counts,
    Histogram,
    Key,
    Queue,
    Snapshot,
    WorkerState,
)

ROOT = Path(__file__).resolve().parents[2]


def histogram(*buckets):
    found = Histogram(1.5)
    for bucket in buckets:
        found.buckets[bucket] += 1
    return found


def worker(number, pid, **values):
    given = dict.fromkeys(
        ("requests", "in_flight", "connections_open", "websockets_open", "streams_open", "tasks"), 1
    )
    given |= {"age": 2.5, "silent": 0.0, "longest_block": 0.25, "counts": Counts()}
    return WorkerState(number, pid, **(given | values))


# One value for each metric, and text that must be escaped.
FULL = Snapshot(
    workers=[
        worker(1, 10, in_flight=3, age=9.0, resident=100, processor=1.5, descriptors=7),
        worker(1, 11, in_flight=4, age=1.0, resident=50),
        worker(2, 12),
    ],
    counts=Counts(
        begun=7,
        refused={"413": 2},
        timeouts={"body": 1},
        websockets_closed={"1000": 3, "other": 1},
        resets_received={"8": 1},
        resets_sent={"0": 2},
        goaways_sent={"11": 1},
        collections={"0": 5},
        collecting=0.25,
        requests={
            Key("GET", "/items/{id}", "2xx"): histogram(0, 100, 233),
            Key("_OTHER", '/a"b\\c\nd', "none"): histogram(5),
        },
        first_byte=histogram(3),
        lag=histogram(4, 4),
    ),
    starts=4,
    ends={"stopped": 1, "died": 0},
    queues=[Queue("[::1]:80", 3, 128)],
    certificates={"/etc/one.pem": 1796083200.0},
)


def families(openmetrics):
    read = openmetrics_parser if openmetrics else parser
    return list(read.text_string_to_metric_families(text(FULL, "1.2.3", openmetrics)))


@pytest.mark.parametrize("openmetrics", [False, True], ids=["0.0.4", "OpenMetrics"])
def test_parser_reads_every_metric(openmetrics):
    found = families(openmetrics)
    assert {family.name.removesuffix("_info") for family in found} == set(FAMILIES)
    for family in found:
        known = FAMILIES[family.name.removesuffix("_info")]
        assert family.documentation == known.help
        assert family.type == (known.kind if openmetrics or known.kind != "info" else "gauge")
        assert family.samples, family.name
        if openmetrics:
            assert family.unit == known.unit
        names = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["0.0.4", "OpenMetrics"])
def test_values(openmetrics):
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(openmetrics)
        for sample in family.samples
    }
    duration = "http_server_request_duration_seconds"
    labels = (("method", "GET"), ("route", "/items/{id}"), ("status", "2xx"))
    assert samples[f"{duration}_count", *labels] == 3
    assert samples[f"{duration}_sum", *labels] == 1.5
    assert samples[f"{duration}_bucket", ("le", "+Inf"), *labels] == 3
    first = str(2**17 / 1e9)
    assert samples[f"{duration}_bucket", ("le", first), *labels] == 1
    other = (("method", "_OTHER"), ("route", '/a"b\\c\nd'), ("status", "none"))
    assert samples[f"{duration}_count", *other] == 1
    assert samples["thestral_requests_total",] == 7
    assert samples["thestral_refusals_total", ("status", "413")] == 2
    assert samples["thestral_http2_resets_total", ("code", "0"), ("direction", "sent")] == 2
    assert samples["http_server_active_requests", ("worker", "1")] == 7
    assert samples["thestral_worker_age_seconds", ("worker", "1")] == 9.0
    assert samples["thestral_worker_resident_bytes", ("worker", "1")] == 150
    assert ("thestral_worker_resident_bytes", ("worker", "2")) not in samples
    end = "thestral_tls_certificate_not_after_seconds"
    assert samples[end, ("file", "/etc/one.pem")] == 1796083200
    assert samples["thestral_accept_queue", ("address", "[::1]:80")] == 3
    assert samples["thestral_build_info", ("version", "1.2.3")] == 1
    assert samples["thestral_gc_seconds_total",] == 0.25


def test_buckets_are_exact():
    """Each bucket of the exposition ends at the end of a bucket of th_histogram."""
    found = text(FULL, "1")
    bounds = {float(le) for le in re.findall(r'le="([\d.e+-]+)"', found)}
    assert len(bounds) == 21
    assert bounds <= set(BOUNDS)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["0.0.4", "OpenMetrics"])
def test_text_of_a_running_server(openmetrics):
    with Running(App(), admin="127.0.0.1:0") as running:
        for _ in range(3):
            ask(running)
        told = text(snapshot(running), "1", openmetrics)
    read = openmetrics_parser if openmetrics else parser
    samples = {
        sample.name: sample.value
        for family in read.text_string_to_metric_families(told)
        for sample in family.samples
    }
    assert samples["http_server_request_duration_seconds_count"] == 3
    assert samples["thestral_connections_accepted_total"] == 3
    assert samples["thestral_workers"] == 1


def test_page_explains_every_metric_and_no_other():
    page = (ROOT / "docs/observability.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    expected = {}
    for family in families(False):
        sample = family.samples[0]
        labels = [name for name in sample.labels if name != "le"]
        name = sample.name if family.type != "histogram" else family.name
        expected[name] = (family.type, labels)
    assert {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in told} == expected

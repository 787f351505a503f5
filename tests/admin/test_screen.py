"""`thestral top`: the frames that it makes from answers of /status, and its screen."""

from __future__ import annotations

import re

import pytest

from thestral.admin.rates import UNROUTED, frame_of
from thestral.admin.screen import (
    Style,
    View,
    age,
    bars,
    draw,
    number,
    percent,
    safe,
    seconds,
    size,
    sort_by_next,
)
from thestral.metrics.snapshot import BOUNDS

FAST, SLOW = BOUNDS[40], BOUNDS[120]


def durations(fast=0, slow=0):
    buckets = [[FAST, fast], [SLOW, slow]]
    return {
        "seconds": fast * FAST + slow * SLOW,
        "buckets": [bucket for bucket in buckets if bucket[1]],
    }


def request(count, route="/a", status="2xx", method="GET"):
    found = {"method": method, "route": route, "status": status, "count": count}
    return {**found, **durations(count)}


def worker(pid=11, number=1, fast=0, slow=0, cpu=1.0, state="serving", **more):
    return {
        "number": number,
        "pid": pid,
        "state": state,
        "since": 900.0,
        "requests": fast + slow,
        "in_flight": 2,
        "connections": 3,
        "websockets": 1,
        "streams": 0,
        "tasks": 5,
        "resident_bytes": 50_000_000,
        "cpu_seconds": cpu,
        "descriptors": 9,
        "silent_seconds": 0.0,
        "longest_block_seconds": 0.25,
        "lag": durations(fast=fast),
        "durations": durations(fast, slow),
        "running": [],
        **more,
    }


def status(now=1000.0, workers=(), requests=(), pid=1, **totals):
    return {
        "version": "1.2.3",
        "pid": pid,
        "state": "serving",
        "now": now,
        "uptime": 100.0,
        "workers_wanted": 1,
        "workers": list(workers),
        "totals": {"aborted": 0, "refused": {}, "timeouts": {}, "received": 0, "sent": 0, **totals},
        "requests": list(requests),
    }


def test_rates_are_those_between_two_answers():
    before = status(1000.0, [worker(fast=10, cpu=1.0)], [request(10)], sent=500)
    now = status(
        1002.0,
        [worker(fast=28, slow=2, cpu=2.0)],
        [request(28), request(2, status="5xx", route="/b")],
        sent=2500,
        refused={"431": 4},
        timeouts={"head": 1, "body": 1},
    )
    frame = frame_of(now, before)
    assert frame.durations.rate == 10.0
    assert frame.classes == {"2xx": 9.0, "3xx": 0.0, "4xx": 0.0, "5xx": 1.0}
    assert (frame.sent, frame.refused, frame.timeouts) == (1000.0, 2.0, 1.0)
    assert (frame.in_flight, frame.connections, frame.websockets) == (2, 3, 1)
    (row,) = frame.workers
    assert row.durations.rate == 10.0
    assert row.processor == 0.5
    assert row.age == 102.0
    # A quantile is in the bucket in which the cumulative count reaches that share.
    assert FAST * 0.8 < row.durations.p50 <= FAST
    assert SLOW * 0.8 < row.durations.p99 <= SLOW
    assert {row.route: row.server_errors for row in frame.routes} == {"/a": 0.0, "/b": 1.0}


def test_first_answer_gives_means_since_the_start():
    frame = frame_of(status(1000.0, [worker(fast=50)], [request(50)]), None)
    assert frame.durations.rate == 0.5
    assert frame.workers[0].durations.rate == 0.5
    assert frame.workers[0].processor is None


def test_answers_of_another_server_are_not_compared():
    frame = frame_of(status(1001.0, requests=[request(5)], pid=2), status(requests=[request(9)]))
    assert frame.durations.rate == 0.05


def test_what_a_successor_counts_does_not_include_its_predecessors():
    before = status(1000.0, [worker(pid=11, fast=100)])
    frame = frame_of(status(1001.0, [worker(pid=12, fast=101)]), before)
    assert frame.workers[0].durations.rate == 0.0


def test_a_worker_that_starts_has_no_numbers():
    starting = {"number": 1, "pid": 5, "state": "starting", "since": 999.0}
    frame = frame_of(status(1000.0, [starting]), None)
    assert frame.workers[0].memory is None
    assert " starting " in "\n".join(draw(frame, View(), (80, 24), Style(), "a:1"))


def test_requests_without_a_route_have_a_row():
    frame = frame_of(status(1000.0, requests=[request(5, route="")]), None)
    assert [row.route for row in frame.routes] == [UNROUTED]


@pytest.mark.parametrize("size_", [(80, 24), (200, 50), (120, 30), (40, 10), (10, 3), (1, 1)])
@pytest.mark.parametrize("shows", ["workers", "routes"])
def test_a_screen_of_any_size_is_filled_and_not_exceeded(size_, shows):
    running = [
        {
            "method": "GET",
            "path": "/" + "a" * 100,
            "client": "[::1]:5",
            "version": "2",
            "age": 5.0 + n,
            "received": 1,
            "sent": 2,
        }
        for n in range(20)
    ]
    workers = [worker(pid=n + 10, number=n, fast=n, running=running) for n in range(1, 30)]
    requests = [request(n + 1, route=f"/{n}" + "b" * 90) for n in range(60)]
    frame = frame_of(status(1000.0, workers, requests), None)
    view = View(shows)
    lines = draw(frame, view, size_, Style(), "127.0.0.1:9100", [1.0, 2.0])
    assert len(lines) == size_[1]
    if size_[0] >= 80:
        assert max(map(len, lines)) <= size_[0]
        assert lines[-1].rstrip().endswith("q quit")
        assert "/" + "a" * 20 in "\n".join(lines)
    view.first = 1000  # past the end
    assert draw(frame, view, size_, Style(), "a:1") != []
    assert view.first < 60


def test_rows_are_sorted_by_the_columns_that_are_there():
    requests = [request(count, route=f"/{count}") for count in (5, 50, 7)]
    frame = frame_of(status(1000.0, requests=requests), None)
    view = View("routes")

    def order():
        lines = draw(frame, view, (80, 24), Style(), "a:1")
        return [line.split()[0] for line in lines if line.startswith("/")]

    assert order() == ["/50", "/7", "/5"]  # REQ/S
    view.is_reversed = True
    assert order() == ["/5", "/7", "/50"]
    view.is_reversed = False
    seen = []
    for _ in range(8):
        seen.append(view.sorting["routes"])
        sort_by_next(view, 80)
    assert seen == ["REQ/S", "P50", "P95", "P99", "4XX/S", "5XX/S", "TOTAL", "ROUTE"]
    view.sorting["routes"] = "ROUTE"
    assert order() == ["/5", "/50", "/7"]
    narrow = View()
    for _ in range(20):
        sort_by_next(narrow, 80)
        assert narrow.sorting["workers"] not in ("AGE", "BLOCK")


def test_what_a_client_sends_does_not_reach_the_terminal_as_a_command():
    assert safe("/a\x1b[2J\r\n\x9b\x7fé") == "/a?[2J?????"
    running = {
        "method": "GET",
        "path": "/\x1b]0;title\x07",
        "client": "\x1bc",
        "version": "1.1",
        "age": 1.0,
        "received": 0,
        "sent": 0,
    }
    busy = worker(running=[running])
    frame = frame_of(status(1000.0, [busy], [request(1, route="/\x1b[31m")]), None)
    for shows in ("workers", "routes"):
        text = "".join(draw(frame, View(shows), (120, 40), Style(), "a:1", (), "bad \x1b[1m"))
        assert "\x1b" not in text


def test_colours_do_not_change_the_text():
    frame = frame_of(status(1000.0, [worker(state="stuck")], [request(1, status="5xx")]), None)
    plain = draw(frame, View(), (100, 30), Style(), "a:1")
    painted = draw(frame, View(), (100, 30), Style(colored=True), "a:1")
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in painted] == plain
    assert "\x1b[31mstuck" in "".join(painted)


def test_before_the_first_answer_there_is_a_screen_too():
    lines = draw(None, View(), (80, 24), Style(), "a:1", (), "No answer from a:1: refused")
    assert len(lines) == 24
    assert "No answer" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0us"),
        (0.0000004, "0us"),
        (0.00025, "250us"),
        (0.001, "1ms"),
        (0.01234, "12.3ms"),
        (0.5, "500ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (99.9, "99.9s"),
        (100.0, "1m40s"),
        (3600.0, "1h0m"),
        (400_000.0, "4d15h"),
    ],
)
def test_duration(value, text):
    assert seconds(value) == text
    assert len(text) <= 6


@pytest.mark.parametrize("value", [0, 1, 9.94, 9.96, 99, 999.4, 99_999, 123_456, 9_999_499, 1e9])
def test_numbers_are_short(value):
    assert len(number(value)) <= 6
    assert len(size(value)) <= 7
    assert len(age(value)) <= 6


def test_other_numbers():
    assert (number(0), number(3), number(3.14), number(1234.4)) == ("0", "3", "3.1", "1234")
    assert (size(None), size(5), size(1500), size(123_400_000)) == ("-", "5B", "1.5kB", "123MB")
    assert (percent(None), percent(1.344)) == ("-", "134%")


def test_bars_are_relative_to_the_highest_that_is_shown():
    assert bars([0, 5, 10], 3, Style(is_unicode=True)) == "▁▄█"
    assert bars([100, 0, 10], 2, Style(is_unicode=True)) == "▁█"
    assert bars([], 5, Style()) == ""
    assert bars([0, 0], 5, Style()) == ".."
    assert bars([1, 2], 0, Style()) == ""

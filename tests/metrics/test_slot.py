"""The memory in which a worker counts, in C: layout, histograms, running requests."""

from __future__ import annotations

import itertools
import os
import random
import threading

import pytest

from thestral._core.metrics import SLOT_SIZE, WorkerMetrics
from thestral._csrc import ffi, lib
from thestral.metrics.snapshot import BOUNDS, Histogram, histogram_of, read_counts, read_running

# A change of any of these needs another TH_METRICS_VERSION.
LAYOUT = {
    "version": 0,
    "size": 8,
    "pid": 16,
    "number": 24,
    "started": 32,
    "ticked": 40,
    "interval": 48,
    "in_flight": 56,
    "connections_open": 64,
    "websockets_open": 72,
    "streams_open": 80,
    "tasks": 88,
    "inherited": 96,
    "longest_block": 104,
    "begun": 120,
    "aborted": 128,
    "received": 136,
    "sent": 144,
    "connections_accepted": 152,
    "connections_refused": 160,
    "handshakes_failed": 168,
    "refused": 176,
    "timeouts": 1776,
    "messages_received": 1848,
    "messages_sent": 1856,
    "message_bytes_received": 1864,
    "message_bytes_sent": 1872,
    "websockets_closed": 1880,
    "streams": 2016,
    "resets_received": 2024,
    "resets_sent": 2152,
    "goaways_sent": 2280,
    "collections": 2408,
    "collecting": 2432,
    "first_byte": 2440,
    "lag": 4320,
    "running": 6200,
    "routes": 20024,
    "rows": 20032,
}
SIZES = {"th_histogram": 1880, "th_running": 216, "th_row": 11408, "th_slot": 3191456}
SEED = 20261201


def test_layout_of_this_version():
    fields = {name: field.offset for name, field in ffi.typeof("th_slot").fields}
    assert fields == LAYOUT
    assert {name: ffi.sizeof(name) for name in SIZES} == SIZES
    assert lib.TH_METRICS_VERSION == 1
    assert SIZES["th_slot"] == SLOT_SIZE
    assert all(offset % 8 == 0 for offset in fields.values())


def test_memory_of_another_layout_is_refused():
    with pytest.raises(ValueError, match="expected at least"):
        WorkerMetrics(bytearray(100), 1, 1)
    memory = bytearray(SLOT_SIZE)
    memory[0] = 99
    with pytest.raises(ValueError, match="version 99"):
        WorkerMetrics(memory, 1, 1)


# --- Histograms -----------------------------------------------------------------------------------


def test_bounds_grow_by_an_eighth_at_most():
    bounds = [lib.th_histogram_bound(bucket) for bucket in range(lib.TH_HISTOGRAM_BUCKETS)]
    assert bounds[0] == 1024
    assert bounds[-2] == 2**39
    assert bounds[-1] == 2**64 - 1
    assert all(1 < high / low <= 1.125 for low, high in itertools.pairwise(bounds[:-1]))


def test_bucket_of_each_bound():
    for bucket in range(lib.TH_HISTOGRAM_BUCKETS - 1):
        bound = lib.th_histogram_bound(bucket)
        assert lib.th_histogram_bucket(bound - 1) == bucket
        assert lib.th_histogram_bucket(bound) == bucket + 1
    assert lib.th_histogram_bucket(0) == 0
    assert lib.th_histogram_bucket(2**64 - 1) == lib.TH_HISTOGRAM_BUCKETS - 1


def test_quantiles_are_off_by_an_eighth_at_most():
    rng = random.Random(SEED)
    histogram = ffi.new("th_histogram *")
    durations = sorted(int(10 ** rng.uniform(4, 11)) for _ in range(5000))
    for duration in durations:
        lib.th_histogram_add(histogram, duration)
    found = histogram_of(histogram)
    assert found.count == 5000
    assert found.sum == pytest.approx(sum(durations) / 1e9)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        right = durations[int(share * 4999)] / 1e9
        assert found.quantile(share) == pytest.approx(right, rel=0.13)


def test_histograms_add_up():
    one, two = Histogram(1.0), Histogram(0.5)
    one.buckets[3] = 4
    two.buckets[3] = two.buckets[233] = 1
    both = one + two
    assert (both.sum, both.count) == (1.5, 6)
    assert (both - one).buckets == two.buckets
    assert both.cumulative([2, 3, 232]) == [0, 5, 5]
    assert both.quantile(1.0) == BOUNDS[-1]
    assert Histogram().quantile(0.5) == 0.0


# --- What is running ------------------------------------------------------------------------------


def begin(running, path, client, port=1):
    lib.th_running_end(running)
    lib.th_running_client(running, client, len(client), port)
    lib.th_running_begin(running, 1, 0, 11, path, len(path))


@pytest.mark.parametrize("length", [0, 127, 128, 129, 1000])
def test_path_is_cut(length):
    running, copy = ffi.new("th_running *"), ffi.new("th_running *")
    begin(running, b"p" * length, b"c" * length)
    assert lib.th_running_read(running, copy) == 1
    assert ffi.buffer(copy.path, copy.path_length)[:] == b"p" * min(length, 128)
    assert ffi.buffer(copy.client, copy.client_length)[:] == b"c" * min(length, 48)
    lib.th_running_end(running)
    assert lib.th_running_read(running, copy) == 0


def test_place_that_is_being_written_is_not_read():
    running, copy = ffi.new("th_running *"), ffi.new("th_running *")
    begin(running, b"/", b"a")
    running.sequence += 1  # as if the process was killed in th_running_begin()
    assert lib.th_running_read(running, copy) == 0
    begin(running, b"/next", b"a")
    assert lib.th_running_read(running, copy) == 1
    assert ffi.buffer(copy.path, copy.path_length)[:] == b"/next"


def test_a_reader_sees_whole_requests_only():
    """The functions are called without the GIL, so both threads run at the same time."""
    running, copy = ffi.new("th_running *"), ffi.new("th_running *")
    texts = [bytes([65 + index]) * (20 + index) for index in range(26)]
    done = threading.Event()

    def write():
        while not done.is_set():
            for text in texts:
                begin(running, text, text, len(text))

    writer = threading.Thread(target=write)
    writer.start()
    whole = 0
    try:
        while whole < 20_000:
            if lib.th_running_read(running, copy):
                whole += 1
                path = ffi.buffer(copy.path, copy.path_length)[:]
                client = ffi.buffer(copy.client, copy.client_length)[:]
                assert path == client
                assert copy.port == len(path)
                assert len(set(path)) == 1
    finally:
        done.set()
        writer.join()


# --- Slots ----------------------------------------------------------------------------------------


def slot_in(memory):
    return ffi.cast("th_slot *", ffi.from_buffer(memory))


def test_counts_outlive_a_process_and_its_state_does_not():
    memory = bytearray(SLOT_SIZE)
    slot = slot_in(memory)
    first = WorkerMetrics(memory, 10, 1)
    first.open_websocket()
    first.refuse(413)
    first.tick(0.1, 2.0)
    begin(ffi.addressof(slot.running, 7), b"/", b"a")
    assert (slot.pid, slot.websockets_open, len(read_running(slot, 1))) == (10, 1, 1)
    second = WorkerMetrics(memory, 11, 2)
    assert (slot.pid, slot.number, slot.websockets_open) == (11, 2, 0)
    assert list(slot.longest_block) == [0, 0]
    assert read_running(slot, 1) == []
    second.refuse(413)
    counts = read_counts(slot)
    assert counts.refused == {"413": 2}
    assert counts.lag.count == 1
    second.leave()
    assert slot.pid == 0
    assert read_counts(slot) == counts


def test_rows_of_routes_are_bounded_and_outlive_a_process():
    memory = bytearray(SLOT_SIZE)
    slot = slot_in(memory)
    WorkerMetrics(memory, 1, 1)
    first = 2 * lib.TH_METRICS_METHODS
    names = [b"/route/%d" % index for index in range(lib.TH_METRICS_ROUTES)]
    rows = [lib.th_slot_row(slot, 0, name, len(name)) for name in names]
    assert rows == list(range(first, first + lib.TH_METRICS_ROUTES))
    other = lib.TH_METRICS_METHODS + 2
    assert lib.th_slot_row(slot, 2, b"/more", 5) == other  # POST
    assert lib.th_slot_row(slot, 2, names[0], len(names[0])) == other
    WorkerMetrics(memory, 2, 1)
    assert [lib.th_slot_row(slot, 0, name, len(name)) for name in names] == rows
    assert lib.th_slot_row(slot, 3, b"", 0) == 3


def test_a_long_name_of_a_route_is_cut():
    memory = bytearray(SLOT_SIZE)
    slot = slot_in(memory)
    WorkerMetrics(memory, os.getpid(), 1)
    row = lib.th_slot_row(slot, 0, b"n" * 500, 500)
    assert slot.rows[row].length == lib.TH_METRICS_NAME
    assert lib.th_slot_row(slot, 0, b"n" * 400, 400) == row
    assert lib.TH_METRICS_NAME < 256  # th_row.length is a byte

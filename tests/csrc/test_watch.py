"""th_watch: its events for a loop that turns late, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from thestral._csrc import ffi, lib
from thestral.process.watchdog import make_dump

MILLISECOND = 1_000_000


@pytest.fixture
def watch():
    """A loop's watch, with a limit of 50 ms and a pipe that ends the wait."""
    reader, writer = os.pipe()
    watch = ffi.new("th_watch *")
    watch.interval, watch.limit = 10 * MILLISECOND, 50 * MILLISECOND
    watch.wake = reader
    assert lib.th_watch_begin(watch) == 0
    yield watch
    lib.th_watch_end(watch)
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_loop_that_does_not_turn_and_turns_again(watch):
    begun = lib.th_now()
    assert lib.th_watch_wait(watch) == lib.TH_WATCH_LATE
    assert lib.th_now() - begun >= watch.limit
    turning = threading.Timer(0.05, lib.th_watch_turn, [watch])
    turning.start()
    assert lib.th_watch_wait(watch) == lib.TH_WATCH_TURNED
    turning.join()
    assert 50 * MILLISECOND <= watch.blocked <= lib.th_now() - begun
    assert watch.turned == watch.seen
    assert lib.th_watch_wait(watch) == lib.TH_WATCH_LATE  # again, once for each block


def test_loop_that_turns_is_not_reported(watch):
    stop = threading.Event()

    def turn():
        while not stop.wait(0.001):
            lib.th_watch_turn(watch)

    watch.interval = watch.limit = 1000 * MILLISECOND
    turning = threading.Thread(target=turn)
    turning.start()
    watch.alarm = lib.th_now() + 3000 * MILLISECOND
    assert lib.th_watch_wait(watch) == lib.TH_WATCH_TIME
    assert watch.alarm == 0
    assert not watch.late
    stop.set()
    turning.join()


@pytest.mark.parametrize("late", [False, True])
def test_pipe_ends_the_wait(watch, late):
    """At once, and not only after the interval, which may be long."""
    if late:
        assert lib.th_watch_wait(watch) == lib.TH_WATCH_LATE
    reader, writer = os.pipe()
    watch.wake = reader
    watch.interval = watch.limit = 3_600_000 * MILLISECOND
    threading.Timer(0.02, os.close, [writer]).start()
    before = time.monotonic()
    assert lib.th_watch_wait(watch) == lib.TH_WATCH_STOPPED
    assert time.monotonic() - before < 3600
    os.close(reader)


def test_signal_that_is_not_the_timers_is_ignored():
    dump = make_dump()
    if dump is None:
        pytest.skip("needs Linux")
    assert make_dump() is dump
    assert signal.getsignal(dump.signal) == signal.SIG_DFL  # Python knows nothing of it
    assert lib.th_signal_handler(dump.signal) not in (0, 1)
    os.kill(os.getpid(), dump.signal)
    assert os.fstat(dump.memory).st_size == 0

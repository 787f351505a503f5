"""The memory that a worker shares with its supervisor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time

from support import PATIENCE

from thestral.process.heartbeat import Heartbeat, beat_interval


def beat_once(heartbeat):
    """Beat once, and exit; the main function of a child process."""
    heartbeat.close_descriptor()
    heartbeat.beat()


def test_one_process_writes_and_another_reads():
    context = multiprocessing.get_context("spawn")
    with contextlib.closing(Heartbeat()) as heartbeat:
        assert heartbeat.last() == 0
        before = time.monotonic_ns()
        process = context.Process(target=beat_once, args=(heartbeat,))
        process.start()
        heartbeat.close_descriptor()
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
        first = heartbeat.last()
        assert before < first < time.monotonic_ns()
        heartbeat.beat()
        assert heartbeat.last() > first


def test_memory_has_no_name_where_the_system_has_no_memfd(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.closing(Heartbeat()) as heartbeat:
        assert not list(tmp_path.iterdir())
        heartbeat.beat()
        assert heartbeat.last() > 0


def test_descriptors_are_closed():
    before = os.listdir("/dev/fd")
    for _ in range(10):
        heartbeat = Heartbeat()
        heartbeat.close_descriptor()
        heartbeat.close()
        Heartbeat().close()
    assert os.listdir("/dev/fd") == before


def test_beats_come_often_enough_for_the_shortest_block():
    assert beat_interval(None) == 1.0
    assert beat_interval(60.0) == 1.0
    assert beat_interval(2.0) == 0.5

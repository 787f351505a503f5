"""bench/: processor time and memory of a process tree."""

from __future__ import annotations

import subprocess
import sys

import pytest
from measure import ProcessTree
from servers import Setup, UnsupportedError, cores_for
from support import wait_until

BURN = """
import os, sys, time
def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
child = os.fork()
if child == 0:
    burn(0.2)
else:
    held = bytearray(b"x") * (64 << 20)
    del held
    burn(0.1)
reading, writing = os.pipe()
sys.stdout.write("done\\n")
sys.stdout.flush()
os.read(0 if child else reading, 1)
if child:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


@pytest.fixture
def tree():
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert [process.stdout.readline() for _ in range(2)] == [b"done\n"] * 2
        yield ProcessTree(process.pid)
    finally:
        process.communicate(b"x", timeout=10)


def test_processor_time_of_parent_and_child(tree):
    assert len(tree.pids()) == 2
    assert tree.pids()[0] == tree.pid
    spent = tree.processor_time()
    assert 0.3 <= spent < 1  # 0.3 s burnt, and two starts of Python


def test_a_process_that_waits_spends_nothing(tree):
    """Once it has come to rest, which may take it a moment on a busy machine."""
    wait_until(lambda: tree.processor_time() == tree.processor_time())


def test_memory_now_and_at_its_most(tree):
    assert tree.resident() > 1 << 20
    assert tree.peak() > tree.resident() + (32 << 20)


def test_a_process_that_is_gone_counts_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = ProcessTree(process.pid)
    assert gone.pids() == []
    assert gone.processor_time() == gone.resident() == gone.wake_ups() == gone.descriptors() == 0


def test_descriptors_and_wake_ups_are_of_all_processes(tree):
    assert tree.descriptors() >= 2 * 5  # standard ones and the pipe, in both
    assert tree.wake_ups() > 0


def test_server_and_load_have_cores_of_their_own():
    assert cores_for(Setup("applications:plain", workers=2), [4, 5, 6]) == ({4, 5}, {6})
    with pytest.raises(UnsupportedError, match="needs 4 cores"):
        cores_for(Setup("applications:plain", workers=3), [4, 5, 6])

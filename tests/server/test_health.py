"""What is taken for stuck: real processes in each state, looked at with a clock of our own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import pytest
from support import wait_until

from thestral import health

pytestmark = pytest.mark.skipif(health.FUTEX is None, reason="no /proc as Linux has it here")

LOCKS = """
import threading
first, second, barrier = threading.Lock(), threading.Lock(), threading.Barrier(2)
def cross(mine, other):
    with mine:
        barrier.wait()
        with other:
            pass
"""
STATES = {
    "busy": ("while True: pass", False),
    "busy thread": (
        (
            "import threading\ndef spin():\n    while True: pass\n"
            "threading.Thread(target=spin).start()\nthreading.Event().wait()"
        ),
        False,
    ),
    "sleeping": ("import time; time.sleep(600)", False),
    "receiving": (
        "import socket; a, b = socket.socketpair(); a.recv(1)",
        False,
    ),
    "reading": ("import sys; sys.stdin.read()", False),
    "waiting for a while": ("import threading; threading.Event().wait(600)", False),
    "idle asyncio": (
        "import asyncio; loop = asyncio.new_event_loop(); loop.run_forever()",
        False,
    ),
    "idle asyncio with threads": (
        (
            "import asyncio\nasync def main():\n"
            "    await asyncio.gather(*(asyncio.to_thread(print) for _ in range(4)))\n"
            "    await asyncio.sleep(600)\nasyncio.run(main())"
        ),
        False,
    ),
    "idle uvloop": (
        "import uvloop; loop = uvloop.new_event_loop(); loop.run_forever()",
        False,
    ),
    "one lock twice": ("import threading; a = threading.Lock(); a.acquire(); a.acquire()", True),
    "two locks crossed": (
        LOCKS + "threading.Thread(target=cross, args=(first, second)).start()\n"
        "cross(second, first)",
        True,
    ),
    "crossed beside an idle pool": (
        LOCKS + "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(4)\nlist(pool.map(str, range(4)))\n"
        "threading.Thread(target=cross, args=(first, second)).start()\n"
        "cross(second, first)",
        True,
    ),
    # The thread wakes up one day, and may have the key.
    "lock beside a thread that waits for a while": (
        (
            "import threading\na = threading.Lock(); a.acquire()\n"
            "threading.Thread(target=lambda: (threading.Event().wait(600), a.release())).start()\n"
            "a.acquire()"
        ),
        False,
    ),
    # Its other threads wait for the GIL, a few milliseconds at a time.
    "lock in C with the GIL held": (
        (
            "import ctypes, threading, time\n"
            "semaphore = ctypes.create_string_buffer(64)\n"
            "libc = ctypes.PyDLL(None)\n"
            "libc.sem_init(semaphore, 0, 0)\n"
            "def loop():\n    while True: time.sleep(0.001)\n"
            "threading.Thread(target=loop).start()\n"
            "libc.sem_wait(semaphore)"
        ),
        True,
    ),
    "lock that another process may give": (
        "import multiprocessing\na = multiprocessing.Lock(); a.acquire(); a.acquire()",
        False,
    ),
    "crossed in threads while the loop runs": (
        LOCKS + "import asyncio\n"
        "for pair in ((first, second), (second, first)):\n"
        "    threading.Thread(target=cross, args=pair).start()\n"
        "asyncio.new_event_loop().run_forever()",
        False,
    ),
}


@pytest.fixture(scope="module")
def processes():
    """Processes by state, all started at once; each is in its state or on the way there."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", "print(flush=True)\n" + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name, (code, _) in STATES.items()
    }
    for process in running.values():
        process.stdout.readline()
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", STATES)
def test_state(processes, name):
    watch = health.Watch(processes[name].pid)
    clock = itertools.count(1000)
    if STATES[name][1]:
        wait_until(lambda: watch.stuck_for(next(clock)) == 5)
        return
    # Where it will wait it has arrived; then no look may find it stuck.
    if not name.startswith("busy"):
        wait_until(lambda: health.stat(watch.pid)[0] == "S")
    assert not any(watch.stuck_for(next(clock)) for _ in range(50))


def test_stopped_and_continued(processes):
    watch = health.Watch(processes["sleeping"].pid)
    clock = itertools.count(1000)
    os.kill(watch.pid, signal.SIGSTOP)
    wait_until(lambda: watch.stuck_for(next(clock)) >= 3)
    os.kill(watch.pid, signal.SIGCONT)
    wait_until(lambda: not watch.stuck_for(next(clock)))
    assert watch.since == 0.0


def test_process_that_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    watch = health.Watch(process.pid)
    assert watch.stuck_for(1000.0) == 0.0
    assert health.processor_time(process.pid) == 0.0
    assert health.resident_size(process.pid) is None


def test_resident_size_grows():
    before = health.resident_size(os.getpid())
    held = b"x" * 50_000_000
    assert health.resident_size(os.getpid()) - before >= 40_000_000
    del held

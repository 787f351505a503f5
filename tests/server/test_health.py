"""Which processes count as stuck: real processes in each state, checked on a clock of the test."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import signal
import subprocess
import sys

import pytest
from support import wait_until

from thestral.process import health
from thestral.process.health import Wait, Watch
from thestral.process.heartbeat import Heartbeat

pytestmark = pytest.mark.skipif(health.CALLS is None, reason="no /proc as Linux has it here")

LOOKS = 30  # checks of a live process, none of which may call it stuck

LOCKS = """
import threading
first, second, barrier = threading.Lock(), threading.Lock(), threading.Barrier(2)
def cross(mine, other):
    with mine:
        barrier.wait()
        with other:
            pass
"""
# Processes that have not run an event loop: only what the kernel shows of them counts.
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
    # The thread wakes up eventually, and may then release the lock.
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
# Code of the threads that an application may have before its loop stops.
BACKGROUND = """
import asyncio, collections, ctypes, itertools, os, queue, select, selectors, socket, sys
import threading, time
from concurrent.futures import ThreadPoolExecutor

def repeat(step):
    def run():
        while True:
            step()
    threading.Thread(target=run, daemon=True).start()

def poll():
    with selectors.PollSelector() as selector:
        selector.register(side, selectors.EVENT_READ)
        selector.select(0.02)

def accept():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.02)
        try:
            server.accept()
        except TimeoutError:
            pass

def get():
    try:
        queue.Queue().get(timeout=60)
    except queue.Empty:
        pass

async def ticks():
    while True:
        await asyncio.sleep(0.02)

def compute():
    while True:
        pass

def hold():
    libc.read(fd, ctypes.create_string_buffer(1), 1)

libc = ctypes.PyDLL(None)  # calls hold the GIL
libc.fdopen.restype = ctypes.c_void_p
stdin = ctypes.c_void_p(libc.fdopen(0, b"r"))
side, other = socket.socketpair()
fd, _ = os.pipe()
lock = threading.Lock()
lock.acquire()
done = queue.Queue()
pool = ThreadPoolExecutor(2)
list(pool.map(time.sleep, [0.01, 0.01]))
loop = asyncio.new_event_loop()
"""
SLEEPS = "repeat(lambda: time.sleep(0.02))\n"
# Background threads, the code that stops the loop, and how many times longer than a proven deadlock
# the state must last.
STUCK = {
    "lock": ("", "lock.acquire()", 1),
    "beside a thread that sleeps": (SLEEPS, "lock.acquire()", 3),
    "beside a long sleep": ("repeat(lambda: time.sleep(600))", "lock.acquire()", 3),
    "beside an event with a time-out": (
        "repeat(lambda: threading.Event().wait(60))",
        "lock.acquire()",
        3,
    ),
    "beside a queue with a time-out": (
        "repeat(get)",
        "lock.acquire()",
        3,
    ),
    "beside a thread that was seen only at work": (
        # A list, because a check could find the thread waiting for the lock of a queue.
        "asked = []\nrepeat(lambda: time.sleep(0.02) if asked else None)",
        "asked.append(1)\nlock.acquire()",
        3,
    ),
    "beside poll": ("repeat(poll)", "lock.acquire()", 3),
    "beside select": ("repeat(lambda: select.select([side], [], [], 0.02))", "lock.acquire()", 3),
    "beside accept with a time-out": ("repeat(accept)", "lock.acquire()", 3),
    "beside a loop with a timer": (
        "threading.Thread(target=asyncio.run, args=(ticks(),), daemon=True).start()",
        "lock.acquire()",
        3,
    ),
    "beside many": (SLEEPS * 10 + "repeat(poll)\nrepeat(accept)", "lock.acquire()", 3),
    "GIL held in read": (SLEEPS, "hold()", 3),
    "GIL held in sleep": (SLEEPS, "libc.sleep(600)", 3),
    "GIL held beside many": (SLEEPS * 30, "hold()", 3),
    "GIL held by a thread": (
        SLEEPS,
        "threading.Thread(target=hold, daemon=True).start()\nlock.acquire()",
        3,
    ),
}
# Background threads, the code that blocks the loop, and how the main thread then waits. Each of
# these can still continue by itself.
BLOCKED = {
    "sleep": (SLEEPS, "time.sleep(600)", Wait.CLOCK),
    "network": (SLEEPS, "side.recv(1)", Wait.OTHERS),
    "file": (SLEEPS, "os.read(fd, 1)", Wait.OTHERS),
    "lock with a time-out": (SLEEPS, "lock.acquire(timeout=600)", Wait.CLOCK),
    "computes": (SLEEPS, "compute()", Wait.NOTHING),
    "computes with the GIL held": (
        SLEEPS,
        "collections.deque(itertools.repeat(0), maxlen=0)",
        Wait.NOTHING,
    ),
    "queue of a thread that computes": (
        SLEEPS,
        "threading.Thread(target=compute, daemon=True).start()\nqueue.Queue().get()",
        Wait.LOCK,
    ),
    "pool that computes": (SLEEPS, "pool.submit(compute).result()", Wait.LOCK),
    "pool that sleeps": (SLEEPS, "pool.submit(time.sleep, 600).result()", Wait.LOCK),
    "pool that polls": (
        SLEEPS,
        "pool.submit(lambda: [poll() for _ in range(10**6)]).result()",
        Wait.LOCK,
    ),
    "pool that waits for the network": (SLEEPS, "pool.submit(side.recv, 1).result()", Wait.LOCK),
    "thread that sleeps": (
        SLEEPS,
        "t = threading.Thread(target=time.sleep, args=(600,)); t.start(); t.join()",
        Wait.LOCK,
    ),
    "loop of a new thread": (SLEEPS, "pool.submit(asyncio.run, ticks()).result()", Wait.LOCK),
    "loop of a thread": (
        "threading.Thread(target=loop.run_forever, daemon=True).start()",
        "asyncio.run_coroutine_threadsafe(asyncio.sleep(600), loop).result()",
        Wait.LOCK,
    ),
    "thread that sleeps no longer": (
        "repeat(lambda: side.recv(1) if done.qsize() else time.sleep(0.02))",
        "done.put(1)\nlock.acquire()",
        Wait.LOCK,
    ),
    "thread that waits for the network for a while": (
        "repeat(lambda: select.select([side], [], [], 600))",
        "lock.acquire()",
        Wait.LOCK,
    ),
    # These waits are as short as those of threads that wait for the GIL.
    "network beside short waits": (
        "repeat(lambda: threading.Event().wait(0.004))",
        "side.recv(1)",
        Wait.OTHERS,
    ),
    "thread that waits for the network": (
        SLEEPS + "repeat(lambda: side.recv(1))",
        "lock.acquire()",
        Wait.LOCK,
    ),
}


@pytest.fixture
def heartbeat():
    with contextlib.closing(Heartbeat()) as heartbeat:
        yield heartbeat


@pytest.fixture(scope="module")
def processes():
    """Processes by state, all started at once; each has reached its state or is about to."""
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


class Looking:
    """Checks a process once a second, on its own clock.

    Args:
        process: a subprocess.Popen.
        heartbeat: the heartbeat of its loop, which the test writes.
    """

    def __init__(self, process, heartbeat):
        self.process = process
        self.watch = Watch(process.pid, heartbeat)
        self.clock = itertools.count(1000)

    def look(self, patience=1.0):
        self.watch.look(next(self.clock))
        return self.watch.stuck(patience)

    def say(self):
        """Send the line that the process waits for."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def turn(self):
        """Let the loop turn once more, and check that the watch notices."""
        self.watch.heartbeat.beat()
        assert self.look() is None

    def turn_often(self):
        """Let the loop turn until its threads have settled."""
        done = itertools.count()
        wait_until(lambda: (self.turn(), next(done) == LOOKS)[1])

    def never_stuck(self):
        found = []
        wait_until(lambda: found.append(self.look()) or len(found) == LOOKS)
        assert not any(found)


@pytest.mark.parametrize("name", STATES)
def test_state(processes, heartbeat, name):
    pid = processes[name].pid
    looking = Looking(processes[name], heartbeat)
    if STATES[name][1]:
        assert wait_until(lambda: looking.look(5.0)).patience == 1
        return
    # Once it waits where it is meant to wait, no check may call it stuck.
    if not name.startswith("busy"):
        wait_until(lambda: health.stat(pid)[0] == "S")
    assert not any(looking.look() for _ in range(LOOKS))


@contextlib.contextmanager
def blocked(background, stops, heartbeat):
    """A process with background threads, whose loop has turned until `stops` runs now."""
    code = f"{BACKGROUND}{background}\nprint(flush=True)\nsys.stdin.readline()\n{stops}"
    arguments = [sys.executable, "-c", code]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            looking = Looking(process, heartbeat)
            looking.turn_often()
            looking.say()
            yield looking
        finally:
            process.kill()


@pytest.mark.parametrize("name", STUCK)
def test_loop_that_will_not_turn_again(heartbeat, name):
    background, stops, times = STUCK[name]
    with blocked(background, stops, heartbeat) as looking:
        symptom = wait_until(looking.look)
        assert (symptom.patience, symptom.seconds) == (times, times)
        looking.turn()  # a loop that turns again is no longer stuck


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked_loop_that_may_turn_again(heartbeat, name):
    background, stops, wait = BLOCKED[name]
    with blocked(background, stops, heartbeat) as looking:
        wait_until(lambda: health.waits(looking.watch.pid)[looking.watch.pid] is wait)
        looking.never_stuck()


@pytest.mark.parametrize(
    ("background", "stops", "wait"),
    [
        ("repeat(lambda: (time.sleep(0.02), done.put(1)))", "while True: done.get()", Wait.LOCK),
        # Reads byte by byte, holding the GIL.
        (SLEEPS, "libc.fread(ctypes.create_string_buffer(4096), 1, 4096, stdin)", Wait.OTHERS),
    ],
    ids=["lock", "GIL held"],
)
def test_main_thread_that_is_woken_again_and_again(heartbeat, background, stops, wait):
    with blocked(background, stops, heartbeat) as looking:
        pid = looking.watch.pid
        wait_until(lambda: health.waits(pid)[pid] is wait)
        for _ in range(LOOKS):
            before = health.voluntary_switches(pid)
            looking.say()
            wait_until(lambda before=before: health.voluntary_switches(pid) > before)
            assert looking.look() is None


def test_thread_that_slept_for_another_job(heartbeat):
    working = "repeat(lambda: (done.get(), event.wait(600), event.clear()))"
    background = f"event = threading.Event()\n{working}\ndone.put(1)\n"
    stops = "event.set()\nsys.stdin.readline()\ndone.put(1)\nlock.acquire()"
    with blocked(background, stops, heartbeat) as looking:
        pid = looking.watch.pid

        def all_idle():
            looking.turn()
            waits = health.waits(pid)
            return waits.pop(pid) is Wait.OTHERS and set(waits.values()) == {Wait.LOCK}

        wait_until(all_idle)
        looking.turn()
        looking.say()
        wait_until(lambda: health.waits(pid)[pid] is Wait.LOCK)
        looking.never_stuck()


def test_thread_that_ends_during_a_check(monkeypatch):
    read = health.read

    def read_too_late(path):
        if "/task/0/" in path:
            raise ProcessLookupError
        return read(path)

    listdir = os.listdir
    monkeypatch.setattr(health, "read", read_too_late)
    monkeypatch.setattr(os, "listdir", lambda path: [*listdir(path), "0"])
    assert os.getpid() in health.waits(os.getpid())


def test_silence_counts_from_the_last_turn(heartbeat):
    watch = Watch(os.getpid(), heartbeat)
    for now in (1000.0, 1001.0, 1002.0):
        watch.look(now)
        assert (watch.silent, watch.turns) == (0.0, True)  # the loop has not turned yet
    heartbeat.beat()
    seen = []
    for now in (1003.0, 1004.0, 1005.5, 1006.0):
        watch.look(now)
        seen.append((watch.silent, watch.turns))
    assert seen == [(0.0, True), (1.0, True), (2.5, True), (3.0, False)]
    heartbeat.beat()
    watch.look(1007.0)
    assert (watch.silent, watch.turns) == (0.0, True)


def test_time_between_distant_checks_does_not_count(processes, heartbeat):
    looking = Looking(processes["one lock twice"], heartbeat)
    looking.turn()
    wait_until(looking.look)
    before = looking.watch.silent
    looking.clock = itertools.count(10_000)  # as after a suspend of machine or container
    looking.look()
    assert looking.watch.silent == before
    looking.look()
    assert looking.watch.silent == before + 1
    # The same holds for the states that the kernel shows.
    again = Looking(processes["one lock twice"], heartbeat)
    assert again.look() is None
    again.clock = itertools.count(10_000)
    assert again.look() is None
    assert wait_until(again.look).seconds == 1


def test_stopped_and_continued(processes, heartbeat):
    looking = Looking(processes["sleeping"], heartbeat)
    os.kill(looking.watch.pid, signal.SIGSTOP)
    assert "stopped" in wait_until(lambda: looking.look(3.0)).text
    os.kill(looking.watch.pid, signal.SIGCONT)
    wait_until(lambda: not looking.look())


def test_process_that_is_gone(heartbeat):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    looking = Looking(process, heartbeat)
    assert not any(looking.look() for _ in range(LOOKS))
    assert health.processor_time(process.pid) == 0.0
    assert health.voluntary_switches(process.pid) == -1
    assert health.resident_size(process.pid) is None


def test_resident_size_grows():
    before = health.resident_size(os.getpid())
    with mmap.mmap(-1, 50_000_000) as fresh:  # malloc() could reuse resident pages
        fresh.write(b"x" * len(fresh))
        assert health.resident_size(os.getpid()) - before >= 40_000_000

"""Replacing workers that are dead, stuck, at a limit or have old code, without losing a request."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal

import pytest
from load import APP, LOCK, Load, ask, ask_aside, workers
from support import wait_until


@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["spawn", "preload"])
def test_dead_worker_is_replaced(start, arguments):
    command = start("--workers", "2", *arguments)
    url = command.url()
    first, second = workers(command, 2)
    os.kill(first, signal.SIGKILL)
    third = workers(command, 3)[2]
    command.saw(f"[{first}] died (killed by SIGKILL)")
    with Load(url) as load:
        wait_until(lambda: len(load.pids) == 2)
    assert load.pids == {second, third}
    command.stop()


def test_worker_that_dies_at_a_later_start(start, folder):
    command = start("--workers", "2")
    url = command.url()
    first, second = workers(command, 2)
    (folder / "main.py").write_text("raise ZeroDivisionError('broken')\n")
    os.kill(first, signal.SIGKILL)
    command.saw("ZeroDivisionError: broken")
    command.saw("died (exit 3)")
    assert ask(url) == second
    (folder / "main.py").write_text(APP)
    third = workers(command, 3)[2]
    with Load(url) as load:
        wait_until(lambda: len(load.pids) == 2)
    assert load.pids == {second, third}
    command.stop()


def test_workers_can_no_longer_start(start, folder):
    command = start("--workers", "1", "--limit-max-requests", "1000000")
    command.url()
    (first,) = workers(command, 1)
    (folder / "main.py").write_text("import os\nos._exit(7)\n")
    os.kill(first, signal.SIGKILL)
    command.saw("died (exit 7)")
    command.stop()  # during the pause before the next attempt


def held(pid):
    """Count a process's descriptors, without the files in /proc that it reads at times."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += not os.readlink(f"/proc/{pid}/fd/{name}").startswith("/proc/")
    return count


def test_descriptors_that_run_out(start):
    command = start("--workers", "2")
    url = command.url()
    first, second = workers(command, 2)
    supervisor = command.process.pid
    descriptors = held(supervisor)
    before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    # Enough for the dead worker's descriptors, too few to start its successor.
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    os.kill(first, signal.SIGKILL)
    command.saw("Cannot start a worker: [Errno 24] Too many open files")
    assert held(supervisor) < descriptors  # the dead worker's descriptors are closed
    assert ask(url) == second
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
    workers(command, 3)
    wait_until(lambda: held(supervisor) == descriptors)
    command.stop()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_rolling_restart_loses_no_request(start, folder, loop):
    command = start("--workers", "2", "--loop", loop, "--no-access-log")
    url = command.url()
    old = workers(command, 2)
    with Load(url, clients=8) as load:
        wait_until(lambda: load.pids == set(old))
        (folder / "main.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
        command.signal(signal.SIGHUP)
        new = workers(command, 4)[2:]
        for pid in old:
            command.saw(f"lifespan.shutdown {pid}")
        load.forget()
        wait_until(lambda: load.pids >= set(new))
    assert set(load.seen) == {(pid, 2) for pid in new}
    command.stop()


def test_rolling_restart_with_broken_code_is_abandoned(start, folder):
    command = start("--workers", "2")
    url = command.url()
    old = workers(command, 2)
    (folder / "main.py").write_text("raise ZeroDivisionError('broken')\n")
    command.signal(signal.SIGHUP)
    command.saw("Rolling restart abandoned: the old workers keep serving")
    assert command.stderr.count("ZeroDivisionError: broken") == 1
    assert ask(url) in old
    # A second SIGHUP does not wait for the pause after a failure.
    (folder / "main.py").write_text(APP)
    command.signal(signal.SIGHUP)
    for pid in old:
        command.saw(f"lifespan.shutdown {pid}")
    new = workers(command, 4)[2:]
    assert ask(url) in new
    command.stop()


def test_worker_that_dies_while_its_successor_starts(start, folder):
    command = start("--workers", "2")
    url = command.url()
    first, second = workers(command, 2)
    (folder / "main.py").write_text("open('gate').read()\n" + APP)
    command.signal(signal.SIGHUP)
    with (folder / "gate").open("w"):  # the first worker's successor is importing
        os.kill(first, signal.SIGKILL)
        command.saw(f"[{first}] died")
        (folder / "main.py").write_text(APP)  # the next worker does not wait for the gate
    command.saw(f"lifespan.shutdown {second}")
    assert ask(url) in workers(command, 4)[2:]
    command.stop()


@pytest.mark.parametrize("count", ["1", "2"])
def test_limit_of_requests_under_load(start, count):
    limits = ["--limit-max-requests", "50", "--limit-max-requests-jitter", "10"]
    command = start("--workers", count, *limits, "--no-access-log")
    with Load(command.url()) as load:
        pids = workers(command, 2 * int(count))
        wait_until(lambda: pids[-1] in load.pids)
    command.saw(f"lifespan.shutdown {pids[0]}")
    assert "died" not in command.stderr
    command.stop()


# An abstract name (unix(7)) is free once the socket is closed, as a port is.
NAME = """
import socket

side = socket.socket(socket.AF_UNIX)
side.bind("\\0{}")
"""
# The start fails with lifespan.startup.failed, not with an exception in the import.
IN_LIFESPAN = """
import traceback

inner = app

async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        return await inner(scope, receive, send)
    try:
        exec(HELD, globals())
    except OSError:
        await receive()
        text = traceback.format_exc()
        return await send({"type": "lifespan.startup.failed", "message": text})
    await inner(scope, receive, send)
"""


@pytest.mark.parametrize("held", ["lock", "name"])
@pytest.mark.parametrize("where", ["import", "lifespan"])
@pytest.mark.parametrize("how", ["limit", "SIGHUP"])
def test_successor_that_cannot_start_beside_the_old_one(start, folder, held, where, how):
    text = LOCK if held == "lock" else NAME.format(folder)
    in_lifespan = f"{APP}\nHELD = {text!r}\n{IN_LIFESPAN}"
    (folder / "main.py").write_text(text + APP if where == "import" else in_lifespan)
    command = start("--limit-max-requests", "5", "--limit-max-requests-jitter", "0")
    url = command.url()
    (old,) = workers(command, 1)
    if how == "SIGHUP":
        command.signal(signal.SIGHUP)
    else:
        assert {ask(url) for _ in range(5)} == {old}
    new = workers(command, 2)[1]
    assert ask(url) == new
    assert command.stderr.count("could not start while its predecessor runs") == 1
    assert command.stdout.index(f"lifespan.shutdown {old}") < command.stdout.index(
        f"lifespan.startup {new}"
    )
    assert "Rolling restart abandoned" not in command.stderr
    command.stop()


def test_limit_of_memory(start):
    command = start("--workers", "2", "--limit-max-rss", "150000000")
    url = command.url()
    pids = workers(command, 2)
    asking = ask_aside(url, "/grow")
    asking.join()
    command.saw(f"lifespan.shutdown {asking.pid}")
    assert asking.pid in pids
    assert len(workers(command, 3)) == 3
    assert " bytes" in command.stderr
    assert "died" not in command.stderr
    command.stop()


def test_limit_of_lifetime(start):
    command = start("--workers", "1", "--limit-worker-lifetime", "0.2", "--preload")
    command.url()
    first, second = workers(command, 2)[:2]
    command.saw(f"lifespan.shutdown {first}")
    assert first != second
    command.stop()


def test_only_a_stuck_worker_is_killed(start, folder):
    command = start("--workers", "4", "--timeout-worker-healthcheck", "1", "--preload")
    url = command.url()
    pids = workers(command, 4)
    asked = {}
    # Each request keeps one worker busy, so that the next one reaches another worker.
    for path in ("/compute", "/block", "/deadlock"):
        asked[path] = ask_aside(url, path)
        command.saw(path)
    command.saw("has been stuck for 1 s: killing it (every thread waits for a lock)")
    fifth = workers(command, 5)[4]
    # The log shows the stacks of both threads, and where they wait.
    assert len(re.findall(r"line \d+ in cross$", command.stderr, re.MULTILINE)) == 2
    assert "in deadlock" in command.stderr
    (line,) = [line for line in command.stdout.splitlines() if line.startswith("/deadlock")]
    stuck = int(line.split()[1])
    assert stuck in pids
    assert f"[{stuck}] died (killed by SIGABRT)" in command.stderr
    asked["/compute"].join()
    with (folder / "gate").open("w"):
        pass
    asked["/block"].join()
    asked["/deadlock"].join()
    assert asked["/compute"].pid is not None
    assert asked["/block"].pid is not None
    assert asked["/deadlock"].pid is None
    assert command.stderr.count("killing it") == 1
    assert fifth not in pids
    command.stop()


# To be put before the application: a sleeping thread, as monitoring agents have.
SLEEPER = """
import ctypes, threading, time

def sleep():
    while True:
        time.sleep(0.05)

threading.Thread(target=sleep, daemon=True).start()
"""
# To be put after it: further paths that block the loop.
STOPPING = """
BLOCKING["/lock"] = lambda: (first.acquire(), first.acquire())
BLOCKING["/gil"] = lambda: ctypes.PyDLL(None).sleep(3600)
BLOCKING["/join"] = lambda: asyncio.run_coroutine_threadsafe(
    asyncio.to_thread(wait_for_gate), another()
).result()

def another():
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
"""


@pytest.mark.parametrize(
    ("path", "cause", "place"),
    [
        ("/lock", "the event loop waits for a lock, and other threads only sleep or poll", "app"),
        ("/gil", "a call that holds the GIL waits", "<lambda>"),
    ],
)
def test_stuck_worker_with_a_thread_that_sleeps(start, folder, path, cause, place):
    (folder / "main.py").write_text(SLEEPER + APP + STOPPING)
    options = ["--watchdog", "0"]  # its signal would end the sleep with the GIL
    command = start("--workers", "2", "--timeout-worker-healthcheck", "1", *options)
    url = command.url()
    workers(command, 2)
    working = ask_aside(url, "/join")  # the loop waits for a thread that works
    command.saw("/join")
    stuck = ask_aside(url, path)
    command.saw(path)
    third = workers(command, 3)[2]
    stuck.join()
    (line,) = [line for line in command.stdout.splitlines() if line.startswith(path)]
    name = f"[{line.split()[1]}]"
    assert f"{name} has been stuck for 3 s: killing it ({cause})" in command.stderr
    assert f"{name} died (killed by SIGABRT)" in command.stderr
    assert "in sleep\n" in command.stderr
    assert f"in {place}\n" in command.stderr
    assert ask(url) == third
    with (folder / "gate").open("w"):
        pass
    working.join()
    assert working.pid is not None
    assert command.stderr.count("killing it") == 1
    command.stop()


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"], ["--workers", "2", "--preload"]])
def test_worker_that_blocks_its_loop(start, arguments):
    command = start("--timeout-worker-blocked", "3", *arguments)
    url = command.url()
    count = 2 if arguments else 1  # a single worker has a supervisor, too
    workers(command, count)
    blocking = ask_aside(url, "/block")
    command.saw("/block")
    fresh = workers(command, count + 1)[count]
    blocking.join()
    assert blocking.pid is None
    (line,) = [line for line in command.stdout.splitlines() if line.startswith("/block")]
    said = rf"\[{line.split()[1]}\] has blocked its event loop for \d+ s in GET /block: killing it"
    # Its stacks come before its end.
    said += rf"\n.*line \d+ in wait_for_gate\n.*\[{line.split()[1]}\] died \(killed by SIGABRT\)"
    assert re.search(said, command.stderr, re.DOTALL)
    wait_until(lambda: ask(url) == fresh)
    command.stop()

"""How the server's end treats the application's multiprocessing processes and pools."""

from __future__ import annotations

import os
import signal

import pytest
from load import APP, workers
from support import wait_until
from test_gunicorn_logs import Gunicorn

from thestral.process import health

# A process that does not end by itself. It prints when it runs, and when SIGTERM has ended it.
CHILD = """
import multiprocessing.util, pathlib, signal, threading

def ended(number, frame):
    pathlib.Path("terminated").touch()
    raise SystemExit

def run(heeds=True):
    signal.signal(signal.SIGTERM, ended if heeds else signal.SIG_IGN)
    say("child")
    while True:
        signal.pause()
"""
STARTS = {
    "process": """
context = multiprocessing.get_context({method!r})

def begin():
    context.Process(target=run, name="feeder", daemon={daemon}, args=({heeds},)).start()
""",
    "pool": """
from concurrent.futures import ProcessPoolExecutor

pool = None

def begin():
    global pool
    pool = ProcessPoolExecutor(1, multiprocessing.get_context({method!r}))
    pool.submit(run)
""",
    "multiprocessing.Pool": """
pool = None

def begin():
    global pool
    pool = multiprocessing.get_context({method!r}).Pool(1)
    pool.apply_async(run)
""",
}
# Wraps the application, and starts processes in its lifespan.
LIFESPAN = """
served = app

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        begin()
    await served(scope, receive, send)
"""
MODELS = pytest.mark.parametrize(
    "arguments", [(), ("--workers", "2"), ("--workers", "1", "--preload"), ("--reload",)]
)


def application(kind="process", method="fork", daemon=False, heeds=True):
    start = STARTS[kind].format(method=method, daemon=daemon, heeds=heeds)
    return APP + CHILD + start + LIFESPAN


def children(command, count=1):
    """Wait until the application has `count` processes, and return their PIDs."""

    def begun():
        return [int(line.split()[1]) for line in command.out if line.startswith("child ")]

    return wait_until(lambda: begun() if len(begun()) >= count else None)


def told(pid, verb="terminating"):
    return f"Process 'feeder' [{pid}] of the application has not ended: {verb} it"


def ended(pid):
    """Return whether a process has ended, even if its new parent has not reaped it yet."""
    return health.stat(pid)[:1] in ([], ["Z"])


@MODELS
def test_process_that_does_not_end_is_named_and_terminated(start, folder, arguments):
    (folder / "main.py").write_text(application())
    command = start(*arguments)
    command.url()
    found = children(command, 2 if "2" in arguments else 1)
    command.stop()
    for pid in found:
        assert command.stderr.count(told(pid)) == 1
        assert ended(pid)
    assert (folder / "terminated").exists()
    assert "illing" not in command.stderr
    assert "Leaving" not in command.stderr
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_process_that_ignores_sigterm_is_killed(start, folder, arguments):
    (folder / "main.py").write_text(application(heeds=False))
    command = start(*arguments)
    command.url()
    found = children(command, 2 if arguments else 1)
    command.stop()
    for pid in found:
        assert told(pid) in command.stderr
        assert told(pid, "killing") in command.stderr
        assert ended(pid)


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("arguments", [(), ("--workers", "1", "--preload")])
def test_daemonic_process_is_terminated_at_once(start, folder, arguments, heeds):
    """multiprocessing terminates it. If it ignores SIGTERM, it is named in the log and killed."""
    (folder / "main.py").write_text(application(daemon=True, heeds=heeds))
    command = start(*arguments)
    command.url()
    (pid,) = children(command)
    command.stop()
    assert (told(pid) in command.stderr) is not heeds
    assert ended(pid)


@pytest.mark.parametrize("kind", ["pool", "multiprocessing.Pool"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("arguments", [(), ("--workers", "1", "--limit-max-requests", "9")])
def test_busy_pool(start, folder, kind, method, arguments):
    (folder / "main.py").write_text(application(kind, method))
    command = start(*arguments)
    command.url()
    (pid,) = children(command)
    command.stop()
    assert ended(pid)
    assert (f"[{pid}] of the application has not ended" in command.stderr) is (kind == "pool")
    assert "Leaving" not in command.stderr


IDLE = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

pools = [ThreadPoolExecutor(2), ProcessPoolExecutor(1)]

def begin():
    for pool in pools:
        pool.submit(int).result()
"""


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_pools_that_are_idle_end_by_themselves(start, folder, arguments):
    (folder / "main.py").write_text(APP + IDLE + LIFESPAN)
    command = start(*arguments)
    command.url()
    workers(command, 2 if arguments else 1)
    command.stop()
    assert "of the application" not in command.stderr


ATEXIT = """
import atexit, time

children = []

@atexit.register
def last():
    for child in children:
        child.terminate()
        child.join()
    if not children:
        time.sleep(1.5)  # it may take longer than processes may
    say("atexit")

def begin():
    {what}
"""
KEPT = """children.append(multiprocessing.get_context("fork").Process(target=run))
    children[0].start()"""


@pytest.mark.parametrize("what", ["pass", KEPT], ids=["slow", "ends its process"])
def test_handlers_of_atexit_run(start, folder, what):
    (folder / "main.py").write_text(APP + CHILD + ATEXIT.format(what=what) + LIFESPAN)
    command = start()
    command.url()
    if what == KEPT:
        children(command)
    command.stop()
    command.saw("atexit ")
    assert "of the application" not in command.stderr


FAILS = """
served_too = app

async def app(scope, receive, send):
    begin()
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


@pytest.mark.parametrize("arguments", [(), ("--workers", "1", "--limit-max-requests", "9")])
def test_start_that_fails_is_not_held_up(start, folder, arguments):
    (folder / "main.py").write_text(application().replace(LIFESPAN, FAILS))
    command = start(*arguments)
    (pid,) = children(command)
    assert command.wait() == 3
    assert told(pid) in command.stderr
    assert ended(pid)


def test_process_of_a_recycled_worker(start, folder):
    (folder / "main.py").write_text(application())
    command = start("--workers", "1", "--limit-max-requests", "9")
    command.url()
    (first,) = children(command)
    command.signal(signal.SIGHUP)
    command.saw(told(first))
    assert len(children(command, 2)) == 2
    command.stop()
    assert "illing" not in command.stderr


def test_process_of_gunicorns_worker(tmp_path):
    (tmp_path / "main.py").write_text(application())
    with Gunicorn(cwd=tmp_path) as command:
        command.url()
        (pid,) = children(command)
        command.stop()
    assert told(pid) in command.stderr
    assert ended(pid)


PROGRAM = """
import subprocess

def begin():
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(["sleep", "600"], stdout=devnull, stderr=devnull)
    say("program", str(process.pid))
"""


PROGRAM = """
import subprocess

def begin():
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(["sleep", "600"], stdout=devnull, stderr=devnull)
    say("program", str(process.pid))
"""


def test_program_that_the_application_starts_is_left_alone(start, folder):
    """The interpreter does not wait for it, so it need not end."""
    (folder / "main.py").write_text(APP + PROGRAM + LIFESPAN)
    command = start()
    command.url()
    pid = int(command.stdout.split()[1])
    command.stop()
    os.kill(pid, signal.SIGKILL)

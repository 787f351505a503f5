"""The watchdog of the event loop: what the log says of an application that blocks it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request

import pytest
from load import ask, ask_aside
from process import Command
from support import PATIENCE, wait_until

from thestral.process import health

APP = """
import asyncio, ctypes, itertools, os, sys, threading, time

ONES = 1_000_000

def duration():
    begun = time.perf_counter()
    sum(itertools.repeat(1, ONES))
    return time.perf_counter() - begun

RATE = ONES / min(duration() for _ in range(10))  # of additions in a second, if nobody disturbs

def say(*words):
    os.write(1, " ".join([*words, "\\n"]).encode())

def sleep():
    time.sleep(2.5)

def spin():
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        pass

def hold():  # the GIL, in a computation
    sum(itertools.repeat(1, int(RATE * 3)))

def hold_asleep():  # the GIL, until a signal comes: the watchdog's
    ctypes.PyDLL(None).sleep(15)

lock = threading.Lock()

def keep_lock():
    with lock:
        open("gate").read()

def wait_for_lock():
    threading.Thread(target=keep_lock).start()
    while not lock.locked():
        pass
    say("locking")
    with lock:
        pass

def deadlock():
    lock.acquire()
    lock.acquire()

def debug():
    breakpoint()

BLOCKING = {f"/{one.__name__}": one for one in (
    sleep, spin, hold, hold_asleep, wait_for_lock, deadlock, debug)}

async def inner(function):
    function()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    first, _, more = scope["path"].partition("/child")
    if more:
        await asyncio.create_task(middle(scope, BLOCKING[more]))
    elif first in BLOCKING:
        say("now", first)
        await inner(BLOCKING[first])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d 1" % os.getpid()})

async def middle(scope, function):
    await inner(function)
"""
BLOCKED = "The event loop has been blocked for"
AGAIN = "The event loop turns again; it was blocked for"
ONE_AND_MORE = pytest.mark.parametrize("how", [[], ["--workers", "2"]], ids=["alone", "worker"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    os.mkfifo(tmp_path / "gate")
    return tmp_path


def seconds(command, request):
    """For how long the log says that a request has blocked the loop."""
    pattern = re.escape(AGAIN) + r" (\d+\.\d) s in " + re.escape(request) + "$"
    found = wait_until(lambda: re.search(pattern, command.stderr, re.M))
    return float(found[1])


@ONE_AND_MORE
@pytest.mark.parametrize("function", ["sleep", "spin"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_function_that_blocks_the_loop(start, how, function, loop):
    """By default after a second, with the stack, before it ends."""
    command = start(*how, "--loop", loop)
    asking = ask_aside(command.url(), f"/{function}")
    command.saw(f"{BLOCKED} 1.0 s in GET /{function}\n")
    command.saw(f", in {function}\n")
    assert AGAIN not in command.stderr
    asking.join()
    assert 1.0 <= seconds(command, f"GET /{function}") < 60
    # The stack begins with the application: the loop and its callers are of no interest.
    _, _, stack = command.stderr.partition("Stack (most recent call last):\n")
    assert re.match(r'(.*/asyncio/.*\n.*\n)?  File ".*main.py", line \d+, in app\n', stack), stack
    assert "await inner(BLOCKING[first])" in stack
    command.stop()


PROGRAMS = {
    "run": "thestral.run('main:app', port=0)",
    "own loop": "asyncio.run(thestral.Server(thestral.Config('main:app', port=0)).serve())",
    "thread": "server = thestral.Server(thestral.Config('main:app', port=0))\n"
    "thread = threading.Thread(target=server.run)\nthread.start()\nthread.join()",
}


class Program(Command):
    """A program of a user's."""

    program = ("program.py",)


class Gunicorn(Command):
    program = ("-m", "gunicorn", "-k", "thestral.workers.ThestralWorker", "main:app")

    def url(self) -> str:
        return wait_until(lambda: re.search(r"Listening at: (http://\S+)", self.stderr))[1]


@pytest.mark.parametrize("how", PROGRAMS)
def test_server_in_a_program(folder, how):
    (folder / "program.py").write_text(f"import asyncio, threading, thestral\n{PROGRAMS[how]}\n")
    with Program(cwd=folder) as program:
        ask(program.url(), "/sleep")
        wait_until(lambda: re.search(rf"{BLOCKED} \d\.\d s in GET /sleep\n", program.stderr))
        ask(program.url(), "/hold_asleep")
        stack = rf"{BLOCKED} \d\.\d s\. Stack \(most recent call first\):\n"
        wait_until(lambda: re.search(stack, program.stderr))
        program.process.kill()  # a program with a thread does not handle signals


NO_THREAD = """
import threading, thestral

class Thread(threading.Thread):
    def start(self):
        if self.name == "thestral-watchdog":
            raise RuntimeError("can't start new thread")
        super().start()

threading.Thread = Thread
thestral.run("main:app", port=0)
"""


def test_server_that_can_start_no_thread_serves_without_a_watchdog(folder):
    """As CPython 3.12 starts none once the main thread has ended, while others still serve."""
    (folder / "program.py").write_text(NO_THREAD)
    with Program(cwd=folder) as program:
        ask(program.url(), "/sleep")
        program.stop()
    assert "The event loop has no watchdog: can't start new thread" in program.stderr
    assert "blocked" not in program.stderr


def test_worker_of_gunicorn(folder):
    with Gunicorn("--bind", "127.0.0.1:0", "--no-control-socket", cwd=folder) as gunicorn:
        ask(gunicorn.url(), "/sleep")
        gunicorn.saw(f"{BLOCKED} 1.0 s in GET /sleep\n")
        gunicorn.saw(f"{AGAIN} ")
        gunicorn.stop()


def test_request_id_is_named(start):
    command = start("--watchdog", "0.3")
    request = urllib.request.Request(f"{command.url()}/sleep", headers={"X-Request-ID": "abc-1"})
    with urllib.request.urlopen(request, timeout=PATIENCE):
        pass
    command.saw(f"{BLOCKED} 0.3 s in GET /sleep, request id abc-1\n")
    command.stop()


def test_task_that_a_request_has_started(start):
    """As Starlette's BaseHTTPMiddleware does: the request is known by a variable `scope`."""
    command = start("--watchdog", "0.3")
    ask(command.url(), "/child/sleep")
    command.saw(f"{BLOCKED} 0.3 s in GET /child/sleep\n")
    command.stop()


@ONE_AND_MORE
@pytest.mark.skipif(not hasattr(signal, "SIGRTMAX"), reason="needs real-time signals")
@pytest.mark.parametrize("function", ["hold", "hold_asleep"])
def test_call_that_holds_the_gil(start, how, function):
    """The stack is on stderr while nothing in Python can run, and in the log afterwards."""
    command = start("--watchdog", "0.5", *how)
    asking = ask_aside(command.url(), f"/{function}")
    command.saw(f"WARNING:  {BLOCKED} 0.5 s. Stack (most recent call first):\n")
    command.saw(f" in {function}\n")
    if function == "hold":
        assert "by a call that held the GIL" not in command.stderr
    asking.join()
    assert asking.pid is not None
    command.saw(f"{BLOCKED} 0.5 s in GET /{function}, by a call that held the GIL\n")
    command.saw(f", in {function}\n")
    assert seconds(command, f"GET /{function}") >= 0.5
    command.stop()


def test_lock_that_another_thread_holds(start, folder):
    command = start()
    asking = ask_aside(command.url(), "/wait_for_lock")
    command.saw(f"{BLOCKED} 1.0 s in GET /wait_for_lock\n")
    command.saw("with lock:")
    assert AGAIN not in command.stderr
    with (folder / "gate").open("w"):
        pass
    asking.join()
    assert seconds(command, "GET /wait_for_lock") >= 1.0
    command.stop()


def test_deadlock_is_told_and_then_the_worker_is_killed(start, folder):
    """The watchdog's own thread does not count among those that may still work."""
    command = start("--workers", "2", "--timeout-worker-healthcheck", "2")
    asking = ask_aside(command.url(), "/deadlock")
    command.saw(f"{BLOCKED} 1.0 s in GET /deadlock\n")
    if health.CALLS is not None:
        command.saw("every thread waits for a lock")
    asking.join()
    command.stop()


@pytest.mark.parametrize("arguments", [[], ["--limit-max-requests", "1000"]])
def test_same_function_is_told_once_and_the_rest_is_counted(start, arguments):
    command = start("--watchdog", "0.2", *arguments)
    for _ in range(3):
        ask(command.url(), "/sleep")
    wait_until(lambda: AGAIN in command.stderr)
    ask(command.url())
    command.stop()
    assert command.stderr.count(BLOCKED) == 1
    assert command.stderr.count(AGAIN) == 1
    found = re.search(r"The event loop was blocked 2 more times, for (.*) s in all", command.stderr)
    assert 4.0 <= float(found[1]) < 60


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_idle_server_and_a_stopped_process_are_not_told(start, loop):
    command = start("--watchdog", "0.2", "--loop", loop)
    url = command.url()
    pid = ask(url)
    for pause in (0.05, 0.25, 0.3, 0.5, 2.0):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: health.is_stopped(pid))
        time.sleep(pause)  # the time that it has been stopped for is the fact
        os.kill(pid, signal.SIGCONT)
        assert ask(url) == pid
    command.stop()
    assert BLOCKED not in command.stderr
    assert "blocked" not in command.stderr


def test_application_that_blocks_while_it_starts_is_not_told(folder, start):
    (folder / "main.py").write_text("import time\ntime.sleep(0.5)\n" + APP)
    command = start("--watchdog", "0.1")
    ask(command.url())
    command.stop()
    assert "blocked" not in command.stderr


def test_debugger_is_not_told(start):
    command = start("--watchdog", "0.2", stdin=subprocess.PIPE)
    asking = ask_aside(command.url(), "/debug")
    command.saw("main.py(")  # pdb says where it is
    time.sleep(0.6)  # the time that it waits at its prompt is the fact
    command.process.stdin.write("c\n")
    command.process.stdin.flush()
    asking.join()
    assert asking.pid is not None
    command.stop()
    command.process.stdin.close()
    assert "blocked" not in command.stderr


def test_off(start):
    command = start("--watchdog", "0")
    ask(command.url(), "/sleep")
    command.stop()
    assert "blocked" not in command.stderr

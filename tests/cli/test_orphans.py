"""The command as PID 1, which inherits all orphaned processes."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from load import APP, ask, ask_aside, workers
from process import Command
from support import program, wait_until

# Some paths start or count processes.
ORPHANS = """
import multiprocessing, subprocess

served = app

def stats():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = open(f"/proc/{name}/stat").read()
            except OSError:
                continue
            if "(orphan)" in text:
                yield text

def leave():
    for _ in range(5):
        subprocess.run(["sh", "-c", "./orphan 0.01 &"], check=True)
    return len(list(stats()))

def left():
    return len(list(stats()))

async def statuses():
    found = []
    for number in range(20):
        found.append(subprocess.run(["sh", "-c", f"exit {number}"]).returncode == number)
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}")
        found.append(await process.wait() == number)
    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(7,))
    process.start()
    await asyncio.to_thread(process.join)
    found.append(process.exitcode == 7)
    return found.count(False)

async def app(scope, receive, send):
    if scope["type"] != "http" or scope["path"] not in ("/leave", "/left", "/statuses"):
        return await served(scope, receive, send)
    if scope["path"] == "/statuses":
        answer = await statuses()
    else:
        answer = leave() if scope["path"] == "/leave" else left()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(answer).encode()})
"""
# Without a namespace: PR_SET_CHILD_SUBREAPER also makes a process inherit orphans.
SUBREAPER = """
import ctypes, sys, thestral.process.init
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
thestral.process.init.is_first = lambda: True
from thestral.cli import main
main(prog_name="thestral")
"""
MODELS = pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])


class First(Command):
    """The command as the first process of a PID namespace, or as a subreaper."""

    def __init__(self, namespace: bool, *arguments: str, **popen) -> None:
        self.program = ("-c", SUBREAPER)
        if namespace:
            unshare = [program("unshare"), "--fork", "--pid", "--mount-proc", "--kill-child"]
            if subprocess.run([*unshare, "true"], capture_output=True).returncode:
                pytest.skip("a PID namespace is not allowed here")
            call = f"import os, sys; os.execv({unshare[0]!r}, [*{unshare}, sys.executable, '-m', "
            self.program = ("-c", f"{call}'thestral', *sys.argv[1:]])")
        self._namespace = namespace
        super().__init__(*arguments, **popen)

    @property
    def first(self) -> int:
        """PID of the first process, seen from outside."""
        if not self._namespace:
            return self.process.pid

        def child() -> str:
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return path.read_text()

        return int(wait_until(child))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.first, number)


@pytest.fixture(params=[True, False], ids=["namespace", "subreaper"])
def first(request, folder):
    """Function (*arguments, **popen) that starts the command as a First."""
    (folder / "main.py").write_text(APP + ORPHANS)
    (folder / "orphan").symlink_to("/bin/sleep")
    commands = []

    def start(*arguments, **popen):
        arguments = ("main:app", "--port", "0", *arguments)
        commands.append(First(request.param, *arguments, cwd=folder, **popen))
        return commands[-1].__enter__()

    yield start
    for command in commands:
        command.__exit__(None, None, None)


@MODELS
def test_no_orphan_is_left(first, arguments):
    command = first(*arguments)
    url = command.url()
    for _ in range(3):
        ask(url, "/leave")
        wait_until(lambda: ask(url, "/left") == 0)
    command.stop()


@MODELS
def test_application_gets_the_statuses_of_what_it_starts(first, arguments):
    command = first(*arguments)
    assert ask(command.url(), "/statuses") == 0
    command.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@MODELS
def test_signal_stops_the_server(first, folder, arguments, number):
    command = first(*arguments)
    url = command.url()
    workers(command, 2 if arguments else 1)
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    command.signal(number)
    command.saw("Waiting for running requests to finish: 1")
    (folder / "release").touch()
    asking.join()
    assert asking.pid is not None
    assert command.wait() == 0
    assert "Cancelled" not in command.stderr
    assert command.stdout.count("lifespan.shutdown") == (2 if arguments else 1)


def test_other_signals_reach_the_server(first):
    command = first("--workers", "2")
    command.url()
    workers(command, 2)
    command.signal(signal.SIGHUP)
    workers(command, 4)
    command.signal(signal.SIGTTIN)
    workers(command, 5)
    command.signal(signal.SIGUSR1)
    command.saw("Received SIGUSR1")
    command.stop()


def test_exit_status_is_the_servers(first, folder):
    (folder / "main.py").write_text("raise RuntimeError\n")
    assert first().wait() == 3


def test_exit_status_of_a_server_that_is_killed(first, folder):
    (folder / "main.py").write_text(APP + "os.kill(os.getpid(), 9)\n")
    assert first().wait() == 128 + signal.SIGKILL


@pytest.fixture
def terminal():
    """Descriptor of a terminal, and arguments of Popen for a process that it controls."""
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[3] |= termios.NOFLSH  # otherwise it may drop a key that is pressed after another
    termios.tcsetattr(theirs, termios.TCSANOW, settings)

    def take() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    yield ours, {"stdin": theirs, "start_new_session": True, "preexec_fn": take}
    os.close(ours)
    os.close(theirs)


def test_ctrl_c_waits_for_requests(first, folder, terminal):
    command = first(**terminal[1])
    asking = ask_aside(command.url(), "/wait")
    command.saw("/wait")
    os.write(terminal[0], b"\x03")
    command.saw("Waiting for running requests to finish: 1")
    (folder / "release").touch()
    asking.join()
    assert asking.pid is not None
    assert command.wait() == 0


@pytest.mark.parametrize("first", [False], indirect=True)
def test_signal_of_a_terminal_counts_once(first, folder, terminal):
    """The terminal also sends the signal to the server itself."""
    text = "import signal\nsignal.signal(signal.SIGQUIT, lambda *_: say('pressed'))\n"
    (folder / "main.py").write_text(APP + text)
    command = first(**terminal[1])
    command.url()
    for number in range(50):
        os.write(terminal[0], b"\x1c")
        command.saw("pressed", times=number + 1)
    command.stop()
    assert command.stdout.count("pressed") == 50


def test_variables_for_the_first_process_are_for_the_server(tmp_path):
    """They name PID 1, the process that a container's manager knows."""
    text = """
import os
import thestral.process.init
thestral.process.init.is_first = lambda: True
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
thestral.process.init.leave_first_process()
print(*(os.environ[name] == str(os.getpid()) for name in ("LISTEN_PID", "WATCHDOG_PID")))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"

"""Counts while workers start and end: nothing is lost, and nothing is counted twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from load import APP, Load, ask_aside
from process import Command
from support import wait_until

SUPERVISED = str(Path(__file__).with_name("supervised.py"))


class Supervised(Command):
    program = (SUPERVISED,)

    def told(self) -> dict:
        """The snapshot that the supervisor prints now."""
        before = len(self.out)
        os.write(self.process.stdin.fileno(), b"\n")
        wait_until(lambda: any(line.startswith("snapshot") for line in self.out[before:]))
        (line,) = [line for line in self.out[before:] if line.startswith("snapshot")]
        return json.loads(line.removeprefix("snapshot"))

    def __exit__(self, *exc_info) -> None:
        self.process.stdin.close()
        super().__exit__(*exc_info)


@pytest.fixture
def supervise(tmp_path):
    """Function (**options) that starts a supervisor with two workers."""
    (tmp_path / "main.py").write_text(APP)
    os.mkfifo(tmp_path / "gate")
    with contextlib.ExitStack() as commands:

        def supervise(**options):
            given = {"app": "main:app", "port": 0, "workers": 2, "admin": "127.0.0.1:0"} | options
            return commands.enter_context(
                Supervised(json.dumps(given), cwd=tmp_path, stdin=subprocess.PIPE)
            )

        yield supervise


@contextlib.contextmanager
def blocked(command, folder):
    """Yield a worker that a request blocks until the end of the context."""
    asked = ask_aside(command.url(), "/block")
    try:
        wait_until(lambda: "/block" in command.stdout)
        yield
    finally:
        (folder / "gate").write_text("")
        asked.join()


def serving(command, load):
    """Processes that have answered; others may not be ready yet."""
    return [worker[1] for worker in command.told()["workers"] if worker[1] in load.pids]


def answered(load):
    return sum(load.seen.values())


@pytest.mark.parametrize("preload", [False, True], ids=["spawn", "fork"])
def test_counts_of_a_killed_worker_are_kept(supervise, preload):
    command = supervise(preload=preload)
    url = command.url()
    wait_until(lambda: len(command.told()["workers"]) == 2)
    with Load(url, strict=False) as load:
        for _ in range(3):
            before = answered(load)
            wait_until(lambda before=before: answered(load) > before + 50)
            (victim, *_) = wait_until(lambda: serving(command, load))
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda victim=victim: victim not in [w[1] for w in command.told()["workers"]]
            )
            wait_until(lambda: len(command.told()["workers"]) == 2)
    told = command.told()
    # A request is counted just before the end of its response leaves.
    assert answered(load) <= told["status"]["2xx"] <= answered(load) + len(load.failures)
    assert told["starts"] == 5
    assert told["ends"]["died"] == 3
    assert sum(told["ends"].values()) == 3
    wait_until(lambda: all(worker[2] == 0 for worker in command.told()["workers"]))


def test_counts_through_rolling_restarts(supervise):
    """Two processes with the same number run at the same time."""
    command = supervise()
    url = command.url()
    with Load(url) as load:
        for times in (1, 2):
            before = answered(load)
            wait_until(lambda before=before: answered(load) > before + 50)
            command.signal(signal.SIGHUP)
            wait_until(lambda times=times: command.told()["ends"]["stopped"] == 2 * times)
    told = command.told()
    assert told["status"]["2xx"] == told["begun"] == answered(load)
    assert told["starts"] == 6


def test_counts_of_recycled_workers(supervise):
    command = supervise(limit_max_requests=40, limit_max_requests_jitter=0)
    url = command.url()
    with Load(url) as load:
        wait_until(lambda: command.told()["ends"]["recycled"] >= 2)
    told = command.told()
    assert told["status"]["2xx"] == told["begun"] == answered(load)


def test_a_stuck_worker_is_read(supervise, tmp_path):
    command = supervise(workers=1)
    with blocked(command, tmp_path):
        (request,) = command.told()["running"]
        assert (request["method"], request["path"]) == ("GET", "/block")
        wait_until(lambda: command.told()["workers"][0][3] > 0.3)


@pytest.mark.parametrize("reuse_port", [False, True], ids=["shared", "own"])
def test_queue_of_a_worker_that_accepts_nothing(supervise, tmp_path, reuse_port):
    command = supervise(workers=1, reuse_port=reuse_port)
    port = int(command.url().rpartition(":")[2])
    with contextlib.ExitStack() as stack, blocked(command, tmp_path):
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: [f"127.0.0.1:{port}", 3] in [q[:2] for q in told_queues(command)])


def told_queues(command):
    return command.told()["queues"]


def test_causes_of_ends(supervise, tmp_path):
    command = supervise(workers=1, timeout_worker_blocked=1)
    url = command.url()
    ask_aside(url, "/block")
    wait_until(lambda: command.told()["ends"]["killed"] == 1)
    wait_until(lambda: len(command.told()["workers"]) == 1)
    (tmp_path / "main.py").write_text("raise ZeroDivisionError\n")
    command.signal(signal.SIGHUP)
    wait_until(lambda: command.told()["ends"]["failed"] == 1)

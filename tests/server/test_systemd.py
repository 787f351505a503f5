"""Notifications to systemd (sd_notify(3)), from a single process and from a supervisor."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import time

import pytest
from load import APP, ask_aside, workers
from process import Command
from support import PATIENCE, wait_until

from thestral.process import systemd
from thestral.process.health import LATE

WATCHDOG = "WATCHDOG=1"


class Manager:
    """A service manager's socket; `heard` lists all messages with their sender's PID.

    Args:
        path: a file's path, or "@" and a name in the abstract namespace.
    """

    def __init__(self, path):
        self.path = str(path)
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(PATIENCE)
        self._socket.bind("\0" + self.path[1:] if self.path.startswith("@") else self.path)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._socket.close()

    def hear(self):
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        pid = int.from_bytes(ancillary[0][2][:4], "little")
        self.heard.append((pid, data.decode()))
        return data.decode()

    def is_silent(self, seconds):
        """Return whether nothing arrives for this long."""
        self._socket.settimeout(seconds)
        try:
            self.hear()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)
        return False

    def next(self):
        """Return the next message, leaving out those of the watchdog."""
        while (text := self.hear()) == WATCHDOG:
            pass
        return text


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    abstract = f"@thestral-{secrets.token_hex(8)}"
    with Manager(tmp_path / "notify" if request.param == "path" else abstract) as manager:
        yield manager


@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="needs Linux")
@pytest.mark.parametrize("count", [1, 2])
def test_ready_watchdog_and_stopping(folder, manager, count):
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}
    arguments = ["main:app", "--port", "0", *(["--workers", "2"] if count == 2 else [])]
    with Command(*arguments, cwd=folder, env=env) as command:
        pid = command.process.pid
        assert manager.next() == "EXTEND_TIMEOUT_USEC=900000000"
        assert manager.next() == f"READY=1\nMAINPID={pid}"
        assert len(workers(command, count)) == count  # READY came once all were ready
        assert [manager.hear() for _ in range(3)] == [WATCHDOG] * 3
        if count == 2:
            before = time.monotonic_ns() // 1000
            command.signal(signal.SIGHUP)
            lines = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.next())
            assert before <= int(lines[1]) <= time.monotonic_ns() // 1000
            assert manager.next() == f"READY=1\nMAINPID={pid}"
            assert len(workers(command, 4)) == 4
            # A failed rolling restart also ends the reload; otherwise systemd would wait for it.
            (folder / "main.py").write_text("broken")
            command.signal(signal.SIGHUP)
            assert manager.next().startswith("RELOADING=1")
            assert manager.next() == f"READY=1\nMAINPID={pid}"
            command.saw("Rolling restart abandoned")
        command.signal(signal.SIGTERM)
        assert manager.next() == "STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000"
        assert command.wait() == 0
    # Workers send nothing.
    assert {sender for sender, _ in manager.heard} == {pid}


@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="needs Linux")
@pytest.mark.parametrize("how", [[], ["--workers", "2"], ["--workers", "2", "--preload"]])
def test_manager_waits_for_a_slow_start_and_a_slow_stop(tmp_path, how):
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "slow.py").write_text("open('gate').close()\nfrom main import app\n")
    (tmp_path / "main.py").write_text(APP)
    options = ["--timeout-worker-startup", "300", "--timeout-graceful-shutdown", "500"]
    with Manager(tmp_path / "notify") as manager:
        env = {"NOTIFY_SOCKET": manager.path}
        arguments = ["slow:app", "--port", "0", "--shutdown-delay", "0.1", *options, *how]
        with Command(*arguments, cwd=tmp_path, env=env) as command:
            assert manager.next() == "EXTEND_TIMEOUT_USEC=330000000"
            assert "Thestral running" not in command.stderr
            with open(tmp_path / "gate", "w"):  # released for each process that imports it
                assert manager.next().startswith("READY=1")
            command.stop()
            assert manager.next() == "STOPPING=1\nEXTEND_TIMEOUT_USEC=1030100000"
        assert {sender for sender, _ in manager.heard} == {command.process.pid}


@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="needs Linux")
@pytest.mark.parametrize("count", [1, 2])
def test_watchdog_hears_nothing_while_a_loop_does_not_turn(folder, manager, count):
    os.mkfifo(folder / "gate")
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}
    arguments = ["main:app", "--port", "0", *(["--workers", "2"] if count == 2 else [])]
    with Command(*arguments, cwd=folder, env=env) as command:
        wait_until(lambda: manager.next().startswith("READY=1"))
        assert manager.hear() == WATCHDOG
        blocked = ask_aside(command.url(), "/block")
        command.saw("/block")
        wait_until(lambda: manager.is_silent(1.0))
        with (folder / "gate").open("w"):
            pass
        assert manager.hear() == WATCHDOG
        blocked.join()
        command.stop()


@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="needs Linux")
def test_worker_that_starts_does_not_silence_the_watchdog(folder, manager):
    os.mkfifo(folder / "gate")
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}
    with Command("main:app", "--port", "0", "--workers", "2", cwd=folder, env=env) as command:
        wait_until(lambda: manager.next().startswith("READY=1"))
        first, _ = workers(command, 2)
        (folder / "main.py").write_text("print('begun', flush=True)\nopen('gate').read()\n" + APP)
        os.kill(first, signal.SIGKILL)
        command.saw("begun")
        begun = time.monotonic()
        # This is longer than a loop that has turned before may be late.
        wait_until(lambda: manager.hear() == WATCHDOG and time.monotonic() > begun + LATE + 1)
        with (folder / "gate").open("w"):
            pass
        workers(command, 3)
        command.stop()


@pytest.mark.timeout(10)
def test_manager_that_does_not_read_holds_up_nothing(tmp_path, monkeypatch):
    with Manager(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
        for _ in range(1000):  # more than any queue of datagrams holds
            systemd.notify(WATCHDOG)
        systemd.stopping(1.0)
        assert manager.hear() == WATCHDOG


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@none", "/" + "x" * 200])
def test_missing_manager_is_not_an_error(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.ready()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_watchdog_interval(monkeypatch, usec, pid, interval):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is None:
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert systemd.watchdog_interval() == interval

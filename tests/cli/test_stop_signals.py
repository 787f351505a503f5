"""SIGINT and SIGTERM: the server drains and exits with 0; a second signal ends it at once."""

from __future__ import annotations

import signal
import socket
import threading

import httpx
import pytest
from process import PLAIN, Command
from support import read_response

BOTH = [signal.SIGINT, signal.SIGTERM]
FORCE = "(Press CTRL+C to quit at once)"


@pytest.fixture
def command(tmp_path, request):
    (tmp_path / "main.py").write_text(PLAIN)
    arguments = getattr(request, "param", [])
    with Command("main:app", "--port", "0", *arguments, cwd=tmp_path) as command:
        yield command


def get(url: str) -> tuple[threading.Thread, list[httpx.Response | Exception]]:
    """Send a request in a thread; return the thread, and the list that will hold the response."""
    answers: list[httpx.Response | Exception] = []

    def run() -> None:
        try:
            answers.append(httpx.get(url, timeout=15))
        except httpx.HTTPError as exc:
            answers.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


@pytest.mark.parametrize("number", BOTH)
def test_running_request_is_finished(command, number):
    thread, answers = get(command.url() + "/slow")
    command.saw("slow started")
    command.signal(number)
    assert command.wait() == 0
    thread.join()
    (answer,) = answers
    assert isinstance(answer, httpx.Response)
    assert answer.text == " /slow"
    assert answer.headers["connection"] == "close"
    assert command.stdout.endswith("lifespan shutdown\n")
    assert "Traceback" not in command.stderr
    assert "Finished server process" in command.stderr


def test_idle_connection_does_not_delay(command):
    port = int(command.url().rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        read_response(idle)
        command.signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        assert command.wait() == 0
    assert FORCE not in command.stderr  # nothing to wait for


@pytest.mark.parametrize("number", BOTH)
def test_second_signal_does_not_wait(command, number):
    thread, answers = get(command.url() + "/stuck")
    command.saw("stuck started")
    command.signal(number)
    command.saw(f"Waiting for running requests to finish: 1, at most 30 s {FORCE}\n")
    command.signal(number)
    assert command.wait() == 0
    thread.join()
    assert isinstance(answers[0], httpx.Response)
    assert answers[0].status_code == 500  # a cancelled request still gets a response


@pytest.mark.parametrize("command", [["--workers", "2"], ["--reload"]], indirect=True)
def test_supervisor_logs_that_a_second_signal_ends_the_wait(command):
    threads = [get(command.url() + "/stuck")[0] for _ in range(2)]
    command.saw("stuck started", times=2)
    command.signal(signal.SIGINT)
    command.saw(f"Waiting for the workers, at most 30 s {FORCE}\n")
    command.signal(signal.SIGINT)
    assert command.wait() == 0
    for thread in threads:
        thread.join()
    assert command.stderr.count(FORCE) == 1


@pytest.mark.parametrize("command", [["--workers", "1", "--preload"]], indirect=True)
def test_second_signal_while_a_worker_is_replaced(command):
    thread, _ = get(command.url() + "/stuck")
    command.saw("stuck started")
    command.signal(signal.SIGHUP)
    command.saw("Waiting for running requests to finish: 1\n")
    assert FORCE not in command.stderr
    command.signal(signal.SIGINT)
    command.saw(f"Waiting for the workers, at most 30 s {FORCE}\n")
    command.signal(signal.SIGINT)
    assert command.wait() == 0
    thread.join()


@pytest.mark.parametrize("command", [["--timeout-graceful-shutdown", "0.2"]], indirect=True)
def test_stuck_request_is_named_and_cancelled(command):
    thread, answers = get(command.url() + "/stuck")
    command.saw("stuck started")
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    thread.join()
    assert len(answers) == 1
    assert "ERROR:    Cancelled at shutdown: GET /stuck" in command.stderr
    assert "lifespan shutdown" in command.stdout
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signal_during_a_slow_import(tmp_path, number, status):
    (tmp_path / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\napp = print\n"
    )
    with Command("slow:app", "--port", "0", cwd=tmp_path) as command:
        command.saw("importing")
        command.signal(number)
        assert command.wait() == status
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_signal_during_a_hung_lifespan(tmp_path, phase):
    (tmp_path / "hung.py").write_text(
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        + (
            "    await send({'type': 'lifespan.startup.complete'})\n    await receive()\n"
            if phase == "shutdown"
            else ""
        )
        + "    print('hung', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
    )
    with Command("hung:app", "--port", "0", cwd=tmp_path) as command:
        if phase == "shutdown":
            command.url()
            command.signal(signal.SIGTERM)
        command.saw("hung")
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
    assert "Traceback" not in command.stderr

"""What programs that the application starts inherit from the server's process."""

from __future__ import annotations

import signal

import httpx
import pytest

APP = """
import asyncio, signal, subprocess

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    number = signal.Signals[scope["path"].strip("/")]
    stops = number in (signal.SIGTTIN, signal.SIGTTOU)  # and does not end it
    process = subprocess.Popen(["sleep", "600"])
    status = open(f"/proc/{process.pid}/status").read()
    bit = 1 << number - 1
    held = [name for name in ("SigBlk", "SigIgn")
            if int(status.partition(name + ":")[2].split()[0], 16) & bit]
    process.send_signal(signal.SIGKILL if held or stops else number)
    status = await asyncio.to_thread(process.wait)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{held} {status}".encode()})
"""


@pytest.mark.parametrize(
    "arguments", [(), ("--workers", "2"), ("--workers", "1", "--preload"), ("--reload",)]
)
def test_signals_reach_a_program_that_the_application_starts(start, folder, arguments):
    (folder / "main.py").write_text(APP)
    command = start(*arguments)
    url = command.url()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        assert httpx.get(f"{url}/{number.name}", timeout=30).text == f"[] {-number}"
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        answer = httpx.get(f"{url}/{number.name}", timeout=30).text
        assert answer == f"[] {-signal.SIGKILL}"
    command.stop()

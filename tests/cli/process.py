"""Runs the real command as a process."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from support import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
PLAIN = """
import asyncio, os, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("lifespan startup", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        print("slow started", flush=True)
        await asyncio.sleep(0.5)
    if scope["path"] == "/stuck":
        print("stuck started", flush=True)
        await asyncio.sleep(3600)
    if scope["path"] == "/loop":
        body = type(asyncio.get_running_loop()).__module__.encode()
    else:
        body = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

def create_app():
    return app
"""


# Environment variables that must not reach the tested process.
FOREIGN = (
    *("THESTRAL_", "UVICORN_", "LISTEN_", "WATCHDOG_", "WEB_CONCURRENCY", "NOTIFY_SOCKET"),
    *("NO_COLOR", "COLUMNS", "PYTHONUNBUFFERED"),
)
MARK = "TESTED_PROCESS"  # environment variable that marks a command's process and its descendants


class Command:
    """`python -m thestral ARGUMENTS`; its output is collected as it comes.

    When the `with` block ends, neither the process nor any of its descendants may be alive.

    Args:
        arguments: the command's arguments.
        cwd: working directory.
        env: further environment variables.
        prefix: a command that runs the rest of its arguments, and does not fork.
        popen: further arguments of subprocess.Popen.
    """

    program = ("-m", "thestral")  # arguments of the interpreter
    server_name = "Thestral"  # in its log lines

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        **popen: Any,
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *self.program, *arguments],
            cwd=cwd,
            # Bytecode would hide a source that is written twice within a second.
            env={**clean, "PYTHONDONTWRITEBYTECODE": "1", **(env or {}), name: value},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen},
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, lines))
            for pipe, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if pipe is not None
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe, lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                lines.append(line)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        try:
            if kind is None:
                wait_until(lambda: not self.family())
        finally:
            for pid in self.family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait()

    def family(self) -> set[int]:
        """Return the PIDs of the process and all its descendants, including orphans."""
        mark = self._mark.encode()
        found = set()
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (directory / "environ").read_bytes().split(b"\0"):
                    found.add(int(directory.name))
        return found

    @property
    def stdout(self) -> str:
        return "".join(self.out)

    @property
    def stderr(self) -> str:
        return "".join(self.err)

    def url(self) -> str:
        """The URL in the log line that announces the server; waits for that line."""

        def running() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}: {self.stderr}")
            pattern = rf"{self.server_name} running on (https?://\S+) \(Press"
            return re.search(pattern, self.stderr)

        return wait_until(running)[1]

    def saw(self, text: str, times: int = 1) -> None:
        """Wait until `text` has been printed at least `times` times."""
        wait_until(lambda: max(self.stdout.count(text), self.stderr.count(text)) >= times)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Send SIGTERM; the process must exit with status 0."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0

    def wait(self) -> int:
        """Wait for the end of the process and of its output; return the exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

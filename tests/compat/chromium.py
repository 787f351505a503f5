"""Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
from support import PATIENCE, wait_until
from websockets.sync.client import connect

SWITCHES = [
    "--headless",
    "--remote-debugging-port=0",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # /dev/shm is small in a container
    "--disable-features=BackForwardCache",  # that would keep a page's WebSocket open
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--ignore-certificate-errors",  # Chromium does not know the tests' authority
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
]

LOADED = "document.title === 'thestral' && document.readyState === 'complete'"


class Browser:
    """Chromium; each page is a target with a DevTools connection of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        self.log = profile.with_suffix(".log")
        command = [program, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium refuses to start with a sandbox as root
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.port, path = wait_until(lambda: self._address(profile / "DevToolsActivePort"))
        self.devtools = Session(self.port, path)

    def _address(self, file: Path) -> list[str] | None:
        if self.process.poll() is not None:
            pytest.fail(f"Chromium does not start:\n{self.log.read_text(errors='replace')}")
        lines = file.read_text().splitlines() if file.exists() else []
        return lines if len(lines) == 2 else None

    def open(self, url: str) -> Session:
        target = self.devtools.call("Target.createTarget", url=url)["targetId"]
        page = Session(self.port, f"/devtools/page/{target}")
        page.target = target
        wait_until(lambda: page.evaluate(LOADED))
        return page

    def close(self) -> None:
        self.devtools.send("Browser.close")
        self.devtools.close()
        self.process.wait(PATIENCE)


class Session:
    """A DevTools connection: commands, and their results."""

    target = ""

    def __init__(self, port: str, path: str) -> None:
        self._ws = connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None)
        self._ws.__enter__()
        self._numbers = itertools.count()

    def send(self, method: str, **params) -> int:
        number = next(self._numbers)
        self._ws.send(json.dumps({"id": number, "method": method, "params": params}))
        return number

    def call(self, method: str, **params):
        number = self.send(method, **params)
        while (answer := json.loads(self._ws.recv(timeout=PATIENCE))).get("id") != number:
            pass  # an event
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, expression: str):
        """The value of an expression in the page; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def run(self, body: str):
        """Run the body of an async function in the page; return its result."""
        return self.evaluate(f"(async () => {{ {body} }})()")

    def close(self) -> None:
        self._ws.__exit__(None, None, None)

"""Runs Chromium without a window, on a page that reads event streams and reports what it saw."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from applications import EVENTS
from environment import installed

PATIENCE = 15.0  # seconds for a stream, and for a program to start or to end
SWITCHES = (
    "--headless",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)
PAGE = r"""<!doctype html>
<title>thestral</title>
<script>
// Milliseconds since the epoch, as exactly as a page can know them.
const now = () => performance.timeOrigin + performance.now();

async function byEventSource({url, events}, seen) {
  const began = performance.now();
  const source = new EventSource(url);
  let count = 0;
  await new Promise((done, failed) => {
    source.onopen = () => seen["EventSource open"].push(performance.now() - began);
    source.onerror = () => failed(`the stream ended after ${count} events`);
    source.onmessage = ({data}) => {
      seen["each event"].push(now() - Number(data) / 1000);
      if (++count === events) done();
    };
  }).finally(() => source.close());
}

async function byFetch({url, events}, seen) {
  const began = performance.now();
  const response = await fetch(url, {cache: "no-store"});
  seen["fetch() resolves"].push(performance.now() - began);
  const count = (await response.text()).split("\n\n").length - 1;
  if (!response.ok || count !== events) throw `${response.status} with ${count} events`;
}

async function run(job) {
  const seen = {"EventSource open": [], "fetch() resolves": [], "each event": []};
  const unseen = structuredClone(seen);
  await byEventSource(job, unseen);  // leaves out what only a first stream costs
  for (let stream = 0; stream < job.streams; stream++) {
    await byEventSource(job, seen);
    await byFetch(job, seen);
  }
  return seen;
}

(async () => {
  for (;;) {
    const job = await (await fetch("/job")).json();
    const result = await run(job).catch((error) => ({error: String(error)}));
    await fetch("/result", {method: "POST", body: JSON.stringify(result)});
  }
})();
</script>
"""


def find(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    found = installed(*names)
    if found is None:
        raise SystemExit(f"{names[0]} is not on the PATH. Install it: apt install {names[0]}")
    return found


class Pages(ThreadingHTTPServer):
    """Serves Chromium its page, gives the page its jobs and takes its results."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PageHandler)
        self.jobs: queue.Queue[dict[str, object]] = queue.Queue()
        self.results: queue.Queue[dict[str, object]] = queue.Queue()


class PageHandler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        if self.path == "/":
            self.answer("text/html", PAGE.encode())
        elif self.path == "/job":
            self.answer("application/json", json.dumps(self.server.jobs.get()).encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.server.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer("text/plain", b"")

    def answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Chromium:
    """The browser, which runs until close()."""

    def __init__(self) -> None:
        program = find("chromium", "chromium-browser", "google-chrome")
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = (Path(self._folder.name) / "log").open("w+b")
        self._pages = Pages()
        threading.Thread(target=self._pages.serve_forever, daemon=True).start()
        command = [program, *SWITCHES, f"--user-data-dir={self._folder.name}/profile"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # as root it does not start with a sandbox
        self._process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{self._pages.server_port}/"],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def measure(self, port: int, streams: int) -> dict[str, list[float]]:
        """Open this many streams with EventSource, then as many with fetch(), and time each.

        Raises:
            ValueError: the page received something else, or does not answer.
        """
        url = f"http://127.0.0.1:{port}/"
        self._pages.jobs.put({"url": url, "streams": streams, "events": EVENTS})
        try:
            result = self._pages.results.get(timeout=2 * PATIENCE + streams)
        except queue.Empty:
            self._log.seek(0)
            said = self._log.read()[-300:].decode(errors="replace")
            raise ValueError(f"the page in Chromium does not answer: {said}") from None
        if "error" in result:
            raise ValueError(f"in Chromium: {result['error']}")
        return {f"Chromium, {name}": values for name, values in result.items()}  # type: ignore[misc]

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._pages.shutdown()
        self._pages.server_close()
        self._log.close()
        self._folder.cleanup()

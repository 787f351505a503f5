"""Processor time per answer of thestral and other servers: one at a time on one core, in
interleaved rounds. An answer is an HTTP response, or the echo of a WebSocket message.

    python bench/peers.py [--rounds 5] [--seconds 3] [--servers thestral uvicorn granian]
                          [--scenarios "plain GET" "WebSocket 64 B"]

Needs wrk on the PATH, and the peers installed beside thestral. Figures are ratios within one run: a
machine's own speed and its neighbours' noise fall on all alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ws_load

BENCH = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
HEADERS = ["User-Agent: bench", "Accept: */*", "Accept-Encoding: gzip"]
COMMANDS = {
    "thestral": "-m thestral bench.apps:{app} --port {port} --no-access-log --log-level warning",
    "uvicorn": "-m uvicorn bench.apps:{app} --port {port} --no-access-log --log-level warning"
    " --http httptools --loop uvloop",
    "granian": "-m granian --interface asgi --port {port} --no-access-log --log-level warning"
    " bench.apps:{app}",
    "hypercorn": "-m hypercorn --bind 127.0.0.1:{port} --worker-class uvloop bench.apps:{app}",
    "socketify": "-m socketify bench.apps:{app} --port {port}",
    "fastpysgi": "-c import\0fastpysgi,bench.apps;"
    "fastpysgi.run(bench.apps.{app},'127.0.0.1',{port})",
}


@dataclass(frozen=True)
class Scenario:
    """What is measured.

    Attributes:
        app: name in bench.apps.
        check: given the port, sees that the answer is right; OSError while the server starts,
            ValueError if it is not.
        load: command with {port} and {seconds}.
        count: the load's output to answers and answers per second; ValueError if some failed.
    """

    app: str
    check: Callable[[int], None]
    load: list[str]
    count: Callable[[str], tuple[int, float]]


def get(app: str, path: str, expected: bytes) -> Scenario:
    def check(port: int) -> None:
        # Keep-alive, as wrk does: fastpysgi 0.6 answers no more after a "Connection: close".
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            body = connection.getresponse().read()
        finally:
            connection.close()
        if body != expected:
            raise ValueError(f"{path} answered {body!r}, expected {expected!r}")

    def count(output: str) -> tuple[int, float]:
        found = re.search(r"(\d+) requests in", output)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if not found or not rate or "Non-2xx" in output or "Socket errors" in output:
            raise ValueError(output)
        return int(found[1]), float(rate[1])

    headers = [word for header in HEADERS for word in ("-H", header)]
    url = "http://127.0.0.1:{port}" + path
    return Scenario(app, check, ["wrk", "-t1", "-c64", "-d{seconds}", *headers, url], count)


def echo(size: int, *arguments: str) -> Scenario:
    def count(output: str) -> tuple[int, float]:
        result = json.loads(output)
        return result["messages"], result["messages_per_second"]

    command = [sys.executable, str(BENCH / "ws_load.py"), "--port={port}", "--seconds={seconds}"]
    return Scenario(
        "echo",
        lambda port: ws_load.check(port, ws_load.sample(size)),
        [*command, f"--size={size}", *arguments],
        count,
    )


SCENARIOS = {
    "plain GET": get("plain", "/", b"Hello, world!"),
    "FastAPI GET": get("fast", "/items/5?q=tea", b'{"item_id":5,"q":"tea"}'),
    "WebSocket 64 B": echo(64),
    "WebSocket 16 KiB": echo(16384),
}


class Peer:
    """A running server, pinned to one core."""

    def __init__(self, name: str, app: str, core: int) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        words = COMMANDS[name].format(app=app, port=self.port).split()
        command = [sys.executable, *(word.replace("\0", " ") for word in words)]
        self.process = subprocess.Popen(
            command,
            cwd=BENCH.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def check(self, scenario: Scenario) -> None:
        """Wait until it answers, and see that the answer is right."""
        for _ in range(200):
            try:
                return scenario.check(self.port)
            except OSError:
                time.sleep(0.05)
        raise ValueError(f"{self.process.args} does not answer")

    def stats(self) -> Iterator[list[str]]:
        """The fields of /proc/PID/stat from the third on, of the process and its descendants."""
        parents = {self.process.pid}
        for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda p: int(p.parent.name)):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(stat.parent.name)
            if pid in parents or int(fields[1]) in parents:
                parents.add(pid)
                yield fields

    def processor_time(self) -> float:
        """Seconds, user and system."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self.stats()) / TICKS

    def resident(self) -> int:
        """Bytes of memory; pages that processes share count for each."""
        return sum(int(fields[21]) for fields in self.stats()) * PAGE

    def measure(self, scenario: Scenario, seconds: int, cores: set[int]) -> tuple[float, float]:
        """Microseconds of processor time per answer, and answers per second."""
        before = self.processor_time()
        output = subprocess.run(
            [word.format(port=self.port, seconds=seconds) for word in scenario.load],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ).stdout
        spent = self.processor_time() - before
        answers, rate = scenario.count(output)
        return spent / answers * 1e6, rate

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)  # WebSockets that do not answer a Close may have 10 s
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", default=["thestral", "uvicorn"], choices=COMMANDS)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    load = set(cores[1:]) or set(cores)
    print("| scenario | server | CPU µs/answer | answers/s | times less CPU than uvicorn |")
    print("|---|---|---|---|---|")
    for name in options.scenarios:
        scenario = SCENARIOS[name]
        results: dict[str, list[tuple[float, float]]] = {server: [] for server in options.servers}
        for _ in range(options.rounds):
            for server in list(results):
                peer = Peer(server, scenario.app, cores[0])
                try:
                    peer.check(scenario)
                    peer.measure(scenario, 1, load)  # warm
                    results[server].append(peer.measure(scenario, options.seconds, load))
                except ValueError as error:
                    print(f"{server} is left out of {name}: {error}", file=sys.stderr)
                    del results[server]
                finally:
                    peer.stop()
        median = {
            server: [statistics.median(column) for column in zip(*rounds, strict=True)]
            for server, rounds in results.items()
        }
        base = median.get("uvicorn", next(iter(median.values()), [0.0]))[0]
        for server, (spent, rate) in median.items():
            print(
                f"| {name} | {server} | {spent:.1f} | {rate:.0f} | {base / spent:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()

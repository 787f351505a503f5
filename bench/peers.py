"""Processor time per request of thestral and other servers: one at a time on one core, in
interleaved rounds.

    python bench/peers.py [--rounds 5] [--seconds 3] [--servers thestral uvicorn fastpysgi]

Needs wrk on the PATH, and the peers installed beside thestral. Figures are ratios within one run: a
machine's own speed and its neighbours' noise fall on all alike.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
HEADERS = ["User-Agent: bench", "Accept: */*", "Accept-Encoding: gzip"]
SCENARIOS = {
    "plain GET": ("plain", "/", b"Hello, world!"),
    "FastAPI GET": ("fast", "/items/5?q=tea", b'{"item_id":5,"q":"tea"}'),
}
COMMANDS = {
    "thestral": "-m thestral bench.apps:{app} --port {port} --no-access-log --log-level warning",
    "uvicorn": "-m uvicorn bench.apps:{app} --port {port} --no-access-log --log-level warning"
    " --http httptools --loop uvloop",
    "granian": "-m granian --interface asgi --port {port} --no-access-log --log-level warning"
    " bench.apps:{app}",
    "fastpysgi": "-c import\0fastpysgi,bench.apps;"
    "fastpysgi.run(bench.apps.{app},'127.0.0.1',{port})",
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

    def check(self, path: str, expected: bytes) -> None:
        """Wait until it answers, and see that the answer is right."""
        # Keep-alive, as wrk does: fastpysgi 0.6 answers no more after a "Connection: close".
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        for _ in range(200):
            try:
                connection.request("GET", path)
                body = connection.getresponse().read()
            except OSError:
                connection.close()
                time.sleep(0.05)
                continue
            connection.close()
            if body != expected:
                raise SystemExit(f"{path} answered {body!r}, expected {expected!r}")
            return
        raise SystemExit(f"{self.process.args} does not answer")

    def processor_time(self) -> float:
        """Seconds, user and system, of the process and its children."""
        total = 0
        parents = {self.process.pid}
        for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda p: int(p.parent.name)):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(stat.parent.name)
            if pid in parents or int(fields[1]) in parents:
                parents.add(pid)
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def measure(self, path: str, seconds: int, cores: set[int]) -> tuple[float, float]:
        """Microseconds of processor time per request, and requests per second."""
        command = ["wrk", "-t1", "-c64", f"-d{seconds}"]
        for header in HEADERS:
            command += ["-H", header]
        before = self.processor_time()
        output = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}{path}"],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ).stdout
        spent = self.processor_time() - before
        if "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(output)
        found = re.search(r"(\d+) requests in", output)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
        assert found is not None
        assert rate is not None
        return spent / int(found[1]) * 1e6, float(rate[1])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", default=["thestral", "uvicorn"], choices=COMMANDS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    load = set(cores[1:]) or set(cores)
    print("| scenario | server | CPU µs/request | requests/s | times less CPU than uvicorn |")
    print("|---|---|---|---|---|")
    for scenario, (app, path, expected) in SCENARIOS.items():
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in options.servers}
        for _ in range(options.rounds):
            for name in options.servers:
                peer = Peer(name, app, cores[0])
                try:
                    peer.check(path, expected)
                    peer.measure(path, 1, load)  # warm
                    results[name].append(peer.measure(path, options.seconds, load))
                finally:
                    peer.stop()
        median = {
            name: [statistics.median(column) for column in zip(*rounds, strict=True)]
            for name, rounds in results.items()
        }
        base = median.get("uvicorn", median[options.servers[0]])[0]
        for name, (spent, rate) in median.items():
            print(f"| {scenario} | {name} | {spent:.1f} | {rate:.0f} | {base / spent:.2f} |")


if __name__ == "__main__":
    main()

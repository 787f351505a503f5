"""Measures how soon clients see an event stream begin, and how long each event takes to arrive.

The first event is late, so that the head has to leave without it. Clients connect directly, through
nginx and in Chromium. See bench/README.md.

    python bench/first_byte.py
    python bench/first_byte.py --servers thestral uvicorn granian --rounds 3
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from applications import EVENTS
from browser import PATIENCE, Chromium, find
from environment import CHECKOUT, Environment, prepare
from report import row
from servers import LIMITS, SERVERS, Server, Setup, UnsupportedError, cores_for

SETUP = Setup("applications:events")
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
EVENT = re.compile(rb"data: (\d+)\n\n")
POLL = 0.01  # seconds between two checks whether nginx listens
FIGURES = (  # in the order of the table
    "direct, first byte",
    "direct, each event",
    "nginx, first byte",
    "nginx, each event",
    "Chromium, EventSource open",
    "Chromium, fetch() resolves",
    "Chromium, each event",
)
Samples = dict[str, list[float]]  # figure: milliseconds
NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/client_body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{server};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def stream(port: int) -> tuple[float, list[float]]:
    """Read one event stream over a connection of its own.

    Returns:
        Milliseconds from the request to the first byte of its response, and the milliseconds that
        each event took to arrive.
    Raises:
        ValueError: the response is not what applications.events sends; OSError: there is none.
    """
    received = b""
    first = 0.0
    events: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        asked = time.perf_counter()
        sock.sendall(REQUEST)
        while not received.endswith(b"\r\n0\r\n\r\n"):
            data = sock.recv(65536)
            now = time.time_ns()
            if not data:
                raise ValueError(f"closed after {received[-100:]!r}")
            if not received:
                first = (time.perf_counter() - asked) * 1e3
            received += data
            told = EVENT.findall(received)[len(events) :]
            events += [(now - int(each) * 1000) / 1e6 for each in told]
    if not received.startswith(b"HTTP/1.1 200 ") or len(events) != EVENTS:
        raise ValueError(f"{len(events)} of {EVENTS} events in {received[:100]!r}")
    return first, events


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def nginx(server: int) -> Iterator[int]:
    """Run nginx in front of the server at this port, and yield nginx's port.

    Raises:
        ValueError: nginx does not start; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder) / "nginx.conf"
        path.write_text(NGINX.format(folder=folder, port=port, server=server))
        command = [find("nginx"), "-e", "stderr", "-p", folder, "-c", str(path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + PATIENCE
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    raise ValueError(f"nginx does not start: {process.communicate()[1][-300:]}")
                time.sleep(POLL)
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def turn(
    name: str, environment: Environment, own: set[int], streams: int, chromium: Chromium
) -> Samples:
    """Measure all figures of one server.

    Raises:
        ValueError: the server does not serve the stream, or not correctly.
    """
    server = Server(name, SETUP, environment, own)
    try:
        server.wait(partial(check, server))
        samples = chromium.measure(server.port, streams)
        with nginx(server.port) as proxy:
            for way, port in (("direct", server.port), ("nginx", proxy)):
                taken = [stream(port) for _ in range(streams)]
                samples[f"{way}, first byte"] = [first for first, _ in taken]
                samples[f"{way}, each event"] = [late for _, events in taken for late in events]
    except OSError as exc:
        raise ValueError(f"does not answer: {exc}") from exc
    finally:
        server.stop()
        server.close()
    return samples


def check(server: Server) -> None:
    stream(server.port)


def table(found: dict[str, Samples]) -> str:
    """Return median and 95th percentile of each figure as markdown, a column for each server."""
    lines = [row(["ms: median (95th percentile)", *found]), "|---|" + "---:|" * len(found)]
    lines += [row([name, *(cell(each[name]) for each in found.values())]) for name in FIGURES]
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    high = statistics.quantiles(values, n=20, method="inclusive")[-1]
    return f"{statistics.median(values):.2f} ({high:.2f})"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    servers = [name for name in SERVERS if name not in LIMITS]
    add("--rounds", type=int, default=5, help="turns of each server")
    add("--streams", type=int, default=5, help="streams of each kind in a turn")
    add("--servers", nargs="+", default=["thestral", "uvicorn"], choices=servers, metavar="SERVER")
    add("--build", type=Path, default=CHECKOUT / "build/bench", help="folder of the peers")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        own, others = cores_for(SETUP, sorted(os.sched_getaffinity(0)))
    except UnsupportedError as exc:
        raise SystemExit(f"this {exc}") from exc
    environment = prepare(options.build.resolve())
    os.sched_setaffinity(0, others)  # nginx and Chromium inherit it
    found: dict[str, Samples] = {name: {} for name in options.servers}
    chromium = Chromium()
    try:
        for number in range(options.rounds):
            for name, samples in found.items():
                print(f"round {number + 1} of {options.rounds}, {name}", file=sys.stderr)
                taken = turn(name, environment, own, options.streams, chromium)
                for figure, values in taken.items():
                    samples.setdefault(figure, []).extend(values)
    except ValueError as exc:
        raise SystemExit(f"{name}: {exc}") from exc
    finally:
        chromium.close()
    names = ("python", "uvloop", "system", *options.servers)
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in names)
    print(f"{options.rounds} rounds of {options.streams} streams. {versions}.\n\n{table(found)}")


if __name__ == "__main__":
    main()

"""The loads under which servers are measured. Each returns its figures as numbers by their names in
report.FIGURES.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import ClassVar, Protocol

import ws_h2_load
import ws_load
from environment import BENCH, H2LOAD_MISSING, Environment
from servers import Server

Figures = dict[str, float]
MICRO = 1e6
SETTLE = 0.5  # seconds for a server to finish its work
BATCH = 100  # connections opened at once: fewer than any server's backlog
IDLE = 5000  # connections


class Load(Protocol):
    """
    Attributes:
        warm: whether to run the load once before it is measured.
    """

    warm: ClassVar[bool]

    def check(self, server: Server) -> None:
        """Check that the server responds correctly.

        Raises:
            ValueError: the response is wrong; OSError: there is none.
        """

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        """Load the server from `cores`.

        Raises:
            ValueError: a response was wrong, or missing.
        """


def run(command: list[str], cores: set[int], timeout: float) -> str:
    """Run a load generator on `cores`, and return its output.

    Raises:
        ValueError: it failed, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    except subprocess.TimeoutExpired as exc:
        raise ValueError(f"the load did not end within {timeout} s") from exc
    if done.returncode:
        raise ValueError(f"{done.stderr.strip()[-300:]}")
    return done.stdout


def get(server: Server, path: str = "/", **arguments: object) -> bytes:
    """Return the body of one response, whose status must be 200."""
    made: http.client.HTTPConnection
    if server.setup.tls:
        context = ssl._create_unverified_context()
        made = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=context)
    else:
        made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        made.request(str(arguments.pop("method", "GET")), path, **arguments)  # type: ignore[arg-type]
        response = made.getresponse()
        body = response.read()
    except http.client.HTTPException as exc:
        raise ValueError(f"{path} is not answered: {exc!r}") from exc
    finally:
        made.close()
    if response.status != 200:
        raise ValueError(f"{path} is answered with {response.status} {body[:100]!r}")
    return body


@dataclass(frozen=True)
class Requests:
    """Requests from wrk; each connection sends one after the other.

    Attributes:
        expected: the body of each response.
        fields: header fields in addition to Host, "Name: value".
        body: sent with POST; if the response is its size, its CRC-32 at /crc is checked first.
        depth: requests written at once.
        per: units in a response, such as megabytes.
    """

    warm: ClassVar[bool] = True

    path: str = "/"
    expected: bytes = b"Hello, world!"
    fields: tuple[str, ...] = ("User-Agent: bench", "Accept: */*", "Accept-Encoding: gzip")
    body: bytes = b""
    content_type: str = ""
    depth: int = 1
    connections: int = 64
    per: float = 1

    def check(self, server: Server) -> None:
        headers = dict(field.split(": ", 1) for field in self.fields)
        method = "GET"
        if self.body:
            headers["Content-Type"] = self.content_type
            method = "POST"
        sent = {"method": method, "headers": headers, "body": self.body or None}
        found = get(server, self.path, **sent)
        if found != self.expected:
            raise ValueError(f"answers {found[:100]!r}, expected {self.expected[:100]!r}")
        if self.expected == b"%d" % len(self.body):
            found = get(server, "/crc", **sent)
            if found != b"%d" % zlib.crc32(self.body):
                raise ValueError("the body did not arrive as it was sent")

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        threads = min(2, len(cores))
        scheme = "https" if server.setup.tls else "http"
        command = ["wrk", f"-t{threads}", f"-c{self.connections}", f"-d{seconds}"]
        command += ["--timeout", "10", "-s", str(BENCH / "wrk.lua")]
        for field in self.fields:
            command += ["-H", field]
        command += [f"{scheme}://127.0.0.1:{server.port}{self.path}", "--", f"depth={self.depth}"]
        with tempfile.NamedTemporaryFile() as file:
            if self.body:
                file.write(self.body)
                file.flush()
                command += ["method=POST", f"body={file.name}", f"type={self.content_type}"]
            slept = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
            before = server.tree.processor_time()
            output = run(command, cores, seconds + 30)
        spent = server.tree.processor_time() - before
        slept = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw - slept
        result = json.loads(output.splitlines()[-1])
        requests = result["requests"]
        wrong = {
            name: result[name]
            for name in ("connect", "read", "write", "timeout", "status")
            if result[name]
        }
        if not requests:
            raise ValueError(f"nothing was answered within {seconds} s; {wrong}")
        if wrong:
            raise ValueError(f"{requests} answers, failed requests by cause: {wrong}")
        if result["bytes"] < requests * len(self.expected):
            raise ValueError(f"{requests} answers in {result['bytes']} bytes: some were short")
        units = requests * self.per
        figures = {"cpu": spent / units * MICRO, "rate": units / result["seconds"]}
        if self.depth == 1:  # for a batch, wrk measures only one latency
            figures |= {name: result[name] for name in ("p50", "p99", "p999")}
        return figures | {"sleeps": slept / units, "answers": requests}


@dataclass(frozen=True)
class Streams:
    """Requests over HTTP/2 from h2load: `streams` at once on each connection.

    Attributes:
        expected: the body of each response.
        body: sent with POST.
        per: units in a response, such as megabytes.
    """

    warm: ClassVar[bool] = True

    expected: bytes = b"Hello, world!"
    body: bytes = b""
    connections: int = 8
    streams: int = 32
    per: float = 1

    def check(self, server: Server) -> None:
        if shutil.which("h2load") is None:
            raise ValueError(H2LOAD_MISSING)
        command = ["curl", "-sk", "--http2-prior-knowledge", "-w", "%{http_version}", url(server)]
        with posting(self.body) as file:
            if file:
                command += ["--data-binary", f"@{file}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=30)
        if done.returncode:
            raise ConnectionError(f"curl ends with {done.returncode}")
        if done.stdout != self.expected + b"2":
            raise ValueError(f"answers {done.stdout[:100]!r}, expected {self.expected[:100]!r}")

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        # Windows of a browser's size; h2load's default is the RFC's 64 KiB.
        command = ["h2load", f"-c{self.connections}", f"-m{self.streams}", f"-D{seconds}"]
        command += ["-w24", "-W24", "-t1", url(server)]
        with posting(self.body) as file:
            if file:
                command += ["-d", file]
            before = server.tree.processor_time()
            output = run(command, cores, seconds + 30)
        spent = server.tree.processor_time() - before
        done, failed, errored = numbers_of(output, r"(\d+) succeeded, (\d+) failed, (\d+) errored")
        wrong = sum(numbers_of(output, r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx"))
        (data,) = numbers_of(output, r"traffic: .*\((\d+)\) data")
        # Requests that are under way when the time is over count as failed.
        cut = self.connections * self.streams
        if not done or max(failed, errored) > cut or wrong:
            raise ValueError(f"{done} answers, {failed} failed, {errored} errors, {wrong} not 2xx")
        if data < done * len(self.expected):
            raise ValueError(f"{done} answers in {data} bytes: some were short")
        units = done * self.per
        return {"cpu": spent / units * MICRO, "rate": units / seconds, "answers": done}


def url(server: Server) -> str:
    return f"{'https' if server.setup.tls else 'http'}://127.0.0.1:{server.port}/"


@contextlib.contextmanager
def posting(body: bytes) -> Iterator[str]:
    """Yield the name of a file with this body; "" without a body."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        yield file.name if body else ""


def numbers_of(output: str, pattern: str) -> tuple[int, ...]:
    """Return the numbers in a line of h2load's output, by the groups of `pattern`."""
    found = re.search(pattern, output)
    if found is None:
        raise ValueError(f"h2load has printed no {pattern!r}: {output[-300:]}")
    return tuple(int(number) for number in found.groups())


@dataclass(frozen=True)
class Echoes:
    """WebSockets, each with one message at a time; every byte of each echo is compared.

    Attributes:
        size: bytes of a message.
        streams: WebSockets on each HTTP/2 connection; 0 for HTTP/1.1, where each has its own.
    """

    warm: ClassVar[bool] = True

    size: int
    streams: int = 0

    def check(self, server: Server) -> None:
        self._program().check(server.port, ws_load.sample(self.size))

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        command = [sys.executable, str(self._program().__file__), f"--port={server.port}"]
        command += [f"--seconds={seconds}", f"--size={self.size}"]
        if self.streams:
            command.append(f"--streams={self.streams}")
        before = server.tree.processor_time()
        result = json.loads(run(command, cores, seconds + 30))
        spent = server.tree.processor_time() - before
        return {
            "cpu": spent / result["messages"] * MICRO,
            "rate": result["messages_per_second"],
            "p50": result["p50_us"],
            "p99": result["p99_us"],
            "p999": result["p999_us"],
        }

    def _program(self) -> ModuleType:
        return ws_h2_load if self.streams else ws_load


@dataclass(frozen=True)
class FixedRate:
    """Requests at a fixed rate, each due at its time whether or not earlier ones are answered."""

    warm: ClassVar[bool] = True

    rate: int
    connections: int = 64
    path: str = "/"
    expected: bytes = b"Hello, world!"

    def check(self, server: Server) -> None:
        Requests(path=self.path, expected=self.expected).check(server)

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        arguments = (server.port, self.rate, self.connections, seconds, self.path)
        command = [str(environment.program("openloop")), *map(str, arguments)]
        before = server.tree.processor_time()
        result = json.loads(run(command, cores, seconds + 30))
        spent = server.tree.processor_time() - before
        if result["unanswered"]:
            raise ValueError(f"{result['unanswered']} requests unanswered")
        return {
            "cpu": spent / result["requests"] * MICRO,
            "rate": result["requests"] / result["seconds"],
            **{name: result[name] for name in ("p50", "p99", "p999")},
        }


@dataclass(frozen=True)
class IdleConnections:
    """Connections that send nothing, then one request each, then nothing again."""

    warm: ClassVar[bool] = False

    count: int = IDLE

    def check(self, server: Server) -> None:
        Requests().check(server)

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = self.count + 1000
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(f"RLIMIT_NOFILE is {hard}, {wanted} are needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        opened = [self._open(server) for _ in range(BATCH)]
        self._request(opened)  # leaves out what only the first connections cost
        try:
            time.sleep(SETTLE)
            base = server.tree.resident()
            for _ in range(self.count // BATCH):
                accepted = server.tree.descriptors() + BATCH
                opened += [self._open(server) for _ in range(BATCH)]
                wait_until(partial(self._accepted, server, accepted))
            time.sleep(SETTLE)
            silent = server.tree.resident()
            for start in range(BATCH, len(opened), BATCH):
                self._request(opened[start : start + BATCH])
            time.sleep(SETTLE)
            used = server.tree.resident()
        finally:
            for sock in opened:
                sock.close()
        return {
            "silent": (silent - base) / self.count,
            "idle": (used - base) / self.count,
        }

    @staticmethod
    def _accepted(server: Server, descriptors: int) -> bool:
        return server.tree.descriptors() >= descriptors

    def _open(self, server: Server) -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), timeout=10)

    def _request(self, opened: list[socket.socket]) -> None:
        for sock in opened:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in opened:
            received = b""
            while not received.endswith(b"Hello, world!"):
                data = sock.recv(4096)
                if not data:
                    raise ValueError(f"an idle connection was closed after {received!r}")
                received += data


def wait_until(fact: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not fact():
        if time.monotonic() > deadline:
            raise ValueError("not all connections were accepted")
        time.sleep(0.005)


@dataclass(frozen=True)
class Start:
    """The time from the start of the process to its first response; no load follows."""

    warm: ClassVar[bool] = False

    def check(self, server: Server) -> None:
        Requests().check(server)

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        return {"start": server.first_answer * 1e3, "start_cpu": server.first_cpu * 1e3}


@dataclass(frozen=True)
class Nothing:
    """No requests, apart from the one that checks the server."""

    warm: ClassVar[bool] = False

    def check(self, server: Server) -> None:
        Requests().check(server)

    def measure(
        self, server: Server, environment: Environment, seconds: int, cores: set[int]
    ) -> Figures:
        time.sleep(SETTLE)
        spent, woken = server.tree.processor_time(), server.tree.wake_ups()
        time.sleep(seconds)
        return {
            "idle_cpu": (server.tree.processor_time() - spent) / seconds * 1e3,
            "wake_ups": (server.tree.wake_ups() - woken) / seconds,
        }

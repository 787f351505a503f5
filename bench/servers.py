"""How each server is started, with its best settings for one core, and what it cannot do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from environment import BENCH, Environment
from measure import ProcessTree

START_TIMEOUT = 15.0  # seconds until a server has to answer
STOP_TIMEOUT = 12.0  # seconds; WebSockets that do not answer a Close may have 10 s
POLL = 0.001  # seconds between two looks whether it answers
KEEP_ALIVE = "75"  # seconds; the defaults of some are too short to open 5,000 connections


class UnsupportedError(ValueError):
    """A server cannot do what a scenario asks for; says why."""


@dataclass(frozen=True)
class Setup:
    """What is served.

    Attributes:
        app: "module:attribute".
        size: bytes of body, and
        close: whether the connection is closed after it: for the limits, which parse nothing.
        limits: whether the limits can take part.
    """

    app: str
    workers: int = 1
    tls: bool = False
    access_log: bool = False
    size: int = 13
    close: bool = False
    limits: bool = False


class Command(Protocol):
    def __call__(self, setup: Setup, environment: Environment, port: int) -> list[str]:
        """What starts the server: arguments behind python's.

        Raises:
            UnsupportedError: it cannot.
        """


def log(setup: Setup, on: list[str], off: list[str]) -> list[str]:
    return on if setup.access_log else off


def thestral(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = common("thestral", setup, environment, port)
    return [*command, "--timeout-head", KEEP_ALIVE]  # of silent connections too


def common(module: str, setup: Setup, environment: Environment, port: int) -> list[str]:
    """What thestral and uvicorn spell alike."""
    command = ["-m", module, setup.app, "--port", str(port), "--app-dir", str(BENCH)]
    command += log(setup, ["--access-log"], ["--no-access-log", "--log-level", "warning"])
    if setup.workers > 1:
        command += ["--workers", str(setup.workers)]
    if setup.tls:
        command += ["--ssl-certfile", str(environment.certificate)]
        command += ["--ssl-keyfile", str(environment.key)]
    return command


def uvicorn(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = common("uvicorn", setup, environment, port)
    return [*command, "--http", "httptools", "--loop", "uvloop", "--timeout-keep-alive", KEEP_ALIVE]


def granian(setup: Setup, environment: Environment, port: int) -> list[str]:
    # One runtime thread of mode mt was 20 % ahead of st, with little between runs.
    command = ["-m", "granian", setup.app, "--interface", "asgi", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "1", "--runtime-mode", "mt", "--http1-pipeline-flush"]
    command += log(setup, ["--access-log"], ["--no-access-log", "--log-level", "warning"])
    command += ["--workers", str(setup.workers), "--backlog", "8192"]
    command += ["--working-dir", str(BENCH)]
    if setup.tls:
        command += ["--ssl-certificate", str(environment.certificate)]
        command += ["--ssl-keyfile", str(environment.key)]
    return command


def hypercorn(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = ["-m", "hypercorn", setup.app, "--bind", f"127.0.0.1:{port}", "-k", "uvloop"]
    command += log(setup, ["--access-logfile", "-"], ["--log-level", "warning"])
    command += ["--workers", str(setup.workers), "--keep-alive", KEEP_ALIVE]
    if setup.tls:
        command += ["--certfile", str(environment.certificate), "--keyfile", str(environment.key)]
    return command


def gunicorn(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = ["-m", "gunicorn", setup.app, "--bind", f"127.0.0.1:{port}", "-k", "asgi"]
    command += ["--asgi-loop", "uvloop", "--no-control-socket"]
    command += log(setup, ["--access-logfile", "-"], ["--log-level", "warning"])
    command += ["--workers", str(setup.workers), "--keep-alive", KEEP_ALIVE]
    if setup.tls:
        command += ["--certfile", str(environment.certificate), "--keyfile", str(environment.key)]
    return command


def fastpysgi(setup: Setup, environment: Environment, port: int) -> list[str]:
    if setup.access_log:
        raise UnsupportedError("has no access log")
    module, _, attribute = setup.app.partition(":")
    program = f"import fastpysgi, {module}\nserver = fastpysgi.server\n"
    program += "server.max_content_length = 1 << 30\n"  # 10 MB is its default
    if setup.tls:
        files = (str(environment.certificate), str(environment.key), None)
        program += f"server.tls_list = [{files!r}]\n"
    arguments = f"'127.0.0.1', {port}, workers={setup.workers}"
    return ["-c", f"{program}fastpysgi.run({module}.{attribute}, {arguments})"]


def socketify(setup: Setup, environment: Environment, port: int) -> list[str]:
    if setup.access_log:
        raise UnsupportedError("has no access log")
    command = ["-m", "socketify", setup.app, "--port", str(port)]
    command += ["--workers", str(setup.workers)]
    if setup.tls:
        command += ["--ssl-certfile", str(environment.certificate)]
        command += ["--ssl-keyfile", str(environment.key)]
    return command


def limit(setup: Setup, port: int) -> list[str]:
    return [str(port), str(setup.size), *["close"] * setup.close]


def bare(setup: Setup, environment: Environment, port: int) -> list[str]:
    return [str(BENCH / "bare.py"), *limit(setup, port)]


def floor(setup: Setup, environment: Environment, port: int) -> list[str]:
    return limit(setup, port)


SERVERS: dict[str, Command] = {
    "thestral": thestral,
    "uvicorn": uvicorn,
    "granian": granian,
    "hypercorn": hypercorn,
    "gunicorn": gunicorn,
    "fastpysgi": fastpysgi,
    "socketify": socketify,
    "uvloop Protocol": bare,
    "C epoll": floor,
}
LIMITS = ("uvloop Protocol", "C epoll")


class Server:
    """A running server, pinned to cores of its own.

    Args:
        name: one of SERVERS.
        cores: what it may run on.
    Attributes:
        first_answer: seconds from its start to its first answer, and
        first_cpu: processor time that it had spent then.
    Raises:
        UnsupportedError: it cannot do what `setup` asks for.
    """

    def __init__(self, name: str, setup: Setup, environment: Environment, cores: set[int]) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        program = environment.program("floor") if name == "C epoll" else environment.python
        command = [str(program), *SERVERS[name](setup, environment, self.port)]
        self.setup = setup
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.first_answer = self.first_cpu = 0.0
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=BENCH,
            env=os.environ | {"BENCH_FILE": str(environment.file)},
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.tree = ProcessTree(self.process.pid)

    def wait(self, check: Callable[[], None]) -> None:
        """Until it answers, and rightly.

        Raises:
            ValueError: it does not, or wrongly.
        """
        deadline = self.started + START_TIMEOUT
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise ValueError(f"ended by itself: {self.tail()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(POLL)
                continue
            try:
                check()
            except OSError as exc:
                raise ValueError(f"does not answer: {exc}") from exc
            self.first_answer = time.perf_counter() - self.started
            self.first_cpu = self.tree.processor_time()
            return
        raise ValueError(f"does not listen within {START_TIMEOUT} s: {self.tail()}")

    def tail(self) -> str:
        """The end of what it has printed."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")[-300:].strip()

    def logged(self) -> int:
        """Requests in its log."""
        self.output.seek(0)
        return sum(b"GET /" in line for line in self.output)

    def stop(self) -> None:
        """End it and its descendants, whether or not it heeds a signal."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.output.close()


def cores_for(setup: Setup, cores: list[int]) -> tuple[set[int], set[int]]:
    """Cores of the server, and of the load.

    Raises:
        UnsupportedError: there are not enough.
    """
    if len(cores) <= setup.workers:
        raise UnsupportedError(f"needs {setup.workers + 1} cores")
    return set(cores[: setup.workers]), set(cores[setup.workers :])

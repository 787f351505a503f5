"""Starts the servers, each with its best settings for one core, and knows what each cannot do."""

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

from environment import BENCH, Environment, installed
from measure import ProcessTree

START_TIMEOUT = 15.0  # seconds for a server to send its first response
STOP_TIMEOUT = 12.0  # seconds; servers wait up to 10 s for WebSockets to answer a Close
POLL = 0.001  # seconds between two checks whether it answers
FASTAPI = ("frameworks:fast", "frameworks:included", "frameworks:wrapped")
KEEP_ALIVE = "75"  # seconds; some defaults are too short to open 5,000 connections


class UnsupportedError(ValueError):
    """A server cannot do what a scenario asks for; the message says why."""


@dataclass(frozen=True)
class Setup:
    """The application that a server is to run, and the settings that depend on the scenario.

    Attributes:
        app: "module:attribute".
        http2: whether clients speak HTTP/2.
        size: bytes of the body that the limits (bare.py, floor.c) send without parsing requests.
        close: whether the limits close the connection after each response.
        limits: whether the limits can take part.
    """

    app: str
    workers: int = 1
    tls: bool = False
    http2: bool = False
    access_log: bool = False
    size: int = 13
    close: bool = False
    limits: bool = False


class Command(Protocol):
    def __call__(self, setup: Setup, environment: Environment, port: int) -> list[str]:
        """Return the arguments that start the server, after the name of the program.

        Raises:
            UnsupportedError: the server cannot do this.
        """


def log(setup: Setup, on: list[str], off: list[str]) -> list[str]:
    return on if setup.access_log else off


def thestral(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = common("thestral", setup, environment, port)
    return [*command, "--timeout-head", KEEP_ALIVE]  # it bounds silent connections, too


def accelerated(setup: Setup, environment: Environment, port: int) -> list[str]:
    if setup.app not in FASTAPI:
        raise UnsupportedError("is the same as without --accelerate")
    return [*thestral(setup, environment, port), "--accelerate", "fastapi=require"]


def common(module: str, setup: Setup, environment: Environment, port: int) -> list[str]:
    """Return the arguments that are the same for thestral and uvicorn."""
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
    command += ["--loop", "uvloop", "--timeout-keep-alive", KEEP_ALIVE]
    return [*command, *(["--http", "zttp", "--http2"] if setup.http2 else ["--http", "httptools"])]


def granian(setup: Setup, environment: Environment, port: int) -> list[str]:
    # With one runtime thread, mt was 20 % faster than st, and its runs differed little.
    command = ["-m", "granian", setup.app, "--interface", "asgi", "--port", str(port)]
    command += ["--loop", "uvloop", "--runtime-mode", "mt"]
    command += ["--http", "2"] if setup.http2 else ["--http", "1", "--http1-pipeline-flush"]
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


def h2corn(setup: Setup, environment: Environment, port: int) -> list[str]:
    command = ["-m", "h2corn", setup.app, "--bind", f"127.0.0.1:{port}", "--app-dir", str(BENCH)]
    command += ["--loop", "uvloop", "--workers", str(setup.workers)]
    command += ["--timeout-keep-alive", KEEP_ALIVE]
    command += log(setup, ["--access-log"], ["--no-access-log"])
    if setup.tls:
        command += ["--certfile", str(environment.certificate), "--keyfile", str(environment.key)]
    return command


def peregrine(setup: Setup, environment: Environment, port: int) -> list[str]:
    if setup.access_log:
        raise UnsupportedError("its access log is not read here")
    program = environment.python.with_name("peregrine")
    command = [str(program), setup.app, "--port", str(port), "--python-path", str(BENCH)]
    command += ["--workers", str(setup.workers), "--keep-alive", KEEP_ALIVE + "000"]
    command += ["--max-connections", "10000", "--max-body", str(1 << 30)]
    if setup.tls:
        command += ["--tls-cert", str(environment.certificate), "--tls-key", str(environment.key)]
    return command


def m0serve(setup: Setup, environment: Environment, port: int) -> list[str]:
    only_http1(setup)
    if setup.tls:
        raise UnsupportedError("has no TLS")
    command = ["-m", "m0serve", setup.app, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--protocol", "asgi", "--app-dir", str(BENCH), "--workers", str(setup.workers)]
    command += ["--max-keepalive-requests", "0", "--idle-timeout", KEEP_ALIVE, "--max-body", "1g"]
    return [*command, *log(setup, ["--access-log"], [])]


def only_http1(setup: Setup) -> None:
    if setup.http2:
        raise UnsupportedError("does not speak HTTP/2")


def gunicorn(setup: Setup, environment: Environment, port: int) -> list[str]:
    only_http1(setup)
    command = ["-m", "gunicorn", setup.app, "--bind", f"127.0.0.1:{port}", "-k", "asgi"]
    command += ["--asgi-loop", "uvloop", "--no-control-socket"]
    command += log(setup, ["--access-logfile", "-"], ["--log-level", "warning"])
    command += ["--workers", str(setup.workers), "--keep-alive", KEEP_ALIVE]
    if setup.tls:
        command += ["--certfile", str(environment.certificate), "--keyfile", str(environment.key)]
    return command


def fastpysgi(setup: Setup, environment: Environment, port: int) -> list[str]:
    only_http1(setup)
    if setup.access_log:
        raise UnsupportedError("has no access log")
    module, _, attribute = setup.app.partition(":")
    program = f"import fastpysgi, {module}\nserver = fastpysgi.server\n"
    program += "server.max_content_length = 1 << 30\n"  # the default is 10 MB
    if setup.tls:
        files = (str(environment.certificate), str(environment.key), None)
        program += f"server.tls_list = [{files!r}]\n"
    arguments = f"'127.0.0.1', {port}, workers={setup.workers}"
    return ["-c", f"{program}fastpysgi.run({module}.{attribute}, {arguments})"]


def socketify(setup: Setup, environment: Environment, port: int) -> list[str]:
    only_http1(setup)
    if setup.access_log:
        raise UnsupportedError("has no access log")
    command = ["-m", "socketify", setup.app, "--port", str(port)]
    command += ["--workers", str(setup.workers)]
    if setup.tls:
        command += ["--ssl-certfile", str(environment.certificate)]
        command += ["--ssl-keyfile", str(environment.key)]
    return command


def limit(setup: Setup, port: int) -> list[str]:
    only_http1(setup)
    return [str(port), str(setup.size), *["close"] * setup.close]


def bare(setup: Setup, environment: Environment, port: int) -> list[str]:
    return [str(BENCH / "bare.py"), *limit(setup, port)]


def floor(setup: Setup, environment: Environment, port: int) -> list[str]:
    return limit(setup, port)


def nghttpd(setup: Setup, environment: Environment, port: int) -> list[str]:
    if not setup.http2:
        raise UnsupportedError("speaks HTTP/2 only")
    command = ["--htdocs", str(environment.page(setup.size)), "--address", "127.0.0.1", str(port)]
    if setup.tls:
        return [*command, str(environment.key), str(environment.certificate)]
    return ["--no-tls", *command]


NGINX = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    keepalive_timeout {keep_alive};
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} http2{tls};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {root};
    }}
}}
"""


def nginx(setup: Setup, environment: Environment, port: int) -> list[str]:
    """Only for HTTP/2: before 1.25 a port without TLS speaks either that or HTTP/1.1."""
    if not setup.http2:
        raise UnsupportedError("speaks HTTP/2 only")
    folder = environment.page(setup.size)
    path = environment.folder / "nginx.conf"
    path.write_text(
        NGINX.format(
            keep_alive=KEEP_ALIVE,
            port=port,
            tls=" ssl" if setup.tls else "",
            certificate=environment.certificate,
            key=environment.key,
            root=folder,
        )
    )
    return ["-p", str(environment.folder), "-c", str(path), "-e", "stderr"]


SERVERS: dict[str, Command] = {
    "thestral": thestral,
    "thestral --accelerate": accelerated,
    "uvicorn": uvicorn,
    "granian": granian,
    "hypercorn": hypercorn,
    "h2corn": h2corn,
    "peregrine": peregrine,
    "m0serve": m0serve,
    "gunicorn": gunicorn,
    "fastpysgi": fastpysgi,
    "socketify": socketify,
    "uvloop Protocol": bare,
    "C epoll": floor,
    "nghttpd": nghttpd,
    "nginx": nginx,
}
PROGRAMS = ("nghttpd", "nginx")  # which no registry of Python's has
LIMITS = ("uvloop Protocol", "C epoll", *PROGRAMS)


class Server:
    """A running server, pinned to cores of its own.

    Args:
        name: one of SERVERS.
        cores: the cores that it may run on.
    Attributes:
        first_answer: seconds from its start to its first correct response.
        first_cpu: seconds of processor time until then.
    Raises:
        UnsupportedError: the server cannot do what `setup` asks for.
    """

    def __init__(self, name: str, setup: Setup, environment: Environment, cores: set[int]) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        command = SERVERS[name](setup, environment, self.port)
        if name in PROGRAMS:
            program = installed(name)
            if program is None:
                raise UnsupportedError("is not installed")
            command.insert(0, program)
        elif name == "C epoll":
            command.insert(0, str(environment.program("floor")))
        elif name != "peregrine":  # peregrine is a program, not a Python module
            command.insert(0, str(environment.python))
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
        """Wait until the server answers, and check that it does so correctly.

        Raises:
            ValueError: it does not.
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
        """Return the end of its output."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")[-300:].strip()

    def logged(self) -> int:
        """Return the number of requests in its log."""
        self.output.seek(0)
        return sum(b"GET /" in line for line in self.output)

    def stop(self) -> None:
        """End the server and its descendants, even if they ignore SIGTERM."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.output.close()


def cores_for(setup: Setup, cores: list[int]) -> tuple[set[int], set[int]]:
    """Return the cores of the server and those of the load.

    Raises:
        UnsupportedError: there are not enough cores.
    """
    if len(cores) <= setup.workers:
        raise UnsupportedError(f"needs {setup.workers + 1} cores")
    return set(cores[: setup.workers]), set(cores[setup.workers :])

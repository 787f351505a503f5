"""The real command where exactness matters: output line by line, limits, environment, hard stops.

tests/cli holds the plain cases of each option.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import PATIENCE, read_all, read_head, wait_until

from thestral.cli import main
from thestral.config import Config, options

ROOT = Path(__file__).resolve().parents[2]
RUNNING = re.compile(r"Thestral running on http://127\.0\.0\.1:(\d+)")
PROMPT = 4.0  # seconds; far below the 30 s of a graceful shutdown, far above what an exit takes

# One application for all: what it does is in the path. It says what it does on stdout, in lines.
PROBE = """
import asyncio, json, pathlib, threading

print("imported", flush=True)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await serve(scope, receive, send)

async def with_lifespan(scope, receive, send):
    if scope["type"] != "lifespan":
        return await serve(scope, receive, send)
    await receive()
    scope["state"]["started"] = True
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})

async def serve(scope, receive, send):
    path = scope["path"]
    body = b"hello"
    if path.endswith("/scope"):
        body = json.dumps({
            "root_path": scope["root_path"],
            "path": scope["path"],
            "started": scope.get("state", {}).get("started", False),
            "loop": type(asyncio.get_running_loop()).__module__,
        }).encode()
    elif path == "/body":
        await receive()
        await receive()
        return
    elif path == "/stubborn":
        print("hanging", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled", flush=True)
    elif path == "/thread":
        print("hanging", flush=True)
        await asyncio.to_thread(threading.Event().wait)
    elif path == "/slow":
        await start(send, 10)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.005)
        return await send({"type": "http.response.body", "body": b"later"})
    await start(send, len(body))
    await send({"type": "http.response.body", "body": body})

async def start(send, length):
    headers = [(b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

def make():
    return app
"""


def clean_environment(**more):
    """Ours without what could set an option or a colour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("THESTRAL_", "UVICORN_")) and name not in ("NO_COLOR", "COLUMNS")
    }
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)} | more


class Process:
    """Python with arguments; its output goes to files. It is gone at the end of `with`."""

    def __init__(self, directory, *arguments, env=None, **streams):
        self._directory = directory
        with self._file("stdout").open("wb") as out, self._file("stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=directory,
                env=clean_environment(**(env or {})),
                stdin=subprocess.DEVNULL,
                **{"stdout": out, "stderr": err, **streams},
            )
        self.signal = self.process.send_signal

    def _file(self, name):
        return self._directory / name

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def stdout(self):
        return self._file("stdout").read_text()

    @property
    def stderr(self):
        return self._file("stderr").read_text()

    @property
    def port(self):
        """The port it says that it runs on; waits for that line."""
        wait_until(lambda: RUNNING.search(self.stderr) or self.process.poll() is not None)
        found = RUNNING.search(self.stderr)
        assert found, f"ended with {self.process.returncode}:\n{self.stderr}"
        return int(found.group(1))

    def says(self, text):
        """Wait for a text on stdout."""
        wait_until(lambda: text in self.stdout)

    def logs(self, text):
        """Wait for a text on stderr."""
        wait_until(lambda: text in self.stderr)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def get(self, path="/", method="GET"):
        """A response, read to its end, as (status, fields with lower-case names, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            fields = [(name.lower(), value) for name, value in response.getheaders()]
            return response.status, fields, response.read()
        finally:
            connection.close()

    def ask(self, path):
        """A request sent; its connection, on which nothing has been read."""
        sock = self.connect()
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        return sock

    def finish(self, patience=PROMPT):
        """Wait for its end; returns the exit status."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {patience} s:\n{self.stderr}") from None


@pytest.fixture
def thestral(tmp_path):
    """Function (*arguments, port="0", env=None) that starts the command beside probe.py."""
    (tmp_path / "probe.py").write_text(PROBE)
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, port="0", **settings: stack.enter_context(
            Process(
                tmp_path, "-m", "thestral", *(["--port", port] if port else []), *arguments,
                **settings,
            )
        )  # fmt: skip


def scope_of(server, path="/scope"):
    return json.loads(server.get(path)[2])


def busy_port():
    """A socket that holds a port for the length of a test."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def answer_on(port):
    """A response to a plain request; b"" while nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return read_all(sock)
    except ConnectionRefusedError:
        return b""


# --- Logging --------------------------------------------------------------------------------------


def test_access_log_has_the_shape_of_uvicorns(thestral):
    server = thestral("probe:app")
    with server.connect() as sock:
        client = sock.getsockname()[1]
        sock.sendall(b"GET /a%20b?q=1&r HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 OK\r\n")
    server.says("HTTP/1.1")
    assert server.stdout.splitlines()[1:] == [
        f'INFO:     127.0.0.1:{client} - "GET /a%20b?q=1&r HTTP/1.1" 200 OK'
    ]
    server.get("/scope", "DELETE")
    server.says('"DELETE /scope HTTP/1.1" 200 OK\n')
    assert "HTTP/1.1" not in server.stderr


def test_start_is_told_on_stderr_in_uvicorns_words(thestral):
    server = thestral("probe:with_lifespan")
    port = server.port
    server.logs("CTRL+C")
    assert server.stderr.splitlines() == [
        f"INFO:     Started server process [{server.process.pid}]",
        "INFO:     Waiting for application startup.",
        "INFO:     Application startup complete.",
        f"INFO:     Thestral running on http://127.0.0.1:{port} (Press CTRL+C to quit)",
    ]


@pytest.mark.parametrize("level", ["warning", "critical"])
def test_log_level_silences_what_is_below_it(thestral, level):
    with busy_port() as sock:
        port = sock.getsockname()[1]
    server = thestral("--log-level", level, "probe:app", port=str(port))

    assert wait_until(lambda: answer_on(port)).endswith(b"hello")
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert (server.stdout, server.stderr) == ("imported\n", "")


@pytest.mark.parametrize("level", ["debug", "trace"])
def test_log_level_debug_tells_more(thestral, level):
    server = thestral("--log-level", level, "probe:app")
    assert server.get()[0] == 200
    assert "DEBUG:    The application has no lifespan." in server.stderr.splitlines()


# --- Responses ------------------------------------------------------------------------------------


def test_response_has_date_and_server_once(thestral):
    fields = thestral("probe:app").get()[1]
    assert [value for name, value in fields if name == "server"] == ["thestral"]
    (date,) = [value for name, value in fields if name == "date"]
    # IMF-fixdate, RFC 9110 section 5.6.7
    assert time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize("name", ["server", "date"])
def test_header_of_the_users_takes_the_place_of_ours(thestral, name):
    # A sender must not generate two lines of a field that is no list (RFC 9110 section 5.3).
    fields = thestral("--header", f"{name.title()}: mine", "probe:app").get()[1]
    assert [value for found, value in fields if found == name] == ["mine"]


def test_no_server_header_and_no_date_header_leave_them_out(thestral):
    fields = thestral("--no-server-header", "--no-date-header", "probe:app").get()[1]
    assert fields == [("content-length", "5")]


# --- Lifespan and loop ----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "runs"), [("auto", True), ("on", True), ("off", False)])
def test_lifespan_runs_unless_off(thestral, mode, runs):
    server = thestral("--lifespan", mode, "probe:with_lifespan")
    assert scope_of(server)["started"] is runs
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert ("shutdown\n" in server.stdout) is runs


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("asyncio", "asyncio.unix_events"),
        ("none", "asyncio.unix_events"),
        ("uvloop", "uvloop"),
        ("auto", "uvloop"),
        ("uvloop:new_event_loop", "uvloop"),
        ("asyncio:new_event_loop", "asyncio.unix_events"),
    ],
)
def test_loop_is_the_one_asked_for(thestral, name, module):
    assert scope_of(thestral("--loop", name, "probe:app"))["loop"] == module


# --- Limits ---------------------------------------------------------------------------------------


def status_of(server, request):
    with server.connect() as sock:
        sock.sendall(request)
        return int(read_all(sock).split(b" ")[1])


def request_with(size=0, count=0, body=0):
    """A request that closes, with a line of `size` bytes, `count` fields and a body."""
    target = b"/" + b"a" * max(0, size - len(b"GET / HTTP/1.1"))
    fields = [b"Host: a", b"Connection: close", b"Content-Length: %d" % body]
    fields += [b"X-%d: 1" % number for number in range(count - len(fields))]
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", *fields, b"", b""]) + b"b" * body


@pytest.mark.parametrize(
    ("option", "limit", "request_at", "refusal"),
    [
        ("--limit-request-line", 40, lambda n: request_with(size=n), 414),
        ("--limit-header-count", 5, lambda n: request_with(count=n), 431),
        ("--limit-request-body", 10, lambda n: request_with(body=n), 413),
    ],
)
def test_limit_is_exact(thestral, option, limit, request_at, refusal):
    server = thestral(option, str(limit), "probe:app")
    statuses = [status_of(server, request_at(limit + step)) for step in (-1, 0, 1)]
    assert statuses == [200, 200, refusal]


def test_limit_header_size_bounds_the_head(thestral):
    server = thestral("--limit-header-size", "200", "probe:app")

    def request(padding):
        return request_with().replace(b"Host: a", b"Host: a\r\nX-P: " + b"p" * padding)

    assert status_of(server, request(50)) == 200
    assert status_of(server, request(200)) == 431


# --- Time-outs ------------------------------------------------------------------------------------

SHORT = (
    "0.2"  # seconds; what is not set stays at 10 s and more, which the socket would not wait for
)
WITHIN = 5.0


@pytest.mark.parametrize(
    ("option", "sent", "status_line"),
    [
        ("--timeout-head", b"GET / HTTP/1.1\r\nHos", b"HTTP/1.1 408 Request Timeout"),
        (
            "--timeout-body",
            b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
            b"HTTP/1.1 408 Request Timeout",
        ),
        ("--timeout-keep-alive", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK"),
    ],
)
def test_timeout_closes_the_connection(thestral, option, sent, status_line):
    server = thestral(option, SHORT, "probe:app")
    with server.connect() as sock:
        sock.settimeout(WITHIN)
        sock.sendall(sent)
        received = read_all(sock)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(status_line + b"\r\n")


def test_timeout_head_counts_from_the_connection(thestral):
    server = thestral("--timeout-head", SHORT, "probe:app")
    with server.connect() as sock:
        sock.settimeout(WITHIN)
        # 408 is for a request that began to come (RFC 9110 section 15.5.9); here none did.
        assert read_all(sock) == b""


# --- Environment ----------------------------------------------------------------------------------


def test_environment_sets_options(thestral):
    env = {
        "THESTRAL_PORT": "0",
        "THESTRAL_ROOT_PATH": "/env",
        "THESTRAL_ACCESS_LOG": "false",
        "THESTRAL_SERVER_HEADER": "0",
        "THESTRAL_LOOP": "asyncio",
    }
    server = thestral("probe:app", port="", env=env)
    scope = scope_of(server)
    assert (scope["root_path"], scope["loop"]) == ("/env", "asyncio.unix_events")
    assert "server" not in dict(server.get()[1])
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert server.stdout == "imported\n"


def test_uvicorns_environment_is_the_fallback(thestral):
    with busy_port() as sock:
        env = {
            "UVICORN_PORT": str(sock.getsockname()[1]),  # loses: it would not start
            "THESTRAL_PORT": "0",
            "UVICORN_ROOT_PATH": "/uvicorn",
            "UVICORN_LOOP": "uvloop",
            "THESTRAL_LOOP": "asyncio",
        }
        scope = scope_of(thestral("probe:app", port="", env=env))
    assert (scope["root_path"], scope["loop"]) == ("/uvicorn", "asyncio.unix_events")


def test_command_line_wins_over_the_environment(thestral):
    with busy_port() as sock:
        env = {"THESTRAL_PORT": str(sock.getsockname()[1]), "THESTRAL_ROOT_PATH": "/env"}
        server = thestral("--root-path", "/line", "probe:app", env=env)
        assert scope_of(server)["root_path"] == "/line"


def test_environment_alone_is_enough(thestral):
    env = {"THESTRAL_APP": "probe:app", "THESTRAL_PORT": "0"}
    assert thestral(port="", env=env).get()[2] == b"hello"


def test_environment_sets_a_header_with_a_space(thestral):
    server = thestral("probe:app", env={"THESTRAL_HEADERS": "X-One: 1"})
    assert ("x-one", "1") in server.get()[1]


# --- Help -----------------------------------------------------------------------------------------


def help_text():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    return result.output.partition("Examples:")[0]


def test_help_has_a_heading_for_each_group_of_options():
    headings = re.findall(r"^(\S.*):$", help_text(), re.MULTILINE)
    assert {spec.group for _, spec in options()} <= set(headings)
    assert len(headings) == len(set(headings))


def test_help_shows_every_option_with_unit_default_and_environment():
    # Lines are wrapped, also at hyphens.
    text = re.sub(r"\s+", " ", re.sub(r"-\n\s+", "-", help_text()))
    for name, spec in options():
        flag = "--" + (spec.flag or name).replace("_", "-")
        (entry,) = re.findall(rf" {flag} .*?(?= --(?!no-)|$)", text)
        assert f"[env: THESTRAL_{name.upper()}]" in entry, name
        assert spec.unit.upper() in entry, name
        default = getattr(Config("a:b"), name)
        if spec.kind is bool:
            assert f"--no-{flag[2:]}" in entry
        elif default not in (None, "", []):
            shown = ", ".join(default) if spec.kind is list else default
            assert f"[default: {shown}]" in entry, name


# --- Colours --------------------------------------------------------------------------------------


def terminal_output(master):
    """What a process wrote to a terminal, until it ended."""
    received = bytearray()
    with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
        while data := os.read(master, 65536):
            received += data
    os.close(master)
    return bytes(received)


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours_are_for_the_stream_that_is_a_terminal(thestral, env, coloured):
    # An empty NO_COLOR does not count (no-color.org). stdout is a file: never coloured.
    master, slave = pty.openpty()
    with busy_port() as sock:
        port = sock.getsockname()[1]
    server = thestral("probe:app", port=str(port), env=env, stderr=slave)
    os.close(slave)
    wait_until(lambda: answer_on(port))
    server.says("GET")
    server.signal(signal.SIGTERM)
    errors = terminal_output(master)
    assert server.finish() == 0
    assert (b"\x1b[32mINFO\x1b[0m:     Started server process" in errors) is coloured
    assert (b"\x1b[" in errors) is coloured
    assert "\x1b" not in server.stdout


# --- What does not start --------------------------------------------------------------------------


def test_failing_import_shows_the_frames_of_the_user_alone(thestral, tmp_path):
    (tmp_path / "outer.py").write_text("import inner\n\napp = inner.app\n")
    (tmp_path / "inner.py").write_text("import json\n\nimport no_such_dependency\n")
    server = thestral("outer:app")
    assert server.finish() == 3
    frames = re.findall(r'File "(.*?)", line (\d+)', server.stderr)
    assert frames == [(str(tmp_path / "outer.py"), "1"), (str(tmp_path / "inner.py"), "3")]
    assert server.stderr.endswith("ModuleNotFoundError: No module named 'no_such_dependency'\n")


def test_lifespan_on_needs_a_lifespan(thestral):
    server = thestral("--lifespan", "on", "probe:app")
    assert server.finish() == 3
    assert "Application startup failed" in server.stderr
    assert "running on" not in server.stderr


def test_port_in_use_is_told_before_the_lifespan_runs(thestral):
    with busy_port() as sock:
        port = sock.getsockname()[1]
        server = thestral("probe:with_lifespan", port=str(port))
        assert server.finish() == 3
    name = Path("/proc/self/comm").read_text().strip()
    assert server.stdout == ""
    errors = [line for line in server.stderr.splitlines() if line.startswith("ERROR:")]
    cause = f"Port {port} is in use by {name} (PID {os.getpid()})."
    assert errors == [f"ERROR:    {cause} Choose another with --port, or 0 for a free one."]


# --- Stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_lets_a_response_end_and_takes_no_new_connection(thestral, tmp_path, number):
    server = thestral("probe:with_lifespan")
    with server.ask("/slow") as sock:
        assert read_head(sock).startswith(b"HTTP/1.1 200 OK\r\n")
        assert sock.recv(5, socket.MSG_WAITALL) == b"first"
        server.signal(number)
        server.logs("Waiting for running requests to finish")
        with pytest.raises(ConnectionRefusedError):
            server.connect().close()
        assert "shutdown\n" not in server.stdout  # the lifespan ends after the last request
        (tmp_path / "go").touch()
        assert read_all(sock) == b"later"
    assert server.finish() == 0
    server.says('"GET /slow HTTP/1.1" 200 OK\n')
    assert "shutdown\n" in server.stdout
    assert "ERROR" not in server.stderr


def test_connection_that_sent_nothing_does_not_delay_the_exit(thestral):
    server = thestral("probe:app")
    with server.connect() as silent:
        server.get()  # the connection before is accepted by now
        before = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
        assert time.monotonic() - before < 3
        assert silent.recv(1) == b""


@pytest.mark.parametrize("path", ["/stubborn", "/thread"])
def test_second_signal_ends_what_cannot_be_cancelled(thestral, path):
    # A task that swallows its cancellation, and one whose thread blocks: forced is forced.
    server = thestral("probe:app")
    with server.ask(path):
        server.says("hanging")
        server.signal(signal.SIGINT)
        server.logs("Waiting for running requests to finish")
        server.signal(signal.SIGINT)
        server.finish()
    assert f"Cancelled at shutdown: GET {path}" in server.stderr


@pytest.mark.parametrize("path", ["/stubborn", "/thread"])
def test_graceful_timeout_ends_what_cannot_be_cancelled(thestral, path):
    server = thestral("--timeout-graceful-shutdown", "0.1", "probe:with_lifespan")
    with server.ask(path):
        server.says("hanging")
        server.signal(signal.SIGTERM)
        server.finish()
    assert f"Cancelled at shutdown: GET {path}" in server.stderr
    assert "shutdown\n" in server.stdout


def test_run_returns_to_its_caller_after_a_signal(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    script = "import thestral; thestral.run('probe:app', port=0); print('returned', flush=True)"
    with Process(tmp_path, "-c", script) as server:
        assert server.get()[2] == b"hello"
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
        assert server.stdout.endswith("returned\n")

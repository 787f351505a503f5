"""The command's output, line by line: at the start, while it runs, and where it fails to start."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
from pathlib import Path

import pytest
from probe import answer_on, busy_port
from support import read_all, wait_until


def test_access_log_has_uvicorns_form(thestral):
    server = thestral("probe:app")
    with server.connect() as sock:
        client = sock.getsockname()[1]
        sock.sendall(b"GET /a%20b?q=1&r HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 OK\r\n")
    server.saw("HTTP/1.1")
    assert server.stdout.splitlines()[1:] == [
        f'INFO:     127.0.0.1:{client} - "GET /a%20b?q=1&r HTTP/1.1" 200 OK'
    ]
    server.get("/scope", "DELETE")
    server.saw('"DELETE /scope HTTP/1.1" 200 OK\n')
    assert "HTTP/1.1" not in server.stderr


def test_start_is_logged_on_stderr_in_uvicorns_words(thestral):
    server = thestral("probe:with_lifespan")
    port = server.port
    server.saw("CTRL+C")
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
def test_log_level_debug_shows_more(thestral, tmp_path, level):
    (tmp_path / "loud.py").write_text(
        "import logging\nfrom probe import app\n"
        "logging.getLogger('thestral.error').debug('detail')\n"
    )
    server = thestral("--log-level", level, "loud:app")
    assert server.get()[0] == 200
    assert "DEBUG:    detail" in server.stderr.splitlines()


# --- Colours --------------------------------------------------------------------------------------


def terminal_output(master):
    """Return all that a process writes to a terminal until it ends."""
    received = bytearray()
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(master, 65536):
            received += data
    os.close(master)
    return bytes(received)


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours_are_for_the_stream_that_is_a_terminal(thestral, env, coloured):
    # An empty NO_COLOR does not count (no-color.org). stdout is a pipe: never coloured.
    master, slave = pty.openpty()
    with busy_port() as sock:
        port = sock.getsockname()[1]
    server = thestral("probe:app", port=str(port), env=env, stderr=slave)
    os.close(slave)
    wait_until(lambda: answer_on(port))
    server.saw("GET")
    server.signal(signal.SIGTERM)
    errors = terminal_output(master)
    assert server.finish() == 0
    assert (b"\x1b[32mINFO\x1b[0m:     Started server process" in errors) is coloured
    assert (b"\x1b[" in errors) is coloured
    assert "\x1b" not in server.stdout


# --- Failed starts --------------------------------------------------------------------------------


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


def test_port_in_use_is_reported_before_the_lifespan_runs(thestral):
    with busy_port() as sock:
        port = sock.getsockname()[1]
        server = thestral("probe:with_lifespan", port=str(port))
        assert server.finish() == 1
    name = Path("/proc/self/comm").read_text().strip()
    assert server.stdout == ""
    errors = [line for line in server.stderr.splitlines() if line.startswith("ERROR:")]
    cause = f"Port {port} is in use by {name} (PID {os.getpid()})."
    assert errors == [f"ERROR:    {cause} Choose another with --port, or 0 for a free one."]

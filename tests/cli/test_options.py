"""The exact effect of options and environment variables on the running command."""

from __future__ import annotations

import signal
import time

import pytest
from probe import busy_port
from support import read_all

# --- Responses ------------------------------------------------------------------------------------


def test_response_has_date_and_server_once(thestral):
    fields = thestral("probe:app").get()[1]
    assert [value for name, value in fields if name == "server"] == ["thestral"]
    (date,) = [value for name, value in fields if name == "date"]
    # IMF-fixdate, RFC 9110 section 5.6.7
    assert time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize("name", ["server", "date"])
def test_header_of_the_user_replaces_ours(thestral, name):
    # A sender must not repeat a field whose value is not a list (RFC 9110 section 5.3).
    fields = thestral("--header", f"{name.title()}: mine", "probe:app").get()[1]
    assert [value for found, value in fields if found == name] == ["mine"]


def test_no_server_header_and_no_date_header_leave_them_out(thestral):
    fields = thestral("--no-server-header", "--no-date-header", "probe:app").get()[1]
    assert fields == [("content-length", "5")]


# --- Lifespan and loop ----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "runs"), [("auto", True), ("on", True), ("off", False)])
def test_lifespan_runs_unless_off(thestral, mode, runs):
    server = thestral("--lifespan", mode, "probe:with_lifespan")
    assert server.scope()["started"] is runs
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
    assert thestral("--loop", name, "probe:app").scope()["loop"] == module


# --- Limits ---------------------------------------------------------------------------------------


def status_of(server, request):
    with server.connect() as sock:
        sock.sendall(request)
        return int(read_all(sock).split(b" ")[1])


def request_with(size=0, count=0, body=0):
    """A request with Connection: close, a line of `size` bytes, `count` fields and a body."""
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
        # 408 is for a request that has begun to arrive (RFC 9110 section 15.5.9); here none has.
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
    scope = server.scope()
    assert (scope["root_path"], scope["loop"]) == ("/env", "asyncio.unix_events")
    assert "server" not in dict(server.get()[1])
    server.signal(signal.SIGTERM)
    assert server.finish() == 0
    assert server.stdout == "imported\n"


def test_uvicorns_environment_is_the_fallback(thestral):
    with busy_port() as sock:
        env = {
            "UVICORN_PORT": str(
                sock.getsockname()[1]
            ),  # ignored; with it the server could not start
            "THESTRAL_PORT": "0",
            "UVICORN_ROOT_PATH": "/uvicorn",
            "UVICORN_LOOP": "uvloop",
            "THESTRAL_LOOP": "asyncio",
        }
        scope = thestral("probe:app", port="", env=env).scope()
    assert (scope["root_path"], scope["loop"]) == ("/uvicorn", "asyncio.unix_events")


def test_command_line_wins_over_the_environment(thestral):
    with busy_port() as sock:
        env = {"THESTRAL_PORT": str(sock.getsockname()[1]), "THESTRAL_ROOT_PATH": "/env"}
        server = thestral("--root-path", "/line", "probe:app", env=env)
        assert server.scope()["root_path"] == "/line"


def test_environment_alone_is_enough(thestral):
    env = {"THESTRAL_APP": "probe:app", "THESTRAL_PORT": "0"}
    assert thestral(port="", env=env).get()[2] == b"hello"


def test_environment_sets_a_header_with_a_space(thestral):
    server = thestral("probe:app", env={"THESTRAL_HEADERS": "X-One: 1"})
    assert ("x-one", "1") in server.get()[1]

"""--log-format json and log files on the real command: every line of both streams is JSON."""

from __future__ import annotations

import json
import os
import signal
import socket

import httpx
import pytest
from support import read_all, wait_until

APP = """
import asyncio, logging, warnings

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/error":
        raise RuntimeError("two\\nlines")
    if scope["path"] == "/task":
        asyncio.get_running_loop().call_exception_handler({"message": "of the loop"})
    warnings.warn("said\\ntwice", UserWarning)
    logging.getLogger("own").warning("of the application", extra={"n": float("nan")})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


def refuse_constant(text):
    raise AssertionError(f"{text} is not JSON")


def read(lines):
    """The contents of lines, each of which must be strict JSON."""
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request)
        return read_all(sock)


@pytest.mark.parametrize("arguments", [[], ["--workers", "2", "--request-id"]])
def test_every_line_of_both_streams(start, arguments):
    command = start("--log-format", "json", *arguments)
    wait_until(
        lambda: "Thestral running" in command.stderr and "startup complete" in command.stderr
    )
    told = next(line for line in read(command.err) if "running on" in line["message"])
    port = int(told["message"].split(" (")[0].rpartition(":")[2])
    for path in (b"/", b"/error", b'/a"%0A?b=\\', b"/task"):
        ask(port, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path)
    ask(port, b'nonsense \xff"\r\n\r\n')
    command.saw('"status":400')
    command.stop()
    errors, access = read(command.err), read(command.out)
    messages = [line["message"] for line in errors]
    assert messages[-1].startswith("Stopped parent" if arguments else "Finished server")
    (crash,) = [line for line in errors if "exception" in line]
    assert crash["exception"].endswith("RuntimeError: two\nlines")
    assert any(text.startswith("Refused 127.0.0.1:") for text in messages)
    assert "of the loop" in messages
    assert any("UserWarning: said\ntwice" in text for text in messages)
    assert {line["n"] for line in errors if line["logger"] == "own"} == {"nan"}
    assert [line["status"] for line in access] == [200, 500, 200, 200, 400] or arguments
    for line in [*errors, *access]:
        assert {"time", "level", "logger", "message", "worker", "pid"} <= line.keys()
    for line in access:
        assert {"client", "method", "path", "version", "status", "bytes", "duration"} <= line.keys()
        assert ("request_id" in line) == bool(arguments)
    (refusal,) = [line for line in errors if line["message"].startswith("Refused")]
    assert ("request_id" in crash) == ("request_id" in refusal) == bool(arguments)
    workers = {line["worker"] for line in access}
    assert workers <= ({1, 2} if arguments else {None})


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--port", "99999"], "Invalid value for '--port'"),
        (["--ssl-certfile", "missing.pem"], "missing.pem"),
        (["--log-file", "missing/log"], "Invalid value for '--log-file'"),
        (["--factory"], "factory"),
        (["--workers", "2", "--factory"], "factory"),
        (["--uds", "missing/socket"], "missing/socket"),
    ],
)
def test_start_that_fails_is_json_too(start, arguments, shown):
    command = start("--log-format", "json", *arguments)
    assert command.wait() != 0
    lines = read(command.err)
    assert lines[-1]["level"] == "ERROR"
    assert any(shown in line["message"] + line.get("exception", "") for line in lines)


@pytest.mark.parametrize("statement", ["raise ValueError", "raise SystemExit", "exit"])
@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_end_at_import_is_one_line(start, folder, statement, arguments):
    (folder / "main.py").write_text(f"{statement}('at\\nimport')")
    command = start("--log-format", "json", *arguments)
    assert command.wait() != 0
    assert any("at\nimport" in "".join(map(str, line.values())) for line in read(command.err))


def test_format_from_the_environment(start):
    command = start(env={"THESTRAL_LOG_FORMAT": "json", "THESTRAL_ACCESS_LOG_FORMAT": '%h "%m"'})
    httpx.get(command.url())
    command.saw('"status"')
    (line,) = read(command.out)
    assert line["message"] == '127.0.0.1 "GET"'


# --- Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"], ["--workers", "2", "--preload"]])
def test_rotation_loses_no_line(start, folder, arguments):
    """As logrotate does it: rename, then SIGUSR1."""
    files = ("--log-file", "error.log", "--access-log-file", "access.log")
    command = start(*files, *arguments)
    errors, access = folder / "error.log", folder / "access.log"
    wait_until(lambda: errors.exists() and " running on http" in errors.read_text())
    wait_until(lambda: errors.read_text().count("startup complete") == (2 if arguments else 1))
    url = errors.read_text().partition(" running on ")[2].split()[0]
    with httpx.Client(trust_env=False) as client:
        for number in range(20):
            client.get(f"{url}/before/{number}")
        for path in (errors, access):
            path.rename(f"{path}.1")
        for number in range(20):
            client.get(f"{url}/between/{number}")
        command.signal(signal.SIGUSR1)
        processes = 3 if arguments else 1
        wait_until(
            lambda: (
                errors.exists()
                and errors.read_text().count("has reopened its log files") == processes
            )
        )
    for number in range(20):
        httpx.get(f"{url}/after/{number}", trust_env=False)
    command.stop()
    assert command.stdout == ""
    old, new = (folder / "access.log.1").read_text(), access.read_text()
    for name in ("before", "between", "after"):
        for number in range(20):
            assert (old + new).count(f'"GET /{name}/{number} HTTP/1.1" 200 OK\n') == 1
    assert "/after/" not in old
    assert "Shutting down" in errors.read_text()
    assert "Shutting down" not in (folder / "error.log.1").read_text()


def test_line_in_a_file_appears_by_itself(start, folder):
    command = start("--access-log-file", "access.log")
    httpx.get(command.url() + "/alone")
    wait_until(lambda: "/alone" in (folder / "access.log").read_text())


def test_log_file_that_is_a_pipe_without_a_reader_does_not_stop_the_server(start, folder):
    os.mkfifo(folder / "log")
    reader = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        command = start("--access-log-file", "log")
        url = command.url()
        for _ in range(3):
            assert httpx.get(url).status_code == 200
        command.stop()
        assert b"GET" in os.read(reader, 65536)
    finally:
        os.close(reader)

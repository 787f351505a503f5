"""The logging options on the real command."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket

import httpx
import pytest
from process import PLAIN, Command
from support import read_all, read_response, wait_until

FORMATTER = {
    "()": "uvicorn.logging.DefaultFormatter",
    "fmt": "<%(name)s> %(levelprefix)s %(message)s",
}
# A typical configuration for uvicorn.
FOR_UVICORN = {
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {
        "default": {**FORMATTER, "use_colors": False},
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": "<%(name)s> %(client_addr)s [%(request_line)s] %(status_code)s",
        },
    },
    "filters": {"health": {"()": "conditions.Unhealthy"}},
    "handlers": {
        "default": {
            "class": "logging.StreamHandler",
            "formatter": "default",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "class": "logging.StreamHandler",
            "formatter": "access",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {
            "handlers": ["access"],
            "filters": ["health"],
            "level": "INFO",
            "propagate": False,
        },
    },
}
INI = """
[loggers]
keys=root,uvicorn,access
[handlers]
keys=err,out
[formatters]
keys=plain,access
[logger_root]
level=WARNING
handlers=err
[logger_uvicorn]
level=INFO
handlers=err
propagate=0
qualname=uvicorn
[logger_access]
level=INFO
handlers=out
propagate=0
qualname=uvicorn.access
[handler_err]
class=StreamHandler
formatter=plain
args=(sys.stderr,)
[handler_out]
class=StreamHandler
formatter=access
args=(sys.stdout,)
[formatter_plain]
format=<%(name)s> %(message)s
[formatter_access]
class=uvicorn.logging.AccessFormatter
format=<%(name)s> %(client_addr)s [%(request_line)s] %(status_code)s
"""
APP = (
    PLAIN
    + """
import logging

logging.getLogger("uvicorn.error").warning("said by the application")
"""
)
CONDITIONS = """
import logging

class Unhealthy(logging.Filter):
    def filter(self, record):
        return record.args[2] != "/health"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "conditions.py").write_text(CONDITIONS)
    return tmp_path


def as_toml(value, name=""):
    """Write a dict of dicts, strings, numbers, booleans and lists of strings as TOML."""
    plain = {key: item for key, item in value.items() if not isinstance(item, dict)}
    lines = [f"[{name}]"] if name else []
    lines += [f"{json.dumps(key)} = {json.dumps(item)}" for key, item in plain.items()]
    for key, item in value.items():
        if isinstance(item, dict):
            lines += as_toml(item, f"{name}.{json.dumps(key)}" if name else json.dumps(key))
    return lines


FILES = {
    "log.json": json.dumps(FOR_UVICORN),
    "log.yaml": json.dumps(FOR_UVICORN),  # JSON is also YAML
    "log.yml": json.dumps(FOR_UVICORN),
    "log.toml": "\n".join(as_toml(FOR_UVICORN)),
}


# --- --access-log-format ----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_format_from_each_source(start, tmp_path, source):
    text = "%h|%m|%U|%q|%s|%B"
    if source == "flag":
        command = start("--access-log-format", text)
    elif source == "environment":
        command = start(env={"THESTRAL_ACCESS_LOG_FORMAT": text})
    else:
        (tmp_path / "thestral.toml").write_text(f"access-log-format = {text!r}\n")
        command = start()
    httpx.get(command.url() + "/a?b=c")
    command.saw("127.0.0.1|GET|/a|b=c|200|3\n")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("uvicorn", r'INFO:     127\.0\.0\.1:\d+ - "GET /a\?b=c VERSION" 200 OK'),
        ("combined", r'127\.0\.0\.1 - - \[.+\] "GET /a\?b=c VERSION" 200 3 "-" "test"'),
        ("json", r'\{.+"client":"127\.0\.0\.1",.+"version":"NUMBER","status":200,"bytes":3,.+\}'),
        ("%h|%r|%H|%s|%B", r"127\.0\.0\.1\|GET /a\?b=c VERSION\|VERSION\|200\|3"),
    ],
    ids=["uvicorn", "combined", "json", "atoms"],
)
def test_line_has_client_version_and_status(start, text, line, version):
    command = start("--access-log-format", text)
    http2 = version == "HTTP/2"
    with httpx.Client(http1=not http2, http2=http2, headers={"User-Agent": "test"}) as client:
        assert client.get(command.url() + "/a?b=c").http_version == version
    shown = line.replace("VERSION", version).replace("NUMBER", version.removeprefix("HTTP/"))
    wait_until(lambda: any(re.fullmatch(shown, each.rstrip()) for each in command.out))


def test_json_preset_is_lines_of_json(start):
    command = start("--access-log-format", "json")
    httpx.get(command.url() + '/a"\\', headers={"User-Agent": "é".encode()})
    command.saw('"path"')
    line = json.loads(next(line for line in command.out if line.startswith("{")))
    assert (line["status"], line["user_agent"]) == (200, "é")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--access-log-format", "%h %z"], "'%z' given, expected one of uvicorn, combined, json"),
        (["--log-config", "none.json"], "'none.json' cannot be used: "),
        (["--log-config", "bad.json"], "'bad.json' cannot be used: Expecting"),
        (["--log-config", "bad.toml"], "'bad.toml' cannot be used: "),
        (["--log-config", "bad.yaml"], "'bad.yaml' cannot be used: "),
        (["--log-config", "bad.ini"], "'bad.ini' cannot be used: "),
        (["--log-config", "list.json"], "'list.json' does not contain a table"),
        (["--log-config", "version.json"], "'version.json' cannot be used: dictionary doesn't"),
        (["--log-config", "class.json"], "No module named 'nowhere'"),
        (["--log-config", "class.json", "--workers", "2"], "No module named 'nowhere'"),
    ],
)
def test_bad_value_is_one_line_and_status_2(start, tmp_path, arguments, message):
    for suffix in ("json", "toml", "yaml", "ini"):
        (tmp_path / f"bad.{suffix}").write_text("[: {\nbad")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "version.json").write_text("{}")
    handlers = {"a": {"class": "nowhere.Handler"}}
    (tmp_path / "class.json").write_text(json.dumps({"version": 1, "handlers": handlers}))
    command = start(*arguments)
    assert command.wait() == 2
    lines = [line for line in command.err if line.startswith("Error: ")]
    assert len(lines) == 1
    assert lines[0] == command.err[-1]
    assert f"Invalid value for '{arguments[0]}'" in lines[0]
    assert message in lines[0]


# --- --log-config -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_config_made_for_uvicorn(start, tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    command = start("--log-config", name)
    url = command.url()
    httpx.get(url + "/health")
    httpx.get(url + "/a?b")
    command.saw("[GET /a?b HTTP/1.1] 200 OK\n")
    assert re.search(r"^<uvicorn.access> 127\.0\.0\.1:\d+ \[GET /a\?b", command.stdout, re.M)
    assert "/health" not in command.stdout
    assert "<uvicorn.error> INFO:     Application startup complete.\n" in command.stderr
    assert "<uvicorn.error> WARNING:  said by the application\n" in command.stderr


def test_ini_made_for_uvicorn(start, tmp_path):
    (tmp_path / "log.ini").write_text(INI)
    command = start("--log-config", "log.ini")
    httpx.get(command.url() + "/a")
    command.saw("[GET /a HTTP/1.1] 200 OK\n")
    assert "<uvicorn.error> Application startup complete.\n" in command.stderr


def test_config_that_names_our_loggers(start, tmp_path):
    text = json.dumps(FOR_UVICORN).replace('"uvicorn', '"thestral')
    (tmp_path / "log.json").write_text(text)
    command = start("--log-config", "log.json")
    httpx.get(command.url() + "/a")
    command.saw("<uvicorn.access> ")


def test_log_level_holds_with_a_config_too(start, tmp_path):
    (tmp_path / "log.json").write_text(FILES["log.json"])
    command = start("--log-config", "log.json", "--log-level", "error")
    command.saw("lifespan startup")
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert command.stderr == ""


def test_workers_take_the_config(start, tmp_path):
    (tmp_path / "log.json").write_text(FILES["log.json"])
    command = start("--log-config", "log.json", "--workers", "2")
    httpx.get(command.url() + "/a")
    command.saw("<uvicorn.access> ")


# --- --use-colors -----------------------------------------------------------------------------


def test_use_colors(start):
    command = start("--use-colors")
    httpx.get(command.url())
    command.saw("GET")
    assert "\x1b[32mINFO\x1b[0m:     " in command.stderr
    assert "\x1b[1mGET / HTTP/1.1\x1b[0m" in command.stdout


@pytest.mark.parametrize(("arguments", "coloured"), [([], True), (["--no-use-colors"], False)])
def test_terminal_has_colours_and_each_line_at_once(tmp_path, arguments, coloured):
    (tmp_path / "main.py").write_text(APP)
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        arguments = ["main:app", "--port", "0", *arguments]
        with Command(*arguments, cwd=tmp_path, stdout=theirs) as command:
            os.close(theirs)
            with socket.create_connection(("127.0.0.1", int(command.url().split(":")[-1]))) as sock:
                sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
                read_response(sock)
                shown = b""
                while b"200" not in shown:
                    shown += terminal.read(1024)
            assert (b"\x1b[1mGET /a HTTP/1.1\x1b[0m" in shown) == coloured


# --- No line is lost --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_line_is_lost_at_a_signal(start, number):
    command = start()
    url = command.url()
    with socket.create_connection(("127.0.0.1", int(url.split(":")[-1]))) as sock:
        for count in range(50):
            sock.sendall(b"GET /%02d HTTP/1.1\r\nHost: a\r\n\r\n" % count)
            read_response(sock)
        command.signal(number)
        assert command.wait() == 0
    paths = re.findall(r'"GET /(\d\d) HTTP/1.1" 200 OK\n', command.stdout)
    assert paths == [f"{count:02}" for count in range(50)]


def test_line_appears_at_once(start):
    command = start()
    with socket.create_connection(("127.0.0.1", int(command.url().split(":")[-1]))) as sock:
        sock.sendall(b"GET /alone HTTP/1.1\r\nHost: a\r\n\r\n")
        read_response(sock)
        wait_until(lambda: "/alone" in command.stdout, 5.0)


@pytest.mark.parametrize("arguments", [["--loop=uvloop"], ["--loop=asyncio"], ["--workers=2"]])
def test_command_started_without_stdout_serves_and_stops(tmp_path, arguments):
    (tmp_path / "main.py").write_text(APP)
    command = Command(
        *("main:app", "--port", "0", *arguments),
        cwd=tmp_path,
        stdout=None,
        preexec_fn=lambda: os.close(1),
    )
    with command:
        assert httpx.get(command.url()).status_code == 200
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
    assert "GET" not in command.stderr


# --- Errors and refusals ----------------------------------------------------------------------


def test_parse_errors_are_told_ten_times_and_then_counted(start):
    command = start()
    port = int(command.url().split(":")[-1])
    for _ in range(25):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in read_all(sock)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert len(re.findall(r"INFO:     Refused 127\.0\.0\.1:\d+ with 400: ", command.stderr)) == 10
    assert "INFO:     Refused 15 more within 10 seconds\n" in command.stderr
    assert command.stdout.count("400 Bad Request\n") == 25  # the access log has them all

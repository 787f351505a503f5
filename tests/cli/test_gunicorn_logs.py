"""gunicorn's log options with thestral.workers.ThestralWorker."""

from __future__ import annotations

import json
import re
import signal

import httpx
import pytest
from process import PLAIN, Command
from support import wait_until

APP = (
    PLAIN.replace(
        '    if scope["path"] == "/slow":',
        '    if scope["path"] == "/fault":\n        raise RuntimeError("of the application")\n'
        '    print("printed", scope["path"], flush=True)\n    if scope["path"] == "/slow":',
    )
    + """
import logging

logging.getLogger("uvicorn.error").warning("said by the application")
"""
)
SHOWN = {"class": "logging.FileHandler", "formatter": "own"}
LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "own %(name)s: %(message)s"}},
    "handlers": {
        "error": {**SHOWN, "filename": "error.log"},
        "access": {**SHOWN, "filename": "access.log"},
    },
    "root": {"level": "INFO", "handlers": []},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
    },
}
LOG_INI = """
[loggers]
keys=root,error,access
[handlers]
keys=error,access
[formatters]
keys=own
[logger_root]
level=INFO
handlers=
[logger_error]
level=INFO
handlers=error
propagate=0
qualname=gunicorn.error
[logger_access]
level=INFO
handlers=access
propagate=0
qualname=gunicorn.access
[handler_error]
class=FileHandler
formatter=own
args=("error.log",)
[handler_access]
class=FileHandler
formatter=own
args=("access.log",)
[formatter_own]
format=own %(name)s: %(message)s
"""


class Gunicorn(Command):
    """gunicorn, whose options may send its logs to error.log and access.log."""

    program = ("-m", "gunicorn")

    def __init__(self, *arguments, cwd):
        self._cwd = cwd
        super().__init__(
            *("main:app", "-k", "thestral.workers.ThestralWorker", "-b", "127.0.0.1:0"),
            *("--no-control-socket", *arguments),
            cwd=cwd,
        )

    def log(self, name):
        path = self._cwd / name
        return path.read_text() if path.exists() else ""

    def url(self):
        def listening():
            assert self.process.poll() is None, self.stderr
            return re.search(r"Listening at: (http://\S+)", self.log("error.log") + self.stderr)

        return wait_until(listening)[1]

    def logged(self, name, text):
        """Wait until a log contains a text."""
        wait_until(lambda: text in self.log(name))


@pytest.fixture
def gunicorn(tmp_path):
    """Function (*arguments) that starts gunicorn; ended with the test."""
    (tmp_path / "main.py").write_text(APP)
    commands = []

    def start(*arguments):
        commands.append(Gunicorn(*arguments, cwd=tmp_path))
        return commands[-1].__enter__()

    yield start
    for command in commands:
        command.__exit__(None, None, None)


FILES = ("--access-logfile", "access.log", "--error-logfile", "error.log")


def test_files_and_format(gunicorn):
    command = gunicorn(*FILES, "--access-logformat", "%(h)s|%(m)s|%(U)s|%(s)s|%({x-a}i)s")
    url = command.url()
    assert httpx.get(url + "/asked", headers={"X-A": "b"}).status_code == 200
    assert httpx.get(url + "/fault").status_code == 500
    command.logged("access.log", "127.0.0.1|GET|/fault|500|-\n")
    command.stop()
    assert command.log("access.log").splitlines() == [
        "127.0.0.1|GET|/asked|200|b",
        "127.0.0.1|GET|/fault|500|-",
    ]
    error = command.log("error.log")
    assert "RuntimeError: of the application" in error
    assert "[WARNING] said by the application" in error
    assert "[INFO] Application startup complete." in error
    assert "/asked" not in error
    assert command.stderr == ""
    assert all(line.startswith(("printed", "lifespan")) for line in command.out)


def test_default_format_is_gunicorns(gunicorn):
    command = gunicorn("--access-logfile", "-")
    httpx.get(command.url() + "/asked", headers={"User-Agent": "me"})
    command.saw('"GET /asked HTTP/1.1" 200 7 "-" "me"\n')
    command.stop()
    assert re.search(r'^127\.0\.0\.1 - - \[[^]]+\] "GET /asked', command.stdout, re.M)


def test_format_with_an_unknown_atom_ends_the_start(gunicorn):
    command = gunicorn("--access-logformat", "%(foo)s")
    assert command.wait() == 3
    assert "access_log_format: '%(foo)s' given, expected" in command.stderr


@pytest.mark.parametrize("arguments", [(), ("--error-logfile", "error.log")])
def test_access_log_is_off_by_default(gunicorn, arguments):
    command = gunicorn(*arguments)
    assert httpx.get(command.url() + "/asked").status_code == 200
    command.stop()
    assert "GET /asked" not in command.stdout + command.stderr + command.log("error.log")


def test_log_level(gunicorn):
    command = gunicorn("--access-logfile", "-", "--log-level", "error", "--bind", "unix:socket")
    command.saw("lifespan startup")
    command.stop()
    assert "startup complete" not in command.stderr
    assert "said by the application" not in command.stderr


@pytest.mark.parametrize("option", ["--log-config", "--log-config-json"])
def test_log_config(gunicorn, tmp_path, option):
    (tmp_path / "log").write_text(LOG_INI if option == "--log-config" else json.dumps(LOG_CONFIG))
    command = gunicorn(option, "log", "--access-logformat", "%(m)s %(U)s")
    assert httpx.get(command.url() + "/asked").status_code == 200
    command.logged("access.log", "GET /asked")
    command.stop()
    assert command.log("access.log") == "own uvicorn.access: GET /asked\n"
    assert "own uvicorn.error: Application startup complete.\n" in command.log("error.log")


def test_files_are_opened_anew_at_sigusr1(gunicorn, tmp_path):
    command = gunicorn(*FILES, "--capture-output")
    url = command.url()
    httpx.get(url + "/before")
    command.logged("access.log", "GET /before")
    command.logged("error.log", "printed /before")
    for name in ("access.log", "error.log"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    command.signal(signal.SIGUSR1)

    def both_anew():
        httpx.get(url + "/after")
        return "GET /after" in command.log("access.log") and "/after" in command.log("error.log")

    wait_until(both_anew)
    command.stop()
    assert "/before" not in command.log("access.log") + command.log("error.log")
    assert "[INFO] Shutting down" in command.log("error.log")
    assert command.stdout == ""


def test_configuration_of_the_application_is_applied_after_gunicorns(gunicorn, tmp_path):
    loggers = {"uvicorn": {"level": "INFO", "handlers": ["access"], "propagate": False}}
    settings = {**LOG_CONFIG, "disable_existing_loggers": True, "loggers": loggers}
    text = f"import logging.config\nlogging.config.dictConfig({settings!r})\n"
    (tmp_path / "main.py").write_text(text + PLAIN)
    command = gunicorn("--access-logfile", "-", "--access-logformat", "%(m)s %(U)s")
    httpx.get(command.url() + "/asked")
    command.logged("access.log", "own uvicorn.access: GET /asked\n")
    command.stop()
    assert "own uvicorn.error: Application startup complete.\n" in command.log("access.log")
    assert "GET /asked" not in command.stdout + command.stderr

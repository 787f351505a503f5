"""How thestral.run() and the command end: each cause with its log line and exit status."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from probe import busy_port
from process import Command

import thestral
from thestral.errors import (
    BindError,
    ConfigError,
    ImportFailedError,
    LifespanError,
    ThestralError,
    WorkerError,
)

PROGRAM = """
import json, sys, thestral

if __name__ == "__main__":
    try:
        thestral.run(sys.argv[1], **json.loads(sys.argv[2]))
    except SystemExit as end:
        print("ends with", end.code, "for", type(end.__cause__).__name__, flush=True)
        raise
    print("returns", flush=True)
"""
APPS = """
async def failing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def raising(scope, receive, send):
    await receive()
    raise RuntimeError("no database")

async def clinging(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "queue is full"})
"""


class Program(Command):
    """A user's program that calls thestral.run()."""

    program = ("program.py",)


def by_command(app, options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return Command, [app, *flags]


def by_run(app, options):
    return Program, [app, json.dumps(options)]


@pytest.fixture
def launch(folder):
    """Function (way, app, **options) that returns the process as a context manager."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "apps.py").write_text(APPS)

    def launch(way, app, **options):
        kind, arguments = way(app, {"port": 0, **options})
        return kind(*arguments, cwd=folder)

    return launch


@pytest.mark.parametrize("way", [by_command, by_run])
@pytest.mark.parametrize("workers", [None, 2], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("app", "options", "status", "cause", "said"),
    [
        ("nowhere:app", {}, 3, ImportFailedError, 'Could not import module "nowhere"'),
        ("apps:failing", {}, 3, LifespanError, "no database"),
        ("apps:raising", {"lifespan": "on"}, 3, LifespanError, "RuntimeError: no database"),
        ("main:app", {"host": "192.0.2.1"}, 1, BindError, "Cannot listen on 192.0.2.1"),
        ("main:app", {"ssl_certfile": "no.pem"}, 2, ConfigError, "'no.pem' cannot be read: No su"),
        ("main:app", {"pid_file": "/dev/full"}, 2, ConfigError, "'/dev/full' cannot be written"),
    ],
    ids=["import", "startup.failed", "raises", "address", "certificate", "pid file"],
)
def test_failure_to_start_ends_run_and_command_alike(
    launch, way, workers, app, options, status, cause, said
):
    if workers:
        options = {**options, "workers": workers}
        if status == ThestralError.exit_status:
            cause = WorkerError  # the worker has logged the reason
    with launch(way, app, **options) as process:
        assert process.wait() == status
    assert said in process.stderr
    assert "Thestral running" not in process.stderr
    if way is by_run:
        assert process.stdout.endswith(f"ends with {status} for {cause.__name__}\n")
        lines = [line for line in process.stderr.splitlines() if not line.startswith("INFO: ")]
        if not workers and "RuntimeError" not in said:
            (line,) = lines
            assert line.startswith("ERROR:    ")


@pytest.mark.parametrize("way", [by_command, by_run])
@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["alone", "workers"])
def test_port_in_use_ends_run_and_command_with_1(launch, way, options):
    with busy_port() as sock:
        port = sock.getsockname()[1]
        with launch(way, "main:app", port=port, **options) as process:
            assert process.wait() == 1
    (line,) = [line for line in process.stderr.splitlines() if not line.startswith("INFO: ")]
    assert line.startswith(f"ERROR:    Port {port} is in use by ")


@pytest.mark.parametrize("way", [by_command, by_run])
def test_failure_after_serving_ends_run_and_command_with_1(launch, way):
    with launch(way, "apps:clinging") as process:
        process.url()
        process.signal(signal.SIGTERM)
        assert process.wait() == 1
    assert process.stderr.splitlines()[-1] == "ERROR:    queue is full"


@pytest.mark.parametrize("way", [by_command, by_run])
@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["alone", "workers"])
def test_end_by_a_signal_is_a_success(launch, way, options):
    with launch(way, "main:app", **options) as process:
        process.url()
        process.stop()
    assert (process.stdout.splitlines()[-1] == "returns") is (way is by_run)


# --- Errors in the call itself --------------------------------------------------------------------


def test_unknown_option_raises():
    with pytest.raises(TypeError, match="nonsense"):
        thestral.run("main:app", nonsense=1)


def test_invalid_value_of_an_option_raises():
    with pytest.raises(ConfigError, match="lifespan: 'maybe' given"):
        thestral.run("main:app", lifespan="maybe")


def test_workers_cannot_have_an_object():
    with pytest.raises(SystemExit) as caught:
        thestral.run(print, workers=2)
    assert caught.value.code == ConfigError.exit_status
    assert "need an import string such as 'main:app'" in str(caught.value.__cause__)


def test_server_raises(tmp_path, monkeypatch):
    """Server.run() leaves it to its caller whether to end the process."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(ImportFailedError):
        thestral.Server(thestral.Config("nowhere:app", port=0, app_dir=str(tmp_path))).run()
    with busy_port() as sock, pytest.raises(BindError):
        thestral.Server(thestral.Config(print, port=sock.getsockname()[1])).run()

"""SIGQUIT, SIGUSR1, SIGUSR2: the effect on each kind of process, and which handlers are kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from load import APP, ask, ask_aside, stop_within, workers
from process import Command
from support import wait_until

SHOWN = {"class": "logging.FileHandler", "formatter": "own"}
LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "[%(process)d] %(message)s"}},
    "handlers": {
        "error": {**SHOWN, "filename": "error.log"},
        "access": {**SHOWN, "filename": "access.log", "mode": "w"},
        "late": {**SHOWN, "filename": "late.log", "delay": True},
    },
    "loggers": {
        "uvicorn": {"level": "INFO", "handlers": ["error"], "propagate": False},
        "uvicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        "never": {"handlers": ["late"]},
    },
}
# To be put before the application: its own log files, one of them behind a queue.
OWN_FILES = """
import logging.handlers, queue

listener = logging.handlers.QueueListener(queue.SimpleQueue(), logging.FileHandler("queue.log"))
logging.getLogger("own").addHandler(logging.handlers.WatchedFileHandler("own.log"))
"""
HANDLERS = {
    "import signal\nsignal.signal(signal.SIG{0}, lambda *_: say('own {0}'))\n": "own {}",
    "import faulthandler, signal\nfaulthandler.register(signal.SIG{0})\n": "most recent call first",
}
IN_LIFESPAN = """
served = app

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        import asyncio, signal
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIG{0}, say, "own {0}")
    await served(scope, receive, send)
"""
PROGRAM = """
import os, sys
def say(*words):
    os.write(1, " ".join([*words, f"{{os.getpid()}}\\n"]).encode())
{handler}
import thestral

if __name__ == "__main__":
    thestral.run("main:app", port=0, workers=int(sys.argv[1]))
"""
BOTH = pytest.mark.parametrize("count", [1, 2])
MODELS = pytest.mark.parametrize(
    "arguments", [(), ("--workers", "2"), ("--workers", "2", "--preload")]
)


class Program(Command):
    program = ("program.py",)


def serving(command, arguments):
    """Return the PIDs of the processes that serve, and those of all processes."""
    command.url()
    if not arguments:
        return [command.process.pid], [command.process.pid]
    pids = workers(command, 2)
    return pids, [command.process.pid, *pids]


@MODELS
def test_usr1_opens_log_files_anew_in_every_process(start, folder, arguments):
    (folder / "log.json").write_text(json.dumps(LOG_CONFIG))
    (folder / "main.py").write_text(OWN_FILES + APP)
    command = start("--log-config", "log.json", *arguments)

    def log(name):
        return (folder / name).read_text() if (folder / name).exists() else ""

    def running():
        line = log("error.log").partition("running on ")[2]
        return line.split()[0] if line else None

    url = wait_until(running)
    serving_pids = workers(command, 2 if arguments else 1)
    pids = {command.process.pid, *serving_pids}
    names = ["access.log", "error.log", "own.log", "queue.log"]
    for name in names:
        (folder / name).rename(folder / f"{name}.1")
    command.signal(signal.SIGUSR1)
    for pid in pids:
        said = f"[{pid}] Process [{pid}] has reopened its log files: "
        shown = wait_until(lambda said=said: log("error.log").partition(said)[2]).splitlines()[0]
        opened = {Path(text.strip("'")).name for text in shown.split(", ")}
        assert opened >= {"access.log", "error.log", "late.log"}
        assert pid not in serving_pids or "own.log" in opened
        assert pid not in serving_pids or "--preload" in arguments or "queue.log" in opened

    def all_have_written():
        ask(url)
        return all(f"[{pid}] " in log("access.log") for pid in serving_pids)

    wait_until(all_have_written)
    # Files that were not renamed keep their content, even those opened with mode "w".
    command.signal(signal.SIGUSR1)
    for pid in pids:
        wait_until(
            lambda pid=pid: log("error.log").count(f"[{pid}] Process [{pid}] has reopened") == 2
        )
    assert all(f"[{pid}] " in log("access.log") for pid in serving_pids)
    command.stop()
    assert log("access.log.1") == ""


@MODELS
def test_usr1_without_log_files(start, arguments):
    command = start(*arguments)
    serving_pids, pids = serving(command, arguments)
    command.signal(signal.SIGUSR1)
    for pid in pids:
        command.saw(f"INFO:     Process [{pid}] has no log files to reopen\n")
    os.kill(serving_pids[-1], signal.SIGUSR1)  # as by `pkill thestral`
    command.saw(f"Process [{serving_pids[-1]}] has no log files to reopen\n", times=2)
    command.stop()


def test_usr1_keeps_the_old_file_if_the_new_one_cannot_be_opened(start, folder):
    config = json.loads(json.dumps(LOG_CONFIG).replace("access.log", "logs/access.log"))
    (folder / "logs").mkdir()
    config["handlers"]["error"] = {"class": "logging.StreamHandler"}
    (folder / "log.json").write_text(json.dumps(config))
    command = start("--log-config", "log.json", "--log-level", "info")
    workers(command, 1)
    (folder / "logs").rename(folder / "moved")
    command.signal(signal.SIGUSR1)
    command.saw("Cannot reopen a log file, still writing to the old one: [Errno 2]")
    command.saw("has reopened its log files: ")
    command.stop()


@MODELS
def test_usr2_has_no_effect(start, arguments):
    command = start(*arguments)
    for number, pid in enumerate(serving(command, arguments)[1]):
        os.kill(pid, signal.SIGUSR2)
        command.saw("INFO:     Received SIGUSR2: this signal has no effect\n", times=number + 1)
    command.stop()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("arguments", [(), ("--limit-max-requests", "9"), ("--preload",)])
def test_signal_during_the_import_is_handled_after_it(start, folder, number, arguments):
    (folder / "main.py").write_text(APP + "say('importing')\nopen('gate').read()\n")
    command = start(*arguments)
    command.saw("importing")
    os.kill(int(command.stdout.split()[1]), number)
    (folder / "gate").write_text("")  # opens the FIFO, which the import waits for
    command.url()
    command.saw(f"Received {number.name}")
    command.stop()


@MODELS
def test_quit_does_not_wait(start, arguments):
    command = start(*arguments)
    url = command.url()
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    command.signal(signal.SIGQUIT)
    assert command.wait() == 0
    asking.join()
    assert asking.pid is None
    assert "INFO:     Received SIGQUIT" in command.stderr
    assert "Cancelled at shutdown: GET /wait" in command.stderr
    assert "Traceback" not in command.stderr


def test_quit_kills_a_worker_that_does_not_hear_it(start, hurried):
    env = hurried(QUIT_PATIENCE=0.5, PATROL_INTERVAL=0.1)
    command = start("--workers", "2", "--timeout-worker-healthcheck", "1000", env=env)
    stop_within(command, "/block", 2, signal.SIGQUIT)
    assert "Killing worker" in command.stderr


def test_quit_of_a_terminal_reaches_all_processes_at_once(start):
    command = start("--workers", "2", start_new_session=True)
    command.url()
    workers(command, 2)
    os.killpg(command.process.pid, signal.SIGQUIT)
    assert command.wait() == 0
    assert "died" not in command.stderr


@pytest.mark.parametrize("name", ["USR1", "USR2"])
@pytest.mark.parametrize("text", HANDLERS)
@MODELS
def test_handlers_of_the_application_are_kept(start, folder, name, text, arguments):
    (folder / "main.py").write_text(APP + text.format(name))
    command = start(*arguments)
    pid = serving(command, arguments)[0][0]
    os.kill(pid, signal.Signals[f"SIG{name}"])
    command.saw(HANDLERS[text].format(name))
    assert ask(command.url())
    command.stop()
    assert "Received SIGUSR" not in command.stderr


@pytest.mark.parametrize("name", ["USR1", "USR2"])
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_handlers_of_a_lifespan_are_kept(start, folder, name, arguments):
    (folder / "main.py").write_text(APP + IN_LIFESPAN.format(name))
    command = start(*arguments)
    pid = serving(command, arguments)[0][0]
    os.kill(pid, signal.Signals[f"SIG{name}"])
    command.saw(f"own {name} {pid}")
    command.stop()
    assert "Received SIGUSR" not in command.stderr


@pytest.mark.parametrize("text", HANDLERS)
@BOTH
def test_handlers_of_a_program_are_kept(folder, text, count):
    (folder / "program.py").write_text(PROGRAM.format(handler=text.format("USR1")))
    with Program(str(count), cwd=folder) as program:
        program.url()
        for number, pid in enumerate({*workers(program, count), program.process.pid}):
            os.kill(pid, signal.SIGUSR1)
            program.saw(HANDLERS[text].format("USR1"), times=number + 1)
        program.stop()
    assert "Received SIGUSR1" not in program.stderr


def test_usr1_to_the_parent_is_not_the_handler_in_its_workers(start, folder):
    text = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: say('mine'))\n"
    (folder / "main.py").write_text(APP + text)
    command = start("--workers", "2")
    pids = serving(command, ("--workers",))[1]
    command.signal(signal.SIGUSR1)
    for pid in pids:
        command.saw(f"Process [{pid}] has no log files to reopen")
    command.stop()
    assert "mine" not in command.stdout


FORK = """
import multiprocessing, signal

def wait():
    signal.pause()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    process = multiprocessing.get_context("fork").Process(target=wait)
    process.start()
    process.terminate()
    process.join()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(process.exitcode).encode()})
"""


@MODELS
def test_process_that_the_application_forks_can_be_terminated(start, folder, arguments):
    """It must not keep the handlers that it inherits: they would only set flags in it."""
    (folder / "main.py").write_text(APP + FORK)
    command = start(*arguments)
    assert ask(command.url()) == -signal.SIGTERM
    command.stop()


def test_usr1_has_its_default_effect_once_the_server_has_ended(folder):
    text = """
import asyncio, contextlib, signal, thestral
from main import app

async def main():
    server = thestral.Server(thestral.Config(app, port=0))
    task = asyncio.create_task(server.serve())
    await server.started.wait()
    signal.raise_signal(signal.SIGUSR2)
    server.should_exit = True
    await task

asyncio.run(main())
for name in ("USR1", "USR2", "QUIT", "HUP", "TERM"):
    assert signal.getsignal(getattr(signal, "SIG" + name)) == signal.SIG_DFL, name
print("behind")
"""
    (folder / "program.py").write_text(text)
    with Program(cwd=folder) as program:
        assert program.wait() == 0
    assert program.stdout.endswith("behind\n")
    assert "Received SIGUSR2: this signal has no effect" in program.stderr

"""Worker processes: start, end, and the signals that they and their supervisor handle."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from load import APP, Load, ask, ask_aside, stop_within, workers
from process import Command
from support import wait_until

from thestral import Config
from thestral.errors import ConfigError
from thestral.process.supervisor import Supervisor
from thestral.process.worker import WorkerServer


def stopped(command, pids):
    """Check that the command exits with 0 after the lifespan of each worker has shut down."""
    assert command.wait() == 0
    for pid in pids:
        assert f"lifespan.shutdown {pid}\n" in command.stdout
    assert "Traceback" not in command.stderr
    assert "Stopped parent process" in command.stderr


def only_two_processors():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize(
    ("arguments", "popen"),
    [
        (["--workers", "2", "--pid-file", "pid", "--loop", "asyncio"], {}),
        (["--workers", "auto"], {"preexec_fn": only_two_processors}),
        ([], {"env": {"WEB_CONCURRENCY": "2"}}),
        (["--workers", "2", "--preload", "--pid-file", "pid"], {}),
        (["--workers", "2", "--reuse-port"], {}),
    ],
    ids=["two", "auto", "WEB_CONCURRENCY", "preload", "reuse-port"],
)
def test_requests_reach_both_workers(start, folder, arguments, popen):
    command = start(*arguments, **popen)
    url = command.url()
    pids = workers(command, 2)
    with Load(url) as load:
        wait_until(lambda: len(load.pids) == 2)
    assert load.pids == set(pids[:2])
    assert len(pids) == 2
    supervisor = command.process.pid
    assert supervisor not in pids
    assert Path(f"/proc/{supervisor}/comm").read_text().startswith("thestral s")
    for pid in pids:
        assert Path(f"/proc/{pid}/comm").read_text().startswith("thestral w")
    imports = [int(line) for line in (folder / "imports").read_text().split()]
    assert sorted(imports) == ([supervisor] if "--preload" in arguments else sorted(pids))
    if "--pid-file" in arguments:
        assert (folder / "pid").read_text() == f"{supervisor}\n"
    command.signal(signal.SIGTERM)
    stopped(command, pids)
    assert not (folder / "pid").exists()
    assert command.stderr.count("Thestral running") == 1


@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["spawn", "preload"])
def test_broken_application_is_logged_once(start, folder, arguments):
    (folder / "main.py").write_text("raise ZeroDivisionError('broken')\n")
    command = start("--workers", "2", *arguments)
    assert command.wait() == 3
    assert command.stderr.count("ZeroDivisionError: broken") == 1
    assert "Thestral running" not in command.stderr


def test_port_in_use_imports_nothing(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Command("main:app", "--workers", "2", "--port", port, cwd=folder) as command:
            assert command.wait() == 1
    assert f"Port {port} is in use" in command.stderr
    assert not (folder / "imports").exists()


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_pid_file_that_cannot_be_written(start, folder, arguments):
    command = start("--pid-file", "/dev/full", *arguments)
    assert command.wait() == 2
    assert "Invalid value for '--pid-file': '/dev/full' cannot be written: No space" in (
        command.stderr
    )
    assert not (folder / "imports").exists()


def test_pid_file_of_a_running_server_stays(start, folder):
    first = start("--pid-file", "pid")
    port = first.url().rpartition(":")[2]
    with Command("main:app", "--pid-file", "pid", "--port", port, cwd=folder) as second:
        assert second.wait() == 1
    assert (folder / "pid").read_text() == f"{first.process.pid}\n"
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert not (folder / "pid").exists()


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_pid_file_that_another_server_has_taken_over_stays(start, folder, arguments):
    first = start("--pid-file", "pid", *arguments)
    first.url()
    second = start("--pid-file", "pid")
    second.url()
    first.stop()
    assert (folder / "pid").read_text() == f"{second.process.pid}\n"
    second.stop()
    assert not (folder / "pid").exists()


def test_option_that_cannot_reach_a_worker():
    class Local(str):
        __slots__ = ()

    config = Config("main:app", workers=2, app_dir=Local("src"))
    with pytest.raises(ConfigError, match=r"app_dir: 'src' cannot be sent to a worker: .*Local"):
        Supervisor(config)
    with pytest.raises(ConfigError, match="app: --workers, --reload and --admin need an import"):
        Supervisor(Config(print, workers=2))


@pytest.mark.parametrize("how", ["option", "environment", "file"])
def test_one_worker_is_supervised_if_it_is_asked_for(start, folder, how):
    (folder / "thestral.toml").write_text("workers = 1\n" if how == "file" else "")
    env = {"THESTRAL_WORKERS": "1"} if how == "environment" else {}
    command = start(*(["--workers", "1"] if how == "option" else []), env=env)
    url = command.url()
    (first,) = workers(command, 1)
    assert first != command.process.pid
    os.kill(first, signal.SIGKILL)
    assert ask(url) == workers(command, 2)[1]  # who asks meanwhile waits in the queue
    command.stop()


@pytest.mark.parametrize("env", [{}, {"WEB_CONCURRENCY": "1"}])
def test_without_the_option_there_is_one_process(start, env):
    """WEB_CONCURRENCY counts the processes that a platform has memory for."""
    command = start(env=env)
    assert ask(command.url()) == command.process.pid
    command.stop()


def test_number_of_workers_follows_signals(start):
    command = start("--workers", "1")
    command.url()
    (first,) = workers(command, 1)
    command.signal(signal.SIGTTIN)
    first, second = workers(command, 2)
    command.signal(signal.SIGTTOU)
    command.saw(f"lifespan.shutdown {second}")
    command.signal(signal.SIGTTOU)  # one worker always stays
    command.saw("Received SIGTTOU", times=2)
    assert ask(command.url()) == first
    command.signal(signal.SIGTERM)
    stopped(command, [first, second])
    assert f"lifespan.shutdown {first}" in command.stdout


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(signal.SIGTERM, []), (signal.SIGINT, []), (signal.SIGINT, ["--preload"])],
    ids=["SIGTERM", "SIGINT", "SIGINT-preload"],
)
@pytest.mark.parametrize("group", [False, True], ids=["one", "group"])
def test_stop_waits_for_running_requests(start, folder, number, arguments, group):
    """Ctrl-C and systemd send the signal to every process of the group."""
    command = start("--workers", "2", *arguments, start_new_session=True)
    url = command.url()
    pids = workers(command, 2)
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    if group:
        os.killpg(command.process.pid, number)
    else:
        command.signal(number)
    command.saw("Waiting for running requests to finish: 1")
    command.saw("Shutting down", times=2)
    command.saw(f"Received {number.name}")
    (folder / "release").touch()
    asking.join()
    assert asking.pid in pids
    stopped(command, pids)


def test_worker_drains_however_often_it_is_terminated():
    """systemd signals every process, and the supervisor then signals the workers again."""
    server = WorkerServer(Config("main:app"), 1, None, None, None)
    for _ in range(2):
        server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert not server.force_exit
    server.handle_exit(signal.SIGQUIT, None)
    assert server.force_exit


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_does_not_wait(start, number):
    command = start("--workers", "2", "--preload", start_new_session=True)
    url = command.url()
    pids = workers(command, 2)
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    os.killpg(command.process.pid, number)
    command.saw("Waiting for running requests to finish: 1")
    command.saw(f"Received {number.name}")  # two pending signals of one kind would become one
    os.killpg(command.process.pid, number)
    assert command.wait() == 0
    asking.join()
    assert asking.pid is None
    assert "Cancelled at shutdown: GET /wait" in command.stderr
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["spawn", "preload"])
def test_ctrl_c_while_workers_start(start, folder, arguments):
    (folder / "main.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    command = start("--workers", "2", *arguments, start_new_session=True)
    command.saw("importing")
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.wait() in (0, 130)
    assert "Traceback" not in command.stderr


def test_ctrl_c_while_an_interpreter_starts(start, folder):
    # The worker has no handler for SIGINT yet, and must not be killed by it.
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        "    with open('gate') as gate:\n"
        "        os.write(1, b'%d here\\n' % os.getpid())\n"
        "        gate.read()\n"
    )
    command = start("--workers", "1", "--limit-max-requests", "9", env={"PYTHONPATH": str(folder)})
    with (folder / "gate").open("w"):
        command.saw(" here\n")
        os.kill(int(command.stdout.split()[0]), signal.SIGINT)
    command.url()
    assert "Traceback" not in command.stderr
    assert "KeyboardInterrupt" not in command.stderr


def test_workers_stop_without_their_supervisor(start):
    command = start("--workers", "2")
    command.url()
    pids = workers(command, 2)
    command.signal(signal.SIGKILL)
    for pid in pids:
        command.saw(f"lifespan.shutdown {pid}")
    wait_until(lambda: not command.family())
    assert "Traceback" not in command.stderr


def test_worker_that_starts_stops_without_its_supervisor(start, folder):
    (folder / "main.py").write_text("open('gate').read()\n" + APP)
    command = start("--workers", "1", "--limit-max-requests", "9")
    wait_until(lambda: len(command.family()) > 1)
    command.saw("Started parent process")
    with (folder / "gate").open("w"):  # returns once the worker is importing the application
        command.signal(signal.SIGKILL)
        command.process.wait()
    command.saw("lifespan.shutdown")
    wait_until(lambda: not command.family())
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_thread_that_does_not_end_is_abandoned(start, folder, count):
    """Output that is still buffered for stdout, a pipe, is not lost."""
    (folder / "main.py").write_text(APP + "print('printed')\n")
    arguments = ("--workers", str(count), "--no-access-log")
    command = start(*arguments, "--timeout-graceful-shutdown", "0.1")
    stop_within(command, "/thread", count)
    assert command.stdout.count("printed\n") == count
    assert "Tasks or threads of the application have not ended" in command.stderr
    assert "Killing worker" not in command.stderr

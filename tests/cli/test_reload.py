"""--reload: each save brings new code, and no connection is refused meanwhile."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from load import APP, LOCK, Load, ask, ask_aside, workers
from load_http2 import HTTP2Load, WebSocketLoad
from support import wait_until

from thestral.config import Config
from thestral.process.reloader import Reloader

NOTICE = "Looking for changed files every 0.25 s; the watchfiles package needs less processor time"


def version(number):
    return APP.replace("VERSION = 1", f"VERSION = {number}")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    for name in (".venv", "node_modules", ".git", "__pycache__", "templates", "static"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def start(start):
    return partial(start, "--reload")


@pytest.fixture
def start_polling(start, tmp_path_factory):
    """start(), where watchfiles is not installed."""
    stub = tmp_path_factory.mktemp("stub")
    (stub / "watchfiles.py").write_text("raise ImportError('not here')\n")
    return partial(start, env={"PYTHONPATH": str(stub)})


@pytest.fixture(params=["watchfiles", "polling"])
def start_either(request):
    """start() with each way to watch files."""
    if request.param == "polling":
        return request.getfixturevalue("start_polling")
    pytest.importorskip("watchfiles", reason="an extra of thestral[standard]")
    return request.getfixturevalue("start")


def reloads(command):
    """Return the files named by each log line about a reload."""
    lines = [line for line in command.stderr.splitlines() if "Detected changes in" in line]
    return [line.partition("in ")[2].removesuffix(". Reloading...") for line in lines]


@pytest.mark.parametrize(
    ("count", "load_class"), [(1, Load), (2, Load), (1, HTTP2Load), (2, WebSocketLoad)]
)
def test_new_code_and_no_refused_connection(start, folder, count, load_class):
    command = start("--workers", str(count), "--no-access-log", start_new_session=True)
    url = command.url()
    old = workers(command, count)
    with load_class(url) as load:
        wait_until(lambda: load.pids == set(old))
        (folder / "main.py").write_text(version(2))
        new = workers(command, 2 * count)[count:]
        for pid in old:
            command.saw(f"lifespan.shutdown {pid}")
        load.forget()
        wait_until(lambda: load.pids >= set(new))
    assert set(load.seen) == {(pid, 2) for pid in new}
    assert reloads(command) == ["'main.py'"]
    assert command.stderr.count("Thestral running") == 1
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.wait() == 0
    assert "Traceback" not in command.stderr


def test_syntax_error_is_survived(start_either, folder):
    (folder / "main.py").write_text("def app(:\n")
    command = start_either()  # the code is broken from the start
    for number in (1, 2):
        command.saw("SyntaxError: invalid syntax", times=number)
        command.saw("ended (exit 3). Waiting for a change", times=number)
        (folder / "main.py").write_text(version(number))
        workers(command, number)
        command.url()
        (folder / "main.py").write_text("def app(:\n")
    command.saw("Waiting for a change", times=3)
    assert command.stderr.count("SyntaxError") == 3
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


@pytest.mark.parametrize("path", ["/", "/block"])
def test_killed_worker_is_started_again_without_a_change(start, path):
    command = start()
    url = command.url()
    (old,) = workers(command, 1)
    asking = ask_aside(url, path)  # one of them is busy
    if path == "/block":
        command.saw(path)
    asking.join(0 if path == "/block" else None)
    os.kill(old, signal.SIGKILL)
    command.saw("Worker 1 ended (killed by SIGKILL). Waiting for a change, or restarting it after")
    new = workers(command, 2)[1]
    assert ask(url) == new
    asking.join()
    assert reloads(command) == []
    command.stop()


def test_change_starts_a_killed_worker_at_once(start, folder):
    command = start()
    url = command.url()
    os.kill(workers(command, 1)[0], signal.SIGKILL)
    (folder / "main.py").write_text(version(2))
    command.saw("Detected changes")
    assert ask(url) in workers(command, 2)[1:]
    command.stop()


def test_start_that_fails_is_repeated_and_logged_once(start, folder, hurried):
    """A database that the application needs may come up without a change to any file."""
    needs = "\nsay('tried')\nif not os.path.exists('database'):\n    raise RuntimeError('none')\n"
    (folder / "main.py").write_text(APP + needs)
    env = hurried(RELOAD_PAUSE=0.1, BACK_OFF=(0.0, 0.1))
    command = start("--workers", "2", env=env)
    command.saw("tried", times=5)
    assert command.stderr.count("RuntimeError: none") == 1
    assert command.stderr.count("Waiting for a change") == 1
    (folder / "database").touch()
    command.url()
    workers(command, 2)
    command.stop()


def test_which_changes_cause_a_reload(start_either, folder):
    (folder / ".env").write_text("")
    command = start_either(
        *("--reload-include", "*.html", "--reload-include", ".env"),
        *("--reload-exclude", "static", "--reload-exclude", "test_*.py"),
        "--reload-delay",
        "0.05",
    )
    command.url()
    pids = workers(command, 1)
    for name in (
        *(".venv/a.py", "node_modules/a.py", ".git/a.py", "__pycache__/a.py", ".hidden.py"),
        *(".venv/a.html", "a.txt", "a.pyc", "static/a.py", "test_a.py"),
    ):
        (folder / name).write_text("")
    # The changes above must not count, so the log names only the next one.
    for number, name in enumerate(["a.py", "templates/a.html", ".env", "templates/b.py"]):
        (folder / name).write_text(" ")
        workers(command, number + 2)
        assert reloads(command)[number:] == [repr(name)]
    assert len(workers(command, 5)) == 5
    assert pids[0] != workers(command, 5)[4]


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        *[("a.py", True), ("a.txt", True), (".env", True), ("a/b.html", True)],
        *[(".git/a", False), ("lib/site-packages/a.py", False), ("__pycache__/a", False)],
        *[("a.py~", False), ("a.pyc", False), (".a.py.swp", False), (".#a.py", False)],
    ],
)
def test_pattern_for_all_files_leaves_out_what_tools_write(name, matters, tmp_path):
    config = Config("a:b", reload_dirs=[tmp_path], reload_includes="*")
    assert Reloader(config, print).matters(None, str(tmp_path / name)) is matters


def test_directories(start_either, folder):
    command = start_either("--reload-dir", "static", "--reload-dir", "templates")
    command.url()
    workers(command, 1)
    (folder / "main.py").write_text(version(2))
    (folder / "a.py").write_text("")
    (folder / "static" / "b.py").write_text("")
    workers(command, 2)
    assert reloads(command) == ["'static/b.py'"]
    (folder / "templates" / "c.py").write_text("")
    workers(command, 3)
    assert reloads(command)[1:] == ["'templates/c.py'"]


def test_polling_is_logged_once_and_sees_files_deleted_and_restored(start_polling, folder):
    (folder / "a.py").write_text("")
    command = start_polling()
    command.url()
    workers(command, 1)
    (folder / "a.py").unlink()
    workers(command, 2)
    (folder / "a.py").write_text("")
    workers(command, 3)
    assert reloads(command) == ["'a.py'"] * 2
    assert command.stderr.count(NOTICE) == 1
    command.stop()


def test_app_dir_outside_is_watched(start, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "other.py").write_text("")
    command = start("--app-dir", str(outside))
    command.url()
    workers(command, 1)
    (outside / "other.py").write_text("VERSION = 2\n")
    workers(command, 2)
    (changed,) = reloads(command)
    assert changed.endswith(f"{outside.name}/other.py'")


def test_running_request_is_answered_by_the_old_code(start, folder):
    command = start()
    url = command.url()
    (old,) = workers(command, 1)
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    (folder / "main.py").write_text(version(2))
    command.saw("Detected changes")
    waiting = ask_aside(url, "/")  # the port stays open while this request runs
    (folder / "release").touch()
    new = workers(command, 2)[1]
    asking.join()
    waiting.join()
    assert asking.pid == old
    assert waiting.pid in (old, new)
    command.stop()


def test_old_worker_has_ended_before_the_new_one_starts(start, folder, hurried):
    """Both need the application's lock. A running request is cut off after RELOAD_PATIENCE."""
    (folder / "main.py").write_text(LOCK + APP)
    command = start(env=hurried(RELOAD_PATIENCE=0.5, PATROL_INTERVAL=0.1))
    url = command.url()
    (old,) = workers(command, 1)
    asking = ask_aside(url, "/wait")
    command.saw("/wait")
    (folder / "main.py").write_text(LOCK + version(2))
    new = workers(command, 2)[1]
    assert ask(url) == new
    asking.join()
    assert asking.pid is None
    command.saw("Killing worker 1, which did not stop in time")
    assert not Path(f"/proc/{old}").exists()
    assert "Waiting for a change" not in command.stderr
    command.stop()
    assert command.stderr.count("Killing worker 1") == 1


def test_file_that_is_saved_twice_within_a_second(start, folder):
    """Python takes bytecode for valid if the source's size and second are the same."""
    saved = time.time() // 1 - 60
    os.utime(folder / "main.py", (saved, saved))
    command = start(env={"PYTHONDONTWRITEBYTECODE": ""})
    url = command.url()
    workers(command, 1)
    assert list(folder.glob("__pycache__/main.*.pyc"))
    (folder / "main.py").write_text(version(2))
    os.utime(folder / "main.py", (saved, saved + 0.5))
    new = workers(command, 2)[1]
    with Load(url) as load:
        wait_until(lambda: load.pids == {new})
    assert set(load.seen) == {(new, 2)}
    command.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reload-dir", "nowhere"], "Invalid value for '--reload-dir': "),
        (["--preload"], "Invalid value for '--preload': not possible with --reload"),
    ],
)
def test_bad_options(start, arguments, said):
    command = start(*arguments)
    assert command.wait() == 2
    assert said in command.stderr
    assert "Traceback" not in command.stderr

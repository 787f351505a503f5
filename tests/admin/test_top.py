"""`thestral top`, in a real terminal (tmux) and for scripts."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from urllib.request import urlopen

import pytest
from load import ask_aside
from process import FOREIGN
from support import wait_until
from tmux import Screen


@pytest.fixture
def screen(tmp_path):
    """Function (columns, lines, **env) that returns a Screen."""
    with contextlib.ExitStack() as screens:

        def open_screen(columns, lines, **env):
            found = Screen(tmp_path, columns, lines, **env)
            screens.callback(found.close)
            return found

        yield open_screen


def top(command, *options):
    return [sys.executable, "-m", "thestral", "top", str(command.admin()), *options]


def is_restored(screen):
    """Check that the shell has its terminal back in its former state, and answers."""
    wait_until(lambda: screen.state("alternate_on") == "0")
    assert screen.state("cursor_flag") == "1"
    assert screen.state("wrap_flag") == "1"
    screen.run("send-keys", "-l", "echo the answer is $((20 + 22))")
    screen.press("Enter")
    screen.shows("the answer is 42")
    return True


def test_keys_on_a_small_terminal(operated, screen, tmp_path):
    command = operated("--workers", "2")
    asking = ask_aside(command.url(), "/wait")
    command.saw("/wait")
    screen = screen(80, 24)
    screen.type(*top(command, "--interval", "0.2"))
    screen.shows("/wait")
    wait_until(lambda: screen.text().count(" serving ") >= 2)
    lines = screen.lines()
    assert len(lines) == 24
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("thestral ")
    assert "req/s" in lines[1]
    assert "in flight 1" in lines[1]
    assert lines[5].split()[:3] == ["W", "STATE", "REQ/S"]
    assert lines[-1].split()[-2:] == ["q", "quit"]
    assert "sort: w " in lines[-1]
    screen.press("s")
    screen.shows("sort: req/s")
    screen.press("h")
    screen.shows("show and hide this help")
    screen.press("h")
    screen.press("r")
    screen.shows("ROUTE")
    screen.shows("w workers")
    screen.press("Space")
    screen.shows("space: go on")
    (tmp_path / "release").touch()
    asking.join()
    screen.press("j")
    screen.press("Up")
    assert "/wait" in screen.text()  # paused
    screen.press("Space")
    wait_until(lambda: "/wait" not in screen.text())
    screen.press("q")
    assert is_restored(screen)


def test_a_wide_terminal_shows_more_and_a_resize_is_followed(operated, screen):
    command = operated()
    urlopen(command.url()).close()
    screen = screen(200, 50)
    screen.type(*top(command))
    screen.shows("BLOCK")
    screen.shows("ROUTE")  # both tables
    screen.shows(f" {command.process.pid} ")
    assert "q quit" in screen.lines()[-1]
    screen.resize(80, 24)
    wait_until(lambda: "BLOCK" not in screen.text() and "q quit" in screen.lines()[-1])
    screen.resize(20, 4)
    wait_until(lambda: len(screen.lines()) == 4)
    screen.resize(120, 30)
    screen.shows("BLOCK")
    screen.press("q")
    assert is_restored(screen)


def test_the_terminal_is_restored_however_it_ends(operated, screen):
    command = operated()
    screen = screen(100, 30)
    for number in ("INT", "TERM", "HUP", "QUIT"):
        screen.type("sh", "-c", f"echo pid $$; exec {shlex.join(top(command))}")
        screen.shows("q quit")
        (pid,) = children(int(screen.state("pane_pid")))
        subprocess.run(["kill", f"-{number}", pid], check=True)
        assert is_restored(screen)
        screen.type("clear")
    screen.type(*top(command))
    screen.shows("q quit")
    screen.press("C-z")
    assert is_restored(screen)
    screen.type("fg")
    screen.shows("q quit")
    screen.press("C-c")
    assert is_restored(screen)


def children(pid):
    """PIDs of a process's children, as text."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_a_server_that_is_gone_is_said_and_seen_again(operated, screen):
    command = operated()
    screen = screen(100, 30)
    screen.type(*top(command, "--interval", "0.2"))
    screen.shows("REQ/S")
    command.stop()
    screen.shows("No answer from unix:")
    screen.press("q")
    assert is_restored(screen)


def test_colours_only_where_they_are_wanted(operated, screen):
    command = operated()
    screen = screen(100, 30)
    screen.type(*top(command))
    screen.shows("serving")
    assert "\x1b[32m" in screen.text("-e")
    screen.press("q")
    assert is_restored(screen)
    screen.type("env", "NO_COLOR=1", *top(command))
    screen.shows("serving")
    assert "\x1b[" not in screen.text("-e")
    screen.press("q")


def run(*arguments, **env):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return subprocess.run(
        [sys.executable, "-m", "thestral", *arguments],
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )


def test_once_prints_a_report(operated):
    command = operated("--workers", "2")
    wait_until(lambda: len(command.get("/status").body.split('"state": "serving"')) == 4)
    urlopen(command.url()).close()
    result = run("top", str(command.admin()), "--once", "--interval", "0.1", COLUMNS="80")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0].startswith("thestral ")
    assert all(len(line) <= 80 for line in lines[1:])
    assert sum(" serving " in line for line in lines[2:]) == 2


def test_top_says_what_is_wrong(tmp_path):
    result = run("top", f"unix:{tmp_path}/none", "--once")
    assert (result.returncode, result.stdout) == (3, "")
    assert "none: No such file or directory" in result.stderr
    result = run("top", "nowhere")
    assert result.returncode == 2
    assert "expected HOST:PORT" in " ".join(result.stderr.split())
    result = run("top", "127.0.0.1:1")
    assert result.returncode == 2
    assert "use --once" in result.stderr


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"version": "1"}'])
def test_another_server_is_not_taken_for_the_admin_port(serve, body):
    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    running = serve(other, lifespan="off")
    result = run("top", f"127.0.0.1:{running.port}", "--once")
    assert (result.returncode, result.stdout) == (3, "")
    assert "is not thestral's admin port" in result.stderr


def test_ctl(operated):
    command = operated()
    address = str(command.admin())
    result = run("ctl", address, "status")
    assert result.returncode == 0
    assert result.stdout.endswith("\nready: 1 of 1 workers accept\n")
    assert '"workers_wanted": 1' in run("ctl", "--json", "status", THESTRAL_ADMIN=address).stdout
    result = run("ctl", address, "workers", "+1")
    assert (result.returncode, result.stdout) == (0, "Workers: 1 before, 2 from now on\n")
    assert run("ctl", "workers", "-1", THESTRAL_ADMIN=address).returncode == 0
    assert run("ctl", address, "log-level", "debug").returncode == 0
    assert run("ctl", address, "log-level", "debug", "asyncio").returncode == 0
    result = run("ctl", address, "log-level", "loud")
    assert (result.returncode, result.stdout) == (1, "")
    assert "expected one of" in result.stderr
    assert "Task " in run("ctl", address, "stacks").stdout
    assert run("ctl", address, "reload").returncode == 0
    for words in ([], [address], ["stop"], [address, "stop"], ["reload", "now"], ["workers", "1"]):
        assert run("ctl", *words).returncode == 2, words
    command.stop()
    assert run("ctl", address, "status").returncode == 3


def test_ctl_on_tcp_only_reads(operated):
    command = operated(admin="127.0.0.1:0")
    address = str(command.admin())
    assert run("ctl", address, "status").returncode == 0
    result = run("ctl", address, "reload")
    assert result.returncode == 1
    assert "Unix socket" in result.stderr

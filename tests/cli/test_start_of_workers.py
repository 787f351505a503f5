"""Workers that start together, slowly or never, and the memory limit of those that have started."""

from __future__ import annotations

import os
import signal

import pytest
from load import APP, ask, ask_aside, workers
from support import wait_until

HANG = "print('importing', flush=True)\nopen('gate').read()\n"


def test_all_start_at_once(start, folder):
    # No import ends before all three have begun.
    (folder / "main.py").write_text(
        APP + "while len(open('imports').readlines()) < 3:\n    time.sleep(0.01)\n"
    )
    command = start("--workers", "3")
    assert len(set(workers(command, 3))) == 3
    command.stop()


@pytest.mark.parametrize("arguments", [[], ["--reload"]])
def test_broken_import_is_logged_once(start, folder, arguments):
    # The workers fail at the same time, because each waits for the others.
    (folder / "main.py").write_text(
        APP + "while len(open('imports').readlines()) < 3:\n    time.sleep(0.01)\n"
        "raise ZeroDivisionError('broken')\n"
    )
    command = start("--workers", "3", *arguments)
    if arguments:
        command.saw("Waiting for a change")
        # Workers are started again only once all three have ended.
        wait_until(lambda: len((folder / "imports").read_text().split()) > 3)
        command.stop()
    assert command.wait() == (0 if arguments else 3)
    assert command.stderr.count("ZeroDivisionError: broken") == 1


def test_start_that_hangs_holds_up_no_other(start, folder):
    command = start("--workers", "2")
    url = command.url()
    first, second = workers(command, 2)
    (folder / "main.py").write_text(HANG + APP)
    os.kill(first, signal.SIGKILL)
    command.saw("importing")
    (folder / "main.py").write_text(APP)
    os.kill(second, signal.SIGKILL)
    third = workers(command, 3)[2]
    assert ask(url) == third
    # SIGHUP also replaces a worker that hangs in its start.
    command.signal(signal.SIGHUP)
    command.saw(f"lifespan.shutdown {third}")
    assert ask(url) in workers(command, 5)[3:]
    assert command.stderr.count(" died ") == 2
    command.stop()


def test_time_out_at_the_first_start(start, folder):
    (folder / "main.py").write_text(HANG)
    command = start("--workers", "2", "--timeout-worker-startup", "5")
    assert command.wait() == 3
    assert "was not ready within 5 s: killing it" in command.stderr
    assert 'main.py", line 2 in <module>' in command.stderr  # the line where it hangs
    assert "A worker could not start" in command.stderr


def test_time_out_of_a_successor(start, folder):
    command = start("--workers", "2", "--timeout-worker-startup", "6")
    url = command.url()
    old = workers(command, 2)
    (folder / "main.py").write_text(HANG)
    command.signal(signal.SIGHUP)
    command.saw("was not ready within 6 s: killing it")
    command.saw("Rolling restart abandoned: the old workers keep serving")
    assert ask(url) in old
    command.stop()


def test_slow_start_is_logged(start, folder, hurried):
    env = hurried(REMINDER=0.1, PATROL_INTERVAL=0.1)
    (folder / "main.py").write_text(HANG + APP)
    command = start("--workers", "1", "--preload", env=env)
    command.saw("importing")
    with (folder / "gate").open("w"):
        pass
    workers(command, 1)
    command.stop()
    assert "has been starting" not in command.stderr  # a forked worker has the import already
    command = start("--workers", "2", env=env)
    command.saw("has been starting for", times=4)
    (folder / "main.py").write_text(APP)
    command.signal(signal.SIGHUP)
    workers(command, 2)
    command.stop()
    assert "died" not in command.stderr


def test_limit_of_memory_below_what_a_worker_needs(start):
    command = start("--limit-max-rss", "1000000", "--limit-worker-lifetime", "2.5")
    command.url()
    (first,) = workers(command, 1)
    command.saw(f"lifespan.shutdown {first}")  # for its age, after several checks of its size
    command.stop()
    assert command.stderr.count("bytes at its start, and --limit-max-rss is 1000000: workers") == 1
    assert "replacing it" not in command.stderr


def test_limit_of_memory_that_each_worker_exceeds_at_once(start):
    command = start("--limit-max-rss", "150000000", "--limit-worker-lifetime", "4")
    url = command.url()
    (first,) = workers(command, 1)
    ask_aside(url, "/grow").join()
    command.saw(" at its start: replacing it")
    command.saw(f"lifespan.shutdown {first}")
    second = workers(command, 2)[1]
    ask_aside(url, "/grow").join()
    command.saw(f"lifespan.shutdown {second}")  # for its age
    command.stop()
    assert command.stderr.count("replacing it") == 1

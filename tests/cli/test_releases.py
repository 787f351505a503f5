"""Releases behind a symbolic link: once the link is swapped, SIGHUP starts the new release."""

from __future__ import annotations

import contextlib
import shutil
import signal

import pytest
from load import APP, workers
from process import Command

VERSION = "\nimport os, part\nsay('version', part.VERSION, os.getcwd())\n"


class Script(Command):
    """The command as a script, with its own directory in sys.path, not the working directory."""

    program = ("-c", "import sys; del sys.path[0]; from thestral.cli import main; main()")


@pytest.fixture
def releases(tmp_path):
    """Directory with two releases, and the link "current" to the first."""
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "main.py").write_text(APP + VERSION)
        (tmp_path / number / "part.py").write_text(f"VERSION = {number!r}\n")
    (tmp_path / "1" / "only_in_first.py").write_text("")
    (tmp_path / "current").symlink_to("1")
    return tmp_path


def swap(releases):
    (releases / "next").symlink_to("2")
    (releases / "next").rename(releases / "current")


@contextlib.contextmanager
def served(directory, named):
    """A command with two workers, in `directory`, with $PWD set to `named`."""
    arguments = ("main:app", "--port", "0", "--workers", "2")
    with Command(*arguments, cwd=directory, env={"PWD": str(named)}) as command:
        command.url()
        workers(command, 2)
        yield command


@pytest.mark.parametrize("kind", [Command, Script])
def test_working_directory(releases, kind):
    current = releases / "current"
    arguments = ("main:app", "--port", "0", "--workers", "1", "--limit-max-requests", "99")
    with kind(*arguments, cwd=current, env={"PWD": str(current)}) as command:
        command.url()
        command.saw(f"version 1 {releases}/1 ")
        swap(releases)
        text = "\ntry:\n    import only_in_first\nexcept ImportError:\n    say('gone')\n"
        with (releases / "2" / "main.py").open("a") as file:
            file.write(text)
        command.signal(signal.SIGHUP)
        command.saw(f"version 2 {releases}/2 ")
        command.saw(f"The working directory is now '{releases}/2'")
        command.saw("gone ")
        command.stop()


def test_old_release_that_has_been_deleted(releases):
    current = releases / "current"
    with served(current, current) as command:
        swap(releases)
        shutil.rmtree(releases / "1")
        command.signal(signal.SIGHUP)
        command.saw(f"version 2 {releases}/2 ", times=2)
        command.stop()
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("directory", ["", "relative"])
def test_directory_of_the_application(releases, directory):
    given = "current" if directory else str(releases / "current")
    arguments = ("main:app", "--port", "0", "--workers", "2", "--app-dir", given)
    with Command(*arguments, cwd=releases) as command:
        command.url()
        command.saw("version 1 ", times=2)
        swap(releases)
        command.signal(signal.SIGHUP)
        command.saw("version 2 ", times=2)
        command.stop()


def test_pwd_that_names_another_directory_is_ignored(releases):
    with served(releases / "1", releases / "2") as command:
        command.signal(signal.SIGHUP)
        command.saw(f"version 1 {releases}/1 ", times=4)
        command.stop()
    assert "working directory" not in command.stderr


def test_deleted_directory_is_reported(releases):
    current = releases / "current"
    with served(current, current) as command:
        current.unlink()
        command.signal(signal.SIGHUP)
        command.saw("Cannot change to the working directory: [Errno 2]")
        command.stop()

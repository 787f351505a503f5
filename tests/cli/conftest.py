"""Commands of their own for each test."""

from __future__ import annotations

import contextlib
import os

import pytest
from load import APP
from process import Command


@pytest.fixture
def folder(tmp_path):
    """Working directory with load.py's application, and a pipe that it can wait for."""
    (tmp_path / "main.py").write_text(APP)
    os.mkfifo(tmp_path / "gate")
    return tmp_path


@pytest.fixture
def start(folder):
    """Function (*arguments, **popen) that gives a Command on a free port; ended with the test."""
    with contextlib.ExitStack() as commands:
        yield lambda *arguments, **popen: commands.enter_context(
            Command("main:app", "--port", "0", *arguments, cwd=folder, **popen)
        )

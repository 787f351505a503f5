"""Fixtures that start the command, anew for each test."""

from __future__ import annotations

import contextlib
import os

import pytest
from load import APP
from probe import PROBE, Probe
from process import Command


@pytest.fixture
def folder(tmp_path):
    """Working directory with load.py's application, and a FIFO that it can wait for."""
    (tmp_path / "main.py").write_text(APP)
    os.mkfifo(tmp_path / "gate")
    return tmp_path


@pytest.fixture
def start(folder):
    """Function (*arguments, **popen) that returns a Command on a free port; ended with the test."""
    with contextlib.ExitStack() as commands:
        yield lambda *arguments, **popen: commands.enter_context(
            Command("main:app", "--port", "0", *arguments, cwd=folder, **popen)
        )


@pytest.fixture
def hurried(folder):
    """Function (**constants) that returns an environment in which the supervisor has these values
    instead of its own constants, which would make a test wait. Start the command in `folder`.
    """

    def hurried(**constants: object) -> dict[str, str]:
        (folder / "sitecustomize.py").write_text(
            "import sys\n"
            "if sys.argv[:1] == ['-m']:  # not a worker\n"
            "    from thestral.process import patrol, supervisor\n"
            f"    for name, value in {constants!r}.items():\n"
            "        (module,) = (one for one in (patrol, supervisor) if hasattr(one, name))\n"
            "        setattr(module, name, value)\n"
        )
        return {"PYTHONPATH": str(folder)}

    return hurried


@pytest.fixture
def thestral(tmp_path):
    """Function (*arguments, port="0", **popen) that starts the command beside probe.py."""
    (tmp_path / "probe.py").write_text(PROBE)
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, port="0", **popen: stack.enter_context(
            Probe(tmp_path, *(["--port", port] if port else []), *arguments, **popen)
        )

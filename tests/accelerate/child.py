"""Runs a program in an interpreter of its own: groups replace functions for the whole process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any


def run(program: str, *arguments: str, **options: Any) -> str:
    """Return what a program prints; what it writes to stderr fails the test unless `stderr` says
    what becomes of it.
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run(command, text=True, check=False, timeout=60, **options)
    assert done.returncode == 0, done.stderr or done.stdout
    assert not done.stderr, done.stderr
    return done.stdout

"""Lint and types, as `make lint types` runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = " ".join(
    f"thestral._core.{name}" for name in ("coroutine", "http1", "log", "socket", "websocket")
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "mypy --strict tests/typing/user_program.py",
        "mypy.stubtest --mypy-config-file=pyproject.toml --ignore-unused-allowlist"
        " --allowlist=tests/typing/stubtest.txt " + CORE,
    ],
)
def test_is_clean(command):
    result = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr

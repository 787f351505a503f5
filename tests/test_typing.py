"""`make lint` and `make types`, and the typed program of a user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import program

import thestral
from thestral import errors, types

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (ROOT / "tests/typing/user_program.py").read_text()
# What only the server raises or takes.
INTERNAL = {"ProtocolError", "RemoteProtocolError", "LocalProtocolError", "Terminated"}
INTERNAL |= {"WorkerError"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("target", ["lint", "types"])
def test_is_clean(target):
    command = [program("make"), target, f"PYTHON={sys.executable}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_program_uses_every_public_name():
    public = set(thestral.__all__)
    for module in (errors, types):
        own = (name for name in vars(module) if name[0].isupper())
        public |= {name for name in own if name not in ("Any", "Protocol", "TypeAlias")}
    imported = {"TYPE_CHECKING", "Awaitable", "Callable", "MutableMapping"}
    missing = {name for name in public - imported - INTERNAL if name not in PROGRAM}
    assert missing == set()

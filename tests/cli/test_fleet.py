"""One round of fleet.py: a server is killed, one drained, one rolled, behind real balancers."""

from __future__ import annotations

import re
import subprocess
import sys

import fleet
import pytest
from process import ROOT
from support import program


def make_fleet(**options):
    """The end of `make fleet`, with variables of make."""
    variables = [f"{name}={value}" for name, value in options.items()]
    command = [program("make"), "-C", str(ROOT), "fleet", f"PYTHON={sys.executable}", *variables]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.timeout(240)
def test_nothing_is_lost_behind_balancers():
    for name in ("HAProxy", "nginx"):
        program(name)
    if reason := fleet.hindrance():
        pytest.skip(reason)
    ended = make_fleet(MINUTES=0)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 killed, 2 added, 1 drained, 1 rolled" in ended.stdout
    for route in fleet.ROUTES:
        (row,) = re.findall(rf"^\| {re.escape(route.name)} (.*) 0 \|$", ended.stdout, re.MULTILINE)
        assert int(row.split(" | ")[0].strip("| ")) > 100


def test_what_hinders_the_fleet_is_said(monkeypatch, capsys):
    monkeypatch.setattr(fleet, "hindrance", lambda: "no namespaces")
    for name in ("HAProxy", "nginx"):
        program(name)
    assert fleet.main() == 2
    assert capsys.readouterr().err == "The fleet cannot run: no namespaces\n"

"""bench/instructions.py: what is a regression, and what cannot be compared."""

from __future__ import annotations

import json
import subprocess
import sys

import instructions
import pytest

NOW = {"python": "3.12.1", "uvloop": "0.23.0", "fastapi": "0.165.0", "anyio": "4.16.0"}


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (40000, 0, "+0.0% from 40000"),
        (41200, 0, "+3.0% from 40000"),
        (41201, 1, "+3.0% from 40000: more than 3% worse"),
        (38800, 0, "-3.0% from 40000"),
        (30000, 0, "-25.0% from 40000: better, store it with --write"),
    ],
)
def test_verdict_at_the_tolerance(found, status, said):
    assert instructions.verdict(40000, found) == (status, said)


def test_a_case_that_was_never_counted_is_no_regression():
    assert instructions.verdict(None, 40000) == (0, "not stored yet")


def test_versions_alike_are_comparable():
    assert instructions.differences(NOW, NOW, instructions.FASTAPI) == []


@pytest.mark.parametrize("name", ["python", "uvloop"])
def test_another_version_is_not_comparable(name):
    kept = NOW | {name: "1"}
    assert instructions.differences(kept, NOW, ()) == [f"{name} 1, here {NOW[name]}"]


def test_a_version_that_was_not_kept_is_not_comparable():
    kept = {name: value for name, value in NOW.items() if name != "python"}
    assert instructions.differences(kept, NOW, ()) == ["python none, here 3.12.1"]


def test_fastapi_matters_to_fastapi_alone():
    kept = NOW | {"fastapi": "0.100.0"}
    assert instructions.differences(kept, NOW, ()) == []
    assert len(instructions.differences(kept, NOW, instructions.FASTAPI)) == 1


def check(monkeypatch, tmp_path, capsys, kept, found):
    """Status and output of --check for the plain case."""
    name = "plain GET, 4 headers"
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps({"measured_with": kept, "instructions": {name: 1000}}))
    monkeypatch.setattr(instructions, "KEPT", path)
    monkeypatch.setattr(instructions, "versions", lambda: NOW)
    monkeypatch.setattr(instructions, "per_request", lambda module, case: found)
    monkeypatch.setattr(instructions.shutil, "which", lambda program: program)
    monkeypatch.setattr(sys, "argv", ["instructions.py", "--check", "--cases", name])
    with pytest.raises(SystemExit) as exit_:
        instructions.main()
    return exit_.value.code, capsys.readouterr().out


def test_check_passes(monkeypatch, tmp_path, capsys):
    assert check(monkeypatch, tmp_path, capsys, NOW, 1001)[0] == 0


def test_check_fails_on_a_regression(monkeypatch, tmp_path, capsys):
    assert check(monkeypatch, tmp_path, capsys, NOW, 1050)[0] == 1


def test_check_neither_passes_nor_fails_what_is_not_comparable(monkeypatch, tmp_path, capsys):
    status, output = check(monkeypatch, tmp_path, capsys, NOW | {"python": "3.13.0"}, 1050)
    assert status == 3
    assert "not comparable: python 3.13.0, here 3.12.1" in output


def test_kept_counts_are_of_cases_that_exist():
    kept = json.loads((instructions.BENCH / "instructions.json").read_text())
    assert kept["instructions"].keys() == instructions.CASES.keys()
    assert kept["measured_with"].keys() == instructions.versions().keys()


@pytest.mark.parametrize("program", ["peers", "instructions", "micro", "first_byte"])
def test_help(program):
    command = [sys.executable, str(instructions.BENCH / f"{program}.py"), "--help"]
    assert "usage:" in subprocess.run(command, capture_output=True, text=True, check=True).stdout

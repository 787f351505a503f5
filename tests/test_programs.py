"""A test whose program is missing says so: it is skipped, or fails in continuous integration."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from programs import BUILD, PROGRAMS
from support import program

TESTS = Path(__file__).parent
# But lowest.py, which make runs.
MODULES = [path for path in TESTS.rglob("*.py") if path.name != "lowest.py"]


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_path_of_a_program_that_is_there(monkeypatch, nothing_installed, tmp_path):
    curl = tmp_path / "curl"
    curl.touch(mode=0o755)
    assert program("curl") == str(curl)


def test_without_its_program_a_test_is_skipped(monkeypatch, nothing_installed):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^curl is .*package: curl\)$"):
        program("curl")


def test_without_its_program_a_test_fails_in_continuous_integration(monkeypatch, nothing_installed):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"^curl is .*package: curl\)$"):
        program("curl")


def test_packages_of_what_is_missing_are_printed(nothing_installed):
    """Without site-packages: before pip has brought anything."""
    command = [sys.executable, "-I", "-S", str(TESTS / "programs.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"chromium", "curl", "make", "openssl", "gcc"} <= set(printed)
    assert set(printed) <= {package for package, _ in (PROGRAMS | BUILD).values()}


def test_programs_are_those_that_tests_ask_for():
    asked = {
        node.args[0].value
        for path in MODULES
        if "program(" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "program"
        if isinstance(node.args[0], ast.Constant)
    }
    assert asked == set(PROGRAMS)


def first(node: ast.List | ast.Tuple) -> ast.AST | None:
    """A list's first item, also where it comes out of `*(...)`."""
    item = node.elts[0] if node.elts else None
    starred = isinstance(item, ast.Starred) and isinstance(item.value, ast.List | ast.Tuple)
    return first(item.value) if starred else item


def bare_names(source: str) -> set[str]:
    """Programs that stand by their names where a command's list begins."""
    known = {place for _, places in PROGRAMS.values() for place in places}
    if not any(name in source for name in known):
        return set()
    nodes = ast.walk(ast.parse(source))
    heads = [first(node) for node in nodes if isinstance(node, ast.List | ast.Tuple)]
    return known & {head.value for head in heads if isinstance(head, ast.Constant)}


def test_bare_names_are_found():
    assert bare_names("run(['curl', '-s'])") == {"curl"}
    assert bare_names("command = [*('openssl', x), 'y']") == {"openssl"}
    assert bare_names("run([program('curl'), 'openssl'])") == set()


def test_no_command_begins_with_a_bare_name():
    found = {path.name: bare_names(path.read_text()) for path in MODULES}
    found.pop("programs.py")  # where they are to be found
    assert {name: names for name, names in found.items() if names} == {}

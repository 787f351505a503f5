"""Every test and case that tests/vectors/REQUIREMENTS.md names exists."""

import ast
import re
import tomllib

import pytest
from documents import ROOT

LIST = ROOT / "tests/vectors/REQUIREMENTS.md"
CONVERSATIONS = sorted((ROOT / "tests/http2/cases").glob("*.toml"))
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in LIST.read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| section", "| part"))
]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every valid name: `file: case`, `http2/file: case`, `file::test`."""
    names = set()
    for path in (ROOT / "tests/vectors").glob("*.toml"):
        cases = tomllib.loads(path.read_text())["case"]
        names |= {f"{path.stem}: {case['name']}" for case in cases}
    for path in CONVERSATIONS:
        cases = tomllib.loads(path.read_text())["case"]
        names |= {f"http2/{path.stem}: {case['name']}" for case in cases}
    for path in (ROOT / "tests").rglob("test_*.py"):
        body = ast.parse(path.read_text()).body
        tests = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        names |= {f"{path.name}::{name}" for name in tests if name.startswith("test_")}
    return names


def test_every_test_and_case_that_is_named_exists(known):
    named = [name for row in ROWS for name in re.findall(r"`([^`]+)`", row[-1])]
    assert len(named) > 400
    missing = {name for name in named if "::" in name or ": " in name} - known
    assert not missing


def test_every_requirement_has_a_test_or_a_reason(known):
    for row in ROWS:
        section, asked, by = row
        assert section
        assert asked
        names = set(re.findall(r"`([^`]+)`", by))
        assert names & known or re.match(r"n/a: \S", by), row


def test_no_vector_file_is_left_out():
    text = LIST.read_text()
    for path in (ROOT / "tests/vectors").glob("*.toml"):
        assert f"`{path.stem}: " in text, path.name
    for path in CONVERSATIONS:
        assert f"`http2/{path.stem}: " in text, path.name

"""bench/budget.py: each tree is measured with its own thestral."""

from __future__ import annotations

import subprocess

import budget
import pytest
from support import program

# In place of the real script: the count is the attribute COUNT of the thestral that it imports.
INSTRUCTIONS = """\
import json, pathlib, sys
import thestral
kept = pathlib.Path(__file__).with_name("instructions.json")
if "--write" in sys.argv:
    kept.write_text(json.dumps(thestral.COUNT))
else:
    sys.exit(thestral.COUNT > json.loads(kept.read_text()))
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose commit counts 100."""
    git = program("git")
    for folder in ("bench", "thestral"):
        (tmp_path / folder).mkdir()
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "bench/instructions.py").write_text(INSTRUCTIONS)
    (tmp_path / "bench/instructions.json").write_text("kept")
    (tmp_path / "thestral/__init__.py").write_text("COUNT = 100\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "base")):
        subprocess.run([git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(budget, "ROOT", tmp_path)
    # Bytecode of the same second and size would be taken for that of an edited file.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.mark.parametrize(("count", "status"), [(99, 0), (100, 0), (101, 1)])
def test_budget_compares_this_tree_with_the_base(repository, count, status):
    (repository / "thestral/__init__.py").write_text(f"COUNT = {count}\n")
    assert budget.main("HEAD") == status


def test_budget_leaves_counts_and_worktrees_as_they_were(repository):
    budget.main("HEAD")
    assert (repository / "bench/instructions.json").read_text() == "kept"
    listed = subprocess.run(
        [program("git"), "worktree", "list"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(listed.stdout.splitlines()) == 1


def test_budget_says_so_where_the_base_does_not_exist(repository):
    assert budget.main("no-such-branch") == 2

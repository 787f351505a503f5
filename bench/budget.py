"""Compares instructions of this tree with those of another commit, measured with the same versions.

    python bench/budget.py origin/main      # status 1 if a case costs over 3 % more than there

instructions.json has the counts of one machine. Where the compiler or the libraries differ, as in
continuous integration, both trees have to be measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, tree: Path) -> int:
    """Run Python in a tree, with that tree's thestral in place of the installed one."""
    print("+ python", *arguments, f"# in {tree}", flush=True)
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run([sys.executable, *arguments], cwd=tree, env=environment).returncode


def git(*arguments: str) -> int:
    print("+ git", *arguments, flush=True)
    return subprocess.run(["git", *arguments], cwd=ROOT).returncode


def main(base: str) -> int:
    build = ("setup.py", "-q", "build_ext", "--inplace")
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "base"
        if git("worktree", "add", "--detach", str(tree), base):
            return 2
        try:
            # The base writes its counts, and this tree compares its own with them.
            counts = ROOT / "bench/instructions.json"
            kept = counts.read_bytes()
            try:
                if run(*build, tree=tree) or run("bench/instructions.py", "--write", tree=tree):
                    return 2
                counts.write_bytes((tree / "bench/instructions.json").read_bytes())
                return run(*build, tree=ROOT) or run("bench/instructions.py", "--check", tree=ROOT)
            finally:
                counts.write_bytes(kept)
        finally:
            git("worktree", "remove", "--force", str(tree))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Instructions of this tree beside those of another commit, measured with the same versions.

    python bench/budget.py origin/main      # status 1 if a case costs over 3 % more than there

instructions.json holds counts of one machine; where compilers and libraries are others, as in
continuous integration, both sides are measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path) -> int:
    print("+", *command, flush=True)
    return subprocess.run(command, cwd=cwd).returncode


def main(base: str) -> int:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "base"
        if run("git", "worktree", "add", "--detach", str(tree), base, cwd=ROOT):
            return 2
        try:
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            measure = [sys.executable, "bench/instructions.py"]
            # The base writes its counts where this tree then looks for them.
            counts = ROOT / "bench/instructions.json"
            kept = counts.read_bytes()
            try:
                if run(*build, cwd=tree) or run(*measure, "--write", cwd=tree):
                    return 2
                counts.write_bytes((tree / "bench/instructions.json").read_bytes())
                return run(*build, cwd=ROOT) or run(*measure, "--check", cwd=ROOT)
            finally:
                counts.write_bytes(kept)
        finally:
            run("git", "worktree", "remove", "--force", str(tree), cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The quick tests with the lowest versions that pyproject.toml allows: `make lowest`.

Both what a build needs and what runs is held at its lower bound, in a virtual environment and a
copy of the tree of their own. PYTHON should be the oldest that is supported: the lowest versions
have no wheels for newer ones.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
IGNORED = (".git", "build", "dist", "wheelhouse", "site", "*.so", "*.egg-info", ".*_cache", ".venv")


def lowest(requirement: str) -> str:
    """`name==version` of a requirement `name>=version`; without a bound, the requirement.

    >>> lowest("cffi>=1.16")
    'cffi==1.16'
    """
    need = Requirement(requirement)
    bounds = [bound.version for bound in need.specifier if bound.operator == ">="]
    return f"{need.name}=={bounds[0]}" if bounds else need.name


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = [lowest(text) for text in project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    held = [lowest(text) for text in project["project"]["dependencies"] + extras["standard"]]
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*IGNORED))
        (tree / "lowest.txt").write_text("\n".join(held) + "\n")
        venv.create(tree / "venv", with_pip=True)
        python = str(tree / "venv/bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [*pip, *build],
            [*pip, "--no-build-isolation", "--constraint", "lowest.txt", "-e", ".[test,examples]"],
            [python, "-m", "pip", "list"],
            ["make", "quick", f"PYTHON={python}"],
        ):
            print("+", *command, flush=True)
            status = subprocess.run(command, cwd=tree).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

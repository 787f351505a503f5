"""Adds the fingerprints of what is installed to those that were tested, for this release of Python:
`python -m thestral.accelerate.verify --add`. With `--if COMMAND` they stay only if the command
succeeds, which runs the tests. Without `--add` it only compares; the exit status says whether all
groups fit.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from thestral.accelerate.fingerprints import FILE, PYTHON, find, fingerprint, known
from thestral.accelerate.groups import FASTAPI, load, module_of


def add() -> int:
    """Add the fingerprints of all groups' code; return how many are new.

    Raises:
        AttributeError, ImportError: code that a group names is missing.
    """
    tested = known()
    new = 0
    for group in FASTAPI:
        module = module_of(group)
        for name in (*module.REPLACES, *module.RELIES_ON):
            prints = tested.setdefault(name, {}).setdefault(PYTHON, [])
            found = fingerprint(find(name))
            if found not in prints:
                prints.append(found)
                prints.sort()
                new += 1
    text = json.dumps(tested, indent=1, sort_keys=True)
    Path(__file__).with_name(FILE).write_text(f"{text}\n", "utf-8")
    return new


def add_if(command: str | None) -> int:
    """Add the fingerprints; take them back if a command fails. Return its exit status."""
    file = Path(__file__).with_name(FILE)
    before = file.read_bytes()
    new = add()
    status = 0
    if command is not None:
        status = subprocess.run(shlex.split(command), check=False).returncode  # noqa: S603
    if status:
        file.write_bytes(before)
        print(f"{new} new fingerprints are not kept: {command} has failed")
    else:
        print(f"{new} new fingerprints for Python {PYTHON}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--add", action="store_true", help="add what is installed")
    parser.add_argument("--if", dest="command", metavar="COMMAND", help="what must succeed then")
    given = parser.parse_args()
    if given.add:
        return add_if(given.command)
    reasons = {group: load(group) for group in FASTAPI}
    off = {group: reason for group, reason in reasons.items() if isinstance(reason, str)}
    for group in FASTAPI:
        print(f"{group}: {off.get(group, 'fits')}")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the test suites of FastAPI, Starlette and anyio with and without acceleration, in process
and over sockets, and compares which tests pass: `make accelerate-suites`.

The suites are in the projects' source distributions on PyPI. Everything is put into a directory,
which may be kept for the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
# The newest releases that were tested, with the hashes of their source distributions.
TESTED = {
    "fastapi": ("0.165.0", "dd94d4128319c1e1d50535ab023ab698f850a4d2822f0e181747b46f4ff3c0ab"),
    "starlette": ("1.10.0", "b8399098d4c1e3522734f7235dc79b1fc967f96cf139c81e0fa30479e0685f9b"),
    "anyio": ("4.16.0", "59bb03251907983d1603d27c3087ddb1e93299ea2163adcdba37899a4fb12ffb"),
}
FASTAPI = "introspection,telemetry,parameters,stacks,middleware,router,threads"
# Ways to run a suite: groups that are on, and whether requests go over sockets.
IN_PROCESS = {"plain": ("", False), "accelerated": (FASTAPI, False)}
OVER_SOCKETS = {"plain, sockets": ("", True), "accelerated, sockets": (FASTAPI, True)}
WAYS = {
    "fastapi": [IN_PROCESS, OVER_SOCKETS],
    "starlette": [IN_PROCESS, OVER_SOCKETS],
    "anyio": [{"plain": ("", False), "threads": ("threads", False)}],
}
TESTS = {
    "anyio": [
        *("test_to_thread", "test_from_thread", "test_taskgroups", "test_synchronization"),
        *("test_eventloop", "test_debugging", "test_lowlevel"),
    ]
}
EXTRAS = ("trio", "httpx", "httpx2[zstd]", "pytest-xdist", "pytest-timeout", "pytest-mock")
# Tests that may differ, with the reason.
EXCEPTED = {
    "test_asyncio_worker_reused_after_cancelled_call": "looks inside a worker",
}
OUTCOMES = ("failure", "error", "skipped")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where to put everything")
    parser.add_argument("--suites", nargs="+", default=list(TESTED), choices=TESTED)
    for name, (version, _) in TESTED.items():
        parser.add_argument(f"--{name}", default=version, metavar="VERSION")
    arguments = parser.parse_args()
    versions = {name: getattr(arguments, name) for name in TESTED}
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        sources = {name: source_of(directory, name, version) for name, version in versions.items()}
        python = environment(directory, versions, sources)
        differ = False
        for suite in arguments.suites:
            for ways in WAYS[suite]:
                differ |= compare(python, suite, sources[suite], ways)
    return 1 if differ else 0


def source_of(directory: Path, name: str, version: str) -> Path:
    """Download and unpack a source distribution, unless that is done."""
    unpacked = directory / f"{name}-{version}"
    if not unpacked.is_dir():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        command += ["--no-binary", ":all:", "-d", str(directory)]
        subprocess.run([*command, f"{name}=={version}"], check=True)
        archive = directory / f"{name}-{version}.tar.gz"
        expected, digest = TESTED[name]
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if version == expected and found != digest:
            raise SystemExit(f"{archive.name} has the hash {found}, expected {digest}")
        with tarfile.open(archive) as opened:
            opened.extractall(directory, filter="data")
    return unpacked


def environment(directory: Path, versions: dict[str, str], sources: dict[str, Path]) -> Path:
    """Make a virtual environment with the releases and what their suites need; return its Python.
    thestral is the one that runs this program.
    """
    python = directory / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(directory / "venv", with_pip=True)
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    project = tomllib.loads((sources["fastapi"] / "pyproject.toml").read_text())
    wanted += group(project["dependency-groups"], "tests")
    wanted += ["fastapi[standard,all]", "starlette[full]", "cffi", "click", "uvloop", *EXTRAS]
    wanted += ["blockbuster", "hypothesis", "psutil", "trustme", "truststore"]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def group(groups: dict[str, Any], name: str) -> list[str]:
    """The requirements of a dependency group (PEP 735)."""
    found: list[str] = []
    for entry in groups[name]:
        found += group(groups, entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


def compare(python: Path, suite: str, source: Path, ways: dict[str, tuple[str, bool]]) -> bool:
    """Run a suite in two ways and print what differs; return whether anything does."""
    results = {way: run(python, suite, source, *settings) for way, settings in ways.items()}
    for way, outcomes in results.items():
        counts = {kind: list(outcomes.values()).count(kind) for kind in ("passed", *OUTCOMES)}
        print(f"{suite:10} {way:22}", *(f"{kind} {n}" for kind, n in counts.items()), flush=True)
    first, second = results.values()
    differing = sorted(
        test
        for test in first.keys() | second.keys()
        if first.get(test) != second.get(test) and not any(name in test for name in EXCEPTED)
    )
    for test in differing:
        print(f"  {test}: {first.get(test)}, {second.get(test)}")
    if not any(outcome == "passed" for outcome in first.values()):
        raise SystemExit(f"{suite}: no test passed")
    return bool(differing)


def run(python: Path, suite: str, source: Path, groups: str, sockets: bool) -> dict[str, str]:
    """Run a suite; return the outcome of each test."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary, "report.xml")
        variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
        variables |= {"THESTRAL_GROUPS": groups, "THESTRAL_SOCKETS": "1" if sockets else ""}
        # Rewritten assertions would change the code of anyio, which is a plugin of pytest.
        options = ["--assert=plain", "-p", "suite_plugin", f"--junitxml={report}", "--timeout=30"]
        tests = [f"tests/{name}.py" for name in TESTS.get(suite, ())] or ["tests"]
        subprocess.run(
            [python, "-m", "pytest", "-q", "-n", "2", *options, *tests],
            cwd=source,
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        return dict(outcomes_of(report))


def outcomes_of(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        kinds: Sequence[str] = [child.tag for child in case if child.tag in OUTCOMES]
        yield f"{case.get('classname')}::{case.get('name')}", kinds[0] if kinds else "passed"


if __name__ == "__main__":
    sys.exit(main())

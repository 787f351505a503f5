"""Does a wheel hold what it should, and run without a compiler? `make check-wheel WHEEL=...`

Looks into each wheel that is named; those for this interpreter's version are installed into a bare
virtual environment, where the smoke suite and the README's first commands run.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import venv
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_200_000  # bytes
REQUIRED = {"click", "cffi", "uvloop"}
COMPILED = {"thestral/_codecs", "thestral/_server", "thestral/_csrc"}
USER = b'{"first_name":"Albus","last_name":"Dumbledore"}'
EXAMPLE = [  # path, JSON that is posted, answer
    ("/", None, b'{"Hello":"World"}'),
    ("/items/5?q=x", None, b'{"item_id":5,"q":"x"}'),
    ("/user", USER, USER),
]


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel's content."""
    found = []
    if wheel.stat().st_size > LARGEST:
        found.append(f"{wheel.stat().st_size} bytes, more than {LARGEST}")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    if licences != {"LICENSE", "csrc/llhttp/LICENSE-MIT"}:
        found.append(f"licences: {licences}")
    if "thestral/py.typed" not in names:
        found.append("no py.typed")
    needed = [Requirement(text) for text in fields.get_all("Requires-Dist", [])]
    hard = {need.name for need in needed if "extra" not in str(need.marker or "")}
    if hard != REQUIRED:
        found.append(f"hard dependencies: {hard}")
    compiled = {name.partition(".")[0] for name in names if name.endswith(".so")}
    if compiled != COMPILED:
        found.append(f"compiled modules: {compiled ^ COMPILED}")
    strays = [name for name in names if re.search(r"\.(c|h|pyx|pxd|o|a)$|(^|/)tests?/", name)]
    return [*found, *(f"{name} has no business in a wheel" for name in strays)]


def run(*command: str | Path, **settings: object) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, **settings)  # type: ignore[call-overload]


def try_out(wheel: Path) -> None:
    """Install it where there is no compiler and run the smoke suite and the README's example.

    Raises:
        CalledProcessError: a command failed.
        AssertionError: an answer is not the one that the README promises.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv/bin/python"
        environment = {
            # nothing but the environment's own programs: no compiler, no make
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": str(python.parent),
            "PIP_ONLY_BINARY": ":all:",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        assert shutil.which("gcc", path=environment["PATH"]) is None
        pip = [python, "-m", "pip", "install", "--quiet"]
        run(*pip, f"{wheel}[examples]", "pytest>=8.3", env=environment, cwd=folder)
        smoke = ROOT / "tests/smoke"
        pytest = [python, "-P", "-m", "pytest", "-q", "-c", smoke / "pytest.ini", smoke]
        run(*pytest, env=environment, cwd=folder)
        serve_example(python.with_name("thestral"), environment, folder)


def serve_example(thestral: Path, environment: dict[str, str], folder: Path) -> None:
    command = [thestral, "--app-dir", ROOT / "examples", "application:app", "--port", "0"]
    print("+", *command, flush=True)
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on" in line)
        url = re.findall(r"http://\S+", line)[0]
        for path, posted, expected in EXAMPLE:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(url + path, posted, headers)
            with urllib.request.urlopen(request) as answer:
                body = answer.read()
            assert body == expected, body
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0, process.returncode


def main(wheels: list[Path]) -> int:
    if not wheels:
        print("no wheel named", file=sys.stderr)
        return 2
    ours = set(sys_tags())
    status = 0
    for wheel in wheels:
        print(f"{wheel.name}: {wheel.stat().st_size} bytes")
        for fault in faults(wheel):
            print(f"  {fault}", file=sys.stderr)
            status = 1
        if ours & parse_wheel_filename(wheel.name)[3]:
            try_out(wheel.resolve())
    return status


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))

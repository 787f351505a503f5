"""Prepares measurements: a virtual environment with the peers and this checkout, the compiled load
generators and limits (floor.c), a certificate and a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from applications import LARGE

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent
WRK_MISSING = (
    "wrk, the load generator, is not on the PATH. Install it: apt install wrk, dnf install wrk, "
    "brew install wrk, or build https://github.com/wg/wrk"
)
H2LOAD_MISSING = (
    "h2load, the load generator for HTTP/2, is not on the PATH. Install it: apt install "
    "nghttp2-client nghttp2-server, dnf install nghttp2, brew install nghttp2"
)
HELLO = b"Hello, world!"
SOURCES = ("csrc/**/*.[ch]", "thestral/**/*.py*", "thestral/**/*.pxd", "setup.py", "pyproject.toml")
PACKAGES = """\
import importlib.metadata as metadata, json, sys
names = {package.name.lower(): package.version for package in metadata.distributions()}
json.dump(names, sys.stdout)
"""


@dataclass(frozen=True)
class Environment:
    """The programs and files that measurements use.

    Attributes:
        python: interpreter of the virtual environment with the peers.
        folder: directory with the compiled programs, the certificate and the file.
        versions: versions of everything that the figures depend on, by name.
    """

    python: Path
    folder: Path
    versions: dict[str, str]

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def file(self) -> Path:
        return self.folder / "file.txt"

    def program(self, name: str) -> Path:
        return self.folder / name

    def page(self, size: int) -> Path:
        """Return a directory whose index.html has the body that the applications send."""
        directory = self.folder / f"page-{size}"
        directory.mkdir(exist_ok=True)
        (directory / "index.html").write_bytes(LARGE if size == len(LARGE) else HELLO)
        return directory


def installed(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed; None if there is none."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def prepare(folder: Path, uvloop: str = "") -> Environment:
    """Create what is missing or out of date.

    Args:
        folder: created if it is missing; may be deleted at any time.
        uvloop: version to install in place of the pinned one.
    Raises:
        SystemExit: a program is missing, or failed; the message names it.
    """
    if shutil.which("wrk") is None:
        raise SystemExit(WRK_MISSING)
    compiler = os.environ.get("CC", "cc")
    for program in (compiler, "openssl"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on the PATH")
    folder.mkdir(parents=True, exist_ok=True)
    venv = folder / f"venv-{platform.python_version()}{'-uvloop-' * bool(uvloop)}{uvloop}"
    install(venv, uvloop)
    for name in ("floor", "openloop"):
        source, target = BENCH / f"{name}.c", folder / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            run([compiler, "-O2", "-o", str(target), str(source)])
    environment = Environment(venv / "bin/python", folder, versions(venv / "bin/python"))
    if not environment.certificate.exists():
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += " -days 3650 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        files = ["-keyout", str(environment.key), "-out", str(environment.certificate)]
        run([*command.split(), *files])
    environment.file.write_bytes(LARGE)
    return environment


def install(venv: Path, uvloop: str) -> None:
    """Install the pinned peers, and this checkout as users would install it, unless up to date."""
    requirements = BENCH / "requirements.txt"
    state = {"requirements": digest([requirements]), "thestral": digest(sources())}
    stamp = venv / "thestral-bench.json"
    known = json.loads(stamp.read_text()) if stamp.exists() else {}
    if known == state:
        return
    python = str(venv / "bin/python")
    if not venv.exists():
        print(f"installing the peers into {venv}", file=sys.stderr)
        run([sys.executable, "-m", "venv", str(venv)])
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if known.get("requirements") != state["requirements"]:
        run([*pip, "-r", str(requirements)])
        if uvloop:
            run([*pip, f"uvloop=={uvloop}"])
    if known.get("thestral") != state["thestral"]:
        run([*pip, "--force-reinstall", "--no-deps", str(CHECKOUT)])
    stamp.write_text(json.dumps(state))


def sources() -> list[Path]:
    return sorted(path for pattern in SOURCES for path in CHECKOUT.glob(pattern))


def digest(paths: list[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(b"%s\0%s\0" % (path.name.encode(), path.read_bytes()))
    return found.hexdigest()


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the interpreter, the pinned packages, thestral and the machine."""
    output = subprocess.run([python, "-c", PACKAGES], stdout=subprocess.PIPE, check=True).stdout
    installed = json.loads(output)
    lines = (BENCH / "requirements.txt").read_text().splitlines()
    names = ["thestral", *(line.partition("==")[0] for line in lines if "==" in line)]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": f"{len(os.sched_getaffinity(0))} × {processor()}",
        **{name: installed[name] for name in names},
    }


def processor() -> str:
    """Return the processor's name, from Linux's /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


def run(command: list[str]) -> None:
    """Run a command; if it fails, exit and show its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout.decode(errors='replace')}")

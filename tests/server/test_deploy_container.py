"""deploy/'s files for containers: their files exist, their options, ports, paths and names agree
with each other and with the server, and a real server answers their checks.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from process import Command
from programs import BUILD
from support import wait_until

from thestral.config.address import read_address

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLES = ROOT / "examples"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL = "0.0.0.0"


class Instruction(NamedTuple):
    """A line of a Dockerfile."""

    name: str
    rest: str

    def words(self) -> list[str]:
        return shlex.split(self.rest)


def stages() -> list[list[Instruction]]:
    """The stages of the Dockerfile, each from its FROM on."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, rest.strip()))
    return found


BUILT, SERVED = stages()


def one(name: str) -> Instruction:
    """The only instruction of this name in the image."""
    (found,) = [instruction for instruction in SERVED if instruction.name == name]
    return found


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def check(arguments: list[str]) -> str:
    """Have `thestral check` read a command; return what it says."""
    assert arguments[0] == "thestral"
    with Command("check", *arguments[1:], cwd=EXAMPLES) as command:
        assert command.wait() == 0, command.stderr
    return command.stdout + command.stderr


def test_image_has_no_compiler_and_no_root():
    image = BUILT[0].words()[0]
    assert [stage[0].rest for stage in (BUILT, SERVED)] == [f"{image} AS build", image]
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert not any("apt-get" in instruction.rest for instruction in SERVED)
    names = [instruction.name for instruction in SERVED]
    assert names.index("USER") < names.index("CMD")
    user, _, group = one("USER").rest.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_files_that_the_image_copies_exist():
    for instruction in (*BUILT, *SERVED):
        if instruction.name == "COPY":
            *sources, _ = instruction.words()
            for source in sources:
                assert (ROOT / source).exists(), source


def test_packages_that_the_image_installs():
    (update,) = [one.rest for one in BUILT if "apt-get install" in one.rest]
    packages = update.partition("--no-install-recommends")[2].split()
    ours = {package for package, _ in BUILD.values()}
    assert set(packages) == ours - {"python3-dev", "python3-venv"}  # the image has them
    extras = [
        set(names.split(","))
        for one in (*BUILT, *SERVED)
        for names in re.findall(r"pip .*\[([\w,]+)\]", one.rest)
    ]
    assert len(extras) == 2
    assert extras[0] == extras[1]
    assert extras[0] <= set(PROJECT["optional-dependencies"])


def test_command_of_the_image_is_one_that_the_server_takes():
    arguments = json.loads(one("CMD").rest)
    check(arguments)
    ports = [value(arguments, "--port"), str(read_address(value(arguments, "--admin")).port)]
    assert one("EXPOSE").words() == ports
    assert value(arguments, "--host") == read_address(value(arguments, "--admin")).host == ALL
    assert one("STOPSIGNAL").rest == "SIGTERM"
    (copied,) = [one.words()[0] for one in SERVED if one.name == "COPY"]
    assert copied == f"examples/{arguments[1].partition(':')[0]}.py"


def healthy(port: int) -> int:
    """The status of the image's HEALTHCHECK, for an admin port."""
    options, _, command = one("HEALTHCHECK").rest.partition("CMD ")
    assert set(re.findall(r"--(\w[\w-]*)=", options)) == {
        *("interval", "timeout", "start-period", "retries"),
    }
    assert (
        f"127.0.0.1:{read_address(value(json.loads(one('CMD').rest), '--admin')).port}" in command
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asked = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", command)
    return subprocess.run(
        ["sh", "-c", asked], env={**os.environ, "PATH": path}, capture_output=True
    ).returncode


def test_health_check_knows_whether_the_server_is_ready():
    arguments = json.loads(one("CMD").rest)[1:]
    replaced = {"--port": "0", "--admin": "127.0.0.1:0", "--workers": "1", "--shutdown-delay": "60"}
    for option, new in replaced.items():
        arguments[arguments.index(option) + 1] = new
    with Command(*arguments, cwd=EXAMPLES) as command:
        port = int(
            wait_until(lambda: re.search(r"Admin port on http://.*?:(\d+)", command.stderr))[1]
        )
        command.saw("Thestral running on")
        assert healthy(port) == 0
        command.signal(signal.SIGTERM)
        command.saw("Shutting down")
        assert healthy(port) == 1
        command.signal(signal.SIGQUIT)
        assert command.wait() == 0
    assert healthy(port) == 1

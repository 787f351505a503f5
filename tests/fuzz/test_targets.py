"""The targets (targets/) without libFuzzer: the vectors, and some thousand mutations."""

import os
import random
import shlex
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest
from c_targets import FOLDER, LONGEST, SANITIZERS, TARGETS, build, compile_core, seeds
from test_differential import mutate, smuggle

SEED = 6455
MUTATIONS = 3000  # of each target


def inputs(target: str) -> list[bytes]:
    rng = random.Random(SEED)
    known = seeds(target)
    found = [b"", *known]
    for _ in range(MUTATIONS):
        data = rng.choice(known)
        if target == "http1" and rng.random() < 0.5:
            data = smuggle(data, rng)
        found.append(mutate(data, rng)[:LONGEST])
    return found


def can_sanitize(compiler: list[str], place: Path) -> bool:
    """Whether the compiler has its sanitizers' libraries, and nothing else is preloaded."""
    (place / "empty.c").write_text("int main(void) { return 0; }")
    command = [*compiler, *SANITIZERS, str(place / "empty.c"), "-o", str(place / "empty")]
    built = subprocess.run(command, capture_output=True).returncode == 0
    return built and subprocess.run([place / "empty"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Function (target) that returns a program which reads inputs."""
    place = tmp_path_factory.mktemp("targets")
    compiler = [*shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC")), "-O0"]
    if can_sanitize(compiler, place):
        compiler += SANITIZERS
    core = compile_core(place, compiler)

    def program(target):
        build(target, place / target, compiler, [*core, str(FOLDER / "replay.c")])
        return place / target

    return program


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_breaks_it(program, target):
    given = inputs(target)
    stream = b"".join(struct.pack("=I", len(data)) + data for data in given)
    done = subprocess.run([program(target)], input=stream, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert int(done.stdout) == len(given)

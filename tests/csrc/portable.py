"""Compiles a file of csrc as on a machine without vector instructions."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]


def compiled_without_vectors(name: str, declarations: str, directory: Path) -> Any:
    """Return a library with csrc/<name>.c, compiled with its #else branches.

    It is unloaded with the object that is returned.
    """
    library = directory / f"{name}.so"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))
    subprocess.run(
        [
            *(*compiler, "-std=c11", "-O3", "-fPIC", "-shared", "-U__SSE2__", "-U__ARM_NEON"),
            *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
            *("-o", str(library), f"csrc/{name}.c"),
        ],
        cwd=ROOT,
        check=True,
    )
    ffi = FFI()
    ffi.cdef(declarations)
    return ffi.dlopen(str(library))

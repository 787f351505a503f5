"""Build: one static library of C, the Cython modules over it, and the cffi module over the same
headers.

Everything declarative is in pyproject.toml; here is what needs the compiler.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup  # first: it brings distutils along from 3.12 on
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "csrc"))

from fetch_llhttp import FetchError, fetch  # noqa: E402

INCLUDE = ["csrc", "csrc/llhttp/include"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]
# THESTRAL_SANITIZE=address,undefined builds everything for `make asan`.
SANITIZE = os.environ.get("THESTRAL_SANITIZE")
# Debug information and symbols are nine tenths of a module, so only a sanitized build has them.
# Sections of their own let the linker leave out what a module does not use of the libraries. Unwind
# tables would only serve native backtraces, which have no names here anyway.
if SANITIZE:
    DEBUG = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    LINK = DEBUG
else:
    DEBUG = ["-g0", "-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables"]
    LINK = []
    if sys.platform == "linux":
        # No stub for each function of libpython: Python binds them all at import anyway.
        DEBUG += ["-fno-plt"]
        LINK = ["-Wl,-s,--gc-sections"]
CFLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", *DEBUG]
OURS = sorted(path.stem for path in Path("csrc").glob("*.c"))
HEADERS = [f"csrc/{name}.h" for name in OURS]
# A Python file with a .pxd beside it is compiled.
COMPILED = sorted(path.with_suffix("") for path in Path("thestral").glob("*/*.pxd"))
COMPILED = [path for path in COMPILED if path.with_suffix(".py").exists()]
# Modules that a plain request does not run through are made small: a third of their size.
# Of transport, tls and websocket, whose work is done in C, it costs less than 1 % of a request.
SMALL = {"thestral._core.errors", "thestral.protocol.access", "thestral.net.transport"}
SMALL |= {f"thestral.protocol.{name}" for name in ("context", "preamble", "proxy", "settings")}
SMALL |= {f"thestral.protocol.{name}" for name in ("tls", "turn", "websocket")}
CORE = ["coroutine", "errors", "head", "http1", "log", "socket", "websocket"]

# One static library, linked into each module. llhttp's code is not ours to warn about.
LIBRARIES = [
    (
        "thestral_llhttp",
        {
            "sources": [f"csrc/llhttp/src/{name}.c" for name in ("api", "http", "llhttp")],
            "include_dirs": INCLUDE,
            "cflags": [*CFLAGS, "-w"],
        },
    ),
    (
        "thestral_csrc",
        {
            "sources": [f"csrc/{name}.c" for name in OURS],
            "include_dirs": INCLUDE,
            "obj_deps": {"": [*HEADERS, "csrc/llhttp/include/llhttp.h"]},
            "cflags": [*CFLAGS, *WARNINGS],
        },
    ),
]


def require_zlib() -> None:
    """One clear line in place of a compiler's many."""
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe.c"
        probe.write_text("#include <zlib.h>\n")
        try:
            compiler.preprocess(str(probe), str(probe.with_suffix(".i")))
        except CompileError:
            raise SystemExit(
                "thestral needs a C compiler and zlib's header zlib.h, and one of them is missing:"
                " install gcc and zlib1g-dev (Debian, Ubuntu) or zlib-devel (Fedora)"
            ) from None


class BuildExt(build_ext):
    """Extensions need the static libraries first; plain build_ext leaves that to `build`."""

    def run(self) -> None:
        require_zlib()
        self.run_command("build_clib")
        super().run()

    def build_extensions(self) -> None:
        """cffi makes its module itself; it is compiled and linked as the others are."""
        for module in self.extensions:
            if module.name == "thestral._csrc":
                module.extra_compile_args += ["-Os", *DEBUG]
                module.extra_link_args += LINK
        super().build_extensions()


class SourceDistribution(sdist):
    """The sdist carries llhttp, so that its users need no network; MANIFEST.in names the files."""

    def run(self) -> None:
        fetch()
        super().run()


def extension(name: str, source: str) -> Extension:
    return Extension(
        name,
        [source],
        include_dirs=INCLUDE,
        # llhttp's symbols are used by csrc, so it stands behind it.
        libraries=["thestral_csrc", "thestral_llhttp", "z"],
        # Generated code is not ours to warn about either, but for what Cython promises to keep
        # clean.
        extra_compile_args=[
            "-Os" if name in SMALL else "-O2",
            "-fvisibility=hidden",
            "-Wall",
            "-Wno-unused-function",
            *DEBUG,
        ],
        extra_link_args=LINK,
        depends=[*HEADERS, *(f"csrc/{name}.c" for name in OURS), "csrc/llhttp/include/llhttp.h"],
    )


def extensions() -> list[Extension]:
    Options.docstrings = False  # they are in the .py and .pyi beside each module
    modules = [extension(f"thestral._core.{name}", f"thestral/_core/{name}.pyx") for name in CORE]
    modules += [extension(".".join(path.parts), f"{path}.py") for path in COMPILED]
    return cythonize(
        modules,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "infer_types": True,
            "annotation_typing": False,  # types come from the .pxd beside each file
            "always_allow_keywords": True,
            "auto_pickle": False,  # a connection cannot be pickled
            "freethreading_compatible": False,
        },
        quiet=True,
    )


try:
    fetch()
except FetchError as error:
    sys.exit(f"error: {error}")

setup(
    libraries=LIBRARIES,
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=extensions(),
    cffi_modules=["csrc/cffi_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt, "sdist": SourceDistribution},
)

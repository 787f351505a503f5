"""Builds a static C library, the Cython modules on top of it, and the cffi module from the same
headers.

Everything declarative is in pyproject.toml; this file has what needs a compiler.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from runpy import run_path
from shutil import rmtree

from cffi import FFI
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup  # first: it provides distutils from Python 3.12 on
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "csrc"))

from cffi_build import declare_rest  # noqa: E402
from fetch_llhttp import FetchError, fetch  # noqa: E402

INCLUDE = ["csrc", "csrc/llhttp/include"]


def is_gcc() -> bool:
    """Whether the C compiler is GCC: clang cannot optimize at link time with any linker."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    except OSError:  # require_zlib() says that there is none
        return False
    return "Free Software Foundation" in version


WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror"]
# THESTRAL_SANITIZE=address,undefined builds everything for `make asan`.
SANITIZE = os.environ.get("THESTRAL_SANITIZE")
# Debug information and symbols make up nine tenths of a module, so only a sanitized build has them.
# With one section per function the linker can drop library code that a module does not use. Unwind
# tables would only serve native backtraces, which have no names without symbols.
if SANITIZE:
    DEBUG = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    LINK = DEBUG
else:
    DEBUG = ["-g0", "-ffunction-sections", "-fdata-sections", "-fno-asynchronous-unwind-tables"]
    LINK = []
    if sys.platform == "linux":
        # No PLT stubs for libpython's functions: Python binds all symbols at import anyway.
        DEBUG += ["-fno-plt"]
        LINK = ["-Wl,-s,--gc-sections"]
    if is_gcc():
        # At link time Cython's functions, of which each module has its own, become one, and csrc is
        # inlined: a tenth smaller, and 2 % fewer instructions for a request.
        DEBUG += ["-flto=auto"]
        LINK += ["-flto=auto", "-O2"]
CFLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", *DEBUG]
if "-flto=auto" in DEBUG:
    CFLAGS += ["-ffat-lto-objects"]  # not every ar can index the others
OURS = sorted(path.stem for path in Path("csrc").glob("*.c"))
HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
# Shared object, module, -O2 or -Os.
MODULES = run_path("thestral/_compiled.py")["MODULES"]
LEVELS = {name: level for modules in MODULES.values() for name, level in modules.items()}

# Static libraries, linked into each module. llhttp is compiled without warnings: it is not ours.
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
    """Exit with one clear line if zlib.h is missing, instead of the compiler's many."""
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
    """Builds the static libraries before the extensions; plain build_ext leaves them to `build`."""

    def run(self) -> None:
        require_zlib()
        if self.force:  # build_clib goes by dates alone, but `make asan` changes only flags
            objects = Path(self.get_finalized_command("build_clib").build_temp) / "csrc"
            rmtree(objects, ignore_errors=True)
        self.run_command("build_clib")
        super().run()

    def pre_run(self, ext: Extension, ffi: FFI) -> None:
        """Declare all of csrc for the tests, which run against builds in place and editable ones;
        cffi calls this before it writes its module.
        """
        if self.inplace:
            declare_rest(ffi)

    def build_extensions(self) -> None:
        """Compile cffi's module, which cffi defines, with the flags of the others, and all files of
        an extension at the same time, each at its own level of optimization.
        """
        for module in self.extensions:
            if module.name == "thestral._csrc":
                module.extra_compile_args += ["-Os", *DEBUG]
                module.extra_link_args += LINK
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **options: object) -> list[str]:
            arguments = options.pop("extra_postargs")

            def compile_one(source: str) -> list[str]:
                level = LEVELS.get(".".join(Path(source).with_suffix("").parts[-2:]))
                flags = [*arguments, level] if level else arguments
                return compile_all([source], **options, extra_postargs=flags)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(compile_one, sources)))

        self.compiler.compile = compile_each
        super().build_extensions()


class SourceDistribution(sdist):
    """Puts llhttp into the sdist, so that users need no network; MANIFEST.in names the files."""

    def run(self) -> None:
        fetch()
        super().run()


def extension(name: str, sources: list[str]) -> Extension:
    return Extension(
        name,
        sources,
        include_dirs=INCLUDE,
        # csrc uses llhttp's symbols, so llhttp comes after it.
        libraries=["thestral_csrc", "thestral_llhttp", "z"],
        # Generated code is not ours either, so only the warnings that Cython's code is free of.
        extra_compile_args=["-fvisibility=hidden", "-Wall", "-Wno-unused-function", *DEBUG],
        extra_link_args=LINK,
        depends=[*HEADERS, *(f"csrc/{name}.c" for name in OURS), "csrc/llhttp/include/llhttp.h"],
    )


def extensions() -> list[Extension]:
    """Translate each module to C; those of a shared object make one extension."""
    Options.docstrings = False  # the .py and .pyi files have them
    Options.warning_errors = True  # such as of an index below 0, for which no bounds are checked
    modules = []
    for name in LEVELS:
        source = Path("thestral", *name.split(".")).with_suffix(".pyx")
        source = source if source.exists() else source.with_suffix(".py")
        modules.append(extension(f"thestral.{name}", [str(source)]))
    translated = cythonize(
        modules,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "binding": False,  # built-in functions: a fifth smaller, without signature and __dict__
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "infer_types": True,
            "annotation_typing": False,  # types come from the .pxd of each file
            "always_allow_keywords": False,  # methods of one argument take it by position
            "auto_pickle": False,  # a connection cannot be pickled
            "freethreading_compatible": False,
        },
        quiet=True,
    )
    sources = {module.name.removeprefix("thestral."): module.sources for module in translated}
    return [
        extension(f"thestral.{shared}", [file for name in names for file in sources[name]])
        for shared, names in MODULES.items()
    ]


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

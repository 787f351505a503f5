"""thestral._csrc: the C layer for Python, in cffi's API mode, made from the headers that the C
files include.

It serves code off the hot path: validators for options, PROXY heads and forwarded hosts, metrics,
the watchdog, and tests. The hot path uses Cython (thestral/_core).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

CSRC = Path("csrc")  # setup.py builds from the project's root
OURS = ["base", "ascii", "buffer", "head", "chunk", "http1", "response", "mask", "utf8", "escape"]
OURS += ["deflate", "websocket", "proxy", "socket", "handler", "watch"]
OURS += ["hpack", "http2_head", "http2", "metrics"]
# What thestral's Python uses: half of the module, and all that a wheel has of it.
USED = {"base", "ascii", "buffer", "head", "proxy", "handler", "watch", "metrics"}

TIMERS = ["rt"] if sys.platform == "linux" else []  # before glibc 2.34 they are in librt


def declarations(header: Path) -> str:
    """Return the C declarations of a header, as cffi can parse them: without a preprocessor."""
    text = header.read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r'^(extern "C" \{|\})[ \t]*$', "", text, flags=re.MULTILINE)  # C++'s bracket
    text = re.sub(r"^static inline [^\n]*\}$", "", text, flags=re.MULTILINE)  # has no symbol
    text = text.replace("LLHTTP_EXPORT", "")
    return re.sub(
        r"^.*\b(llhttp_alloc|llhttp_free)\(.*;$", "", text, flags=re.MULTILINE
    )  # WebAssembly's


def declare_rest(ffi: FFI) -> None:
    """Declare what tests alone use, for a build in place."""
    ffi.cdef(declarations(CSRC / "llhttp/include/llhttp.h"))
    for name in OURS:
        if name not in USED:
            ffi.cdef(declarations(CSRC / f"{name}.h"))


ffibuilder = FFI()
for name in OURS:
    if name in USED:
        ffibuilder.cdef(declarations(CSRC / f"{name}.h"))
ffibuilder.set_source(
    "thestral._csrc",
    "".join(f'#include "{name}.h"\n' for name in OURS),
    include_dirs=["csrc", "csrc/llhttp/include"],
    libraries=["thestral_csrc", "thestral_llhttp", "z", *TIMERS],
    depends=[str(path) for path in sorted(CSRC.glob("*.[ch]"))],
    extra_compile_args=["-O2"],
)

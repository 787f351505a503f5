"""The C layer through cffi; functions are those of csrc/*.h and llhttp.h, by their C names."""

from typing import Any

ffi: Any
lib: Any

"""Fingerprints of the code that a group replaces or goes around: they tell whether it is the code
that the group was tested with.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import sys
from importlib import resources
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

FILE = "fingerprints.json"
DIGITS = 12  # of a fingerprint: it guards against chance, not against an adversary
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # each compiles to other bytecode
PLAIN = (str, bytes, int, float, complex, type(None), type(Ellipsis))


def known() -> dict[str, dict[str, list[str]]]:
    """Return the fingerprints that were tested, by name and then by Python's version."""
    text = resources.files("thestral.accelerate").joinpath(FILE).read_text("utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


def find(name: str) -> Any:
    """Return what a name stands for, without calling descriptors.

    Args:
        name: "package.module:function" or "package.module:Class.function".

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    return found


def fingerprint(thing: Any) -> str:
    """Return the fingerprint of a function's code, or of all that a class defines itself.

    It is the same in each process, wherever the files are, and changes with everything that the
    code does: its instructions, constants, names and defaults, and those of the functions in it.
    What wraps a function counts as well.
    """
    digest = hashlib.sha256()
    for token in tokens_of(thing):
        digest.update(token.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:DIGITS]


def tokens_of(thing: Any) -> list[str]:
    """Everything that makes up the fingerprint, as texts."""
    if isinstance(thing, type):
        return tokens_of_class(thing)
    tokens = [type(thing).__qualname__]
    if isinstance(thing, FunctionType):
        tokens += tokens_of_code(thing.__code__)
        tokens += [text_of(value) for value in thing.__defaults__ or ()]
        tokens += [
            f"{name}={text_of(value)}" for name, value in (thing.__kwdefaults__ or {}).items()
        ]
    elif isinstance(thing, property):
        parts = (thing.fget, thing.fset, thing.fdel)
        return tokens + [token for part in parts if part for token in tokens_of(part)]
    elif isinstance(thing, functools.cached_property):
        return tokens + tokens_of(thing.func)
    elif isinstance(thing, (staticmethod, classmethod, MethodType)):
        return tokens + tokens_of(thing.__func__)
    elif isinstance(thing, BuiltinFunctionType):
        tokens.append(thing.__qualname__)
    wrapped = getattr(thing, "__wrapped__", None)
    if wrapped is not None:
        tokens += tokens_of(wrapped)
    return tokens


def tokens_of_class(found: type) -> list[str]:
    tokens = [base.__qualname__ for base in found.__mro__]
    for name, value in sorted(vars(found).items()):
        if isinstance(value, PLAIN):
            if not name.startswith("__"):
                tokens.append(f"{name}={value!r}")
        elif is_function(value) and not is_generated(value):
            tokens += [name, *tokens_of(value)]
    return tokens


def is_function(value: Any) -> bool:
    kinds = (FunctionType, staticmethod, classmethod, property, functools.cached_property)
    return isinstance(value, kinds) or hasattr(value, "__wrapped__")


def is_generated(value: Any) -> bool:
    """Whether a function was made from text, as those of dataclasses are, by other code in each
    release of Python.
    """
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith("<")


def tokens_of_code(code: CodeType) -> list[str]:
    tokens = [
        code.co_code.hex(),
        code.co_exceptiontable.hex(),
        *(code.co_names + code.co_varnames + code.co_freevars + code.co_cellvars),
        f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}",
    ]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            tokens += tokens_of_code(constant)
        else:
            tokens.append(text_of(constant))
    return tokens


def text_of(value: Any) -> str:
    """A text of a constant or a default: repr() of what is plain, else the type's name, for repr()
    may have an address or, for a set, another order in each process.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({','.join(map(text_of, value))})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(text_of, value)))}}}"
    return (
        value.__qualname__ if isinstance(value, (type, FunctionType)) else type(value).__qualname__
    )

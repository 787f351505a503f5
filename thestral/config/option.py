"""What an option is: constructors that declare options, and the check of an option's value. The
options themselves are in thestral.config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from thestral._csrc import lib
from thestral.errors import ConfigError

SWITCH_TEXTS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off", ""), False),
}
LARGEST_COUNT = 2**31 - 1
LARGEST_SIZE = 2**30  # bytes; must fit in memory, and the core uses 32-bit counts
ABOVE_ZERO = math.ulp(0.0)  # a lower bound that excludes only 0


@dataclass(frozen=True)
class Option:
    """An option, as the command line, the documents and the check of its value need it.

    Attributes:
        group: heading in --help.
        help: one or two short sentences.
        kind: int, float, str, bool, or list (of strings, repeatable on the command line).
        unit: of a number.
        lowest, highest: bounds of a number, inclusive.
        choices: the allowed strings.
        words: strings accepted instead of a number or a bool.
        item: placeholder of the value in --help; for PATH, shells complete paths.
        also: further types accepted from Python and TOML; for a list, further types of its items.
        optional: None is a value and means "not set". For other options None means the default.
        flag: name on the command line, if it differs from the field's.
        secret: the value is hidden from repr() of a Config and from `thestral check`.
        convert: turns a value of the right type into the one to store. Raises ValueError, with the
            reason, or ConfigError.
    """

    group: str
    help: str
    kind: type
    unit: str = ""
    lowest: float = 0
    highest: float = math.inf
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    item: str = ""
    also: tuple[type, ...] = ()
    optional: bool = False
    flag: str = ""
    secret: bool = False
    convert: Callable[[Any], Any] | None = None


# --- Declaring options: (default, group, help, further attributes of Option) ----------------------


def option(default: Any, group: str, help: str, **attributes: Any) -> Any:
    """Make a dataclass field. If the default is None, the option is optional."""
    attributes.setdefault("optional", default is None)
    spec = Option(group, help, **attributes)
    metadata = {"option": spec}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, repr=not spec.secret)


flag = partial(option, kind=bool)
integer = partial(option, kind=int, highest=LARGEST_COUNT)
count = partial(integer, lowest=1)
size = partial(count, unit="bytes", highest=LARGEST_SIZE)
seconds = partial(option, kind=float, unit="seconds", lowest=ABOVE_ZERO)
text = partial(option, kind=str)
path = partial(text, item="PATH")
several = partial(option, kind=list)


# --- Checking a value -----------------------------------------------------------------------------


def checked(name: str, spec: Option, value: Any) -> Any:
    """Return a value as Config stores it. The rules are the same wherever the value comes from.

    Raises:
        ConfigError: the value has the wrong type, is out of bounds, or cannot be converted.
    """
    if value is None and spec.optional:
        return None
    found = read(spec, value)
    if not accepts(spec, found):
        raise ConfigError(name, f"{found!r} given, expected {describe(spec)}")
    if spec.kind is float:
        found = float(found)
    if spec.convert is None:
        return found
    try:
        return spec.convert(found)
    except ValueError as exc:
        raise ConfigError(name, str(exc)) from exc


def read(spec: Option, value: Any) -> Any:
    """Convert a value from another spelling to the option's type; else return it unchanged."""
    if spec.kind is list:
        values = [value] if isinstance(value, (str, os.PathLike)) else value
        return [plain(item) for item in values] if isinstance(values, Iterable) else value
    if spec.item == "PATH":
        value = plain(value)
    if isinstance(value, str):
        return read_text(spec, value)
    if isinstance(value, float) and spec.choices:
        return str(value)  # ssl-min-version = 1.2, in a file
    return bool(value) if spec.kind is bool and value in (0, 1) else value


def plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def read_text(spec: Option, text: str) -> Any:
    """Return the value that a string from the command line, the environment or a file stands for;
    if it stands for nothing, the string itself.
    """
    if text.lower() in (*spec.choices, *spec.words):
        return text.lower()
    if spec.kind is bool:
        return SWITCH_TEXTS.get(text.strip().lower(), text)
    for kind in (spec.kind, *spec.also):
        if kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
    return text


def accepts(spec: Option, value: Any) -> bool:
    """Whether a value has the option's type and is within its bounds."""
    if spec.kind is list:
        types = (str, *spec.also)
        return isinstance(value, list) and all(isinstance(item, types) for item in value)
    if isinstance(value, spec.also) or (isinstance(value, str) and value in spec.words):
        return True
    if spec.kind is bool:
        return isinstance(value, bool)
    if spec.kind is str:
        return isinstance(value, str) and (not spec.choices or value in spec.choices)
    number = (int, float) if spec.kind is float else int
    if isinstance(value, bool) or not isinstance(value, number):
        return False
    return spec.lowest <= value <= spec.highest and value < math.inf


def describe(spec: Option) -> str:
    """Describe the values that an option accepts, for an error message."""
    if spec.choices:
        return "one of " + ", ".join(spec.choices)
    if spec.kind is bool:
        return "True or False"
    noun = "path" if spec.item == "PATH" else "string"
    if spec.kind is list or list in spec.also:
        return f"a {noun} or a list of {noun}s"
    if spec.kind is str:
        return f"a {noun} or a dict" if dict in spec.also else f"a {noun}"
    number = "an integer" if spec.kind is int else "a number"
    if spec.unit:
        number = f"a {'whole ' if spec.kind is int else ''}number of {spec.unit}"
    if spec.lowest == ABOVE_ZERO:
        bounds = "above 0"
    elif math.isinf(spec.highest):
        bounds = f"of at least {spec.lowest}"
    else:
        bounds = f"from {spec.lowest} to {spec.highest}"
    *accepted, last = [f"{number} {bounds}", *map(repr, spec.words)]
    return f"{', '.join(accepted)} or {last}" if accepted else last


def words(name: str, value: Any) -> list[str]:
    """Return the items of a comma-separated string or of a list, stripped, without empty ones.

    Raises:
        ConfigError: an item is not a string.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not all(isinstance(part, str) for part in parts):
        raise ConfigError(name, f"{value!r} given, expected strings")
    return [word for part in parts if (word := part.strip())]


# --- Conversions of single options ----------------------------------------------------------------


def checked_files(found: list[str]) -> list[str]:
    if not all(found):
        raise ValueError(f"{found!r} given, expected a path or a list of paths")
    return found


def checked_hosts(found: list[str]) -> list[str]:
    if not found:
        raise ValueError(f"{found!r} given, expected at least one address")
    return found


def checked_octal(found: str) -> str:
    if not re.fullmatch("0?[0-7]{1,3}", found):
        raise ValueError(f"{found!r} given, expected octal digits such as 660")
    return found


def checked_path(found: str) -> str:
    if found and not (found.startswith("/") and wire_accepts(lib.th_is_visible, found)):
        raise ValueError(f"{found!r} given, expected a path: '/' and visible ASCII characters")
    return found


def checked_headers(found: list[Any]) -> list[tuple[str, str]]:
    return [header_field(header) for header in found]


def header_field(header: Any) -> tuple[str, str]:
    """Return name and value from "Name: Value" or from a pair.

    Raises:
        ValueError: the field is invalid (RFC 9110 section 5), or the server's to set.
    """
    if isinstance(header, str):
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError(f"{header!r} given, expected 'Name: Value'")
    elif len(header) == 2 and all(isinstance(part, str) for part in header):
        name, value = header
    else:
        raise ValueError(f"{header!r} given, expected a pair of strings")
    value = value.strip(" \t")
    if not wire_accepts(lib.th_is_token, name):
        raise ValueError(f"{name!r} is not a valid field name (RFC 9110 section 5.6.2)")
    if not wire_accepts(lib.th_is_field_value, value):
        raise ValueError(f"{value!r} is not a valid field value (RFC 9110 section 5.5)")
    if name.lower() in ("content-length", "transfer-encoding", "connection"):
        raise ValueError(f"{name!r} is set by the server")
    return name, value


def wire_accepts(check: Any, text: str) -> bool:
    """Whether a text passes a check of csrc; text outside Latin-1 cannot be sent at all."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return bool(check(data, len(data)))

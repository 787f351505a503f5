"""What an option is: the constructors that declare one, and the check of a value for it. The
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
LARGEST_SIZE = 2**30  # bytes; it must fit in memory, and the core counts in 32 bits
ABOVE_ZERO = math.ulp(0.0)  # a lower bound that leaves out 0 alone


@dataclass(frozen=True)
class Option:
    """What the command line, the documents and the check of a value know of a field of Config.

    Attributes:
        group: heading in --help.
        help: one or two short sentences.
        kind: int, float, str, bool, or list (of strings, repeatable on the command line).
        unit: of a number.
        lowest, highest: bounds of a number, inclusive.
        choices: the strings to choose from.
        words: strings accepted in place of a number or a switch.
        item: placeholder of a value in --help; shells complete PATH.
        also: further types that are accepted from Python and TOML; those of items, for a list.
        optional: None is a value, and means "not set". For other options it means the default.
        flag: name on the command line, if it differs from the field's.
        secret: the value is hidden from repr() of a Config and from `thestral check`.
        convert: makes the value to store out of one of the right type. It raises ValueError, with
            a reason, or ConfigError.
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


# --- Declaring one: (default, group, help, further attributes of Option) --------------------------


def option(default: Any, group: str, help: str, **attributes: Any) -> Any:
    """A field of a dataclass. One whose default is None is optional."""
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
    """The value as Config stores it, by the same rules wherever it comes from.

    Raises:
        ConfigError: its type is wrong, it is out of bounds, or it cannot be converted.
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
    """The value in the option's type if it is written in another one, else the value itself."""
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
    """The value that a string stands for: on the command line and in the environment there is
    nothing else. The string itself if it stands for nothing.
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
    """What an option accepts, for an error message."""
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
    """The parts of a comma-separated string, or of a list, without blanks around them.

    Raises:
        ConfigError: a part is not a string.
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
    """Name and value from "Name: Value" or a pair.

    Raises:
        ValueError: it could not be sent (RFC 9110 section 5).
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
    """Whether csrc's check holds for the text; text outside latin-1 cannot be sent at all."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return bool(check(data, len(data)))

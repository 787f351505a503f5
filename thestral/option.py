"""What an option is, and what its value may be; thestral.config has the options themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from thestral._csrc import lib
from thestral.errors import ConfigError

SWITCH_TEXTS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off", ""), False),
}


@dataclass(frozen=True)
class Option:
    """What the command line and the check of a value need to know of a field.

    Attributes:
        help: one sentence.
        group: heading in --help.
        kind: int, float, str, bool, or list (repeatable).
        unit: what a number counts.
        choices: the values a text may have.
        lowest, highest: bounds of a number, inclusive.
        positive: the number must also not be 0.
        optional: None stands for "not set".
        flag: name on the command line if it is not the field's.
        item: what a value is, for --help; PATH is completed by the shell.
        words: texts that may stand in place of a number, or of a switch.
        secret: repr() of a Config and `thestral check` do not show it.
        also: types that a value given from Python may have, too.
    """

    help: str
    group: str
    kind: type
    unit: str = ""
    choices: tuple[str, ...] = ()
    lowest: float = 0
    highest: float = math.inf
    positive: bool = False
    optional: bool = False
    flag: str = ""
    item: str = ""
    words: tuple[str, ...] = ()
    secret: bool = False
    also: tuple[type, ...] = ()


def option(default: Any, **settings: Any) -> Any:
    spec = Option(**settings)
    metadata = {"option": spec}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, repr=not spec.secret)


def checked(name: str, spec: Option, value: Any) -> Any:
    """The value in the option's type.

    Raises:
        ConfigError: it is not of that type or out of bounds.
    """
    if value is None:
        if spec.optional:
            return None
        raise refused(name, spec, value)
    if spec.kind is list:
        if isinstance(value, (str, os.PathLike)):
            value = [value]
        if not isinstance(value, Iterable):
            raise refused(name, spec, value)
        items = [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
        if name != "headers" and not all(isinstance(item, str) for item in items):
            raise refused(name, spec, items)
        return items
    if isinstance(value, os.PathLike) and spec.item == "PATH":
        value = os.fspath(value)
    if isinstance(value, str):
        value = read_text(spec, value)
    elif isinstance(value, float) and spec.choices:
        value = str(value)  # ssl-min-version = 1.2, in a file
    given = value
    if spec.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if spec.kind is bool and value in (0, 1):
        value = bool(value)
    if isinstance(value, spec.also) or value in spec.words:
        return value
    if not isinstance(value, spec.kind) or (isinstance(value, bool) and spec.kind is not bool):
        raise refused(name, spec, given)
    if spec.choices and value not in spec.choices:
        raise refused(name, spec, given)
    if isinstance(value, (int, float)) and spec.kind is not bool:
        in_bounds = spec.lowest <= value <= spec.highest and math.isfinite(value)
        if not in_bounds or (spec.positive and value == 0):
            raise refused(name, spec, given)
    return value


def refused(name: str, spec: Option, value: Any) -> ConfigError:
    return ConfigError(name, f"{value!r} given, expected {describe(spec)}")


def read_text(spec: Option, text: str) -> Any:
    """What a text stands for, as it comes from a command line, the environment, or a program that
    hands on either; the text itself if it stands for nothing.
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


def describe(spec: Option) -> str:
    """What an option takes, for an error message."""
    if spec.choices:
        return "one of " + ", ".join(spec.choices)
    if spec.kind is list:
        return "a text or a list of them"
    if spec.kind is bool:
        return "True or False"
    if spec.kind is str:
        return "a text"
    kind = "an integer" if spec.kind is int else "a number"
    unit = f" of {spec.unit}" if spec.unit else ""
    least = "above 0" if spec.positive else f"of at least {spec.lowest}"
    most = "" if math.isinf(spec.highest) else f" and at most {spec.highest}"
    words = "".join(f", or {word!r}" for word in spec.words)
    return f"{kind}{unit} {least}{most}{words}"


def paths(name: str, value: Any) -> list[str]:
    """One path, or several, as texts.

    Raises:
        ConfigError: it is something else.
    """
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    if isinstance(value, Iterable):
        found = [os.fspath(path) if isinstance(path, os.PathLike) else path for path in value]
        if all(isinstance(path, str) and path for path in found):
            return found
    raise ConfigError(name, f"{value!r} given, expected a path or several")


def words(name: str, value: Any) -> list[str]:
    """A comma-separated text, or a list, as texts without blanks around them.

    Raises:
        ConfigError: it is something else.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not all(isinstance(part, str) for part in parts):
        raise ConfigError(name, f"{value!r} given, expected texts")
    return [word for part in parts if (word := part.strip())]


def checked_header(header: Any) -> tuple[str, str]:
    """A pair of texts from "Name: Value" or a pair.

    Raises:
        ConfigError: it could not be sent (RFC 9110 section 5).
    """
    if isinstance(header, str):
        name, colon, value = header.partition(":")
        if not colon:
            raise ConfigError("headers", f"{header!r} given, expected 'Name: Value'")
    else:
        try:
            name, value = header
        except (TypeError, ValueError):
            raise ConfigError("headers", f"{header!r} given, expected a pair") from None
    if not isinstance(name, str) or not isinstance(value, str):
        raise ConfigError("headers", f"{header!r} given, expected texts")
    value = value.strip(" \t")
    if not wire_accepts(lib.th_is_token, name):
        raise ConfigError("headers", f"{name!r} is not a field name (a token, RFC 9110 5.6.2)")
    if not wire_accepts(lib.th_is_field_value, value):
        raise ConfigError("headers", f"{value!r} is not a field value (RFC 9110 section 5.5)")
    if name.lower() in ("content-length", "transfer-encoding", "connection"):
        raise ConfigError("headers", f"{name!r} is the server's to send")
    return name, value


def wire_accepts(check: Any, text: str) -> bool:
    """Whether csrc's check holds for the text; text outside latin-1 cannot be sent at all."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return bool(check(data, len(data)))

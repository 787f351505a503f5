"""Parses --access-log-format, a string with Apache's or gunicorn's atoms."""

from __future__ import annotations

import re
from typing import NamedTuple

from thestral._csrc import lib
from thestral.errors import ConfigError

DEFAULT = "uvicorn"
MESSAGE = '%{client}x - "%r" %{status}x'  # of the default format, without its level
# Characters that JSON strings must escape.
UNSAFE = re.compile(r'["\\\x00-\x1f]')


def json_format(message: str) -> str:
    """Return the format of a JSON object with all values of a request.

    Args:
        message: the format of its message.
    """
    shown = UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", message)
    return (
        f'{{"time":"%{{utc}}x","level":"INFO","logger":"uvicorn.access","message":"{shown}",'
        '"worker":%{worker}x,"pid":%p,%{ids}x"client":"%h","method":"%m","path":"%U","query":"%q",'
        '"version":"%{version}x","status":%s,"bytes":%B,"duration":%L,"aborted":%{aborted}x,'
        '"referer":"%f","user_agent":"%a"}'
    )


PRESETS = {
    DEFAULT: f"INFO:     {MESSAGE}",
    "combined": '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"',
    "json": json_format(MESSAGE),
}
PLAIN = "hlutrsmUqHbBfaTDMLp"
NAMED = "ioe"
# %{name}x, the form of additions in Apache's modules.
EXTENSIONS = (
    *("client", "status", "version", "time", "utc", "aborted", "worker"),
    *("request_id", "trace_id", "span_id", "ids"),
)

# gunicorn's %(h)s and %({name}i)s, Apache's %h, %>s and %{name}i.
ATOM = re.compile(
    r"%(?:\((?P<gunicorn>(?:\{[^}]+\})?[A-Za-z])\)s|[<>]?(?P<apache>(?:\{[^}]+\})?[A-Za-z]|%))"
)


class Atom(NamedTuple):
    """A piece of a format.

    Attributes:
        letter: which value to write; "" for literal text.
        name: the name in braces, "" if there is none; or the literal text.
    """

    letter: str
    name: str


def whole_format(text: str, log_format: str, timestamps: bool, request_ids: bool) -> str:
    """Return the format of a whole line.

    Args:
        text: value of --access-log-format. In a JSON log, a format of text becomes the message of
            an object; a format that is an object itself stays unchanged.
        log_format: value of --log-format.
        timestamps, request_ids: values of --log-timestamps and --request-id. They change only the
            default format: others have atoms for both.
    """
    if log_format == "json" and not is_json(text):
        return json_format(MESSAGE if text == DEFAULT else PRESETS.get(text, text))
    if text != DEFAULT:
        return text
    time, identity = "%{utc}x " if timestamps else "", " %{request_id}x" if request_ids else ""
    return time + PRESETS[DEFAULT] + identity


def read_format(text: str) -> list[Atom]:
    """Split a format into its pieces, in order.

    Args:
        text: the name of a preset, or atoms between literal text.

    Raises:
        ConfigError: the format is empty or has an unknown atom.
    """
    text = PRESETS.get(text, text)
    if not text:
        raise ConfigError("access_log_format", "'' given, expected a format")
    atoms: list[Atom] = []
    position = 0
    for found in ATOM.finditer(text):
        atoms.append(literal(text[position : found.start()]))
        position = found.end()
        body = found["gunicorn"] or found["apache"]
        atoms.append(literal("%%") if body == "%" else atom(body))
    atoms.append(literal(text[position:]))
    return [piece for piece in atoms if piece.letter or piece.name]


def literal(text: str) -> Atom:
    at = text.replace("%%", "").find("%")
    if at >= 0:
        raise unknown(text[text.index("%") :][:20])
    return Atom("", text.replace("%%", "%"))


def atom(body: str) -> Atom:
    letter = body[-1]
    name = body[1:-2]
    known = (
        letter in PLAIN
        if not name
        else name in EXTENSIONS
        if letter == "x"
        else letter in NAMED and (letter == "e" or is_token(name))
    )
    if not known:
        raise unknown(f"%{body}")
    return Atom(letter, name)


def is_token(name: str) -> bool:
    """Whether a field may have this name (RFC 9110 section 5.6.2)."""
    data = name.encode(errors="replace")
    return bool(lib.th_is_token(data, len(data)))


def unknown(shown: str) -> ConfigError:
    names = ", ".join(f"%{{{name}}}x" for name in EXTENSIONS)
    return ConfigError(
        "access_log_format",
        f"{shown!r} given, expected one of {', '.join(PRESETS)}, or a string with"
        f" {', '.join('%' + letter for letter in PLAIN)}, %{{Field}}i, %{{Field}}o, %{{VARIABLE}}e,"
        f" {names}; %% is a percent sign",
    )


def needs_ids(text: str) -> bool:
    """Whether lines show ids that are not simply values of a request's fields."""
    return any(atom.name in ("ids", "trace_id", "span_id") for atom in read_format(text))


def is_json(text: str) -> bool:
    """Whether the format is a JSON object, in which values are escaped as JSON strings."""
    return PRESETS.get(text, text).lstrip().startswith("{")

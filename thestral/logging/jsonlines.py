"""JsonFormatter: one line of JSON for each record, whatever the record holds."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Literal

from thestral.logging.running import ATTRIBUTE, IDS, identity_of

# Attribute of a record of the access log: its line, already formatted.
LINE = "thestral_line"
# How deep values of `extra` may nest; deeper ones are shown as text.
DEEPEST = 5
# Attributes that every record has, and those that logging and other libraries add for their own
# use.
NOT_EXTRA = frozenset(
    [
        *vars(logging.makeLogRecord({})),
        *("message", "asctime", "taskName", "color_message", "levelprefix", LINE, ATTRIBUTE),
    ]
)


class ThisProcess:
    """Facts about this process, for its lines.

    Attributes:
        worker: the worker's number, from 1; None in a process that is not a worker.
    """

    worker: int | None = None


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object in one line of ASCII.

    Keys are time, level, logger, message, worker, pid; then request_id, trace_id, span_id,
    exception and stack, where there are any; then what was passed to the logger in `extra`.

    Args:
        fmt, datefmt, style, use_colors: ignored; a logging configuration may give them.
    """

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__()
        import json  # here, because most servers log text

        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = getattr(record, LINE, None)
        if line is not None:
            return line
        fields: dict[str, Any] = {
            "time": utc(record.created),
            "level": plain_text(record.levelname),
            "logger": plain_text(record.name),
            "message": message_of(record),
            "worker": ThisProcess.worker,
            "pid": record.process or os.getpid(),
        }
        identity = identity_of(record)
        for name in IDS:
            if value := getattr(identity, name, ""):
                fields[name] = plain_text(value)
        if exception := self._exception(record):
            fields["exception"] = exception
        if record.stack_info:
            fields["stack"] = plain_text(record.stack_info)
        for name, value in record.__dict__.items():
            if name not in NOT_EXTRA:
                fields.setdefault(plain_text(name), plain(value, DEEPEST))
        return self._encode(fields)

    def _exception(self, record: logging.LogRecord) -> str:
        info = record.exc_info
        if not (isinstance(info, tuple) and info[0] is not None):
            return plain_text(record.exc_text or "")
        try:
            return plain_text(self.formatException(info))
        except Exception as error:
            return plain_text(f"{info[0]!r}, which could not be formatted: {type(error).__name__}")


def message_of(record: logging.LogRecord) -> str:
    """Return a record's message; if its arguments do not fit, the message without them."""
    try:
        return plain_text(record.getMessage())
    except Exception as error:
        return f"{plain_text(record.msg)} (arguments: {type(error).__name__})"


def plain(value: Any, depth: int) -> Any:
    """Return a value that JSON can hold, in place of any value."""
    if value is None or value is True or value is False:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)  # JSON has no NaN
    if type(value) is int and value.bit_length() <= 64:  # the longest that readers must expect
        return value
    try:
        if depth > 0 and isinstance(value, Mapping):
            return {plain_text(key): plain(item, depth - 1) for key, item in value.items()}
        if depth > 0 and isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, depth - 1) for item in value]
    except Exception:  # a container that changes or fails while it is read
        return f"<{type(value).__name__}>"
    return plain_text(value)


def plain_text(value: Any) -> str:
    r"""Return a value as text that UTF-8 can encode: a lone surrogate becomes "\udc80"."""
    try:
        text = value if type(value) is str else str(value)
        text = str.__str__(text)  # a subclass of str may return itself
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


def utc(seconds: float) -> str:
    """Return a Unix time as RFC 3339 has it, in UTC with milliseconds."""
    try:
        whole, thousandths = divmod(int(seconds * 1000), 1000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{thousandths:03}Z"
    except (ValueError, OverflowError, TypeError, OSError):  # a record with an invalid time
        return utc(time.time())

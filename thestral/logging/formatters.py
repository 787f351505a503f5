"""Formatters with colours on a terminal."""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import ClassVar, Literal

import click

from thestral._core.http1 import reason_phrase
from thestral.logging.jsonlines import utc
from thestral.logging.loggers import TRACE_LOG_LEVEL


class ColourizedFormatter(logging.Formatter):
    """Adds %(levelprefix)s, the level's name in its colour, padded; and %(timestamp)s, the time in
    UTC with milliseconds.

    Args:
        use_colors: None means on a terminal, unless NO_COLOR is set (no-color.org).
    """

    colors: ClassVar[dict[int, str]] = {
        TRACE_LOG_LEVEL: "blue",
        logging.DEBUG: "cyan",
        logging.INFO: "green",
        logging.WARNING: "yellow",
        logging.ERROR: "red",
        logging.CRITICAL: "bright_red",
    }

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt=fmt, datefmt=datefmt, style=style)
        if use_colors is None:
            use_colors = self.is_terminal() and not os.environ.get("NO_COLOR")
        self.use_colors = use_colors
        self._timestamped = "timestamp" in (fmt or "")

    def is_terminal(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def paint(self, text: str, color: str | None) -> str:
        return click.style(text, fg=color) if self.use_colors and color else text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        painted = copy.copy(record)
        prefix = self.paint(record.levelname, self.colors.get(record.levelno))
        painted.__dict__["levelprefix"] = f"{prefix}:{' ' * (8 - len(record.levelname))}"
        if self._timestamped:
            painted.__dict__["timestamp"] = utc(record.created)
        return super().formatMessage(painted)


class DefaultFormatter(ColourizedFormatter):
    """Formats the server's own messages."""


class AccessFormatter(ColourizedFormatter):
    """Formats access records: adds client_addr, request_line, status_code, method, full_path,
    http_version, and request_id, which is "-" without --request-id.
    """

    def is_terminal(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        painted = copy.copy(record)
        client_addr, method, full_path, http_version, status_code = record.args  # type: ignore[misc]
        assert isinstance(status_code, int)
        line = f"{method} {full_path} HTTP/{http_version}"
        painted.__dict__.setdefault("request_id", "-")
        painted.__dict__.update(
            client_addr=client_addr,
            method=method,
            full_path=full_path,
            http_version=http_version,
            request_line=click.style(line, bold=True) if self.use_colors else line,
            status_code=self.paint_status(status_code),
        )
        return super().formatMessage(painted)

    def paint_status(self, status_code: int) -> str:
        color = {1: "bright_white", 2: "green", 3: "yellow", 4: "red", 5: "bright_red"}
        return self.paint(
            f"{status_code} {reason_phrase(status_code)}".rstrip(), color.get(status_code // 100)
        )

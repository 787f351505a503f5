"""Logging: the loggers, their default configuration, and formatters with colours on a terminal.

Names and shapes are uvicorn's under `thestral`: `thestral` for all, `thestral.error`,
`thestral.access`. An access record carries args (client_addr, method, full_path, http_version,
status_code).
"""

from __future__ import annotations

import copy
import http
import logging
import logging.config
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

if TYPE_CHECKING:
    from thestral.protocol.connection import Connection, Stream

TRACE_LOG_LEVEL = 5
LOG_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE_LOG_LEVEL,
}

logging.addLevelName(TRACE_LOG_LEVEL, "TRACE")
error_logger = logging.getLogger("thestral.error")
access_logger = logging.getLogger("thestral.access")

LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": "thestral.logging.DefaultFormatter",
            "fmt": "%(levelprefix)s %(message)s",
            "use_colors": None,
        },
        "access": {
            "()": "thestral.logging.AccessFormatter",
            "fmt": '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
            "use_colors": None,
        },
    },
    "handlers": {
        "default": {
            "formatter": "default",
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "formatter": "access",
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "thestral": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "thestral.error": {"level": "INFO"},
        "thestral.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}


def configure(level: int | None, access_log: bool) -> None:
    """Install LOGGING_CONFIG.

    Args:
        level: of logging, for all three loggers; None leaves INFO.
        access_log: False takes the access logger's handlers away.
    """
    logging.config.dictConfig(LOGGING_CONFIG)
    if level is not None:
        for name in ("thestral.error", "thestral.access", "thestral"):
            logging.getLogger(name).setLevel(level)
    if not access_log:
        access_logger.handlers = []
        access_logger.propagate = False


def client_address(connection: Connection) -> str:
    """host:port of the peer; "" if it has none, as on a Unix socket."""
    client = connection.client
    return f"{client[0]}:{client[1]}" if client else ""


def log_access(stream: Stream) -> None:
    """One line for a complete response."""
    scope = stream.cycle.scope
    target = scope["raw_path"].decode("latin-1")
    query = scope["query_string"]
    access_logger.info(
        '%s - "%s %s HTTP/%s" %d',
        client_address(stream.connection),
        scope.get("method", "GET"),  # a WebSocket's scope has none
        f"{target}?{query.decode('latin-1')}" if query else target,
        stream.http_version,
        stream.status,
    )


class ColourizedFormatter(logging.Formatter):
    """Adds %(levelprefix)s: the level's name in its colour, padded.

    Args:
        use_colors: None for colours on a terminal unless NO_COLOR is set (no-color.org).
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

    def is_terminal(self) -> bool:
        return sys.stderr.isatty()

    def paint(self, text: str, color: str | None) -> str:
        return click.style(text, fg=color) if self.use_colors and color else text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        painted = copy.copy(record)
        prefix = self.paint(record.levelname, self.colors.get(record.levelno))
        painted.__dict__["levelprefix"] = f"{prefix}:{' ' * (8 - len(record.levelname))}"
        return super().formatMessage(painted)


class DefaultFormatter(ColourizedFormatter):
    """For the server's own messages."""


class AccessFormatter(ColourizedFormatter):
    """For access records: adds client_addr, request_line, status_code, method, full_path,
    http_version.
    """

    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        painted = copy.copy(record)
        client_addr, method, full_path, http_version, status_code = record.args  # type: ignore[misc]
        assert isinstance(status_code, int)
        line = f"{method} {full_path} HTTP/{http_version}"
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
        try:
            phrase = http.HTTPStatus(status_code).phrase
        except ValueError:
            phrase = ""
        color = {1: "bright_white", 2: "green", 3: "yellow", 4: "red", 5: "bright_red"}
        return self.paint(f"{status_code} {phrase}".rstrip(), color.get(status_code // 100))

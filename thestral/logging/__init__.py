"""Logging: the loggers, their configuration, and formatters with colours on a terminal.

Names and shapes are uvicorn's: `uvicorn` for all, `uvicorn.error`, `uvicorn.access`, because
handlers, log processors and dashboards look for them in a record. `thestral`, `thestral.error` and
`thestral.access` are second names. An access record carries args (client_addr, method, full_path,
http_version, status_code).
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from thestral._core.http1 import reason_phrase
from thestral._core.log import escaped, find_field
from thestral._csrc import lib
from thestral.logging.format import DEFAULT
from thestral.logging.output import BoundedStreamHandler, bound_last_resort
from thestral.logging.setup import (
    LINE_FORMATS,
    UNCHANGED,
    SharedLogger,
    apply_log_config,
    read_log_config,
    shared_logger,
)

if TYPE_CHECKING:
    from thestral.config import Config
    from thestral.protocol.connection import Connection

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
server_logger = shared_logger("uvicorn", "thestral")
error_logger = shared_logger("uvicorn.error", "thestral.error")
access_logger = shared_logger("uvicorn.access", "thestral.access")

# At most so many refusals are told in so many seconds; of the rest only how many.
REFUSALS_TOLD = 10
REFUSALS_TIME = 10.0  # seconds
# An X-Request-ID of visible ASCII and no more than this is shown.
LONGEST_REQUEST_ID = 128  # bytes


def configure(config: Config) -> None:
    """Set logging up as the options say.

    Raises:
        ConfigError: log_config cannot be used.
    """
    given = config.log_config
    if given is not None and not given:
        apply_own(own_config(config), config.use_colors)
    elif given:
        content = read_log_config(given)
        shown = repr(given) if isinstance(given, str) else "the dict given"
        apply_log_config(content, config.use_colors, shown)
    if given is not None:
        bound_last_resort()
        SharedLogger.first_names_used = None  # the program may disable them by either name
    level = config.log_level_number
    if level is not None:
        for logger in (error_logger, access_logger, server_logger):
            logger.setLevel(level)
    if not config.access_log:
        access_logger.handlers = []
        access_logger.propagate = False


def apply_own(content: dict[str, Any], use_colors: bool | None) -> None:
    """What logging.config does with LOGGING_CONFIG; most servers start without importing that."""
    handlers = {}
    for name, spec in content["handlers"].items():
        handler: logging.Handler = logging.NullHandler()
        if "stream" in spec:
            handler = BoundedStreamHandler(STREAMS[spec["stream"]]())
            formatter = content["formatters"][spec["formatter"]]
            kind = FORMATTERS[formatter["()"]]
            handler.setFormatter(kind(formatter["fmt"], use_colors=use_colors))
        handlers[name] = handler
    for name, spec in content["loggers"].items():
        logger = logging.getLogger(name)
        logger.handlers = [handlers[of] for of in spec.get("handlers", ())]
        logger.setLevel(spec["level"])
        logger.propagate = spec.get("propagate", True)
        logger.disabled = False


def own_config(config: Config) -> dict[str, Any]:
    own = copy.deepcopy(UNCHANGED)
    for name, stream in (("default", sys.stderr), ("access", sys.stdout)):
        if stream is None:  # the process was started with it closed
            own["handlers"][name] = {"class": "logging.NullHandler"}
    own["formatters"]["access"]["fmt"] = LINE_FORMATS[config.access_log_format == DEFAULT]
    return own


def reopen_files() -> None:
    """Open the log files anew that handlers write to, as they may have been renamed, and say which.

    Handlers of the application count, too, whatever loggers or queues they stand behind.
    """
    names = []
    for handler in file_handlers():
        try:
            reopen(handler)
        except OSError as exc:
            error_logger.error("Log file not opened anew, the old one is written on: %s", exc)
        else:
            names.append(repr(handler.baseFilename))
    if names:
        shown = ", ".join(sorted(names))
        error_logger.info("Process [%d] has opened its log files anew: %s", os.getpid(), shown)
    else:
        error_logger.info("Process [%d] has no log files to open anew", os.getpid())


def file_handlers() -> set[logging.FileHandler]:
    """Those that logging knows, and those of loggers: dictConfig() forgets all that came before."""
    found = {reference() for reference in list(logging._handlerList)}  # type: ignore[attr-defined]
    for logger in [logging.root, *list(logging.root.manager.loggerDict.values())]:
        found.update(getattr(logger, "handlers", ()))
    return {handler for handler in found if isinstance(handler, logging.FileHandler)}


def reopen(handler: logging.FileHandler) -> None:
    """Have a handler write to the file that has its name now.

    Raises:
        OSError: it cannot be opened.
    """
    handler.acquire()
    try:
        if hasattr(handler, "reopenIfNeeded"):  # WatchedFileHandler's, which takes long to import
            handler.reopenIfNeeded()
        elif handler.stream is not None:  # else it opens the file with its first line
            handler.mode = handler.mode.replace("w", "a").replace("x", "a")  # nothing is erased
            old = handler.setStream(handler._open())
            if old is not None:
                old.close()
    finally:
        handler.release()


def client_address(connection: Connection) -> str:
    """host:port of the peer; "" if it has none, as on a Unix socket."""
    client = connection.client
    return f"{client[0]}:{client[1]}" if client else ""


def request_id(fields: Any) -> bytes | None:
    """X-Request-ID among the fields of a request, if it is fit to be shown."""
    try:
        value = find_field(fields, b"x-request-id") if fields else None
    except (TypeError, ValueError):  # the application has changed its scope
        return None
    if not value or len(value) > LONGEST_REQUEST_ID:
        return None
    return value if lib.th_is_visible(value, len(value)) else None


def title_of(scope: dict[str, Any]) -> str:
    """What the log calls a request: in one line, whatever the client has sent."""
    # Not the path, whose escapes are resolved: it may hold the end of a line.
    path = scope.get("raw_path")
    title = f"{scope.get('method', 'WebSocket')} {escaped(path) if path else '?'}"
    identity = request_id(scope.get("headers"))
    return f"{title}, request id {escaped(identity)}" if identity else title


class Refusals:
    """Lines that each connection of a worker may give rise to: no flood of them floods the log.

    Times are those of the worker's clock.
    """

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0
        self._warned: set[str] = set()

    def info(self, now: float, message: str, *arguments: object) -> None:
        """Log a line, or count it."""
        self.tick(now)
        if self._count == 0:
            self._until = now + REFUSALS_TIME
        self._count += 1
        if self._count <= REFUSALS_TOLD:
            error_logger.info(message, *arguments)

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning, but no second one with this message, whatever its arguments are."""
        if message not in self._warned:
            self._warned.add(message)
            error_logger.warning(message, *arguments)

    def tick(self, now: float) -> bool:
        """Say what was only counted once its time is over; whether there is still something."""
        if self._count and now >= self._until:
            self.sum_up()
        return self._count > REFUSALS_TOLD

    def sum_up(self) -> None:
        untold = self._count - REFUSALS_TOLD
        if untold > 0:
            error_logger.info("Refused %d more within %g seconds", untold, REFUSALS_TIME)
        self._count = 0


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
        return sys.stderr is not None and sys.stderr.isatty()

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
        return sys.stdout is not None and sys.stdout.isatty()

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
        color = {1: "bright_white", 2: "green", 3: "yellow", 4: "red", 5: "bright_red"}
        return self.paint(
            f"{status_code} {reason_phrase(status_code)}".rstrip(), color.get(status_code // 100)
        )


# Of LOGGING_CONFIG; the streams as they are when logging is configured.
FORMATTERS = {
    f"{kind.__module__}.{kind.__name__}": kind for kind in (DefaultFormatter, AccessFormatter)
}
STREAMS = {"ext://sys.stderr": lambda: sys.stderr, "ext://sys.stdout": lambda: sys.stdout}

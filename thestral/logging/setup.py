"""Sets up logging: the default configuration, or --log-config, a file or a dict for
logging.config.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from thestral.errors import ConfigError
from thestral.logging.format import DEFAULT
from thestral.logging.formatters import AccessFormatter, DefaultFormatter
from thestral.logging.jsonlines import JsonFormatter
from thestral.logging.levels import set_level
from thestral.logging.loggers import SharedLogger, access_logger
from thestral.logging.output import BoundedStreamHandler, LogFileHandler, bound_last_resort
from thestral.logging.uncaught import log_uncaught

if TYPE_CHECKING:
    import configparser

# Names in uvicorn.logging are replaced by the same names in thestral.logging.
UVICORN_MODULE = "uvicorn.logging."
OWN_MODULE = "thestral.logging."

# Format string of the access handler, by whether --access-log-format is the default.
LINE_FORMATS = {
    True: '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
    False: "%(message)s",
}
# Put before each format by --log-timestamps, and after that of the access log by --request-id.
TIMESTAMP = "%(timestamp)s "
REQUEST_ID = " %(request_id)s"
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
            "fmt": LINE_FORMATS[True],
            "use_colors": None,
        },
    },
    "handlers": {
        "default": {
            "formatter": "default",
            "class": "thestral.logging.BoundedStreamHandler",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "formatter": "access",
            "class": "thestral.logging.BoundedStreamHandler",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"level": "INFO"},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}
UNCHANGED = copy.deepcopy(LOGGING_CONFIG)


def read_log_config(given: str | dict[str, Any]) -> dict[str, Any] | configparser.RawConfigParser:
    """Read a logging configuration, with our formatters in place of uvicorn's.

    Args:
        given: a path (.json, .yaml, .yml, .toml, otherwise INI), or a dict.

    Raises:
        ConfigError: the file cannot be read.
    """
    if isinstance(given, dict):
        return with_own_formatters(given)
    suffix = os.path.splitext(given)[1]
    try:
        with open(given, encoding="utf-8") as file:
            text = file.read()
        # Parsers are imported only where needed: most servers start without any of them.
        if suffix == ".json":
            import json

            content = json.loads(text)
        elif suffix == ".toml":
            import tomllib

            content = tomllib.loads(text)
        elif suffix in (".yaml", ".yml"):
            content = read_yaml(text)
        else:
            return read_ini(text)
    except ConfigError:
        raise
    except Exception as error:
        raise unusable(repr(given), error) from None
    if not isinstance(content, dict):
        raise ConfigError("log_config", f"{given!r} does not contain a table of logging settings")
    return with_own_formatters(content)


def read_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "log_config", "YAML needs the PyYAML package: pip install 'thestral[standard]'"
        ) from None
    return yaml.safe_load(text)


def read_ini(text: str) -> configparser.RawConfigParser:
    import configparser

    parser = configparser.RawConfigParser()
    parser.read_string(text)
    for name in parser.sections():
        section = parser[name]
        if name.startswith("formatter_") and "class" in section:
            section["class"] = own_class(section["class"])
    return parser


def with_own_formatters(given: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with our formatters in place of uvicorn's."""
    content = dict(given)
    formatters = content.get("formatters")
    if isinstance(formatters, dict):
        content["formatters"] = {name: with_own_class(formatters[name]) for name in formatters}
    return content


def with_own_class(formatter: Any) -> Any:
    if not isinstance(formatter, dict):
        return formatter
    return {
        key: own_class(formatter[key]) if key in ("()", "class") else formatter[key]
        for key in formatter
    }


def own_class(name: Any) -> Any:
    if isinstance(name, str) and name.startswith(UVICORN_MODULE):
        return OWN_MODULE + name.removeprefix(UVICORN_MODULE)
    return name


def apply_log_config(
    content: dict[str, Any] | configparser.RawConfigParser, use_colors: bool | None, shown: str
) -> None:
    """Configure logging.

    Args:
        content: the result of read_log_config().
        use_colors: replaces that setting of formatters that have it; None leaves it alone.
        shown: name of the configuration in errors.

    Raises:
        ConfigError: logging rejects the configuration.
    """
    import logging.config  # imports much else

    try:
        if isinstance(content, dict):
            for formatter in content.get("formatters", {}).values():
                if use_colors is not None and "use_colors" in formatter:
                    formatter["use_colors"] = use_colors
            logging.config.dictConfig(content)
        else:
            logging.config.fileConfig(content, disable_existing_loggers=False)
    except Exception as error:
        raise unusable(shown, error) from error


def unusable(shown: str, error: Exception) -> ConfigError:
    """Return an error of one line, with the cause that logging's own exception hides."""
    text = str(error) or type(error).__name__
    if error.__cause__ is not None:
        text += f": {error.__cause__}"
    return ConfigError("log_config", f"{shown} cannot be used: {' '.join(text.split())}")


def changed_default() -> dict[str, Any] | None:
    """Return LOGGING_CONFIG if the program has changed it, else None."""
    return copy.deepcopy(LOGGING_CONFIG) if LOGGING_CONFIG != UNCHANGED else None


class LoggingOptions(Protocol):
    """The fields of Config that concern logging."""

    log_config: Any
    use_colors: bool | None
    log_format: str
    log_timestamps: bool
    log_file: str | None
    access_log: bool
    access_log_format: str
    access_log_file: str | None
    request_id: bool

    @property
    def log_level_number(self) -> int | None: ...


def configure(options: LoggingOptions) -> None:
    """Set up logging as the options say.

    Raises:
        ConfigError: log_config cannot be used.
    """
    given = options.log_config
    if given is not None and not given:
        apply_own(options)
    elif given:
        content = read_log_config(given)
        shown = repr(given) if isinstance(given, str) else "the given dict"
        apply_log_config(content, options.use_colors, shown)
    if given is not None:
        bound_last_resort(JsonFormatter() if options.log_format == "json" else None)
        SharedLogger.first_names_used = None  # from now on the program may disable by either name
    level = options.log_level_number
    if level is not None:
        set_level("thestral", level)
    if not options.access_log:
        access_logger.handlers = []
        access_logger.propagate = False


def apply_own(options: LoggingOptions) -> None:
    """Set up LOGGING_CONFIG as the options change it, without importing logging.config.

    Raises:
        ConfigError: a log file cannot be opened.
    """
    shown = own_handler("log_file", options.log_file, sys.stderr)
    access = own_handler("access_log_file", options.access_log_file, sys.stdout)
    shown.setFormatter(own_formatter(options, "default"))
    access.setFormatter(own_formatter(options, "access"))
    handlers = {"default": shown, "access": access}
    for name, spec in UNCHANGED["loggers"].items():
        logger = logging.getLogger(name)
        for old in logger.handlers:
            if type(old) is LogFileHandler:
                old.close()
        logger.handlers = [handlers[of] for of in spec.get("handlers", ())]
        logger.setLevel(spec["level"])
        logger.propagate = spec.get("propagate", True)
        logger.disabled = False
    if options.log_format == "json":
        log_uncaught(shown)


def own_handler(option: str, path: str | None, stream: Any) -> logging.Handler:
    """Return a handler for a file if there is a path, else for a stream.

    Raises:
        ConfigError: the file cannot be opened.
    """
    if path is not None:
        try:
            return LogFileHandler(path)
        except OSError as exc:
            reason = f"{path!r} cannot be opened: {os.strerror(exc.errno or 0)}"
            raise ConfigError(option, reason) from None
    if stream is None:  # it was closed when the process started
        return logging.NullHandler()
    return BoundedStreamHandler(stream)


def line_format_of(default: bool, timestamps: bool, request_ids: bool) -> str:
    """Return the format string of the access handler; arguments as for whole_format(), `default`
    for its default.
    """
    if not default:
        return LINE_FORMATS[False]
    before, behind = TIMESTAMP if timestamps else "", REQUEST_ID if request_ids else ""
    return before + LINE_FORMATS[True] + behind


def own_formatter(options: LoggingOptions, name: str) -> logging.Formatter:
    """Return the formatter of one of LOGGING_CONFIG's handlers."""
    if options.log_format == "json":
        return JsonFormatter()
    if name == "default":
        line_format = UNCHANGED["formatters"][name]["fmt"]
        line_format = TIMESTAMP + line_format if options.log_timestamps else line_format
    else:
        default = options.access_log_format == DEFAULT
        line_format = line_format_of(default, options.log_timestamps, options.request_id)
    use_colors = options.use_colors
    if use_colors is None and (options.log_file, options.access_log_file)[name == "access"]:
        use_colors = False  # whether stdout and stderr are terminals does not matter for a file
    kind = DefaultFormatter if name == "default" else AccessFormatter
    return kind(line_format, use_colors=use_colors)

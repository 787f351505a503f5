"""The loggers, which have uvicorn's names and ours, and --log-config: a file or a dict for
logging.config.
"""

from __future__ import annotations

import copy
import logging
import os
from typing import TYPE_CHECKING, Any, ClassVar

from thestral.errors import ConfigError

if TYPE_CHECKING:
    import configparser

# uvicorn's formatters have the same names in our module.
UVICORN_MODULE = "uvicorn.logging."
OWN_MODULE = "thestral.logging."

# What our handler of the access logger shows of a record: by whether the format is the default.
LINE_FORMATS = {
    True: '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
    False: "%(message)s",
}
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
            "class": "thestral.logging.output.BoundedStreamHandler",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "formatter": "access",
            "class": "thestral.logging.output.BoundedStreamHandler",
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


class SharedLogger(logging.Logger):
    """One of the two objects of a logger that stands in logging's table under two names: they have
    all attributes in common.

    dictConfig and fileConfig disable, one by one, the loggers that they do not name. Once a
    configuration has named loggers of one kind, those of the other kind disable nothing, or the
    names that it leaves out would silence those that it uses.
    """

    # Whether a configuration has named the loggers by their first names, or by the second ones.
    first_names_used: ClassVar[bool | None] = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled":
            is_first = logging.getLogger(self.name) is self
            if not value:
                SharedLogger.first_names_used = is_first
            elif SharedLogger.first_names_used not in (None, is_first):
                return
        super().__setattr__(name, value)


def shared_logger(name: str, other_name: str) -> logging.Logger:
    """The logger of a name, with another name.

    The program may hold loggers of both names already, and have set them up: both stay valid.
    """
    logger = logging.getLogger(name)
    other = logging.getLogger(other_name)
    for handler in other.handlers:
        logger.addHandler(handler)
    for condition in other.filters:
        logger.addFilter(condition)
    logger.setLevel(other.level or logger.level)
    logger.propagate = logger.propagate and other.propagate
    kind = type(logger)
    shared: Any = SharedLogger
    if kind is not logging.Logger:  # of logging.setLoggerClass()
        shared = type(kind.__name__, (SharedLogger, kind), {})
    logger.__class__ = other.__class__ = shared
    other.__dict__ = logger.__dict__
    return logger


def read_log_config(given: str | dict[str, Any]) -> dict[str, Any] | configparser.RawConfigParser:
    """What a file, or a dict, says, with our formatters in place of uvicorn's.

    Args:
        given: a path ending in .json, .yaml, .yml or .toml, or of an ini file; or the dict.

    Raises:
        ConfigError: the file cannot be read.
    """
    if isinstance(given, dict):
        return with_own_formatters(given)
    suffix = os.path.splitext(given)[1]
    try:
        with open(given, encoding="utf-8") as file:
            text = file.read()
        # Each parser is imported where it is needed: most servers start without all of them.
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
    """A copy with our formatters in place of uvicorn's."""
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
        content: of read_log_config().
        use_colors: for formatters that have such a setting, if it is not None.
        shown: what an error calls it.

    Raises:
        ConfigError: logging does not take it.
    """
    import logging.config  # and much behind it

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
    """One line, with the cause that logging hides behind its own exception."""
    text = str(error) or type(error).__name__
    if error.__cause__ is not None:
        text += f": {error.__cause__}"
    return ConfigError("log_config", f"{shown} cannot be used: {' '.join(text.split())}")


def changed_default() -> dict[str, Any] | None:
    """LOGGING_CONFIG if the program has changed it."""
    return copy.deepcopy(LOGGING_CONFIG) if LOGGING_CONFIG != UNCHANGED else None

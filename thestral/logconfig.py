"""--log-config: a file or a dict for logging.config, with uvicorn's names of loggers."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from thestral.errors import ConfigError

if TYPE_CHECKING:
    import configparser

# uvicorn's loggers, and ours that stand for them.
UVICORN_NAMES = {
    "uvicorn": "thestral",
    "uvicorn.error": "thestral.error",
    "uvicorn.access": "thestral.access",
}
# uvicorn's formatters have the same names in our module.
UVICORN_MODULE = "uvicorn.logging."
OWN_MODULE = "thestral.logging."


def read_log_config(given: str | dict[str, Any]) -> dict[str, Any] | configparser.RawConfigParser:
    """What a file, or a dict, says, with our names in place of uvicorn's.

    Args:
        given: a path ending in .json, .yaml, .yml or .toml, or of an ini file; or the dict.

    Raises:
        ConfigError: the file cannot be read.
    """
    if isinstance(given, dict):
        return renamed(given)
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
        raise ConfigError("log_config", f"{given!r} holds no table of logging's settings")
    return renamed(content)


def read_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "log_config", "YAML needs the package PyYAML: pip install 'thestral[standard]'"
        ) from None
    return yaml.safe_load(text)


def read_ini(text: str) -> configparser.RawConfigParser:
    import configparser

    parser = configparser.RawConfigParser()
    parser.read_string(text)
    for name in parser.sections():
        section = parser[name]
        if name.startswith("logger_") and section.get("qualname") in UVICORN_NAMES:
            section["qualname"] = UVICORN_NAMES[section["qualname"]]
        if name.startswith("formatter_") and "class" in section:
            section["class"] = own_class(section["class"])
    return parser


def renamed(given: dict[str, Any]) -> dict[str, Any]:
    """A copy with our loggers and formatters in place of uvicorn's; what names ours stays."""
    content = dict(given)
    loggers = content.get("loggers")
    if isinstance(loggers, dict):
        own = {name: loggers[name] for name in loggers if name not in UVICORN_NAMES}
        theirs = {UVICORN_NAMES[name]: loggers[name] for name in loggers if name in UVICORN_NAMES}
        content["loggers"] = theirs | own
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
    """Configure logging, and let uvicorn's names stand for our loggers.

    Args:
        content: of read_log_config().
        use_colors: for formatters that have such a setting, if it is not None.
        shown: what an error calls it.

    Raises:
        ConfigError: logging does not take it.
    """
    import logging.config  # and much behind it

    give_names_back()
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
    take_names()


def unusable(shown: str, error: Exception) -> ConfigError:
    """One line, with the cause that logging hides behind its own exception."""
    text = str(error) or type(error).__name__
    if error.__cause__ is not None:
        text += f": {error.__cause__}"
    return ConfigError("log_config", f"{shown} cannot be used: {' '.join(text.split())}")


def take_names() -> None:
    """Make getLogger("uvicorn.access") our access logger, and so on: filters that people add to it
    work, and what applications log to "uvicorn.error" is seen.

    A logger of that name that somebody holds already cannot become ours. Then ours takes over its
    filters, and shows what is logged to it if nothing else would.
    """
    known = logging.Logger.manager.loggerDict
    for theirs, own in UVICORN_NAMES.items():
        logger = logging.getLogger(own)
        held = known.get(theirs)
        if not isinstance(held, logging.Logger):
            known[theirs] = logger
        elif held is not logger:
            for condition in held.filters:
                logger.addFilter(condition)
            if not held.handlers:
                held.parent = logger


def give_names_back() -> None:
    """Before logging is configured anew: it would take our loggers for others, not to be named in
    the configuration and so to be disabled.
    """
    known = logging.Logger.manager.loggerDict
    for theirs, own in UVICORN_NAMES.items():
        if known.get(theirs) is logging.getLogger(own):
            del known[theirs]

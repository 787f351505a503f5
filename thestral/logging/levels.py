"""Levels that change while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from thestral.logging.loggers import LOG_LEVELS, access_logger, error_logger, server_logger

# The server's loggers, by either name of their parent.
OWN = dict.fromkeys(("uvicorn", "thestral"), (error_logger, access_logger, server_logger))
# Called when set_level() has changed a level. Other changes are noticed within a second.
observers: list[Callable[[], None]] = []


def set_level(name: str, level: str | int) -> None:
    """Set the level of a logger; takes effect at once, in this process.

    Args:
        name: of any logger; "thestral" or "uvicorn" stands for all of the server's own, as for
            --log-level. "" is the root logger.
        level: a name as --log-level takes it, or a number.

    Raises:
        ValueError: there is no level of that name.
    """
    number = LOG_LEVELS.get(level.lower()) if isinstance(level, str) else level
    if number is None:
        raise ValueError(f"{level!r} given, expected one of {', '.join(LOG_LEVELS)}")
    for logger in OWN.get(name) or (logging.getLogger(name),):
        logger.setLevel(number)
    for observer in observers:
        observer()

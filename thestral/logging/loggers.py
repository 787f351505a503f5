"""The loggers, and the level TRACE below DEBUG.

Names and records are uvicorn's, because handlers, log processors and dashboards rely on them:
`uvicorn`, the parent, with `uvicorn.error` and `uvicorn.access`. `thestral`, `thestral.error` and
`thestral.access` are second names of the same loggers. The args of an access record are
(client_addr, method, full_path, http_version, status_code).
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

TRACE_LOG_LEVEL = 5
LOG_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE_LOG_LEVEL,
}


class SharedLogger(logging.Logger):
    """One of the two objects of a logger that has two names; they share all their attributes.

    dictConfig and fileConfig disable each logger that a configuration does not name. Once a
    configuration has used loggers by their first (or second) names, disabling one by its other name
    is ignored; otherwise the unused names would silence the loggers in use.
    """

    # Whether a configuration has used the first names, or the second; None for neither.
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
    """Make one logger of two names.

    The program may already hold and have configured loggers of both names: both stay valid.
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
    if kind is not logging.Logger:  # set by logging.setLoggerClass()
        shared = type(kind.__name__, (SharedLogger, kind), {})
    logger.__class__ = other.__class__ = shared
    other.__dict__ = logger.__dict__
    return logger


logging.addLevelName(TRACE_LOG_LEVEL, "TRACE")
server_logger = shared_logger("uvicorn", "thestral")
error_logger = shared_logger("uvicorn.error", "thestral.error")
access_logger = shared_logger("uvicorn.access", "thestral.access")

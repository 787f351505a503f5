"""The loggers, and the level TRACE below DEBUG.

Names and shapes are uvicorn's: `uvicorn` for all, `uvicorn.error`, `uvicorn.access`, because
handlers, log processors and dashboards look for them in a record. `thestral`, `thestral.error` and
`thestral.access` are second names. An access record carries args (client_addr, method, full_path,
http_version, status_code).
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


logging.addLevelName(TRACE_LOG_LEVEL, "TRACE")
server_logger = shared_logger("uvicorn", "thestral")
error_logger = shared_logger("uvicorn.error", "thestral.error")
access_logger = shared_logger("uvicorn.access", "thestral.access")

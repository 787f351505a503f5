"""Logs what Python itself would print on stderr: uncaught exceptions, and warnings."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

from thestral.logging.loggers import error_logger

WARNINGS = "py.warnings"  # the logger of logging.captureWarnings()


def log_uncaught(handler: logging.Handler) -> None:
    """Log uncaught exceptions and warnings from now on. Hooks and handlers that the program has
    installed for them stay.

    Args:
        handler: for warnings, unless their logger has one.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = log_exception
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = log_of_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = log_unraisable
    logger = logging.getLogger(WARNINGS)
    if not logger.handlers:
        logger.addHandler(handler)
        logger.propagate = False
    logging.captureWarnings(True)


def report(text: str) -> None:
    """Say why the process ends: in the log, if log_uncaught() has directed Python's own messages
    there; else on stderr, as Python would.
    """
    if sys.excepthook is log_exception:
        error_logger.critical("%s", text)
    else:
        print(text, file=sys.stderr)


def log_exception(
    kind: type[BaseException], exc: BaseException, traceback: TracebackType | None
) -> None:
    error_logger.critical("Uncaught exception", exc_info=(kind, exc, traceback))


def log_of_thread(args: Any) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        error_logger.error("Uncaught exception in thread %r", name, exc_info=info)


def log_unraisable(args: Any) -> None:
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    error_logger.error("%s: %r", args.err_msg or "Exception ignored in", args.object, exc_info=info)

"""Reopening log files, after log rotation has renamed them."""

from __future__ import annotations

import logging
import os

from thestral.logging.loggers import error_logger


def reopen_files() -> None:
    """Reopen all log files, the application's included, and log their names.

    It makes no difference which loggers or queues lead to a handler.
    """
    names = []
    for handler in file_handlers():
        try:
            reopen(handler)
        except OSError as exc:
            error_logger.error("Cannot reopen a log file, still writing to the old one: %s", exc)
        else:
            names.append(repr(handler.baseFilename))
    if names:
        shown = ", ".join(sorted(names))
        error_logger.info("Process [%d] has reopened its log files: %s", os.getpid(), shown)
    else:
        error_logger.info("Process [%d] has no log files to reopen", os.getpid())


def file_handlers() -> set[logging.FileHandler]:
    """Return all file handlers: those in logging's list, from which dictConfig() removes existing
    handlers, and those of loggers.
    """
    found = {reference() for reference in list(logging._handlerList)}  # type: ignore[attr-defined]
    for logger in [logging.root, *list(logging.root.manager.loggerDict.values())]:
        found.update(getattr(logger, "handlers", ()))
    return {handler for handler in found if isinstance(handler, logging.FileHandler)}


def reopen(handler: logging.FileHandler) -> None:
    """Have a handler write to the file that is now at its path.

    Raises:
        OSError: the file cannot be opened.
    """
    handler.acquire()
    try:
        if hasattr(handler, "reopenIfNeeded"):  # a WatchedFileHandler; importing it takes long
            handler.reopenIfNeeded()
        elif handler.stream is not None:  # else its first line will open the file
            handler.mode = handler.mode.replace("w", "a").replace("x", "a")  # erase nothing
            old = handler.setStream(handler._open())
            if old is not None:
                old.close()
    finally:
        handler.release()

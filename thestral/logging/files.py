"""Log files, opened again after they have been renamed."""

from __future__ import annotations

import logging
import os

from thestral.logging.loggers import error_logger


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

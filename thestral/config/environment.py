"""Environment variables from a file; the list of files that a process has read options from."""

from __future__ import annotations

import os

from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger

files_read: list[str] = []  # by this process; at SIGHUP a log line names them


def load_environment(path: str) -> None:
    """Set environment variables from a file of NAME=VALUE lines, except those already set.

    Raises:
        ConfigError: the file does not exist, or python-dotenv is not installed.
    """
    try:
        from dotenv import load_dotenv
    except ImportError:
        raise ConfigError(
            "env_file", "needs the python-dotenv package: pip install 'thestral[standard]'"
        ) from None
    if not os.path.isfile(path):
        raise ConfigError("env_file", f"{path!r} is not a file")
    load_dotenv(path)
    files_read.append(path)


def say_not_read_again() -> None:
    """Log which files a reload does not read again, if there are any."""
    if files_read:
        shown = ", ".join(repr(path) for path in dict.fromkeys(files_read))
        error_logger.info("These files are read again only after a restart: %s", shown)

"""Environment variables from a file, and which files a process has read its options from."""

from __future__ import annotations

import os

from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger

files_read: list[str] = []  # in this process; SIGHUP says that it does not read them again


def load_environment(path: str) -> None:
    """Set variables from a file of NAME=VALUE lines; those that are set already stay.

    Raises:
        ConfigError: there is no such file, or python-dotenv is not installed.
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
    """Name the files that a reload does not read, if there are any."""
    if files_read:
        shown = ", ".join(repr(path) for path in dict.fromkeys(files_read))
        error_logger.info("Not read again until the server is started anew: %s", shown)

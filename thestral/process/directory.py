"""The working directory by its name, whose symbolic links may lead to another release later."""

from __future__ import annotations

import os
import sys

from thestral.logging.loggers import error_logger


def directory_with_links() -> str | None:
    """Return the working directory as $PWD names it, with its symbolic links; None if $PWD is not
    the working directory.
    """
    named = os.environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, os.curdir) else None
    except OSError:
        return None


def reenter(directory: str) -> None:
    """Change to a directory by its name, so that workers spawned from now on start where its
    symbolic links lead now.
    """
    try:
        before = os.getcwd()
    except OSError:  # the old directory has been deleted
        before = None
    try:
        os.chdir(directory)
        now = os.getcwd()
    except OSError as exc:
        error_logger.error("Cannot change to the working directory: %s", exc)
        return
    if now != before:
        error_logger.info("The working directory is now %r", now)
        sys.path[:] = [now if path == before else path for path in sys.path]

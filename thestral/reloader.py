"""Reloader: tells when files of the application have changed (package watchfiles)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from thestral.errors import ConfigError

if TYPE_CHECKING:
    from thestral.config import Config

DEFAULT_INCLUDES = ("*.py",)
# Beside those of watchfiles: version control, virtual environments, node_modules, caches.
DEFAULT_EXCLUDES = (".*", "*.py[cod]", "*.sw?", "*~")


class Reloader:
    """Watches directories in a thread of its own.

    Args:
        config: the reload options.
        wake: called from the thread when there is something to take().

    Raises:
        ConfigError: watchfiles is not installed, or a directory is none.
    """

    def __init__(self, config: Config, wake: Callable[[], object]) -> None:
        try:
            import watchfiles
        except ImportError:
            raise ConfigError(
                "reload", "needs the package watchfiles: pip install 'thestral[standard]'"
            ) from None
        self._watchfiles = watchfiles
        self._default_filter = watchfiles.DefaultFilter()
        self._asked_for = tuple(config.reload_includes or ())
        self._excludes = tuple(config.reload_excludes or ())
        self._directories = [Path(name).resolve() for name in config.reload_dirs or [os.getcwd()]]
        application = Path(config.app_dir).resolve()
        known = any(application.is_relative_to(directory) for directory in self._directories)
        if not config.reload_dirs and not known:
            self._directories.append(application)
        for directory in self._directories:
            if not directory.is_dir():
                raise ConfigError("reload_dirs", f"{str(directory)!r} is no directory")
        self._delay = round(config.reload_delay * 1000)
        self._wake = wake
        self._changed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reloader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> list[str]:
        """Files that have changed since the last call, as seen from the working directory."""
        changed, self._changed = self._changed, []
        return changed

    def matters(self, change: object, path: str) -> bool:
        """Whether a change of this file is one of the application."""
        name = Path(path)
        for directory in self._directories:
            if name.is_relative_to(directory):
                name = name.relative_to(directory)
                break
        if not self._default_filter(change, str(name)):  # type: ignore[arg-type]
            return False
        names = (str(name), *name.parts)
        if is_like(names, self._excludes) or is_like(name.parts[:-1], DEFAULT_EXCLUDES):
            return False
        if is_like(names, self._asked_for):
            return True  # also ".env", which the defaults leave out
        return is_like(names, DEFAULT_INCLUDES) and not is_like(names, DEFAULT_EXCLUDES)

    def _watch(self) -> None:
        for changes in self._watchfiles.watch(
            *self._directories,
            watch_filter=self.matters,
            debounce=max(self._delay, 1),
            stop_event=self._stop,
            raise_interrupt=False,
        ):
            self._changed += sorted({os.path.relpath(path) for _, path in changes})
            self._wake()


def is_like(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the names, a path or parts of it, has one of the patterns."""
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)

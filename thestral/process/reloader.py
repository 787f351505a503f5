"""Reloader: tells when files of the application have changed, by the package watchfiles where it is
installed, else by looking at them all again and again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger

if TYPE_CHECKING:
    from thestral.config import Config

DEFAULT_INCLUDES = ("*.py",)
# Version control, virtual environments, caches.
DEFAULT_EXCLUDES = (".*", "__pycache__", "node_modules", "site-packages")
# What Python and editors put beside a file; it never matters.
LEFT_BEHIND = ("*.py[cod]", "*.sw?", "*~", ".#*", "*.___jb_*___", "flycheck_*", ".DS_Store")
POLL_PAUSE = 0.25  # seconds between two looks at all files
POLL_SHARE = 0.1  # of a processor's time at most that is spent so


class Reloader:
    """Watches directories in a thread of its own.

    Args:
        config: the reload options.
        wake: called from the thread when there is something to take().

    Raises:
        ConfigError: a directory is none.
    """

    def __init__(self, config: Config, wake: Callable[[], object]) -> None:
        self._watchfiles: ModuleType | None = None
        with contextlib.suppress(ImportError):
            import watchfiles  # most servers do not reload

            self._watchfiles = watchfiles
        self._asked_for = tuple(config.reload_includes or ())
        self._excludes = tuple(config.reload_excludes or ())
        self._directories = [Path(name).resolve() for name in config.reload_dirs or [os.getcwd()]]
        application = Path(config.app_dir).resolve()
        known = any(application.is_relative_to(directory) for directory in self._directories)
        if not config.reload_dirs and not known:
            self._directories.append(application)
        for directory in self._directories:
            if not directory.is_dir():
                raise ConfigError("reload_dirs", f"{str(directory)!r} is not a directory")
        self._delay = round(config.reload_delay * 1000)
        self._pause = max(config.reload_delay, POLL_PAUSE)
        self._before: dict[str, tuple[int, int]] = {}
        self._wake = wake
        self._changed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reloader", daemon=True)

    def start(self) -> None:
        self._before = {} if self._watchfiles else self._look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> list[str]:
        """Files that have changed since the last call, as seen from the working directory."""
        changed, self._changed = self._changed, []
        return changed

    def matters(self, _: object, path: str) -> bool:
        """Whether a change of this file is one of the application."""
        name = Path(path)
        for directory in self._directories:
            if name.is_relative_to(directory):
                name = name.relative_to(directory)
                break
        names = (str(name), *name.parts)
        if is_like(name.parts, LEFT_BEHIND) or is_like(names, self._excludes):
            return False
        if is_like(name.parts[:-1], DEFAULT_EXCLUDES):
            return False
        if is_like(names, self._asked_for):
            return True  # also ".env", which the defaults leave out
        return is_like(names, DEFAULT_INCLUDES) and not is_like([name.name], DEFAULT_EXCLUDES)

    def _watch(self) -> None:
        if self._watchfiles is None:
            self._poll()
            return
        for changes in self._watchfiles.watch(
            *self._directories,
            watch_filter=self.matters,
            debounce=max(self._delay, 1),
            stop_event=self._stop,
            raise_interrupt=False,
        ):
            self._tell(path for _, path in changes)

    def _poll(self) -> None:
        error_logger.info(
            "Looking for changed files every %g s; with the package watchfiles it takes less:"
            " pip install 'thestral[standard]'",
            self._pause,
        )
        pause = self._pause
        while not self._stop.wait(pause):
            begin = time.thread_time()
            seen = self._look()
            pause = max(self._pause, (time.thread_time() - begin) / POLL_SHARE)
            changed = {path for path, _ in seen.items() ^ self._before.items()}
            self._before = seen
            if changed:
                self._tell(changed)

    def _look(self) -> dict[str, tuple[int, int]]:
        """Time and size of each file that matters."""
        seen = {}
        skipped = (*DEFAULT_EXCLUDES, *LEFT_BEHIND, *self._excludes)
        for directory in self._directories:
            for folder, folders, names in os.walk(directory):
                folders[:] = [name for name in folders if not is_like([name], skipped)]
                for name in names:
                    path = os.path.join(folder, name)
                    if self.matters(None, path):
                        with contextlib.suppress(OSError):  # it has gone meanwhile
                            found = os.stat(path)
                            seen[path] = found.st_mtime_ns, found.st_size
        return seen

    def _tell(self, paths: Iterable[str]) -> None:
        self._changed += sorted({os.path.relpath(path) for path in paths})
        self._wake()


def is_like(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the names, a path or parts of it, has one of the patterns."""
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)

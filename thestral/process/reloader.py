"""Reloader: reports changed files of the application, found by the package watchfiles if it is
installed, and else by polling all files.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from importlib.util import cache_from_source
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
# Files that Python, editors and file browsers leave beside others; they never count.
BY_PRODUCTS = ("*.py[cod]", "*.sw?", "*~", ".#*", "*.___jb_*___", "flycheck_*", ".DS_Store")
POLL_PAUSE = 0.25  # shortest time between two scans of all files, in seconds
POLL_SHARE = 0.1  # largest share of a processor's time that scans may take


class Reloader:
    """Watches directories in a thread of its own.

    Args:
        config: the reload options.
        wake: called from the thread when take() has something to return.

    Raises:
        ConfigError: a path to watch is not a directory.
    """

    def __init__(self, config: Config, wake: Callable[[], object]) -> None:
        self._watchfiles: ModuleType | None = None
        with contextlib.suppress(ImportError):
            import watchfiles  # not at the top: most servers do not reload

            self._watchfiles = watchfiles
        self._includes = tuple(config.reload_includes or ())
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
        self._ever_changed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reloader", daemon=True)

    def start(self) -> None:
        self._before = {} if self._watchfiles else self._scan()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> list[str]:
        """Files that have changed since the last call, relative to the working directory."""
        changed, self._changed = self._changed, []
        self._ever_changed.update(changed)
        return changed

    def delete_bytecode(self) -> None:
        """Delete Python's bytecode of each file that has changed, before a worker imports it.

        Python compares the size of a source and its time in whole seconds: of a file that is saved
        twice within a second, as editors with a formatter do, the first version would be run.
        """
        for path in self._ever_changed:
            if path.endswith(".py"):
                with contextlib.suppress(OSError):  # there is none
                    os.unlink(cache_from_source(os.path.abspath(path)))

    def matters(self, _: object, path: str) -> bool:
        """Whether a change of this file counts as a change of the application."""
        name = Path(path)
        for directory in self._directories:
            if name.is_relative_to(directory):
                name = name.relative_to(directory)
                break
        names = (str(name), *name.parts)
        if matches(name.parts, BY_PRODUCTS) or matches(names, self._excludes):
            return False
        if matches(name.parts[:-1], DEFAULT_EXCLUDES):
            return False
        if matches(names, self._includes):
            return True  # even if the defaults exclude the file, as they do ".env"
        return matches(names, DEFAULT_INCLUDES) and not matches([name.name], DEFAULT_EXCLUDES)

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
            self._report(path for _, path in changes)

    def _poll(self) -> None:
        error_logger.info(
            "Looking for changed files every %g s; the watchfiles package needs less processor"
            " time: pip install 'thestral[standard]'",
            self._pause,
        )
        pause = self._pause
        while not self._stop.wait(pause):
            begin = time.thread_time()
            seen = self._scan()
            pause = max(self._pause, (time.thread_time() - begin) / POLL_SHARE)
            changed = {path for path, _ in seen.items() ^ self._before.items()}
            self._before = seen
            if changed:
                self._report(changed)

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Modification time (nanoseconds) and size (bytes) of each file that matters, by path."""
        seen = {}
        skipped = (*DEFAULT_EXCLUDES, *BY_PRODUCTS, *self._excludes)
        for directory in self._directories:
            for folder, folders, names in os.walk(directory):
                folders[:] = [name for name in folders if not matches([name], skipped)]
                for name in names:
                    path = os.path.join(folder, name)
                    if self.matters(None, path):
                        with contextlib.suppress(OSError):  # it has been deleted in the meantime
                            found = os.stat(path)
                            seen[path] = found.st_mtime_ns, found.st_size
        return seen

    def _report(self, paths: Iterable[str]) -> None:
        self._changed += sorted({os.path.relpath(path) for path in paths})
        self._wake()


def matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the names (a path or its parts) matches one of the patterns."""
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)

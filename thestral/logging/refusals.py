"""Log lines about refused requests, limited in number."""

from __future__ import annotations

from typing import Any

from thestral.logging.loggers import error_logger

# At most this many refusals are logged per REFUSALS_TIME; the rest are only counted.
REFUSALS_LOGGED = 10
REFUSALS_TIME = 10.0  # seconds


class Refusals:
    """Log lines that any client can cause, limited so that a flood of them cannot flood the log.

    Times are in seconds of the worker's clock.
    """

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0
        self._warned: set[str] = set()

    def info(
        self, now: float, message: str, *arguments: object, extra: dict[str, Any] | None = None
    ) -> None:
        """Log a line, or only count it if there were too many."""
        self.tick(now)
        if self._count == 0:
            self._until = now + REFUSALS_TIME
        self._count += 1
        if self._count <= REFUSALS_LOGGED:
            error_logger.info(message, *arguments, extra=extra)

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning, unless one with this message was logged before, with any arguments."""
        if message not in self._warned:
            self._warned.add(message)
            error_logger.warning(message, *arguments)

    def tick(self, now: float) -> bool:
        """Log how many refusals were only counted, once REFUSALS_TIME is over.

        Returns:
            whether some still wait to be logged in this way.
        """
        if self._count and now >= self._until:
            self.sum_up()
        return self._count > REFUSALS_LOGGED

    def sum_up(self) -> None:
        unlogged = self._count - REFUSALS_LOGGED
        if unlogged > 0:
            error_logger.info("Refused %d more within %g seconds", unlogged, REFUSALS_TIME)
        self._count = 0

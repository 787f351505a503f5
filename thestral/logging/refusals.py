"""Lines about refused requests, limited in number."""

from __future__ import annotations

from thestral.logging.loggers import error_logger

# This many refusals are logged in this time; the rest are only counted.
REFUSALS_TOLD = 10
REFUSALS_TIME = 10.0  # seconds


class Refusals:
    """Lines that each connection of a worker may give rise to: no flood of them floods the log.

    Times are those of the worker's clock.
    """

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0
        self._warned: set[str] = set()

    def info(self, now: float, message: str, *arguments: object) -> None:
        """Log a line, or count it."""
        self.tick(now)
        if self._count == 0:
            self._until = now + REFUSALS_TIME
        self._count += 1
        if self._count <= REFUSALS_TOLD:
            error_logger.info(message, *arguments)

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning, but no second one with this message, whatever its arguments are."""
        if message not in self._warned:
            self._warned.add(message)
            error_logger.warning(message, *arguments)

    def tick(self, now: float) -> bool:
        """Say what was only counted once its time is over; whether there is still something."""
        if self._count and now >= self._until:
            self.sum_up()
        return self._count > REFUSALS_TOLD

    def sum_up(self) -> None:
        untold = self._count - REFUSALS_TOLD
        if untold > 0:
            error_logger.info("Refused %d more within %g seconds", untold, REFUSALS_TIME)
        self._count = 0

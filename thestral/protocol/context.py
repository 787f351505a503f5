"""What all connections of a worker share: settings, time-outs and clock, counters, the turn."""

from __future__ import annotations

import asyncio
import contextvars
import glob
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from thestral._core.coroutine import this_thread
from thestral._core.head import Template
from thestral.errors import LocalProtocolError
from thestral.logging.refusals import Refusals
from thestral.protocol.access import AccessLog
from thestral.protocol.clock import Clock, Timeouts
from thestral.protocol.health import HealthPath, paths_of
from thestral.protocol.phases import waits_of
from thestral.protocol.settings import Settings
from thestral.protocol.turn import Turn

if TYPE_CHECKING:
    from thestral._core.metrics import WorkerMetrics
    from thestral.config import Config
    from thestral.net.tls import Certificates
    from thestral.types import ASGIApplication

# Extensions that need HTTP/1.1: HTTP/1.0 has neither interim responses nor trailers.
HTTP_1_1_EXTENSIONS = ("http.response.early_hint", "http.response.trailers")


class Open(Protocol):
    """What WorkerContext calls on a connection."""

    def check_deadlines(self, now: float) -> None: ...
    def wind_down(self) -> None: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


class Running(Protocol):
    """What WorkerContext reads and calls on a cycle whose application is running."""

    task: asyncio.Task[None] | None
    deadline: float

    def on_timeout(self) -> None: ...
    def cancel(self) -> None: ...
    def title(self) -> str: ...
    def extra(self) -> dict[str, Any] | None: ...


class WorkerContext:
    """State of one worker, created by Server. All of its connections share it.

    Args:
        config: resolved options.
        app: the application, ASGI 3.
        loop: the running loop; stored, because on 3.11 asyncio makes a system call to find it.
        state: the lifespan scope's state; each request gets a shallow copy.
        base_context: contextvars as the lifespan left them; each request runs in a copy.
        certificates: those of a TLS port; None for plain HTTP.

    Attributes:
        connections: the open connections.
        cycles: the cycles whose application runs in a task.
        waits: seconds that an HTTP/1.1 connection waits in each of its phases.
        running: number of requests whose application has not returned.
        tracer: that of the settings.
        default_head: the fields that every response gets, as bytes; they begin with date_head.
        draining: whether the server is shutting down.
        on_limit: called once when limit_max_requests is reached.
        metrics: counts for the admin port; None without one.
    """

    def __init__(
        self,
        config: Config,
        app: ASGIApplication,
        loop: asyncio.AbstractEventLoop,
        state: dict[str, Any],
        base_context: contextvars.Context,
        certificates: Certificates | None = None,
    ) -> None:
        self.app = app
        silent: list[str] = []  # paths that are not in the access log
        if config.health_path:
            silent = paths_of(config.health_path, config.root_path)
            self.app = HealthPath(app, silent, lambda: self.draining)
        self.loop = loop
        self.thread = this_thread()
        self.state = state
        self.base_context = base_context
        self.certificates = certificates
        self.settings = Settings(config)
        self.timeouts = Timeouts(config)
        self.waits = waits_of(self.timeouts)
        self.turn = Turn(loop, base_context)
        self.tracer = self.settings.tracer
        self.access_log = AccessLog(
            config.access_log_format,
            config.access_log,
            config.log_format,
            config.log_timestamps,
            config.request_id,
            [*config.access_log_exclude, *map(glob.escape, silent)],
            config.access_log_slow or 0.0,
        )
        self.refusals = Refusals()
        self.metrics: WorkerMetrics | None = None
        self._make_templates()
        self._detect_features()
        self.connections: set[Open] = set()
        self.cycles: set[Running] = set()
        self.running = 0
        self.total_requests = 0
        self.max_requests = with_jitter(config)
        self.on_limit: Callable[[], None] | None = None
        self.draining = False
        self._empty: asyncio.Event | None = None  # set when nothing is left to drain
        self.clock = Clock(loop, self.timeouts.interval)
        self.clock.on_second = self._on_second
        self.clock.observers += [
            self._check_connections,
            self._check_requests,
            self._check_limit,
            lambda now: self.access_log.flush(),
            self.refusals.tick,
        ]
        self.clock.refresh()

    def _make_templates(self) -> None:
        """Make templates of the dictionaries that every scope has a copy of."""
        settings = self.settings
        self.http_asgi = Template({"version": "3.0", "spec_version": settings.spec_version})
        self.http_1_0_extensions = Template({name: {} for name in settings.offered})
        self.http_extensions = Template(
            {name: {} for name in (*HTTP_1_1_EXTENSIONS, *settings.offered)}
        )

    def _detect_features(self) -> None:
        """Set the attributes that depend on the kind of loop and on the version of Python."""
        # If the program has set a task factory, that decides how tasks start.
        self.eager = sys.version_info >= (3, 12) and self.loop.get_task_factory() is None
        # Arguments for the Task of each request, in one dictionary: a call with keywords would make
        # a new one for each.
        self.task_arguments: dict[str, Any] = {
            "loop": self.loop,
            "context": None,
            "eager_start": True,
        }
        self.spare_sending: Any = None  # the last finished Sending, for the next message
        # In some releases of 3.12 and 3.13 asyncio's writelines() does not pause the protocol, so
        # an application could fill the memory. uvloop's does.
        self.gathers = type(self.loop).__module__.startswith("uvloop")

    def add(self, connection: Open) -> None:
        """Add a connection. The first one starts the clock."""
        self.connections.add(connection)
        self._count_connections()
        self.clock.start()

    def discard(self, connection: Open) -> None:
        self.connections.discard(connection)
        self._count_connections()
        self._signal_if_empty()

    def _count_connections(self) -> None:
        if self.metrics is not None:
            self.metrics.set_connections(len(self.connections))

    def count_refusal(self, status: int) -> None:
        """Count a request that the server answers in place of the application."""
        if self.metrics is not None:
            self.metrics.refuse(status)

    def count_timeout(self, kind: str) -> None:
        """Count a time-out.

        Args:
            kind: a name in Timeouts, or "settings".
        """
        if self.metrics is not None:
            self.metrics.time_out(kind)

    def discard_cycle(self, cycle: Running) -> None:
        """Remove a cycle whose application has returned."""
        self.cycles.discard(cycle)
        self._signal_if_empty()

    def _signal_if_empty(self) -> None:
        if self._empty is not None and not (self.connections or self.cycles):
            self._empty.set()

    async def wait_until_empty(self) -> None:
        """Wait until no connection is open and no application is running."""
        self._empty = asyncio.Event()
        while self.connections or self.cycles:
            # It is also set when the last connection hands its transport over to a new one.
            self._empty.clear()
            await self._empty.wait()

    def expect_own_thread(self) -> None:
        """Check that receive() or send() was called in the loop's thread, because they change state
        that all connections of the worker share.

        Raises:
            LocalProtocolError: the caller runs in another thread.
        """
        if this_thread() != self.thread:
            raise LocalProtocolError(
                "receive() and send() must be called in the thread of the server's loop; in another"
                " thread, use asyncio.run_coroutine_threadsafe()"
            )

    def stop(self) -> None:
        """Stop the clock, and write the lines that the logs still hold."""
        self.access_log.close()
        self.refusals.sum_up()
        self.clock.stop()

    # --- What the clock calls -------------------------------------------------------------------

    def _check_connections(self, now: float) -> bool:
        for connection in list(self.connections):
            try:
                connection.check_deadlines(now)
            except Exception as exc:
                message = "the time-out of a connection failed"
                self.loop.call_exception_handler({"message": message, "exception": exc})
        return bool(self.connections)

    def _check_requests(self, now: float) -> bool:
        if self.timeouts.request:
            for cycle in list(self.cycles):
                if 0.0 < cycle.deadline <= now:
                    cycle.on_timeout()
        return False  # no tick for these alone: a request without a connection has no client

    def _check_limit(self, now: float) -> bool:
        if 0 < self.max_requests <= self.total_requests and self.on_limit is not None:
            self.max_requests = 0
            self.on_limit()
        return False

    def _on_second(self) -> None:
        self._renew_fields()
        self.access_log.refresh()

    def _renew_fields(self) -> None:
        settings = self.settings
        self.date_head = b"date: " + self.clock.date + b"\r\n" if settings.send_date else b""
        self.default_head = self.date_head + settings.server_head + settings.extra_head
        date = [(b"date", self.clock.date)] if settings.send_date else []
        self.default_fields = [*date, *settings.own_fields]


def with_jitter(config: Config) -> int:
    """Return this worker's limit of requests, 0 for none: limit_max_requests plus a random number,
    so that the workers do not all reach it at once.
    """
    limit = config.limit_max_requests or 0
    if limit:
        import random  # slow to import

        jitter = config.limit_max_requests_jitter
        limit += random.randint(0, limit // 10 if jitter is None else jitter)  # noqa: S311
    return limit

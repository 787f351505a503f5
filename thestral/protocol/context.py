"""What all connections of a worker share: settings, counters, the clock, the turn."""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from thestral._core.coroutine import this_thread
from thestral._core.head import Template
from thestral.errors import LocalProtocolError
from thestral.forwarded import Forwarding, TrustedPeers
from thestral.logging import Refusals
from thestral.protocol.access import AccessLog
from thestral.protocol.handshake import DeflateSettings
from thestral.protocol.turn import Turn

if TYPE_CHECKING:
    from thestral.config import Config
    from thestral.protocol.connection import Connection, Cycle, Sending
    from thestral.tls import Certificates
    from thestral.types import ASGIApplication

# Of a Date field, RFC 9110 section 5.6.7, whatever the locale.
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Of ASGI's HTTP format: an application is not told by send() that its client is gone.
LENIENT_SPEC_VERSION = "2.3"
# Extensions that an option of the same name offers, and those that HTTP/1.0 has no place for.
FILE_EXTENSIONS = ("pathsend", "zerocopysend")
HTTP_1_1_EXTENSIONS = ("http.response.early_hint", "http.response.trailers")
# Deadlines are looked at this often, in seconds, or eight times within the shortest one.
SLOWEST_TICK = 0.5
FASTEST_TICK = 0.01


class ParserLimits(NamedTuple):
    """Bytes, and a count of fields; the arguments of RequestParser."""

    request_line: int
    head: int
    fields: int
    body: int


class WebSocketSettings(NamedTuple):
    """Bytes, messages, and seconds with the clock's interval added; 0 seconds stand for off."""

    max_size: int
    max_queue: int
    max_queue_size: int
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    deflate: DeflateSettings | None


class WorkerContext:
    """State of one worker, made by Server; connections read it and count in it.

    Args:
        config: resolved options.
        app: the application, ASGI 3.
        loop: the running loop; kept, because asking asyncio for it costs a system call on 3.11.
        state: what the lifespan put into its scope; each request gets a shallow copy.
        base_context: contextvars as the lifespan left them; each request runs in a copy.
        certificates: of a TLS port; None for plain HTTP.
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
        self.loop = loop
        self.thread = this_thread()
        self.state = state
        self.base_context = base_context
        self.certificates = certificates
        self.limits = ParserLimits(
            config.limit_request_line,
            config.limit_header_size,
            config.limit_header_count,
            config.limit_request_body or 0,
        )
        self.root_path = config.root_path.rstrip("/")
        self.http_asgi = Template({"version": "3.0", "spec_version": config.asgi_spec_version})
        # Since 2.4 send() raises an OSError as soon as the client is gone.
        self.raises_when_gone = config.asgi_spec_version != LENIENT_SPEC_VERSION
        files = [name for name in FILE_EXTENSIONS if getattr(config, name)]
        self.offered = frozenset(f"http.response.{name}" for name in files)
        self.http_1_0_extensions = Template({name: {} for name in self.offered})
        self.http_extensions = Template(
            {name: {} for name in (*HTTP_1_1_EXTENSIONS, *self.offered)}
        )
        self.trusted = TrustedPeers(config.trusted_proxies)
        self.proxy_protocol = config.proxy_protocol
        self.forwarding: Forwarding | None = None
        if config.proxy_headers:
            self.forwarding = Forwarding(self.trusted, config.proxy_fields)
        ping_interval = config.ws_ping_interval or 0.0
        ping_timeout = config.ws_ping_timeout or 0.0
        shortest = min(
            config.timeout_head,
            config.timeout_body,
            config.timeout_keep_alive or math.inf,
            config.timeout_write,
            config.timeout_request or math.inf,
            config.ws_close_timeout,
            config.timeout_tls_handshake,
            ping_interval or math.inf,
            ping_timeout or math.inf,
        )
        self.interval = min(SLOWEST_TICK, max(FASTEST_TICK, shortest / 8))
        # `now` is up to one interval old: a deadline counted from it must not come early.
        self.timeout_head = config.timeout_head + self.interval
        self.timeout_body = config.timeout_body + self.interval
        self.keeps_alive = config.timeout_keep_alive > 0
        self.timeout_keep_alive = config.timeout_keep_alive + self.interval
        self.timeout_write = config.timeout_write + self.interval
        self.timeout_tls_handshake = config.timeout_tls_handshake + self.interval
        self.websocket: WebSocketSettings | None = None
        if config.ws != "none":
            deflate = DeflateSettings(
                config.ws_deflate_server_window_bits,
                config.ws_deflate_client_window_bits,
                config.ws_deflate_context_takeover,
                config.ws_deflate_level,
                config.ws_deflate_memory_level,
                config.ws_deflate_min_size,
            )
            self.websocket = WebSocketSettings(
                config.ws_max_size,
                config.ws_max_queue,
                config.ws_max_queue_size,
                ping_interval and ping_interval + self.interval,
                ping_timeout and ping_timeout + self.interval,
                config.ws_close_timeout + self.interval,
                deflate if config.ws_per_message_deflate else None,
            )
        # A task factory of the user's stands for its own idea of a task: leave starting to it.
        self.eager = sys.version_info >= (3, 12) and loop.get_task_factory() is None
        # Of each request's Task: one dictionary, because keywords would make one for each.
        self.task_arguments: dict[str, Any] = {"loop": loop, "context": None, "eager_start": True}
        self.spare_sending: Sending | None = None  # the last that was through, for the next message
        # asyncio's own writelines() does not pause the protocol in some releases of 3.12 and 3.13,
        # so that an application could fill the memory; uvloop's does.
        self.gathers = type(loop).__module__.startswith("uvloop")
        self.access_log = AccessLog(config.access_log_format, config.access_log)
        self.refusals = Refusals()
        self.draining = False
        self.connections: set[Connection] = set()
        self.cycles: set[Cycle] = set()
        self.total_requests = 0
        self.max_requests = config.limit_max_requests or 0
        if self.max_requests:
            import random  # which imports much

            jitter = config.limit_max_requests_jitter
            # So that workers do not reach it all at once.
            most = self.max_requests // 10 if jitter is None else jitter
            self.max_requests += random.randint(0, most)  # noqa: S311
        self.on_limit: Callable[[], None] | None = None
        self.turn = Turn(loop, base_context)
        # A field of the user's takes the place of ours: neither may stand twice.
        given = {name.lower() for name, _ in config.encoded_headers}
        self.limit_concurrency = config.limit_concurrency or 0
        self.limit_connections = config.limit_connections or 0
        self.timeout_request = config.timeout_request or 0.0
        self.running = 0  # requests whose application has not returned
        self.send_date = config.date_header and b"date" not in given
        send_server = config.server_header and b"server" not in given
        self.server_head = b"server: thestral\r\n" if send_server else b""
        self.extra_head = b"".join(
            name + b": " + value + b"\r\n" for name, value in config.encoded_headers
        )
        self._ticker: asyncio.TimerHandle | None = None
        self._date_second = 0
        self.refresh()

    def add(self, connection: Connection) -> None:
        """Count a connection in; the first one starts the clock."""
        self.connections.add(connection)
        if self._ticker is None:
            self.refresh()
            self._ticker = self.loop.call_later(self.interval, self.tick)

    def expect_own_thread(self) -> None:
        """For receive() and send(), which touch what all connections of the worker share.

        Raises:
            LocalProtocolError: the caller runs in another thread.
        """
        if this_thread() != self.thread:
            raise LocalProtocolError(
                "receive() and send() belong to the thread of the server's loop: from another one,"
                " call them by asyncio.run_coroutine_threadsafe()"
            )

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def tick(self) -> None:
        """Advance the clock and look at every deadline; there is no timer for nothing."""
        wait = True  # for another look, also if something raises: a handler of the user's logs
        try:
            wait = self._look()
        finally:
            self._ticker = self.loop.call_later(self.interval, self.tick) if wait else None

    def _look(self) -> bool:
        """Whether there is something to look at again."""
        self.refresh()
        now = self.now
        for connection in list(self.connections):
            try:
                connection.check_deadlines(now)
            except Exception as exc:
                message = "the time-out of a connection failed"
                self.loop.call_exception_handler({"message": message, "exception": exc})
        if self.timeout_request:
            for cycle in list(self.cycles):
                if 0.0 < cycle.deadline <= now:
                    cycle.on_timeout()
        if 0 < self.max_requests <= self.total_requests and self.on_limit is not None:
            self.max_requests = 0
            self.on_limit()
        lines_wait = self.access_log.flush()
        refusals_wait = self.refusals.tick(now)
        return bool(self.connections or lines_wait or refusals_wait)

    def stop(self) -> None:
        """Cancel the clock, and write what the logs still hold."""
        self.access_log.close()
        self.refusals.sum_up()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def refresh(self) -> None:
        """Read the clocks: loop time for deadlines, wall time for Date (RFC 9110 section 6.6.1)."""
        self.now = self.loop.time()
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self.date_head = b"date: " + date_of(second) + b"\r\n" if self.send_date else b""
            self.default_head = self.date_head + self.server_head + self.extra_head


def date_of(second: int) -> bytes:
    """A Unix time as the value of a Date field (RFC 9110 section 5.6.7)."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(second)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{DAYS[weekday]}, {day:02} {MONTHS[month - 1]} {year} {clock} GMT".encode()

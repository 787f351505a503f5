"""Server: the life of one server process. It binds, imports the application, starts the lifespan
and accepts connections; at the end it drains, shuts the lifespan down, and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from thestral._core.metrics import WorkerMetrics
from thestral.config import Config
from thestral.config.environment import say_not_read_again
from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger
from thestral.logging.setup import configure
from thestral.net import sockets as listening
from thestral.net import tls
from thestral.net.listeners import Listeners
from thestral.process import systemd
from thestral.process.importer import load_application
from thestral.process.lifespan import Lifespan
from thestral.process.loop import CANCEL_GRACE, finish_loop, loop_factory
from thestral.process.metrics import STOPPED, Metrics, Slot
from thestral.process.sampling import Sampler
from thestral.process.signals import (
    QUIT,
    REQUEST_SIGNALS,
    Handler,
    act_on_request,
    call_own_handlers,
    do_nothing,
    is_free,
    is_terminal,
    taking,
    terminated_quietly,
)
from thestral.process.watchdog import Watchdog
from thestral.protocol.context import WorkerContext
from thestral.protocol.protocols import new_connection
from thestral.protocol.routes import template_of
from thestral.types import ASGIApplication

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Time for the lifespan's shutdown, and for a worker to end, beyond --timeout-graceful-shutdown.
STOP_MARGIN = 30.0  # seconds
# Start-up time that systemd is asked to allow without --timeout-worker-startup.
LONGEST_START = 900.0  # seconds
FORCE_HINT = " (Press CTRL+C to quit at once)"
Result = TypeVar("Result")


class StartedEvent(asyncio.Event):
    """Set once requests are accepted. True from then on, for `while not server.started`."""

    def __bool__(self) -> bool:
        return self.is_set()


@dataclass(frozen=True)
class ServerState:
    """The state of a server, under uvicorn's names.

    Attributes:
        total_requests: number of requests that have begun.
        connections: the open connections.
        tasks: the application's tasks of running requests.
    """

    total_requests: int
    connections: set[Any]
    tasks: set[Any]


class Server:
    """Serves one application in one event loop.

    Args:
        config: the options.
        install_signal_handlers: handle SIGINT and SIGTERM while serving (main thread only), and
            SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 where the program has no handler of its own.
        loaded: the application, if it has been imported already.
        slot: where to count, if a supervisor reads it.

    Attributes:
        started: set once requests are accepted.
        should_exit: set it, from any thread, to drain and stop.
        force_exit: set it as well to stop without waiting.
        sockets: the listening sockets.
        on_started: called in the loop once requests are accepted.
        certificates: those of the TLS port, once it serves; reload() reads their files again.
        listeners: the listeners on the sockets, once it serves.
        lifespan: the application's lifespan, once it serves.
        watchdog: that of the loop, once it serves; None without one.
        metrics: what the server counts, if `admin` is set and no supervisor reads it.
        left_behind: after run(), whether a task has not ended although it was cancelled.
    """

    # Signals that stop it while it serves.
    signals: Sequence[signal.Signals] = SIGNALS
    # Whether this process talks to systemd.
    has_manager = True
    # Whether the server's own transports carry connections where they can; else the loop's do.
    owns_sockets = True

    def __init__(
        self,
        config: Config,
        *,
        install_signal_handlers: bool = True,
        loaded: Any = None,
        slot: Slot | None = None,
    ) -> None:
        self.config = config
        self.started = StartedEvent()
        self.sockets: list[socket.socket] = []
        self.context: WorkerContext | None = None
        self.certificates: tls.Certificates | None = None
        self.left_behind = False
        self.on_started: Callable[[], None] = lambda: None
        self._install_signal_handlers = install_signal_handlers
        self._loaded = loaded
        self._slot = slot
        self.metrics: Metrics | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._forced = asyncio.Event()
        self._should_exit = False
        self._force_exit = False
        self._signals_taken: list[int] = []
        self.listeners: Listeners | None = None
        self.lifespan: Lifespan | None = None
        self.watchdog: Watchdog | None = None
        self._on_terminal = is_terminal()

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        self._wake()

    @property
    def force_exit(self) -> bool:
        return self._force_exit

    @force_exit.setter
    def force_exit(self, value: bool) -> None:
        self._force_exit = value
        self._wake()

    @property
    def server_state(self) -> ServerState:
        """A snapshot of the server's state."""
        if self.context is None:
            return ServerState(0, set(), set())
        return ServerState(
            self.context.total_requests,
            set(self.context.connections),
            {cycle.task for cycle in self.context.cycles if cycle.task is not None},
        )

    @property
    def servers(self) -> list[Any]:
        """uvicorn's name for the objects that accept connections, one for each socket."""
        return [] if self.listeners is None else self.listeners.servers

    def _wake(self) -> None:
        if self._loop is not None and self._should_exit:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._stop.set)
                if self._force_exit:
                    self._loop.call_soon_threadsafe(self._forced.set)

    def run(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve in a new event loop until told to stop.

        If a signal stopped the server and the program has a handler of its own for it, that handler
        is called at the end.

        Args:
            sockets: as in serve().

        Raises:
            ThestralError: the server could not start: BindError, ImportFailedError or
                LifespanError, or ConfigError for a certificate.
        """
        configure(self.config)
        self._run_in_loop(self.serve_only(sockets))
        call_own_handlers(self._signals_taken)

    def check(self) -> ASGIApplication:
        """Import the application and run its lifespan from start to end, without opening a port;
        return it.

        Raises:
            ThestralError: as in run().
        """
        configure(self.config)
        return self._run_in_loop(self._check())

    async def _check(self) -> ASGIApplication:
        tls.load(self.config)
        app = load_application(self.config)
        lifespan = Lifespan(app, self.config.lifespan)
        await lifespan.startup()
        await lifespan.shutdown()
        return app

    def _run_in_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in a new event loop, then cancel the remaining tasks and close the loop.

        The thread's current loop (asyncio.set_event_loop) does not change: it may be the caller's,
        and asyncio.get_event_loop() returns the running loop anyway.
        """
        try:
            loop = loop_factory(self.config.loop)()
        except BaseException:
            work.close()
            raise
        # Unlike the loop's default one, this executor can be shut down without waiting for its
        # threads, in which cancelled requests may still be blocked.
        executor = ThreadPoolExecutor(thread_name_prefix="thestral")
        loop.set_default_executor(executor)
        try:
            with terminated_quietly(), taking(self._requests()):
                return loop.run_until_complete(work)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            self.left_behind = not finish_loop(loop)

    async def serve(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve in the running loop of another program until told to stop.

        A signal that stopped the server is raised again afterwards, as in uvicorn, because the
        program should end too, with whatever else it runs.

        Args:
            sockets: bound sockets to listen on instead of the config's host and port.

        Raises:
            ThestralError: as in run(). The lifespan has been shut down and the sockets are closed.
        """
        configure(self.config)
        await self.serve_only(sockets)
        for number in reversed(self._signals_taken):
            signal.raise_signal(number)

    async def serve_only(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve as serve() does, but neither configure logging nor raise signals again."""
        self._loop = asyncio.get_running_loop()
        self._wake()  # should_exit may have been set already
        error_logger.info("Started server process [%d]", os.getpid())
        counting = self._start_counting()
        if self.has_manager:
            systemd.starting(longest_start(self.config))
        self.certificates = self.load_certificates()
        self.sockets = list(sockets or listening.open_all(self.config))
        try:
            with self._pid_file():
                self.prepare()
                app = self._loaded or load_application(self.config)
                with self.capture_signals():
                    lifespan = Lifespan(app, self.config.lifespan)
                    await self._serve_until_stopped(lifespan, app, counting)
        finally:
            listening.close_all(self.sockets)
            if self.metrics is not None and self._slot is not None:
                self.metrics.give_back(self._slot, STOPPED)
                self._slot = None
        error_logger.info("Finished server process [%d]", os.getpid())

    def prepare(self) -> None:
        """Called before the application is imported."""

    def load_certificates(self) -> tls.Certificates | None:
        return tls.load(self.config)

    def _start_counting(self) -> WorkerMetrics | None:
        """Take a slot to count in, if somebody reads it."""
        if self._slot is None and self.config.admin is not None:
            error_logger.warning(
                "There is no admin port: a supervisor serves it, and a program's own Server has"
                " none. Use thestral.run(), or the command"
            )
            self.metrics = self.metrics or Metrics(lambda: self.sockets)
            self._slot = self.metrics.take(0)
        if self._slot is None:
            return None
        template = template_of if self.config.metrics_routes else None
        return WorkerMetrics(self._slot.memory, os.getpid(), self._slot.number, template)

    def _pid_file(self) -> contextlib.AbstractContextManager[None]:
        return pid_file(self.config.pid_file)

    async def _serve_until_stopped(
        self, lifespan: Lifespan, app: Any, counting: WorkerMetrics | None
    ) -> None:
        if self._should_exit:
            return
        if not await self._unless(self._stop, lifespan.startup()):
            await lifespan.cancel()
            return
        assert self._loop is not None
        context = WorkerContext(
            self.config, app, self._loop, lifespan.state, lifespan.context, self.certificates
        )
        context.on_limit = self.retire
        context.metrics = counting
        sampler = Sampler(self._loop, context) if counting is not None else None
        self.context = context
        self.lifespan = lifespan
        listeners = Listeners(
            self._loop,
            self.sockets,
            self.config.backlog,
            partial(new_connection, context),
            self.owns_sockets,
        )
        self.listeners = listeners
        calling: asyncio.Task[None] | None = None
        try:
            await listeners.open()
            self._watch()
            self.started.set()
            self.announce()
            self.on_started()
            if sampler is not None:
                sampler.start()
            calling = self._loop.create_task(self._notify_program())
            await self._stop.wait()
        finally:
            error_logger.info("Shutting down")
            context.draining = True
            lifespan.shutdown_event.set()
            if calling is not None:
                calling.cancel()
            if self.has_manager:
                systemd.stopping(longest_stop(self.config))
            if self.config.shutdown_delay and not self._force_exit:
                await self._delay_shutdown(context)
            await listeners.stop()
            await self._drain(context)
            if self.watchdog is not None:
                self.watchdog.stop()
            listeners.close()
            if sampler is not None:
                sampler.stop()
            context.stop()
            if not await self._unless(self._forced, self._shut_down(lifespan)):
                await lifespan.cancel()

    async def _shut_down(self, lifespan: Lifespan) -> None:
        """Run the lifespan's shutdown, at most STOP_MARGIN longer than requests may take."""
        allowed = self.config.timeout_graceful_shutdown + STOP_MARGIN
        try:
            async with asyncio.timeout(allowed):
                await lifespan.shutdown()
        except TimeoutError:
            error_logger.error("Application shutdown not complete after %g s: cancelling", allowed)
            await lifespan.cancel()

    async def _unless(self, event: asyncio.Event, step: Coroutine[Any, Any, None]) -> bool:
        """Await a step; cancel it and return False if the event is set first."""
        work = asyncio.ensure_future(step)
        interruption = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({work, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            await work
            return True
        finally:
            work.cancel()
            interruption.cancel()
            await asyncio.gather(work, interruption, return_exceptions=True)

    async def _notify_program(self) -> None:
        """Call callback_notify every timeout_notify seconds."""
        while self.config.callback_notify is not None:
            try:
                await self.config.callback_notify()
            except Exception:
                error_logger.exception("Exception in callback_notify")
            await asyncio.sleep(self.config.timeout_notify)

    def _watch(self) -> None:
        """Start the watchdog of the loop, if there is to be one. Not earlier: an application may
        block the loop while it starts.
        """
        if self.config.watchdog:
            assert self._loop is not None
            watchdog = Watchdog(self._loop, self.config.watchdog, self.on_blocked)
            try:
                watchdog.start()
            except RuntimeError as exc:  # no threads are left, or the interpreter shuts down
                error_logger.warning("The event loop has no watchdog: %s", exc)
            else:
                self.watchdog = watchdog

    def on_blocked(self, title: str | None) -> None:
        """Called by the watchdog, as that says."""

    def announce(self) -> None:
        """Log that requests are accepted, and tell systemd."""
        for sock in self.sockets:
            url = listening.url(sock, self.config.is_ssl)
            error_logger.info("Thestral running on %s (Press CTRL+C to quit)", url)
        systemd.ready()
        self._feed_watchdog()

    def _feed_watchdog(self) -> None:
        """Tell systemd's watchdog at regular intervals that the loop runs, if it is enabled."""
        interval = systemd.watchdog_interval()
        if interval is not None:
            assert self._loop is not None
            systemd.notify("WATCHDOG=1")
            self._loop.call_later(interval, self._feed_watchdog)

    def say_waiting(self, count: int) -> None:
        """Log that the shutdown waits for a number of requests."""
        error_logger.info(
            "Waiting for running requests to finish: %d, at most %g s%s",
            count,
            self.config.timeout_graceful_shutdown,
            self.how_to_force(),
        )

    def how_to_force(self) -> str:
        """A hint for log lines about a wait; empty unless a signal began the shutdown."""
        return FORCE_HINT if self._signals_taken else ""

    def retire(self) -> None:
        """Stop at limit_max_requests: a server without a supervisor has no successor."""
        self.should_exit = True

    async def _delay_shutdown(self, context: WorkerContext) -> None:
        """Keep serving for shutdown_delay, while load balancers notice the shutdown; each response
        closes its connection, and HTTP/2 clients are told to open another one.
        """
        for connection in list(context.connections):
            connection.wind_down()
        delay = self.config.shutdown_delay
        error_logger.info("Accepting for %g more seconds%s", delay, self.how_to_force())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._forced.wait(), self.config.shutdown_delay)

    async def _drain(self, context: WorkerContext) -> None:
        """Wait for running requests, at most timeout_graceful_shutdown; then log and cancel those
        that are left, and abort their connections.
        """
        for connection in list(context.connections):
            connection.drain()
        if context.cycles and not self._force_exit:
            self.say_waiting(len(context.cycles))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._unless(self._forced, context.wait_until_empty())
        tasks = []
        for cycle in list(context.cycles):
            error_logger.error("Cancelled at shutdown: %s", cycle.title(), extra=cycle.extra())
            if cycle.task is not None:
                tasks.append(cycle.task)
            cycle.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        for connection in list(context.connections):
            connection.abort()
        await asyncio.sleep(0)  # lets connection_lost run

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle signals within the context. The handlers only set flags or schedule a call in the
        loop, so they interrupt nothing halfway.

        The handler of SIGTERM must be a bound method of an object with should_exit, as uvicorn's
        is: libraries such as sse-starlette look for that to notice a shutdown.
        """
        if not self._install_signal_handlers or sys.platform == "win32":
            yield
            return
        handlers = self._requests()
        # A program that embeds the server may handle these two itself.
        if is_free(signal.SIGHUP):
            handlers[signal.SIGHUP] = self.handle_hangup
        if is_free(QUIT):
            handlers[QUIT] = self.handle_exit
        handlers |= dict.fromkeys(self.signals, self.handle_exit)
        with taking(handlers):
            yield

    def _requests(self) -> dict[signal.Signals, Handler]:
        """Handlers for REQUEST_SIGNALS, except those that the program handles or ignores."""
        if not self._install_signal_handlers:
            return {}
        return {
            number: self.handle_request
            for number in REQUEST_SIGNALS
            if is_free(number) or signal.getsignal(number) is do_nothing
        }

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """Drain at the first signal to stop; at the second, or at SIGQUIT, stop without waiting."""
        self._signals_taken.append(number)
        if self._should_exit or number == QUIT:
            self.force_exit = True
        self.should_exit = True
        if number == QUIT and self._loop is not None:
            text = "Received %s: not waiting for requests"
            self._loop.call_soon_threadsafe(error_logger.info, text, QUIT.name)

    def handle_request(self, number: int, frame: FrameType | None) -> None:
        """Act on SIGUSR1 or SIGUSR2 in the loop, because the signal may have interrupted a log
        handler.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(act_on_request, number)

    def handle_hangup(self, number: int, frame: FrameType | None) -> None:
        """Reload certificates at SIGHUP, or stop if the terminal has hung up."""
        if self._on_terminal and not is_terminal():
            self.handle_exit(number, frame)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._renew_certificates)

    def _renew_certificates(self) -> None:
        error_logger.info("Received SIGHUP")
        systemd.reloading()
        if self.certificates is not None:
            self.certificates.reload()
        else:
            error_logger.warning(
                "Nothing to reload: without workers, SIGHUP only reloads certificates"
            )
        say_not_read_again()
        systemd.ready()


@contextlib.contextmanager
def pid_file(path: str | None) -> Generator[None]:
    """Keep the PID of this process in a file for the duration of the context.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        yield
        return
    path = os.path.abspath(path)  # the application may change the working directory
    try:
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as exc:
        reason = f"{path!r} cannot be written: {os.strerror(exc.errno or 0)}"
        raise ConfigError("pid_file", reason) from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            if file.read().strip() == str(os.getpid()):
                os.unlink(path)


def longest_start(config: Config) -> float:
    """Start-up time that systemd is asked to allow, in seconds."""
    startup = config.timeout_worker_startup
    return startup + STOP_MARGIN if startup else LONGEST_START


def longest_stop(config: Config) -> float:
    """Longest time that a shutdown takes, in seconds: delay, requests, the lifespan's shutdown."""
    grace = config.timeout_graceful_shutdown
    return config.shutdown_delay + grace + grace + STOP_MARGIN

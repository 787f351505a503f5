"""Server: the life of one worker. Bind, import, start the lifespan, accept; at the end drain, shut
the lifespan down, and stop.
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
from typing import Any

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
from thestral.process.signals import (
    LEAVE,
    REQUESTS,
    Handler,
    act_on_request,
    call_own_handlers,
    do_nothing,
    is_free,
    is_terminal,
    taking,
    terminated_quietly,
)
from thestral.protocol.context import WorkerContext
from thestral.protocol.protocols import new_connection

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a lifespan's shutdown may take, or a worker's, beyond the time that requests have.
STOP_MARGIN = 30.0  # seconds
# What systemd is asked to allow a start where --timeout-worker-startup does not say it.
LONGEST_START = 900.0  # seconds
FORCE_HINT = " (Press CTRL+C to quit at once)"


class StartedEvent(asyncio.Event):
    """Set once requests are accepted. Also true or false, for `while not server.started`."""

    def __bool__(self) -> bool:
        return self.is_set()


@dataclass(frozen=True)
class ServerState:
    """uvicorn's names for what a server has.

    Attributes:
        total_requests: how many have begun.
        connections: those that are open.
        tasks: of the application, for the requests that run.
    """

    total_requests: int
    connections: set[Any]
    tasks: set[Any]


class Server:
    """Serves one application in one event loop.

    Args:
        config: the options.
        install_signal_handlers: take SIGINT and SIGTERM while serving (main thread only), and
            SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 where the program has no handler of its own.
        loaded: the application, if it has been imported already.

    Attributes:
        started: set once requests are accepted.
        should_exit: set it, from any thread, to drain and stop.
        force_exit: set it as well to stop without waiting.
        sockets: what it listens on.
        on_started: called in the loop once requests are accepted.
        certificates: of its TLS port, once it serves; reload() reads their files again.
        listeners: those of its sockets, once it serves.
        lifespan: the application's, once it serves.
        left_behind: after run(), whether a task would not be cancelled.
    """

    # What it takes while it serves.
    signals: Sequence[signal.Signals] = SIGNALS
    # Whether it is this process that a service manager listens to.
    has_manager = True
    # Whether connections are ours where they can be; else the loop's transports carry them.
    owns_sockets = True

    def __init__(
        self, config: Config, *, install_signal_handlers: bool = True, loaded: Any = None
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._forced = asyncio.Event()
        self._should_exit = False
        self._force_exit = False
        self._signals_taken: list[int] = []
        self.listeners: Listeners | None = None
        self.lifespan: Lifespan | None = None
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
        """A look at it now."""
        if self.context is None:
            return ServerState(0, set(), set())
        return ServerState(
            self.context.total_requests,
            set(self.context.connections),
            {cycle.task for cycle in self.context.cycles if cycle.task is not None},
        )

    @property
    def servers(self) -> list[Any]:
        """uvicorn's name for what accepts connections, one for each socket."""
        return [] if self.listeners is None else self.listeners.servers

    def _wake(self) -> None:
        if self._loop is not None and self._should_exit:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._stop.set)
                if self._force_exit:
                    self._loop.call_soon_threadsafe(self._forced.set)

    def run(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve in a new event loop until told to stop.

        The program's own handler of a signal that stopped it, if it has one, is called at the end.

        Args:
            sockets: as serve().

        Raises:
            ThestralError: it could not start; one of BindError, ImportFailedError, LifespanError;
                ConfigError for a certificate.
        """
        configure(self.config)
        self._run_in_loop(self.serve_only(sockets))
        call_own_handlers(self._signals_taken)

    def check(self) -> None:
        """Import the application, run its lifespan from start to end, and open nothing.

        Raises:
            ThestralError: as run().
        """
        configure(self.config)
        self._run_in_loop(self._check())

    async def _check(self) -> None:
        tls.load(self.config)
        app = load_application(self.config)
        lifespan = Lifespan(app, self.config.lifespan)
        await lifespan.startup()
        await lifespan.shutdown()

    def _run_in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the work in a new event loop, and end what is left in that.

        The thread's current loop (asyncio.set_event_loop) stays what it is: the caller may have
        one, and while ours runs asyncio.get_event_loop() gives ours anyway.
        """
        try:
            loop = loop_factory(self.config.loop)()
        except BaseException:
            work.close()
            raise
        # Of our own, so that its threads need not be waited for: a request that was given up may
        # still sit in one.
        executor = ThreadPoolExecutor(thread_name_prefix="thestral")
        loop.set_default_executor(executor)
        try:
            with terminated_quietly(), taking(self._requests()):
                loop.run_until_complete(work)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            self.left_behind = not finish_loop(loop)

    async def serve(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve in the running loop, of a program of its own, until told to stop.

        A signal that stopped it is raised again behind it, as uvicorn does: the program should end,
        too, with whatever else it runs.

        Args:
            sockets: bound ones to listen on in place of the config's host and port.

        Raises:
            ThestralError: as run(). The lifespan has been shut down and nothing listens any more.
        """
        configure(self.config)
        await self.serve_only(sockets)
        for number in reversed(self._signals_taken):
            signal.raise_signal(number)

    async def serve_only(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """serve() without what concerns the program around it: logs and signals."""
        self._loop = asyncio.get_running_loop()
        self._wake()  # somebody may have asked for the end already
        error_logger.info("Started server process [%d]", os.getpid())
        if self.has_manager:
            systemd.starting(longest_start(self.config))
        self.certificates = self.load_certificates()
        self.sockets = list(sockets or listening.open_all(self.config))
        try:
            with self._pid_file():
                app = self._loaded or load_application(self.config)
                with self.capture_signals():
                    await self._serve_until_stopped(Lifespan(app, self.config.lifespan), app)
        finally:
            listening.close_all(self.sockets)
        error_logger.info("Finished server process [%d]", os.getpid())

    def load_certificates(self) -> tls.Certificates | None:
        return tls.load(self.config)

    def _pid_file(self) -> contextlib.AbstractContextManager[None]:
        return pid_file(self.config.pid_file)

    async def _serve_until_stopped(self, lifespan: Lifespan, app: Any) -> None:
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
            self.started.set()
            self.announce()
            self.on_started()
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
                await self._delay_shutdown()
            await listeners.stop()
            await self._drain(context)
            listeners.close()
            context.stop()
            if not await self._unless(self._forced, self._shut_down(lifespan)):
                await lifespan.cancel()

    async def _shut_down(self, lifespan: Lifespan) -> None:
        """Its shutdown, which may take STOP_MARGIN longer than requests may."""
        allowed = self.config.timeout_graceful_shutdown + STOP_MARGIN
        try:
            async with asyncio.timeout(allowed):
                await lifespan.shutdown()
        except TimeoutError:
            error_logger.error("Application shutdown not complete after %g s: cancelled", allowed)
            await lifespan.cancel()

    async def _unless(self, event: asyncio.Event, step: Coroutine[Any, Any, None]) -> bool:
        """Await a step; False if the event came first, and the step was cancelled."""
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

    def announce(self) -> None:
        """Requests are accepted: say so, to people and to systemd."""
        for sock in self.sockets:
            url = listening.url(sock, self.config.is_ssl)
            error_logger.info("Thestral running on %s (Press CTRL+C to quit)", url)
        systemd.ready()
        self._feed_watchdog()

    def _feed_watchdog(self) -> None:
        """Tell systemd's watchdog that the loop runs, if it asks."""
        interval = systemd.watchdog_interval()
        if interval is not None:
            assert self._loop is not None
            systemd.notify("WATCHDOG=1")
            self._loop.call_later(interval, self._feed_watchdog)

    def say_waiting(self, count: int) -> None:
        """The stop has to wait for so many requests."""
        error_logger.info(
            "Waiting for running requests to finish: %d, at most %g s%s",
            count,
            self.config.timeout_graceful_shutdown,
            self.how_to_force(),
        )

    def how_to_force(self) -> str:
        """What is added to a line about a wait, if a signal would end it."""
        return FORCE_HINT if self._signals_taken else ""

    def retire(self) -> None:
        """limit_max_requests is reached: a server on its own stops."""
        self.should_exit = True

    async def _delay_shutdown(self) -> None:
        """Serve on for shutdown_delay, each answer closing its connection, while load balancers
        learn that we go.
        """
        delay = self.config.shutdown_delay
        error_logger.info("Accepting for %g more seconds%s", delay, self.how_to_force())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._forced.wait(), self.config.shutdown_delay)

    async def _drain(self, context: WorkerContext) -> None:
        """Wait for what runs, at most timeout_graceful_shutdown; then cancel it and say what it
        was.
        """
        for connection in list(context.connections):
            connection.drain()
        if context.cycles and not self._force_exit:
            self.say_waiting(len(context.cycles))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._unless(self._forced, context.is_empty())
        tasks = []
        for cycle in list(context.cycles):
            error_logger.error("Cancelled at shutdown: %s", cycle.title())
            if cycle.task is not None:
                tasks.append(cycle.task)
            cycle.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        for connection in list(context.connections):
            connection.abort()
        await asyncio.sleep(0)  # connection_lost runs

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take the signals; the handler only sets flags, so nothing is interrupted in the middle.

        As a bound method of an object with should_exit it is what libraries look for that want to
        know of a shutdown, as sse-starlette does with uvicorn's.
        """
        if not self._install_signal_handlers or sys.platform == "win32":
            yield
            return
        handlers = self._requests()
        # Whoever has us in a program of theirs may have a use for them.
        if is_free(signal.SIGHUP):
            handlers[signal.SIGHUP] = self.handle_hangup
        if is_free(LEAVE):
            handlers[LEAVE] = self.handle_exit
        handlers |= dict.fromkeys(self.signals, self.handle_exit)
        with taking(handlers):
            yield

    def _requests(self) -> dict[signal.Signals, Handler]:
        """Handlers of the signals that ask for something, where they are free."""
        if not self._install_signal_handlers:
            return {}
        return {
            number: self.handle_request
            for number in REQUESTS
            if is_free(number) or signal.getsignal(number) is do_nothing
        }

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """A signal to stop: the first drains, the second and SIGQUIT do not wait."""
        self._signals_taken.append(number)
        if self._should_exit or number == LEAVE:
            self.force_exit = True
        self.should_exit = True
        if number == LEAVE and self._loop is not None:
            text = "Received %s: not waiting for requests"
            self._loop.call_soon_threadsafe(error_logger.info, text, LEAVE.name)

    def handle_request(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR1 or SIGUSR2, to be acted upon in the loop: a handler of the log may be at work."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(act_on_request, number)

    def handle_hangup(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP: read certificates again; but stop if it is the terminal that hangs up."""
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
            error_logger.warning("Nothing to reload: without workers only certificates can be")
        say_not_read_again()
        systemd.ready()


@contextlib.contextmanager
def pid_file(path: str | None) -> Generator[None]:
    """Our PID in a file while we live.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is None:
        yield
        return
    path = os.path.abspath(path)  # the application may change the directory
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
    """Seconds that a start may take, which systemd is asked to allow."""
    startup = config.timeout_worker_startup
    return startup + STOP_MARGIN if startup else LONGEST_START


def longest_stop(config: Config) -> float:
    """Seconds that a stop may take: delay, requests, then the lifespan's shutdown."""
    grace = config.timeout_graceful_shutdown
    return config.shutdown_delay + grace + grace + STOP_MARGIN

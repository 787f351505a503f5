"""Server: one worker's life. Bind, import, lifespan, accept; then drain and stop."""

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

from thestral import notify, tls
from thestral import sockets as listening
from thestral.config import Config
from thestral.errors import ConfigError, Terminated
from thestral.importer import load
from thestral.lifespan import Lifespan
from thestral.logging import configure, error_logger, reopen_files
from thestral.loop import loop_factory
from thestral.protocol.context import WorkerContext
from thestral.protocol.proxy import new_connection
from thestral.protocol.transport import Listener, Poller, can_own
from thestral.settings import say_not_read_again
from thestral.signals import LEAVE, REQUESTS, Handler, do_nothing, is_free, taking

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How often a drain looks whether it is done, in seconds.
DRAIN_STEP = 0.02
# What a lifespan's shutdown may take, or a worker's, beyond the time that requests have.
STOP_MARGIN = 30.0  # seconds
# What systemd is asked to allow a start where --timeout-worker-startup does not say it.
LONGEST_START = 900.0  # seconds
FORCE_HINT = " (Press CTRL+C to quit at once)"
# How long tasks that were cancelled may take to end, in seconds.
CANCEL_GRACE = 1.0


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
        servers: asyncio's, one for each socket.
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
        self._poller: Poller | None = None
        self.servers: list[asyncio.Server | Listener] = []
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
        self._run(self.work(sockets))
        call_own_handlers(self._signals_taken)

    def check(self) -> None:
        """Import the application, run its lifespan from start to end, and open nothing.

        Raises:
            ThestralError: as run().
        """
        configure(self.config)
        self._run(self._check())

    async def _check(self) -> None:
        tls.load(self.config)
        app = load_configured(self.config)
        lifespan = Lifespan(app, self.config.lifespan)
        await lifespan.startup()
        await lifespan.shutdown()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
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
        await self.work(sockets)
        for number in reversed(self._signals_taken):
            signal.raise_signal(number)

    async def work(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """serve() without what concerns the program around it: logs and signals."""
        self._loop = asyncio.get_running_loop()
        self._wake()  # somebody may have asked for the end already
        error_logger.info("Started server process [%d]", os.getpid())
        if self.has_manager:
            tell_start(self.config)
        self.certificates = self.load_certificates()
        self.sockets = list(sockets or listening.open_all(self.config))
        try:
            with self._pid_file():
                app = self._loaded or load_configured(self.config)
                with self.capture_signals():
                    await self._serve(Lifespan(app, self.config.lifespan), app)
        finally:
            listening.close_all(self.sockets)
        error_logger.info("Finished server process [%d]", os.getpid())

    def load_certificates(self) -> tls.Certificates | None:
        return tls.load(self.config)

    def _pid_file(self) -> contextlib.AbstractContextManager[None]:
        return pid_file(self.config.pid_file)

    async def _serve(self, lifespan: Lifespan, app: Any) -> None:
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
        calling: asyncio.Task[None] | None = None
        try:
            await self._accept(context)
            self.started.set()
            self.announce()
            self.on_started()
            calling = self._loop.create_task(self._call_back())
            await self._stop.wait()
        finally:
            error_logger.info("Shutting down")
            context.draining = True
            lifespan.shutdown_event.set()
            if calling is not None:
                calling.cancel()
            if self.has_manager:
                tell_stop(self.config)
            if self.config.shutdown_delay and not self._force_exit:
                await self._linger()
            await self._refrain(context)
            await self._drain(context)
            if self._poller is not None:
                self._poller.close()
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

    async def _accept(self, context: WorkerContext) -> None:
        assert self._loop is not None
        if self.owns_sockets and can_own(self.sockets):
            self._poller = Poller(self._loop)
        for sock in self.sockets:
            listening.listen(sock, self.config.backlog)
            self.servers.append(await self._listen(sock, context))

    async def _call_back(self) -> None:
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
        notify.ready()
        self._watch_over()

    def _watch_over(self) -> None:
        """Tell systemd's watchdog that the loop runs, if it asks."""
        interval = notify.watchdog_interval()
        if interval is not None:
            assert self._loop is not None
            notify.notify("WATCHDOG=1")
            self._loop.call_later(interval, self._watch_over)

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

    async def _listen(
        self, sock: socket.socket, context: WorkerContext
    ) -> asyncio.Server | Listener:
        connection: Callable[[], Any] = partial(new_connection, context)
        if self._poller is not None:
            return self._poller.listen(sock, connection)
        assert self._loop is not None
        backlog = self.config.backlog
        if sock.family != socket.AF_UNIX:
            return await self._loop.create_server(connection, sock=sock, backlog=backlog)
        options: dict[str, Any] = {}
        if isinstance(self._loop, asyncio.SelectorEventLoop) and sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # the path is ours to take away
        return await self._loop.create_unix_server(
            connection, sock=sock, backlog=backlog, **options
        )

    async def _refrain(self, context: WorkerContext) -> None:
        """Accept no more, and lose nothing that has been accepted, by us or by the kernel."""
        assert self._loop is not None
        selecting = self._poller is None and isinstance(self._loop, asyncio.SelectorEventLoop)
        for sock in self.sockets:
            listening.refuse_new(sock)
            if selecting:
                # It makes a connection some turns after accept(), and drops it if its server has
                # been closed meanwhile.
                self._loop.remove_reader(sock.fileno())
        await asyncio.sleep(DRAIN_STEP)  # handshakes that have begun come to their end
        if self._poller is not None:
            for listener in self.servers:
                assert isinstance(listener, Listener)
                listener.stop(self.config.backlog)
            return
        queues = [listening.duplicate(sock) for sock in self.sockets]
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # connection_made runs, and uvloop closes its descriptors
        connection: Callable[[], Any] = partial(new_connection, context)
        waiting = []
        for queue in queues:
            waiting += listening.take_waiting(queue, self.config.backlog)
            queue.close()
        for sock in waiting:
            try:
                await self._loop.connect_accepted_socket(connection, sock)
            except OSError:  # the client is gone already
                sock.close()

    async def _linger(self) -> None:
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
        assert self._loop is not None
        for connection in list(context.connections):
            connection.drain()
        deadline = self._loop.time() + self.config.timeout_graceful_shutdown
        if context.cycles and not self._force_exit:
            self.say_waiting(len(context.cycles))
        while (context.cycles or context.connections) and not self._force_exit:
            if self._loop.time() >= deadline:
                break
            await asyncio.sleep(DRAIN_STEP)
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
            self._loop.call_soon_threadsafe(self._read_again)

    def _read_again(self) -> None:
        error_logger.info("Received SIGHUP")
        notify.reloading()
        if self.certificates is not None:
            self.certificates.reload()
        else:
            error_logger.warning("Nothing to reload: without workers only certificates can be")
        say_not_read_again()
        notify.ready()


def is_terminal() -> bool:
    """Whether stderr is a terminal that is still there."""
    return os.isatty(2)


def tell_start(config: Config) -> None:
    """Have systemd wait for a slow start."""
    startup = config.timeout_worker_startup
    notify.starting(startup + STOP_MARGIN if startup else LONGEST_START)


def tell_stop(config: Config) -> None:
    """Have systemd wait for the longest stop: delay, requests, then the lifespan's shutdown."""
    grace = config.timeout_graceful_shutdown
    notify.stopping(config.shutdown_delay + grace + grace + STOP_MARGIN)


def load_configured(config: Config) -> Any:
    """The application that the options name.

    Raises:
        ImportFailedError: as load().
    """
    return load(config.app, config.app_dir, config.factory, config.interface)


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


@contextlib.contextmanager
def terminated_quietly() -> Generator[None]:
    """Until the server takes signals itself, SIGTERM raises Terminated: nothing has begun."""
    with taking({signal.SIGTERM: raise_terminated}):
        yield


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def act_on_request(number: int) -> None:
    """Do what one of REQUESTS asks for, or say that it asks for nothing."""
    name = signal.Signals(number).name
    if name == "SIGUSR1":
        error_logger.info("Received %s", name)
        reopen_files()
    else:
        error_logger.info("Received %s: nothing is bound to it", name)


def call_own_handlers(taken: Sequence[int]) -> None:
    """Raise signals again that the server has taken, the last one first, where the program or its
    application has a handler of its own: what that closes should be closed.

    A default one would end the process as a failure, which a stop on demand is not.
    """
    for number in reversed(taken):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)


def finish_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """End what is left in a loop, and close it. False if a task swallowed its cancellation.

    asyncio.Runner would wait for such a task for ever, and would take SIGINT from us.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        pending: set[asyncio.Task[Any]] = set()
        if tasks:
            _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_GRACE))
        if not pending:
            loop.run_until_complete(loop.shutdown_asyncgens())
        return not pending
    finally:
        loop.close()

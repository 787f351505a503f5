"""Server in the caller's event loop: started, should_exit, sockets, signals, several at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import pytest

import thestral
from thestral import Config, Server
from thestral.errors import BindError, ImportFailedError, LifespanError, ThestralError
from thestral.process.loop import loop_factory

GET = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request):
    """Run a coroutine in a new loop; fail after 20 seconds."""

    def run(main):
        with asyncio.Runner(loop_factory=loop_factory(request.param)) as runner:
            return runner.run(asyncio.wait_for(main, 20))

    return run


def answering(body, events=None):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                if events is not None:
                    events.append(phase)
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    return app


def make(app, **options):
    options = {"port": 0, "access_log": False, "timeout_graceful_shutdown": 5.0} | options
    return Server(Config(app, **options), install_signal_handlers=False)


def port_of(server):
    return server.sockets[0].getsockname()[1]


async def get(port, path=b"/"):
    """Send a request, and return the response's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET % path)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received.partition(b"\r\n\r\n")[2]


async def until(fact):
    while not fact():
        await asyncio.sleep(0.002)


async def start(server):
    task = asyncio.ensure_future(server.serve())
    waiting = asyncio.ensure_future(server.started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert server.started, task.exception()
    return task


async def stop(server, task):
    server.should_exit = True
    await task


def test_public_names():
    assert set(thestral.__all__) == {"Config", "Server", "__version__", "run", "shutdown_event"}
    assert thestral.Server is Server
    assert thestral.Config is Config


def test_started_is_an_event_and_a_boolean(run):
    server = make(answering(b"hello"))

    async def main():
        assert not server.started
        assert not server.started.is_set()
        task = await start(server)
        assert server.started
        assert await get(port_of(server)) == b"hello"
        await stop(server, task)

    run(main())


def test_started_comes_after_the_lifespan(run):
    events = []
    server = make(answering(b"", events))

    async def main():
        task = await start(server)
        assert events == ["startup"]
        await stop(server, task)
        assert events == ["startup", "shutdown"]

    run(main())


def test_should_exit_from_another_thread_wakes_the_loop(run):
    server = make(answering(b""))

    async def main():
        task = await start(server)
        thread = threading.Thread(target=setattr, args=(server, "should_exit", True))
        thread.start()
        await task
        thread.join()

    run(main())


def test_should_exit_before_serve_stops_at_once(run):
    # A thread may start a server and then stop it before the loop has run.
    events = []
    server = make(answering(b"", events))

    async def main():
        server.should_exit = True
        await asyncio.wait_for(server.serve(), 3)

    run(main())
    assert events in ([], ["startup", "shutdown"])


def test_should_exit_reads_back(run):
    server = make(answering(b""))
    assert (server.should_exit, server.force_exit) == (False, False)
    server.should_exit = True
    assert server.should_exit is True


@pytest.mark.parametrize("order", [["should_exit", "force_exit"], ["force_exit", "should_exit"]])
def test_force_exit_does_not_wait_for_a_request(run, order):
    server = make(answering(b""), timeout_graceful_shutdown=1000.0)

    async def main():
        task = await start(server)
        request = asyncio.ensure_future(get(port_of(server), b"/hang"))
        await until(lambda: server.context.cycles)
        for name in order:
            setattr(server, name, True)
        await asyncio.wait_for(task, 3)
        await asyncio.wait({request})
        request.exception()  # the request was either reset or answered

    run(main())


def test_should_exit_waits_for_a_request(run):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await answering(b"late")(scope, receive, send)

    server = make(app, lifespan="off")

    async def main():
        task = await start(server)
        request = asyncio.ensure_future(get(port_of(server)))
        await until(lambda: server.context.cycles)
        server.should_exit = True
        await until(lambda: server.context.draining)
        assert not task.done()
        gate.set()
        assert await request == b"late"
        await task

    run(main())


def test_graceful_shutdown_of_zero_seconds_cancels_at_once(run):
    ended = []

    async def app(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    server = make(app, lifespan="off", timeout_graceful_shutdown=0)

    async def main():
        task = await start(server)
        request = asyncio.ensure_future(get(port_of(server), b"/hang"))
        await until(lambda: server.context.cycles)
        await asyncio.wait_for(stop(server, task), 3)
        await asyncio.wait({request})
        request.exception()

    run(main())
    assert ended == ["/hang"]


def test_cancelling_serve_ends_the_lifespan_and_closes_the_port(run):
    events = []
    server = make(answering(b"", events))

    async def main():
        task = await start(server)
        port = port_of(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionRefusedError):
            await get(port)

    run(main())
    assert events == ["startup", "shutdown"]


# --- Sockets --------------------------------------------------------------------------------------


def bound():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def test_sockets_given_take_the_place_of_host_and_port(run):
    first, second = bound(), bound()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        # Binding the config's own port would fail.
        server = make(answering(b"hello"), port=taken.getsockname()[1])

        async def main():
            ports = [sock.getsockname()[1] for sock in (first, second)]
            task = asyncio.ensure_future(server.serve(sockets=[first, second]))
            await server.started.wait()
            assert [await get(port) for port in ports] == [b"hello", b"hello"]
            await stop(server, task)
            for port in ports:
                with pytest.raises(ConnectionRefusedError):
                    await get(port)

        run(main())


def test_sockets_that_listen_already_are_taken(run):
    sock = bound()
    sock.listen()
    server = make(answering(b"hello"))

    async def main():
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        await server.started.wait()
        assert await get(sock.getsockname()[1]) == b"hello"
        await stop(server, task)

    run(main())


def test_port_is_free_again_right_after_the_stop(run):
    async def main():
        port = 0
        for body in (b"first", b"second", b"third"):
            server = make(answering(body), port=port)
            task = await start(server)
            assert port in (0, port_of(server))
            port = port_of(server)
            # The server closes first, so its side of the connection goes to TIME_WAIT.
            assert await get(port) == body
            await stop(server, task)

    run(main())


def test_two_servers_in_one_loop_are_independent(run):
    first, second = make(answering(b"one")), make(answering(b"two"))

    async def main():
        tasks = [await start(first), await start(second)]
        assert port_of(first) != port_of(second)
        assert await get(port_of(first)) == b"one"
        assert await get(port_of(second)) == b"two"
        await stop(first, tasks[0])
        assert await get(port_of(second)) == b"two"
        assert first.context.total_requests == 1
        assert second.context.total_requests == 2
        await stop(second, tasks[1])

    run(main())


def test_both_families_of_a_host_have_the_same_port(run):
    server = make(answering(b"hello"), host="localhost")

    async def main():
        task = await start(server)
        assert len({sock.getsockname()[1] for sock in server.sockets}) == 1
        await stop(server, task)

    run(main())


# --- Failed starts --------------------------------------------------------------------------------


async def failing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "DB is down"})


@pytest.mark.parametrize(
    ("app", "error"),
    [(failing, LifespanError), (42, ImportFailedError), ("no_such_module:app", ImportFailedError)],
)
def test_failure_to_start_closes_what_was_bound(run, monkeypatch, app, error):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    server = make(app)

    async def main():
        with pytest.raises(error) as caught:
            await server.serve()
        assert isinstance(caught.value, ThestralError)
        assert not server.started
        assert all(sock.fileno() == -1 for sock in server.sockets)

    run(main())


def test_port_in_use_is_a_bind_error_that_names_the_process(run):
    with bound() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        called = []

        async def app(scope, receive, send):
            called.append(scope)

        async def main():
            with pytest.raises(BindError) as caught:
                await make(app, port=port).serve()
            assert f"Port {port} is in use by " in str(caught.value)
            assert f"(PID {os.getpid()})" in str(caught.value)

        run(main())
    assert called == []


def test_shutdown_failure_reaches_the_caller_after_the_port_is_closed(run):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "queue is full"})

    server = make(app)

    async def main():
        task = await start(server)
        port = port_of(server)
        server.should_exit = True
        with pytest.raises(LifespanError, match=r"^queue is full$"):
            await task
        with pytest.raises(ConnectionRefusedError):
            await get(port)

    run(main())


@pytest.mark.parametrize("size", [2**31, 2**62, 2**63 - 1])
def test_body_limit_may_be_larger_than_memory(run, size):
    server = make(answering(b"hello"), limit_request_body=size)

    async def main():
        task = await start(server)
        assert await get(port_of(server)) == b"hello"
        await stop(server, task)

    run(main())


# --- Signals --------------------------------------------------------------------------------------


def dispositions():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_signals_are_left_alone_if_the_option_says_so(run):
    server = make(answering(b""))

    async def main():
        before = dispositions()
        task = await start(server)
        assert dispositions() == before
        await stop(server, task)
        assert dispositions() == before

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_and_the_callers_handlers_come_back(run, number):
    server = Server(Config(answering(b""), port=0, access_log=False))
    raised = []
    usual = signal.signal(number, lambda number, _: raised.append(number))

    async def main():
        before = dispositions()
        task = await start(server)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(task, 5)
        assert dispositions() == before
        assert server.should_exit

    try:
        run(main())
    finally:
        signal.signal(number, usual)
    assert raised == [number]  # raised again, for the calling program


@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
@pytest.mark.parametrize("method", ["run", "check"])
def test_loop_of_the_caller_is_left_unchanged(name, method):
    seen = []

    async def app(scope, receive, send):
        seen.append(asyncio.get_event_loop() is asyncio.get_running_loop())
        await answering(b"")(scope, receive, send)

    server = make(app, loop=name, log_config=None)
    server.on_started = lambda: setattr(server, "should_exit", True)
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    try:
        getattr(server, method)()
        assert asyncio.get_event_loop() is own
        assert own.run_until_complete(asyncio.sleep(0, "works")) == "works"
    finally:
        asyncio.set_event_loop(None)
        own.close()
    assert seen == [True]


def test_outside_the_main_thread_no_signal_is_taken():
    server = Server(Config(answering(b"hello"), port=0, access_log=False))
    before = dispositions()
    bodies = []

    async def main():
        task = await start(server)
        bodies.append(await get(port_of(server)))
        await stop(server, task)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(20)
    assert bodies == [b"hello"]
    assert dispositions() == before


def test_serve_logs_what_run_logs(run, capfd):
    server = Server(Config(answering(b"hello"), port=0))

    async def main():
        task = await start(server)
        assert await get(port_of(server)) == b"hello"
        await stop(server, task)

    run(main())
    printed = capfd.readouterr()
    assert "Thestral running on http://127.0.0.1:" in printed.err
    assert '"GET / HTTP/1.1" 200 OK' in printed.out


def test_lifespan_that_hangs_in_its_shutdown_is_cancelled(run, monkeypatch, caplog):
    monkeypatch.setattr("thestral.process.server.STOP_MARGIN", 0.0)
    cancelled = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    config = Config(app, port=0, log_config=None, timeout_graceful_shutdown=0.1)
    server = Server(config)

    async def main():
        await stop(server, await start(server))

    run(main())
    assert cancelled
    assert "Application shutdown not complete after 0.1 s: cancelling" in caplog.messages

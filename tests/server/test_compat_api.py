"""WSGI and ASGI 2 applications, thestral.testing, gunicorn's worker, and uvicorn's API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from support import PATIENCE, Running, wait_until

import thestral
import thestral.testing
from thestral.config import Config
from thestral.errors import ConfigError, ImportFailedError, LifespanError
from thestral.process.importer import load


def wsgi(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(size) if size else environ["PATH_INFO"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Thread", "yes")])
    return [body]


def asgi2(scope):
    async def instance(receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"two"})

    return instance


async def asgi3(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


# --- Interfaces -----------------------------------------------------------------------------------


def test_wsgi_application(serve):
    running = serve(wsgi, interface="wsgi")
    assert httpx.get(f"{running.url}/path").text == "/path"
    reply = httpx.post(running.url, content=b"x" * 100_000)
    assert reply.content == b"x" * 100_000
    assert reply.headers["x-thread"] == "yes"


def test_asgi2_application(serve):
    assert httpx.get(serve(asgi2, interface="asgi2").url).text == "two"
    assert httpx.get(serve(asgi2).url).text == "two"


def test_wsgi_without_its_option_is_refused_with_a_hint():
    with pytest.raises(ImportFailedError, match="add --interface wsgi"):
        load(wsgi)


def test_interface_option_beats_the_signature(serve):
    """`--interface` decides where the callable's signature does not tell."""

    async def anything(*arguments):
        await asgi3(*arguments)

    assert httpx.get(serve(anything, interface="asgi3").url).text == str(os.getpid())


def test_wsgi_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    with pytest.raises(ImportFailedError, match=r"pip install 'thestral\[wsgi\]'"):
        load(wsgi, interface="wsgi")


def test_names_for_uvicorns_sake():
    config = Config(asgi3, h11_max_incomplete_event_size=1000, http="h11", reset_contextvars=True)
    assert config.limit_header_size == 1000


def test_fields_of_uvicorns_config():
    """Takes uvicorn's defaults (0.54), except objects that it builds, and strings for its lists."""
    Config(
        "main:app",
        host="127.0.0.1",
        port=8000,
        uds=None,
        fd=None,
        loop="auto",
        http="auto",
        ws="auto",
        lifespan="auto",
        env_file=None,
        log_config=None,
        log_level=None,
        use_colors=None,
        interface="auto",
        reload=False,
        reload_dirs=None,
        reload_delay=0.25,
        reload_includes=None,
        reload_excludes=None,
        workers=None,
        proxy_headers=True,
        forwarded_allow_ips=None,
        limit_concurrency=None,
        limit_max_requests=None,
        limit_max_requests_jitter=0,
        timeout_keep_alive=5,
        timeout_notify=30,
        timeout_graceful_shutdown=None,
        timeout_worker_healthcheck=5,
        callback_notify=None,
        ssl_context_factory=None,
        headers=None,
        factory=False,
        h11_max_incomplete_event_size=None,
    )
    config = Config("main:app", reload_dirs="src", reload_includes="*.html", reload_excludes="a")
    assert (config.reload_dirs, config.reload_includes) == (["src"], ["*.html"])
    assert config.reload_excludes == ["a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"callback_notify": 1}, "callback_notify: 1 given, expected an async function"),
        ({"timeout_notify": 0}, "timeout_notify: 0 given, expected a number of seconds above 0"),
        ({"env_file": "none"}, "env_file: 'none' is not a file"),
        ({"loop": "maybe"}, "loop: 'maybe' given, expected one of auto, uvloop, asyncio, none"),
    ],
)
def test_bad_values_of_uvicorns_fields(options, said):
    with pytest.raises(ConfigError, match=said):
        Config(asgi3, **options)


@pytest.mark.parametrize("name", ["nowhere:factory", "asyncio:nothing", "sys:path", ":", "a:"])
def test_loop_that_cannot_be_imported(name):
    with pytest.raises(ConfigError, match=f"loop: '{name}' "):
        thestral.Server(Config(asgi3, loop=name, port=0)).run()


def test_env_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TESTED", "")  # so that monkeypatch removes it
    monkeypatch.delenv("TESTED")
    (tmp_path / "settings").write_text("TESTED=yes\n")
    Config(asgi3, env_file=tmp_path / "settings")
    assert os.environ["TESTED"] == "yes"


def test_callback_notify(serve, caplog):
    called = []

    async def callback():
        called.append(asyncio.get_running_loop())
        if len(called) == 2:
            raise ZeroDivisionError("broken")

    running = serve(asgi3, callback_notify=callback, timeout_notify=0.01)
    wait_until(lambda: len(called) > 5)  # an error does not stop the calls
    assert set(called) == {running.loop}
    assert caplog.text.count("Exception in callback_notify") == 1


def test_level_as_a_number():
    with thestral.testing.run(asgi3, log_level=logging.ERROR):
        assert logging.getLogger("thestral.error").level == logging.ERROR


def test_socket_bound_beforehand():
    config = Config(asgi3, port=0, access_log=False)
    with config.bind_socket() as sock:
        port = sock.getsockname()[1]
        assert port > 0
        server = thestral.Server(config, install_signal_handlers=False)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        wait_until(lambda: server.started)
        assert server.servers[0].sockets[0].getsockname()[1] == port
        assert httpx.get(f"http://127.0.0.1:{port}").text == str(os.getpid())
        server.should_exit = True
        thread.join(PATIENCE)
    with pytest.raises(ConfigError, match="2 addresses, expected one"):
        Config(asgi3, host=["127.0.0.1", "127.0.0.2"], port=0).bind_socket()


def test_what_a_server_has(serve):
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["key"] = "value"
            raise NotImplementedError
        await asyncio.sleep(0)
        state = running.server.server_state
        seen.append((len(state.connections), len(state.tasks), state.total_requests))
        await asgi3(scope, receive, send)

    assert thestral.Server(Config(app)).server_state.connections == set()
    running = serve(app)
    for _ in range(2):
        httpx.get(running.url)
    assert [tasks for _, tasks, _ in seen] == [1, 1]
    assert [total for _, _, total in seen] == [1, 2]
    assert all(connections >= 1 for connections, _, _ in seen)
    assert running.server.lifespan.state == {"key": "value"}
    assert running.server.servers[0].sockets[0].getsockname()[1] == running.port


def test_signals_are_left_alone_by_a_subclass():
    class Quiet(thestral.Server):
        @contextlib.contextmanager
        def capture_signals(self):
            yield

    server = Quiet(Config(asgi3, port=0, access_log=False))

    async def main():
        task = asyncio.create_task(server.serve())
        await server.started.wait()
        before = signal.getsignal(signal.SIGTERM)
        server.should_exit = True
        await task
        return before

    assert asyncio.run(main()) == signal.SIG_DFL


# --- thestral.testing -----------------------------------------------------------------------------


def test_testing_run_gives_a_url_and_ends():
    before = threading.active_count()
    with thestral.testing.run(asgi3) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert httpx.get(url).text == str(os.getpid())
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_testing_run_tells_why_it_could_not_start():
    async def failing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(LifespanError, match="no database"), thestral.testing.run(failing):
        pass


def test_testing_run_stops_when_the_test_fails():
    with pytest.raises(ZeroDivisionError), thestral.testing.run(asgi3) as url:
        raise ZeroDivisionError
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


# --- Libraries that watch for uvicorn's shutdown --------------------------------------------------


def test_signal_handler_is_a_method_of_an_object_with_should_exit():
    server = thestral.Server(Config(asgi3, port=0, access_log=False))
    seen = []

    async def main():
        task = asyncio.create_task(server.serve())
        await server.started.wait()
        handler = signal.getsignal(signal.SIGTERM)
        seen.append((handler.__self__ is server, handler.__self__.should_exit))
        os.kill(os.getpid(), signal.SIGTERM)
        await task
        seen.append(server.should_exit)

    raised = []
    before = signal.signal(signal.SIGTERM, lambda *_: raised.append(seen.copy()))
    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [(True, False), True]
    assert raised == [[(True, False)]]  # raised again after the server, for the calling program


def test_application_learns_that_shutdown_began(serve):
    said = []
    hold = threading.Event()

    async def app(scope, receive, send):
        event = thestral.shutdown_event()
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            said.append(("lifespan", event.is_set()))
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/wait":
            said.append(("before", event.is_set()))
            await event.wait()
            said.append(("after", running.server.context.draining))
        elif scope["path"] == "/thread":  # frameworks run synchronous code in threads
            await asyncio.to_thread(
                lambda: (hold.wait(), said.append(("thread", thestral.shutdown_event().is_set())))
            )
        await asgi3(scope, receive, send)

    running = serve(app, timeout_graceful_shutdown=PATIENCE)
    answers = []
    threads = [
        threading.Thread(target=lambda path=path: answers.append(httpx.get(running.url + path)))
        for path in ("/wait", "/thread")
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(running.server.server_state.tasks) == 2 and said == [("before", False)])
    running.server.should_exit = True
    wait_until(lambda: len(answers) == 1)
    hold.set()
    for thread in threads:
        thread.join()
    running.__exit__()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert said[1][0] == "after"
    assert said[2:] == [("thread", True), ("lifespan", True)]


def test_shutdown_event_under_another_server():
    assert not thestral.shutdown_event().is_set()
    with thestral.testing.run(asgi3):
        pass
    assert not thestral.shutdown_event().is_set()


def test_event_stream_says_farewell(caplog):
    from sse_starlette.sse import EventSourceResponse

    async def events():
        yield {"data": "first"}
        await thestral.shutdown_event().wait()
        yield {"data": "farewell"}

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await EventSourceResponse(events())(scope, receive, send)

    with Running(app, timeout_graceful_shutdown=PATIENCE) as running:
        with running.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while b"data: first" not in received:
                received += sock.recv(4096)
            running.server.should_exit = True
            while data := sock.recv(4096):
                received += data
        assert b"data: farewell" in received
        assert received.endswith(b"0\r\n\r\n")
    assert "Cancelled at shutdown" not in caplog.text


def test_event_stream_of_sse_starlette_ends_with_the_server(caplog):
    from sse_starlette.sse import EventSourceResponse

    async def events():
        yield {"data": "first"}
        await asyncio.Event().wait()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await EventSourceResponse(events())(scope, receive, send)

    with Running(app, timeout_graceful_shutdown=PATIENCE) as running:
        with running.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while b"data: first" not in received:
                received += sock.recv(4096)
            running.server.should_exit = True
            while data := sock.recv(4096):  # ends long before the graceful shutdown times out
                received += data
        assert b"transfer-encoding: chunked" in received
        assert not received.endswith(b"0\r\n\r\n")  # so the client sees that the body is cut
    assert not running.context.cycles
    assert "returned without" not in caplog.text


# --- gunicorn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_gunicorn_worker(tmp_path, number):
    (tmp_path / "served.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': raise NotImplementedError\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': str(os.getpid()).encode()})\n"
    )
    command = [
        *(sys.executable, "-m", "gunicorn", "served:app", "-k", "thestral.workers.ThestralWorker"),
        *("-w", "2", "-b", "127.0.0.1:0", "--max-requests", "5", "--no-control-socket"),
    ]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, cwd=tmp_path, stderr=log, stdout=log)
    try:

        def address():
            assert process.poll() is None, (tmp_path / "log").read_text()
            return re.search(r"Listening at: (http://\S+)", (tmp_path / "log").read_text())

        url = wait_until(address)[1]
        seen = set()

        def several():
            seen.add(httpx.get(url, headers={"Connection": "close"}, timeout=PATIENCE).text)
            return len(seen) > 3  # workers are replaced after max_requests

        wait_until(several)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        log.close()
    assert "Traceback" not in (tmp_path / "log").read_text()

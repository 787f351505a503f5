"""Other ways in: WSGI, ASGI 2, thestral.testing, gunicorn's worker, names of uvicorn's."""

from __future__ import annotations

import asyncio
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
from thestral.errors import ImportFailedError, LifespanError
from thestral.importer import load


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


def test_wsgi_without_the_word_is_refused_with_it():
    with pytest.raises(ImportFailedError, match="say --interface wsgi"):
        load(wsgi)


def test_interface_is_taken_at_its_word(serve):
    """A callable whose signature says nothing."""

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

    asyncio.run(main())
    assert seen == [(True, False), True]


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
            while data := sock.recv(4096):  # ends long before the graceful time-out
                received += data
        assert b"transfer-encoding: chunked" in received
        assert not received.endswith(b"0\r\n\r\n")  # so that the client knows it is not all
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
        *("-w", "2", "-b", "127.0.0.1:0", "--max-requests", "20", "--no-control-socket"),
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

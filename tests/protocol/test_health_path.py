"""--health-path: answers on the application's port, without the application."""

from __future__ import annotations

import http.client
import signal
import subprocess

import httpx
import pytest
from process import Command
from support import program, wait_until


async def fail(scope, receive, send):
    """An application that is asked for nothing but its lifespan, or "/other"."""
    assert scope["path"] == "/other", scope
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def ask(request):
    """Function (running, method, path) that gives the response, over HTTP/1.1 and HTTP/2."""

    def ask(running, method, path):
        with httpx.Client(http1=not request.param, http2=request.param, trust_env=False) as client:
            return client.request(method, f"{running.url}{path}")

    return ask


def test_the_path_is_answered_without_the_application(serve, ask):
    running = serve(fail, health_path="/healthz", lifespan="off")
    answer = ask(running, "GET", "/healthz?now")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert answer.headers["cache-control"] == "no-store"
    assert ask(running, "HEAD", "/healthz").status_code == 200
    answer = ask(running, "POST", "/healthz")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert ask(running, "GET", "/other").status_code == 204


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_while_the_server_drains_it_says_so(serve, version):
    """httpx closes a connection over HTTP/2 once it hears that it will be closed."""
    running = serve(fail, health_path="/healthz", lifespan="off", shutdown_delay=60.0)
    running.server.should_exit = True
    wait_until(lambda: running.context.draining)
    asked = [program("curl"), "-s", "-w", " %{http_code}", version, f"{running.url}/healthz"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    running.server.force_exit = True
    assert answer.stdout == "shutting down\n 503"


def test_a_root_path_may_be_in_front_of_it(serve, ask):
    running = serve(fail, health_path="/healthz", root_path="/api", lifespan="off")
    assert ask(running, "GET", "/healthz").status_code == 200
    assert ask(running, "GET", "/api/healthz").status_code == 200


APP = """
async def app(scope, receive, send):
    assert scope["type"] != "lifespan"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})
"""


@pytest.mark.parametrize("colors", ["--no-use-colors", "--use-colors"])  # lines, or records
def test_it_is_not_in_the_access_log(tmp_path, colors):
    (tmp_path / "main.py").write_text(APP)
    options = ["--port", "0", "--health-path", "/healthz", colors]
    with Command("main:app", *options, cwd=tmp_path) as command:
        connection = http.client.HTTPConnection(command.url().removeprefix("http://"))
        for path in ("/one", "/healthz", "/healthz?a", "/two"):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()
        command.saw("/two")
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
    assert "/one" in command.stdout + command.stderr
    assert "healthz" not in command.stdout + command.stderr

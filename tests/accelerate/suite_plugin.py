"""A plugin for pytest that runs the suites of FastAPI and Starlette accelerated, and over sockets.

THESTRAL_GROUPS names the groups to turn on, separated by commas; with THESTRAL_SOCKETS each
request of a TestClient goes through a server in this process. What only an ASGI scope can carry,
such as the client's address, is put into it there. WebSockets stay as they are.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import thestral.accelerate
import thestral.testing

GROUPS = os.environ.get("THESTRAL_GROUPS", "")
if GROUPS:
    thestral.accelerate.fastapi(GROUPS.split(","), require=True)

KEY = "x-thestral-request"
PATIENCE = 5.0  # seconds for a response
LINGER = 1.0  # seconds for what the application does after it
# Fields that belong to the connection.
OF_CONNECTION = ("connection", "transfer-encoding", "keep-alive")

_exchanges: dict[str, Exchange] = {}
_numbers = itertools.count()
_server = contextlib.ExitStack()
_port = 0


class Exchange:
    """A request of a test client on its way through the server."""

    def __init__(self, transport: Any, request: Any) -> None:
        self.transport = transport
        self.request = request
        self.failure: BaseException | None = None
        self.done = threading.Event()
        self.debug: dict[str, Any] | None = None

    async def run(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        url = self.request.url
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != KEY.encode()]
        scope["client"] = self.transport.client
        scope["scheme"] = url.scheme
        scope["server"] = [url.host, url.port or {"http": 80, "https": 443}[url.scheme]]
        scope["root_path"] = self.transport.root_path
        scope["state"] = self.transport.app_state.copy()
        scope["extensions"] = {"http.response.debug": {}, "http.response.trailers": {}}

        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.debug":
                self.debug = message["info"]
            elif message["type"] != "http.response.trailers":
                await send(message)

        try:
            await self.transport.app(scope, receive, sending)
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self.done.set()


async def dispatch(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The server's application: gives each request to the one that its client is for."""
    number = dict(scope["headers"])[KEY.encode()].decode()
    await _exchanges[number].run(scope, receive, send)


def over_socket(transport: Any, request: Any) -> Any:
    """Stands for the test client's transport."""
    from starlette.testclient import httpx

    number = str(next(_numbers))
    exchange = _exchanges[number] = Exchange(transport, request)
    connection = http.client.HTTPConnection("127.0.0.1", port(), timeout=PATIENCE)
    try:
        connection.putrequest(
            request.method,
            request.url.raw_path.decode("ascii"),
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in request.headers.raw:
            connection.putheader(name, value)
        connection.putheader(KEY, number)
        connection.endheaders()
        chunked = "transfer-encoding" in request.headers
        for part in parts_of(request):
            connection.send(b"%X\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            connection.send(b"0\r\n\r\n")
        got = connection.getresponse()
        content = got.read()
        exchange.done.wait(LINGER)  # a test client returns after background tasks
    except (OSError, http.client.HTTPException):
        if exchange.failure is not None and transport.raise_server_exceptions:
            raise exchange.failure from None
        raise
    finally:
        connection.close()
        del _exchanges[number]
    if exchange.failure is not None and transport.raise_server_exceptions:
        raise exchange.failure
    fields = [pair for pair in got.getheaders() if pair[0].lower() not in OF_CONNECTION]
    response = httpx.Response(
        got.status, headers=fields, stream=httpx.ByteStream(content), request=request
    )
    if exchange.debug is not None:
        response.template = exchange.debug["template"]
        response.context = exchange.debug["context"]
    return response


def parts_of(request: Any) -> Iterator[bytes]:
    yield from filter(None, request.stream)


def port() -> int:
    global _port
    if not _port:
        url = _server.enter_context(
            thestral.testing.run(
                dispatch,
                lifespan="off",
                server_header=False,
                date_header=False,
                log_config=None,
                log_level="critical",
            )
        )
        _port = int(url.rpartition(":")[2])
    return _port


def pytest_configure(config: Any) -> None:
    if not os.environ.get("THESTRAL_SOCKETS"):
        return
    from starlette import testclient

    original = testclient._TestClientTransport.handle_request

    def handle_request(self: Any, request: Any) -> Any:
        if request.url.scheme in ("ws", "wss"):
            return original(self, request)
        return over_socket(self, request)

    testclient._TestClientTransport.handle_request = handle_request


def pytest_unconfigure(config: Any) -> None:
    _server.close()

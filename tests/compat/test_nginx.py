"""Behind nginx, with the configuration that docs/deployment.md shows."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from nginx import Nginx, free_port
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from support import PATIENCE, Running, program
from websockets.asyncio.client import connect

DEPLOYMENT = Path(__file__).parents[2] / "docs/deployment.md"
CLIENT = "127.0.0.5"  # an address that nothing trusts


def described(connection: HTTPConnection) -> dict:
    scope = connection.scope
    return {
        **{key: scope[key] for key in ("client", "scheme", "root_path", "path")},
        "url": str(connection.url),
    }


async def about(request: Request) -> JSONResponse:
    return JSONResponse(described(request) | {"size": len(await request.body())})


async def events(request: Request) -> StreamingResponse:
    """Send each event only once the client has asked for the next."""

    async def body():
        for number in range(3):
            yield f"data: {number}\n\n"
        async with request.app.state.gate:
            yield "data: end\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(described(websocket))
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def application() -> Starlette:
    return Starlette(
        routes=[
            Route("/about", about, methods=["GET", "POST"]),
            Route("/away", lambda request: RedirectResponse(request.url_for("about"))),
            Route("/events", events),
            WebSocketRoute("/ws", echo),
        ]
    )


class Behind:
    """A server behind nginx, and a test's requests to it."""

    def __init__(self, running: Running, port: int, tls_port: int, client: ssl.SSLContext) -> None:
        self.running = running
        self.port = port
        self.tls_port = tls_port
        self.client = client

    def open(self, tls: bool = False) -> http.client.HTTPConnection:
        source = (CLIENT, 0)
        if tls:
            return http.client.HTTPSConnection(
                *("localhost", self.tls_port),
                context=self.client,
                source_address=source,
                timeout=PATIENCE,
            )
        return http.client.HTTPConnection(
            "127.0.0.1", self.port, source_address=source, timeout=PATIENCE
        )

    def ask(self, path: str, tls: bool = False, **headers: str) -> dict:
        connection = self.open(tls)
        try:
            connection.request("GET", path, headers=headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[Behind]:
    directory = tmp_path_factory.mktemp("nginx")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    (directory / "chain.pem").write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
    (directory / "key.pem").write_bytes(issued.private_key_pem.bytes())
    client = ssl.create_default_context()
    authority.configure_trust(client)
    block, *_ = re.findall(
        r"^```nginx\n(.*?)^```$", DEPLOYMENT.read_text(), re.DOTALL | re.MULTILINE
    )
    port, tls_port = free_port(), free_port()
    path = directory / "app.sock"
    listen = f"listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl; "
    listen += f"ssl_certificate {directory}/chain.pem; ssl_certificate_key {directory}/key.pem;"
    for old, new in {"listen 80;": listen, "/run/app.sock": str(path)}.items():
        assert block.count(old) == 1
        block = block.replace(old, new)
    app = application()
    with Running(app, uds=str(path)) as running:
        nginx = Nginx(directory, block)
        try:
            nginx.wait(port)
            yield Behind(running, port, tls_port, client)
        finally:
            nginx.stop()


def test_the_client_is_nginxs(behind):
    seen = behind.ask("/about")
    assert seen["client"] == [CLIENT, 0]
    assert seen["scheme"] == "http"
    assert seen["url"] == f"http://127.0.0.1:{behind.port}/about"


def test_what_the_client_says_of_itself_is_not_believed(behind):
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
    headers |= {"Forwarded": "for=6.6.6.6", "X-Forwarded-Host": "evil.example"}
    seen = behind.ask("/about", **headers)
    assert (seen["client"], seen["scheme"]) == ([CLIENT, 0], "http")


def test_https_at_nginx(behind):
    assert behind.ask("/about", tls=True)["scheme"] == "https"
    connection = behind.open(tls=True)
    connection.request("GET", "/away")
    location = connection.getresponse().headers["location"]
    connection.close()
    assert location == f"https://localhost:{behind.tls_port}/about"


def test_a_body_through_it(behind):
    connection = behind.open()
    connection.request("POST", "/about", body=bytes(300_000))
    assert json.loads(connection.getresponse().read())["size"] == 300_000
    connection.close()


def test_it_keeps_its_connections(behind):
    behind.ask("/about")
    (kept,) = behind.running.context.connections
    for _ in range(20):
        behind.ask("/about")
    assert set(behind.running.context.connections) == {kept}


def test_events_come_through_one_by_one(behind):
    app = behind.running.server.config.app
    app.state.gate = asyncio.Lock()
    behind.running.call(lambda: asyncio.ensure_future(app.state.gate.acquire()))
    connection = behind.open()
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert [response.readline() for _ in range(6)][::2] == [b"data: %d\n" % n for n in range(3)]
    behind.running.call(app.state.gate.release)
    assert response.read() == b"data: end\n\n"
    connection.close()


@pytest.mark.parametrize("tls", [False, True])
def test_websocket(behind, tls):
    url = f"wss://localhost:{behind.tls_port}/ws" if tls else f"ws://127.0.0.1:{behind.port}/ws"
    options = {"ssl": behind.client} if tls else {}

    async def conversation():
        async with connect(url, local_addr=(CLIENT, 0), proxy=None, **options) as ws:
            seen = json.loads(await ws.recv())
            assert seen["client"] == [CLIENT, 0]
            assert seen["scheme"] == ("wss" if tls else "ws")
            for size in (1, 100, 100_000):
                await ws.send("x" * size)
                assert await ws.recv() == "x" * size

    asyncio.run(asyncio.wait_for(conversation(), PATIENCE))


@pytest.mark.parametrize("over_tls", [False, True])
def test_the_proxy_protocol_from_nginx(tmp_path, over_tls):
    """nginx passes on the bytes, even of TLS, and says which client they come from."""
    stream_module = program("nginx's stream module")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    options = {}
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if over_tls:
        issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
        options = {"ssl_certfile": str(tmp_path / "cert.pem")}
    with Running(application(), proxy_protocol=True, **options) as running:
        port = free_port()
        stream = f"load_module {stream_module};\nstream {{ server {{ listen 127.0.0.1:{port}; "
        stream += f"proxy_pass 127.0.0.1:{running.port}; proxy_protocol on; }} }}\n"
        nginx = Nginx(tmp_path, "", stream)
        try:
            nginx.wait(port)
            seen = Behind(running, port, port, client).ask("/about", tls=over_tls)
        finally:
            nginx.stop()
    assert seen["client"][0] == CLIENT
    assert seen["client"][1] > 0
    assert seen["scheme"] == ("https" if over_tls else "http")

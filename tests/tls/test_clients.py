"""Third-party clients: sockets of Python's ssl, httpx, curl, websockets."""

from __future__ import annotations

import asyncio
import subprocess

import httpx
import pytest
from apps import GET_CLOSE, hello, http_only, read_body, respond
from support import PATIENCE, program, read_all, wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

MIB = 2**20


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(serve, shared, tmp_path, version):
    @http_only
    async def app(scope, receive, send):
        await respond(send, await read_body(receive))

    running = serve(app)
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 4096)
    result = subprocess.run(
        [
            *(program("curl"), "-sS", "--cacert", shared.ca),
            *(f"--tlsv{version}", "--tls-max", version),
            *("--data-binary", f"@{body}", "-o", str(tmp_path / "out"), running.url),
            *("--next", "-sS", "--cacert", shared.ca, running.url),
        ],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes() == body.read_bytes()


def test_curl_with_a_client_certificate(serve, shared):
    running = serve(hello, ssl_cert_reqs="required", ssl_ca_certs=shared.ca)
    command = [program("curl"), "-sS", "--cacert", shared.ca, running.url]
    refused = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert refused.returncode in (35, 55, 56)  # during the handshake, or at the first write or read
    command += ["--cert", shared.cert, "--key", shared.key]
    taken = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert (taken.returncode, taken.stdout) == (0, b"hello")


def test_httpx(serve, shared):
    @http_only
    async def app(scope, receive, send):
        body = f"{scope['scheme']} {scope['http_version']}".encode()
        await respond(send, body, headers=[(b"content-length", b"%d" % len(body))])

    running = serve(app)
    with httpx.Client(verify=shared.client()) as client:
        for _ in range(3):
            assert client.get(running.url).text == "https 1.1"
    assert running.context.total_requests == 3


def test_ssl_socket(serve, shared):
    running = serve(hello)
    context = shared.client()
    with context.wrap_socket(running.plain(), server_hostname="127.0.0.1") as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")
        sock.unwrap()  # raises if the server's close_notify has not come


def test_ssl_socket_that_closes_first(serve, shared):
    running = serve(hello)
    with shared.client().wrap_socket(running.plain(), server_hostname="127.0.0.1") as sock:
        sock.unwrap().close()
    wait_until(lambda: not running.context.connections)


@pytest.mark.parametrize("part", [1, 16384, 100_000, 3 * MIB])
def test_large_bodies_of_both_directions(serve, shared, part):
    total = max(part * 20, 5 * MIB) if part > 1 else 2000

    @http_only
    async def app(scope, receive, send):
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(total // part):
            await send({"type": "http.response.body", "body": b"x" * part, "more_body": True})
        await send({"type": "http.response.body", "body": str(size).encode()})

    running = serve(app)
    with httpx.Client(verify=shared.client()) as client:
        body = client.post(running.url, content=b"y" * total).content
    assert body.startswith(b"x" * (total // part * part))
    assert int(body.strip(b"x")) == total


# --- WebSocket ---------------------------------------------------------------------------------
#
# These tests use websockets' asyncio client. Its threading client reads and writes one SSL object
# in two threads at once, which OpenSSL does not allow (openssl issue 20446). With TLS 1.3, which
# sends tickets after the handshake, some requests are lost; with TLS 1.2 none of 25,000 were.


def talk(conversation):
    asyncio.run(asyncio.wait_for(conversation(), PATIENCE))


def ws_echo(seen):
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError(scope["type"])
        seen.append(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        seen.append(message)

    return app


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_wss(serve, shared, compression):
    seen = []
    running = serve(ws_echo(seen))
    url = f"wss://127.0.0.1:{running.port}/chat"

    async def conversation():
        options = {"ssl": shared.client(), "compression": compression, "max_size": None}
        async with connect(url, proxy=None, **options) as ws:
            for message in ["text", b"bytes", "x" * 200_000, bytes(MIB)]:
                await ws.send(message)
                assert await ws.recv() == message

    talk(conversation)
    wait_until(lambda: len(seen) == 2)
    assert seen[0]["scheme"] == "wss"
    assert set(seen[0]["extensions"]) >= {"tls", "websocket.http.response"}
    assert seen[0]["extensions"]["tls"]["tls_version"] == 0x0304
    assert seen[1] == {"type": "websocket.disconnect", "code": 1000, "reason": ""}
    wait_until(lambda: not running.context.connections)


def test_wss_back_pressure(serve, shared):
    """A client that reads nothing makes the application wait, and memory stays bounded."""
    sent = []

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError(scope["type"])
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(1000):
            await send({"type": "websocket.send", "bytes": bytes(65536)})
            sent.append(number)

    running = serve(app, ws_per_message_deflate=False)
    url = f"wss://127.0.0.1:{running.port}/"

    def paused():
        return any(one.write_paused for one in running.context.connections)

    async def conversation():
        options = {"ssl": shared.client(), "compression": None, "max_size": None, "max_queue": 1}
        async with connect(url, proxy=None, **options) as ws:
            await asyncio.to_thread(wait_until, paused)
            held = len(sent)
            assert held < 900
            for _ in range(1000):
                assert len(await ws.recv()) == 65536

    talk(conversation)
    assert len(sent) == 1000


def test_wss_at_a_shutdown(serve, shared):
    seen = []
    running = serve(ws_echo(seen))
    url = f"wss://127.0.0.1:{running.port}/"

    async def conversation():
        async with connect(url, ssl=shared.client(), proxy=None) as ws:
            running.server.should_exit = True
            with pytest.raises(ConnectionClosed, match="1012"):
                await ws.recv()

    talk(conversation)
    wait_until(lambda: len(seen) == 2)
    assert seen[1]["code"] == 1012

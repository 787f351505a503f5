"""Other projects' WebSocket clients: websockets (both of its APIs), aiohttp, picows (both)."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
import pytest
import websockets.asyncio.client
import websockets.exceptions
import websockets.extensions.permessage_deflate
import websockets.sync.client
from support import PATIENCE, Running, wait_until
from ws_adapters import (
    CLIENTS,
    ClosedError,
    OfAiohttp,
    OfPicowsWebsockets,
    OfWebsockets,
    RefusedError,
)

MEBIBYTE = 2**20
RANDOM = random.Random(6455)
NOISE = RANDOM.randbytes(MEBIBYTE)
TEXT = ("Grüße, 世界 🐴 " * 60_000)[:MEBIBYTE]  # more than 1 MiB of UTF-8
MESSAGES = ["héllo ☃ 🐴", bytes(range(256)), "", b"", "x" * 127, b"y" * 65536, NOISE, TEXT, "end"]


class Site:
    """An application with a path for each course of a WebSocket; it remembers how they ended."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.ends: list[tuple[int, str]] = []  # code and reason of websocket.disconnect

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "websocket":
            raise NotImplementedError(scope["type"])
        self.scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        answer = getattr(self, scope["path"].strip("/"))
        options = dict(parse_qsl(scope["query_string"].decode()))
        await answer(scope, receive, send, **options)

    async def accept(self, scope, send) -> None:
        chosen = "chosen" if "chosen" in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen})

    async def drain(self, receive, send=None) -> None:
        """Receive until the end; send each message back if `send` is given."""
        while (message := await receive())["type"] == "websocket.receive":
            if send is not None:
                await send({**message, "type": "websocket.send"})
        assert message["type"] == "websocket.disconnect"
        self.ends.append((message["code"], message["reason"]))

    async def echo(self, scope, receive, send) -> None:
        await self.accept(scope, send)
        await self.drain(receive, send)

    async def burst(self, scope, receive, send, count) -> None:
        await self.accept(scope, send)
        for number in range(int(count)):
            await send({"type": "websocket.send", "text": f"{number} " * (number % 90)})
        await self.drain(receive)

    async def close(self, scope, receive, send, code="1000", reason="") -> None:
        await self.accept(scope, send)
        await send({"type": "websocket.send", "text": "last"})
        await send({"type": "websocket.close", "code": int(code), "reason": reason})
        await self.drain(receive)

    async def leave(self, scope, receive, send) -> None:
        await self.accept(scope, send)

    async def fail(self, scope, receive, send) -> None:
        await self.accept(scope, send)
        raise RuntimeError("on purpose")

    async def fail_early(self, scope, receive, send) -> None:
        raise RuntimeError("on purpose")

    async def deny(self, scope, receive, send) -> None:
        await send({"type": "websocket.close", "code": 4000, "reason": "a client never sees it"})
        await self.drain(receive)

    async def respond(self, scope, receive, send) -> None:
        headers = [(b"x-why", b"no token"), (b"content-length", b"10")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"token", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b", pls"})


@pytest.fixture(params=CLIENTS)
def client(request):
    """Coroutine function (url, subprotocols=()) that returns a connection."""
    kind, deflate = CLIENTS[request.param]

    async def open_connection(url, subprotocols=()):
        connection = await kind.open(url, subprotocols, deflate)
        assert connection.compressed == deflate
        return connection

    return open_connection


def run(main) -> Any:
    """Run a coroutine, for as long at most as support waits for anything."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


def ws_url(running, path="/echo") -> str:
    return f"ws://127.0.0.1:{running.port}{path}"


def ended(running, site, *ends) -> None:
    """Wait until the application has seen these ends, and the server has kept nothing."""
    wait_until(lambda: len(site.ends) == len(ends) and not running.context.cycles)
    wait_until(lambda: not running.context.connections)
    assert site.ends == list(ends)


# --- Common to all clients ------------------------------------------------------------------------


def test_messages_of_every_size(serve, client):
    site = Site()
    running = serve(site)

    async def main():
        connection = await client(ws_url(running))
        for data in MESSAGES:
            await connection.send(data)
            assert await connection.receive() == data
        assert await connection.close(1000, "") == 1000

    run(main())
    ended(running, site, (1000, ""))


def test_many_messages_in_a_row(serve, client):
    """In both directions: 200 are sent before the first echo is read, and the server sends 200."""
    site = Site()
    running = serve(site)
    sent = [f"{number} " * (number % 90) for number in range(200)]

    async def main():
        connection = await client(ws_url(running))
        for data in sent:
            await connection.send(data)
            await connection.send(data.encode())
        for data in sent:
            assert await connection.receive() == data
            assert await connection.receive() == data.encode()
        await connection.close(1000, "")
        connection = await client(ws_url(running, "/burst?count=200"))
        for data in sent:
            assert await connection.receive() == data
        await connection.close(1000, "")

    run(main())
    ended(running, site, (1000, ""), (1000, ""))


def test_concurrent_connections(client):
    site = Site()

    async def main(running):
        connections = await asyncio.gather(*[client(ws_url(running)) for _ in range(100)])
        assert len(running.context.connections) == 100

        async def talk(number, connection):
            for turn in range(3):
                data = f"{number}.{turn} " * 50
                await connection.send(data)
                assert await connection.receive() == data
            await connection.close(1000, str(number))

        await asyncio.gather(*[talk(*each) for each in enumerate(connections)])

    with Running(site) as running:
        run(main(running))
        wait_until(lambda: len(site.ends) == 100)
        wait_until(lambda: not running.context.connections)
    assert sorted(site.ends) == sorted((1000, str(number)) for number in range(100))


def test_client_closes(serve, client):
    site = Site()
    running = serve(site)
    ends = [(1000, ""), (1001, "going"), (3000, "ü" * 61), (4999, "x" * 123)]

    async def main():
        for code, reason in ends:
            connection = await client(ws_url(running))
            await connection.send("before")
            assert await connection.receive() == "before"
            assert await connection.close(code, reason) == code
            await asyncio.to_thread(wait_until, lambda end=(code, reason): end in site.ends)

    run(main())
    ended(running, site, *ends)


def test_application_closes(serve, client):
    site = Site()
    running = serve(site)
    ends = [(1000, ""), (1013, "later"), (3000, "ü" * 61), (4999, "x" * 123)]

    async def main():
        for code, reason in ends:
            query = urlencode({"code": code, "reason": reason})
            connection = await client(ws_url(running, f"/close?{query}"))
            assert await connection.receive() == "last"
            with pytest.raises(ClosedError) as closed:
                await connection.receive()
            assert closed.value.end == (code, reason)

    run(main())
    ended(running, site, *ends)


def test_application_ends_without_closing(serve, client):
    running = serve(Site(), log_level="critical")

    async def main():
        for path, code in [("/leave", 1000), ("/fail", 1011)]:
            connection = await client(ws_url(running, path))
            with pytest.raises(ClosedError) as closed:
                await connection.receive()
            assert closed.value.end == (code, "")

    run(main())
    wait_until(lambda: not running.context.connections)


def test_client_vanishes(serve, client):
    site = Site()
    running = serve(site)

    async def main():
        connection = await client(ws_url(running))
        await connection.send("before")
        assert await connection.receive() == "before"
        await connection.abort()

    run(main())
    ended(running, site, (1006, ""))


def test_server_stops(serve, client):
    site = Site()
    running = serve(site)

    async def main():
        connection = await client(ws_url(running))
        await connection.send("before")
        assert await connection.receive() == "before"
        running.server.should_exit = True
        with pytest.raises(ClosedError) as closed:
            await connection.receive()
        assert closed.value.end[0] == 1012

    run(main())
    wait_until(lambda: site.ends)
    assert site.ends[0][0] == 1012


def test_refused(serve, client):
    site = Site()
    running = serve(site, log_level="critical")

    async def main():
        cases = [("/deny", 403, b""), ("/respond", 401, b"token, pls"), ("/fail_early", 500, None)]
        for path, status, body in cases:
            with pytest.raises(RefusedError) as refused:
                await client(ws_url(running, path))
            assert refused.value.status == status
            if status == 401:
                assert refused.value.fields["x-why"] == "no token"
            if body is not None and refused.value.body is not None:
                assert refused.value.body == body

    run(main())
    ended(running, site, (1006, ""))  # /deny receives until the end


def test_subprotocols(serve, client):
    site = Site()
    running = serve(site)
    cases = [(["other", "chosen"], "chosen"), (["other"], None), ([], None)]

    async def main():
        for offered, chosen in cases:
            connection = await client(ws_url(running), offered)
            assert connection.subprotocol == chosen
            await connection.send("x")
            assert await connection.receive() == "x"
            await connection.close(1000, "")

    run(main())
    assert [scope["subprotocols"] for scope in site.scopes] == [offered for offered, _ in cases]
    wait_until(lambda: len(site.ends) == len(cases))


# --- Features of some clients ---------------------------------------------------------------------


def websockets_connect(url, **options):
    return websockets.asyncio.client.connect(url, proxy=None, **options)


@pytest.mark.parametrize("deflate", [None, "deflate"])
def test_fragments_and_pings(serve, deflate):
    """A message in fragments, some of them empty, and a Ping between two of them."""
    site = Site()
    running = serve(site)

    async def main():
        async with websockets_connect(ws_url(running), compression=deflate) as ws:
            pongs = []

            async def parts(*data):
                for part in data:
                    yield part
                    pongs.append(await (await ws.ping(f"{len(pongs)}")))  # answered mid-message

            await ws.send(parts("", "Gr", "", "üße", ""))
            assert await ws.recv() == "Grüße"
            await ws.send(parts(b"\0" * 70_000, b"", NOISE[:70_000]))
            assert await ws.recv() == b"\0" * 70_000 + NOISE[:70_000]
            assert len(pongs) == 8
            assert await (await ws.ping(b"\xff" * 125)) >= 0
            await ws.pong(b"unasked")
            await ws.send(["a"] * 1000)
            assert await ws.recv() == "a" * 1000

    run(main())
    ended(running, site, (1000, ""))


def test_server_sends_pings_and_takes_pongs(serve):
    site = Site()
    running = serve(site, ws_ping_interval=0.02, ws_ping_timeout=5.0)

    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(ws_url(running), autoping=False) as ws,
        ):
            for _ in range(5):
                message = await ws.receive()
                assert message.type is aiohttp.WSMsgType.PING
                await ws.pong(message.data)
            await ws.send_str("still there")
            while (message := await ws.receive()).type is aiohttp.WSMsgType.PING:
                pass
            assert message.data == "still there"

    run(main())
    ended(running, site, (1000, ""))


def test_client_that_answers_no_ping(serve):
    site = Site()
    running = serve(site, ws_ping_interval=0.02, ws_ping_timeout=0.1)

    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(ws_url(running), autoping=False) as ws,
        ):
            while (message := await ws.receive()).type is aiohttp.WSMsgType.PING:
                pass
            assert (message.data, message.extra) == (1011, "keepalive ping timeout")

    run(main())
    wait_until(lambda: site.ends)
    assert site.ends[0][0] == 1011


@pytest.mark.parametrize("deflate", [None, "deflate"])
def test_message_too_big_for_the_server(serve, deflate):
    site = Site()
    running = serve(site, ws_max_size=100_000)

    async def main():
        async with websockets_connect(ws_url(running), compression=deflate) as ws:
            await ws.send("x" * 100_000)
            assert await ws.recv() == "x" * 100_000
            await ws.send("x" * 100_001)
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                await ws.recv()
        assert closed.value.rcvd.code == 1009

    run(main())
    wait_until(lambda: site.ends)
    assert site.ends[0][0] == 1009


def test_message_too_big_for_the_client(serve):
    site = Site()
    running = serve(site)

    async def main():
        async with websockets_connect(ws_url(running), max_size=1000) as ws:
            await ws.send("x" * 1001)
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                await ws.recv()
        assert closed.value.sent.code == 1009

    run(main())
    wait_until(lambda: site.ends)
    assert site.ends[0][0] == 1009


@pytest.mark.parametrize("deflate", [None, "deflate"])
def test_largest_message(serve, deflate):
    running = serve(Site())
    data = NOISE + bytes(15 * MEBIBYTE)

    async def main():
        options = {"compression": deflate, "max_size": None}
        async with websockets_connect(ws_url(running), **options) as ws:
            await ws.send(data)
            assert await ws.recv() == data

    run(main())


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"client_max_window_bits": True},
        {"client_max_window_bits": 9, "server_max_window_bits": 9},
        {"client_max_window_bits": 15, "server_max_window_bits": 15},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
    ],
    ids=lambda offer: ",".join(f"{name}={value}" for name, value in offer.items()) or "plain",
)
def test_parameters_of_deflate(takeover, bits, offer):
    """Both sides keep to the agreed parameters; repetitions far back would show if not."""
    options = {
        "ws_deflate_context_takeover": takeover,
        "ws_deflate_server_window_bits": bits,
        "ws_deflate_client_window_bits": bits,
    }
    factory = websockets.extensions.permessage_deflate.ClientPerMessageDeflateFactory(**offer)

    async def main(url):
        async with websockets_connect(url, compression=None, extensions=[factory]) as ws:
            assert len(ws.protocol.extensions) == 1
            for size in (10, 200, 400, 3000, 40_000):
                for data in (NOISE[:size] * 3, "äb" * size, NOISE[:size]):
                    await ws.send(data)
                    assert await ws.recv() == data

    with Running(Site(), **options) as running:
        run(main(ws_url(running)))


@pytest.mark.parametrize("kind", [OfWebsockets, OfAiohttp, OfPicowsWebsockets])
def test_server_without_deflate(serve, kind):
    running = serve(Site(), ws_per_message_deflate=False)

    async def main():
        connection = await kind.open(ws_url(running), [], True)
        assert not connection.compressed
        for data in MESSAGES:
            await connection.send(data)
            assert await connection.receive() == data
        await connection.close(1000, "")

    run(main())


def test_slow_reader_gets_everything(serve):
    """The client reads nothing until the application can send no more."""
    sent = []
    total = 200

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise NotImplementedError
        await send({"type": "websocket.accept"})
        for number in range(total):
            await send({"type": "websocket.send", "bytes": bytes([number]) * 65536})
            sent.append(number)
        await send({"type": "websocket.close"})

    running = serve(app)

    async def main():
        options = {"compression": None, "max_queue": 1}
        async with websockets_connect(ws_url(running), **options) as ws:
            await asyncio.to_thread(wait_until, lambda: sent)
            assert len(sent) < total
            received = [data[0] async for data in ws]
        assert received == list(range(total))

    run(main())
    wait_until(lambda: not running.context.connections)

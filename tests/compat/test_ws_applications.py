"""Django Channels and python-socketio over our WebSocket."""

import asyncio
import json
from typing import Any

import channels.layers
import httpx
import pytest
import socketio
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support import wait_until
from ws_sessions import close_of, connect, connect_async, refusal_of, run

# --- Django Channels ------------------------------------------------------------------------------


class Echo(AsyncWebsocketConsumer):
    ends: list[int] = []

    async def connect(self):
        if self.scope["url_route"]["kwargs"]["name"] == "nobody":
            await self.close()
            return
        offered = self.scope["subprotocols"]
        await self.accept(offered[0] if offered else None)

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "leave":
            await self.close(code=4002, reason="as asked")
        else:
            await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code):
        self.ends.append(code)


class Room(AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def receive_json(self, content):
        await self.channel_layer.group_send("room", {"type": "room.said", "content": content})

    async def room_said(self, event):
        await self.send_json({"said": event["content"]})


class Threaded(JsonWebsocketConsumer):
    def receive_json(self, content):
        self.send_json({"sum": sum(content)})


async def django_page(request, name):
    return JsonResponse({"name": name, "scheme": request.scheme, "body": request.body.decode()})


def django_sync_page(request):
    return JsonResponse(dict(request.GET))


urlpatterns = [path("page/<name>", django_page), path("sync", django_sync_page)]


@pytest.fixture
def django_application(monkeypatch, django_urls):
    # A channel layer belongs to the loop that first used it.
    monkeypatch.setattr(channels.layers.channel_layers, "backends", {})
    return ProtocolTypeRouter(
        {
            "http": get_asgi_application(),
            "websocket": URLRouter(
                [
                    path("echo/<name>", Echo.as_asgi()),
                    path("room", Room.as_asgi()),
                    path("threaded", Threaded.as_asgi()),
                ]
            ),
        }
    )


def test_channels_consumer(serve, django_application, monkeypatch):
    ends: list[int] = []
    monkeypatch.setattr(Echo, "ends", ends)
    running = serve(django_application)
    with connect(running, "/echo/ada", subprotocols=["first", "second"]) as ws:
        assert ws.subprotocol == "first"
        for message in ("grüße", b"\0\xff", "x" * 100_000, b"y" * 100_000):
            ws.send(message)
            assert ws.recv() == message
        ws.close(4001)
    wait_until(lambda: ends)
    with connect(running, "/echo/ada") as ws:
        ws.send("leave")
        assert close_of(ws) == (4002, "as asked")
    wait_until(lambda: len(ends) == 2)
    assert ends == [4001, 4002]
    assert refusal_of(running, "/echo/nobody").status_code == 403
    wait_until(lambda: not running.context.connections)


def test_channels_group(serve, django_application):
    running = serve(django_application)

    async def main():
        members = await asyncio.gather(*[connect_async(running, "/room") for _ in range(20)])
        await members[0].send(json.dumps({"n": 1}))
        for member in members:
            assert json.loads(await member.recv()) == {"said": {"n": 1}}
        await asyncio.gather(*[member.close() for member in members])

    run(main())
    wait_until(lambda: not running.context.cycles)


def test_channels_sync_consumer_and_django_views(serve, django_application):
    running = serve(django_application)
    with connect(running, "/threaded") as ws, httpx.Client(trust_env=False) as http:
        ws.send("[1, 2]")
        reply = http.post(f"{running.url}/page/ada", content="body" * 10_000)
        assert reply.json() == {"name": "ada", "scheme": "http", "body": "body" * 10_000}
        assert json.loads(ws.recv()) == {"sum": 3}
        reply = http.get(f"{running.url}/sync", params={"q": "ü"})
        assert reply.json() == {"q": ["ü"]}
        assert http.get(f"{running.url}/nowhere").status_code == 404
        ws.send("[3, 4]")
        assert json.loads(ws.recv()) == {"sum": 7}


# --- python-socketio ------------------------------------------------------------------------------


@pytest.fixture
def socketio_application():
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=5)
    events: list[Any] = []

    @server.event
    async def connect(sid, environ, auth):
        if auth == {"token": "wrong"}:
            raise socketio.exceptions.ConnectionRefusedError("no")
        events.append("connect")

    @server.event
    async def disconnect(sid, reason):
        events.append(reason)

    @server.event
    async def add(sid, left, right):
        return left + right

    @server.event
    async def join(sid, room):
        await server.enter_room(sid, room)
        await server.emit("joined", {"size": 1}, room=room)

    @server.event
    async def binary(sid, data):
        await server.emit("binary", {"nested": [data["blob"], "text"]}, to=sid)

    @server.event
    async def leave(sid):
        await server.disconnect(sid)

    async def page(request):
        return PlainTextResponse("page")

    app = socketio.ASGIApp(server, Starlette(routes=[Route("/", page)]))
    return app, events


@pytest.mark.parametrize(
    "transports", [["websocket"], ["polling", "websocket"], ["polling"]], ids="-".join
)
def test_socketio(serve, socketio_application, transports):
    app, events = socketio_application
    # engineio does not end the long poll of a client that has left; no server can wait for it.
    running = serve(app, timeout_graceful_shutdown=0.1)

    async def main():
        client = socketio.AsyncClient(reconnection=False)
        got: asyncio.Queue[Any] = asyncio.Queue()
        for event in ("joined", "binary", "disconnect"):
            client.on(event, got.put)
        await client.connect(running.url, transports=transports)
        assert client.transport() == transports[-1]
        assert await client.call("add", (1, 2)) == 3
        assert await client.call("add", ("ü" * 50_000, "x")) == "ü" * 50_000 + "x"
        await client.emit("join", "room")
        assert await got.get() == {"size": 1}
        blob = bytes(range(256)) * 200
        await client.emit("binary", {"blob": blob})
        assert await got.get() == {"nested": [blob, "text"]}
        calls = [client.call("add", (number, 1)) for number in range(15)]  # of at most 16
        assert await asyncio.gather(*calls) == list(range(1, 16))
        await client.emit("leave")
        assert await got.get() == "server disconnect"
        await client.disconnect()

    run(main())
    wait_until(lambda: len(events) == 2)
    assert events == ["connect", "server disconnect"]
    with httpx.Client(trust_env=False) as http:
        assert http.get(running.url).text == "page"


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]], ids="-".join)
def test_socketio_refused_then_ended_by_the_client(serve, socketio_application, transports):
    app, events = socketio_application
    running = serve(app)

    async def main():
        client = socketio.AsyncClient(reconnection=False)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(running.url, transports=transports, auth={"token": "wrong"})
        await client.disconnect()
        client = socketio.AsyncClient(reconnection=False)
        await client.connect(running.url, transports=transports)
        await client.disconnect()

    run(main())
    wait_until(lambda: len(events) == 2)
    # The client does not wait until its last packet is sent: on Python 3.11 only the Close is.
    assert events[0] == "connect"
    assert events[1] in ("client disconnect", "transport close")

"""WebSockets of real frameworks: Starlette, FastAPI, Django Channels, python-socketio."""

import asyncio
import contextlib
import json
from typing import Annotated, Any

import anyio
import channels.layers
import django
import httpx
import pytest
import socketio
import websockets.asyncio.client
import websockets.sync.client
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
from fastapi import Depends, FastAPI, Header, HTTPException, Query, WebSocketException
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from support import PATIENCE, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus


def connect(running, path="/", **options):
    url = f"ws://127.0.0.1:{running.port}{path}"
    return websockets.sync.client.connect(url, proxy=None, **options)


def connect_async(running, path="/", **options):
    url = f"ws://127.0.0.1:{running.port}{path}"
    return websockets.asyncio.client.connect(url, proxy=None, **options)


def close_of(ws) -> tuple[int, str]:
    """Code and reason of the server's Close, which must be the next that comes."""
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(timeout=PATIENCE)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def refusal_of(running, path="/", **options) -> Any:
    """The response to a handshake that is not accepted."""
    with pytest.raises(InvalidStatus) as refused, connect(running, path, **options):
        pass
    return refused.value.response


def run(main) -> Any:
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


# --- Starlette ------------------------------------------------------------------------------------


@pytest.fixture
def starlette(serve):
    """Function (*endpoints, **options of Starlette) that serves each endpoint at /its_name."""

    def start(*endpoints, routes=(), **options):
        named = [WebSocketRoute(f"/{each.__name__}", each) for each in endpoints]
        return serve(Starlette(routes=[*named, *routes], **options))

    return start


def test_starlette_iterators(starlette):
    async def text(websocket: WebSocket):
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(message.upper())
        ended.append(websocket.client_state.name)

    async def data(websocket: WebSocket):
        await websocket.accept()
        async for message in websocket.iter_bytes():
            await websocket.send_bytes(message[::-1])

    async def objects(websocket: WebSocket):
        await websocket.accept()
        async for message in websocket.iter_json():
            await websocket.send_json({"got": message})
            await websocket.send_json({"got": message}, mode="binary")

    ended: list[str] = []
    running = starlette(text, data, objects)
    with connect(running, "/text") as ws:
        for message in ("grüße", "", "x" * 100_000):
            ws.send(message)
            assert ws.recv() == message.upper()
    wait_until(lambda: ended)
    assert ended == ["DISCONNECTED"]
    with connect(running, "/data") as ws:
        ws.send(b"abc" * 1000)
        assert ws.recv() == b"cba" * 1000
    with connect(running, "/objects") as ws:
        ws.send('{"a": [1, "ü"]}')
        assert json.loads(ws.recv()) == {"got": {"a": [1, "ü"]}}
        assert json.loads(ws.recv()) == {"got": {"a": [1, "ü"]}}
    wait_until(lambda: not running.context.connections)


def test_starlette_endpoint_class(starlette):
    seen: list[Any] = []

    class Numbers(WebSocketEndpoint):
        encoding = "json"

        async def on_connect(self, websocket):
            seen.append("connect")
            await websocket.accept()

        async def on_receive(self, websocket, data):
            await websocket.send_json(sum(data))

        async def on_disconnect(self, websocket, close_code):
            seen.append(close_code)

    class Octets(WebSocketEndpoint):
        encoding = "bytes"

        async def on_receive(self, websocket, data):
            await websocket.send_bytes(data)

    running = starlette(Numbers, Octets)
    with connect(running, "/Numbers") as ws:
        ws.send("[1, 2, 3]")
        assert ws.recv() == "6"
        ws.close(3001)
    wait_until(lambda: len(seen) == 2)
    with connect(running, "/Numbers") as ws:
        ws.send("{")
        assert close_of(ws) == (1003, "")  # Starlette's answer to what is no JSON
    wait_until(lambda: len(seen) == 4)
    assert seen == ["connect", 3001, "connect", 1011]  # it raises, too
    with connect(running, "/Octets") as ws:
        ws.send("no bytes")
        assert close_of(ws) == (1003, "")


def test_starlette_request_and_state(starlette):
    async def show(websocket: WebSocket):
        await websocket.accept(headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
        await websocket.send_json(
            {
                "url": str(websocket.url),
                "query": websocket.query_params.multi_items(),
                "params": websocket.path_params,
                "cookies": websocket.cookies,
                "header": websocket.headers.getlist("x-twice"),
                "host": websocket.client.host,
                "root": websocket.scope["root_path"],
                "pool": websocket.state.pool,
                "for": str(websocket.url_for("m:show", name="there")),
            }
        )
        await websocket.close()

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield {"pool": "the pool"}

    routes = [Mount("/under", routes=[WebSocketRoute("/{name}", show, name="show")], name="m")]
    running = starlette(routes=routes, lifespan=lifespan)
    headers = [("X-Twice", "1"), ("X-Twice", "2"), ("Cookie", "c=3; d=4")]
    with connect(running, "/under/he%72e?q=1&q=%26", additional_headers=headers) as ws:
        got = json.loads(ws.recv())
        assert ws.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    base = f"ws://127.0.0.1:{running.port}"
    assert got == {
        "url": f"{base}/under/here?q=1&q=%26",
        "query": [["q", "1"], ["q", "&"]],
        "params": {"name": "here"},
        "cookies": {"c": "3", "d": "4"},
        "header": ["1", "2"],
        "host": "127.0.0.1",
        "root": "/under",
        "pool": "the pool",
        "for": f"{base}/under/there",
    }


def test_starlette_denials(starlette):
    async def response(websocket: WebSocket):
        await websocket.send_denial_response(JSONResponse({"why": "token"}, status_code=401))

    async def stream(websocket: WebSocket):
        parts = (f"part {number}\n" for number in range(100))
        await websocket.send_denial_response(StreamingResponse(parts, status_code=503))

    async def exception(websocket: WebSocket):
        raise HTTPException(418, "tea", headers={"x-pot": "1"})

    async def close(websocket: WebSocket):
        await websocket.close(code=4001, reason="no")

    async def silent(websocket: WebSocket):
        pass

    running = starlette(response, stream, exception, close, silent)
    reply = refusal_of(running, "/response")
    assert (reply.status_code, json.loads(reply.body)) == (401, {"why": "token"})
    assert reply.headers["content-type"] == "application/json"
    reply = refusal_of(running, "/stream")
    assert reply.status_code == 503
    assert reply.body == b"".join(b"part %d\n" % number for number in range(100))
    reply = refusal_of(running, "/exception")
    assert (reply.status_code, reply.body, reply.headers["x-pot"]) == (418, b"tea", "1")
    assert refusal_of(running, "/close").status_code == 403
    assert refusal_of(running, "/silent").status_code == 500
    assert refusal_of(running, "/nowhere").status_code == 403  # what Starlette makes of it
    wait_until(lambda: not running.context.connections)


def test_starlette_subprotocol(starlette):
    async def choose(websocket: WebSocket):
        offered = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=offered[-1] if offered else None)
        await websocket.send_json(offered)
        await websocket.close(1000, "done")

    running = starlette(choose)
    with connect(running, "/choose", subprotocols=["graphql-ws", "graphql-transport-ws"]) as ws:
        assert ws.subprotocol == "graphql-transport-ws"
        assert json.loads(ws.recv()) == ["graphql-ws", "graphql-transport-ws"]
        assert close_of(ws) == (1000, "done")
    with connect(running, "/choose") as ws:
        assert ws.subprotocol is None


def test_starlette_disconnect_exceptions(starlette, caplog):
    """The client leaves while the application receives, and while it sends; nothing is logged."""
    seen: list[Any] = []

    async def receiver(websocket: WebSocket):
        await websocket.accept()
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as exc:
            seen.append((exc.code, exc.reason))
            raise  # it often is left to fall through

    async def sender(websocket: WebSocket):
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(bytes(65536))
        except WebSocketDisconnect as exc:
            seen.append((exc.code, exc.reason))
            raise

    running = starlette(receiver, sender)
    with connect(running, "/receiver") as ws:
        ws.close(4321, "bye")
    wait_until(lambda: len(seen) == 1)

    async def vanish(path):
        async with connect_async(running, path, compression=None) as ws:
            if path == "/sender":
                await ws.recv()
            ws.transport.abort()

    run(vanish("/receiver"))
    wait_until(lambda: len(seen) == 2)
    run(vanish("/sender"))
    wait_until(lambda: len(seen) == 3)
    assert seen == [(4321, "bye"), (1006, ""), (1006, "")]
    wait_until(lambda: not running.context.cycles)
    assert "Traceback" not in caplog.text


def test_starlette_error_after_accept(starlette, caplog):
    async def fail(websocket: WebSocket):
        await websocket.accept()
        await websocket.receive_text()
        raise ZeroDivisionError("on purpose")

    running = starlette(fail)
    with connect(running, "/fail") as ws:
        ws.send("go")
        assert close_of(ws)[0] == 1011
    wait_until(lambda: not running.context.cycles)
    assert caplog.text.count("ZeroDivisionError: on purpose") == 1


def test_starlette_middleware_lets_websockets_through(starlette):
    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            response = await call_next(request)
            response.headers["x-stamp"] = "1"
            return response

    async def echo(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    async def page(request):
        return PlainTextResponse("page")

    running = starlette(
        echo,
        routes=[Route("/", page)],
        middleware=[
            Middleware(Stamp),
            Middleware(CORSMiddleware, allow_origins=["*"]),
            Middleware(GZipMiddleware, minimum_size=1),
        ],
    )
    with connect(running, "/echo", origin="http://elsewhere") as ws:
        ws.send("x")
        assert ws.recv() == "x"
    with httpx.Client(trust_env=False) as http:
        reply = http.get(running.url)
        assert (reply.text, reply.headers["x-stamp"]) == ("page", "1")


def test_starlette_reads_and_writes_at_once(starlette):
    """Two tasks on one WebSocket; the first to end cancels the other."""
    cancelled = []

    async def both(websocket: WebSocket):
        await websocket.accept()

        async def tick(scope):
            try:
                number = 0
                while True:
                    await websocket.send_text(f"tick {number}")
                    number += 1
                    await anyio.sleep(0.001)
            finally:
                cancelled.append(number)

        async with anyio.create_task_group() as group:
            group.start_soon(tick, group.cancel_scope)
            async for message in websocket.iter_text():
                await websocket.send_text(f"echo {message}")
            group.cancel_scope.cancel()

    running = starlette(both)
    with connect(running, "/both") as ws:
        for number in range(20):
            ws.send(str(number))
        ticks = echoes = 0
        while ticks < 20 or echoes < 20:
            kind, _, number = ws.recv().partition(" ")
            if kind == "tick":
                assert int(number) == ticks
                ticks += 1
            else:
                assert int(number) == echoes
                echoes += 1
    wait_until(lambda: cancelled)
    wait_until(lambda: not running.context.cycles)


# --- FastAPI --------------------------------------------------------------------------------------


def test_fastapi_parameters_and_dependencies(serve):
    app = FastAPI()
    events: list[str] = []

    async def session(websocket: WebSocket):
        events.append("open")
        yield websocket.headers.get("x-user", "nobody")
        events.append("close")

    def twice(n: int = 1) -> int:  # runs in a thread
        return n * 2

    @app.websocket("/items/{item}")
    async def items(
        websocket: WebSocket,
        item: int,
        user: Annotated[str, Depends(session)],
        doubled: Annotated[int, Depends(twice)],
        q: Annotated[str | None, Query(max_length=3)] = None,
        x_user: Annotated[str | None, Header()] = None,
    ):
        await websocket.accept()
        await websocket.send_json([item, user, doubled, q, x_user])
        async for message in websocket.iter_text():
            await websocket.send_text(message)

    running = serve(app)
    with connect(running, "/items/7?n=4&q=tea", additional_headers={"X-User": "Luna"}) as ws:
        assert json.loads(ws.recv()) == [7, "Luna", 8, "tea", "Luna"]
        ws.send("x")
        assert ws.recv() == "x"
        assert events == ["open"]
    wait_until(lambda: events == ["open", "close"])
    for wrong in ("/items/seven", "/items/7?q=coffee"):
        assert refusal_of(running, wrong).status_code == 403  # closed with 1008 before accept
    wait_until(lambda: not running.context.connections)


def test_fastapi_exceptions(serve):
    app = FastAPI()
    ended: list[str] = []

    class OwnError(Exception):
        pass

    @app.exception_handler(OwnError)
    async def own(websocket: WebSocket, exc: OwnError):
        await websocket.close(4004, "handled")

    async def token(websocket: WebSocket, token: str | None = None):
        if token is None:
            raise WebSocketException(1008, "no token")
        if token == "http":
            raise HTTPException(401, "no token")
        try:
            yield token
        finally:
            ended.append(token)

    @app.websocket("/")
    async def root(websocket: WebSocket, token: Annotated[str, Depends(token)]):
        await websocket.accept()
        if token == "late":
            raise WebSocketException(1008, "too late")
        if token == "own":
            raise OwnError
        await websocket.close(reason=token)

    running = serve(app)
    assert refusal_of(running, "/").status_code == 403
    reply = refusal_of(running, "/?token=http")
    assert (reply.status_code, json.loads(reply.body)) == (401, {"detail": "no token"})
    ends = {"late": (1008, "too late"), "own": (4004, "handled"), "fine": (1000, "fine")}
    for name, end in ends.items():
        with connect(running, f"/?token={name}") as ws:
            assert close_of(ws) == end
    wait_until(lambda: len(ended) == 3)
    assert ended == list(ends)


def test_fastapi_broadcast(serve):
    """The chat of FastAPI's documentation, with fifty who are in it."""
    app = FastAPI()
    active: list[WebSocket] = []

    async def broadcast(message):
        for each in list(active):
            await each.send_text(message)

    @app.websocket("/{name}")
    async def chat(websocket: WebSocket, name: str):
        await websocket.accept()
        active.append(websocket)
        try:
            while True:
                await broadcast(f"{name}: {await websocket.receive_text()}")
        except WebSocketDisconnect:
            active.remove(websocket)
            await broadcast(f"{name} left")

    @app.get("/active")
    async def count():
        return len(active)

    running = serve(app)
    size = 50

    async def main():
        members = await asyncio.gather(*[connect_async(running, f"/{n}") for n in range(size)])
        await asyncio.to_thread(wait_until, lambda: len(active) == size)
        with httpx.Client(trust_env=False) as http:
            assert http.get(f"{running.url}/active").json() == size
        for number in (0, size - 1):
            await members[number].send("hello")
            for member in members:
                assert await member.recv() == f"{number}: hello"
        await members[0].close()
        for member in members[1:]:
            assert await member.recv() == "0 left"
        await asyncio.gather(*[member.close() for member in members[1:]])

    run(main())
    wait_until(lambda: not active)
    wait_until(lambda: not running.context.connections)


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
def django_application(monkeypatch):
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=__name__,
            SECRET_KEY="secret",  # of nothing
            CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        )
        django.setup()
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
    # engineio does not end the long poll of a client that has gone; no server can wait for it.
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
    # The client does not wait for its last packet to leave: on Python 3.11 only the Close does.
    assert events[0] == "connect"
    assert events[1] in ("client disconnect", "transport close")

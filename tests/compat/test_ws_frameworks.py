"""WebSockets of Starlette and FastAPI."""

import asyncio
import contextlib
import json
from typing import Annotated, Any

import anyio
import httpx
import pytest
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
from support import wait_until
from ws_sessions import close_of, connect, connect_async, refusal_of, run

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
        assert close_of(ws) == (1003, "")  # Starlette's answer to invalid JSON
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
    assert refusal_of(running, "/nowhere").status_code == 403  # Starlette's answer
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


def test_starlette_subprotocol_that_was_not_offered(starlette):
    async def choose(websocket: WebSocket):
        await websocket.accept(subprotocol="chosen")
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    for offered in (None, ["other"]):
        with connect(starlette(choose), "/choose", subprotocols=offered) as ws:
            assert ws.subprotocol is None
            ws.send("x")
            assert ws.recv() == "x"


def test_starlette_disconnect_exceptions(starlette, caplog):
    """The client leaves while the application receives, and while it sends; nothing is logged."""
    seen: list[Any] = []

    async def receiver(websocket: WebSocket):
        await websocket.accept()
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as exc:
            seen.append((exc.code, exc.reason))
            raise  # as often happens: it is not caught

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
    """The chat of FastAPI's documentation, with fifty participants."""
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

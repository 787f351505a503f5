"""Litestar over HTTP and WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from apps import Gate
from litestar import Litestar, MediaType, Request, WebSocket, get, post, websocket, websocket_stream
from litestar import websocket_listener as listener
from litestar.datastructures import State, UploadFile
from litestar.dto import DataclassDTO
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, WebSocketDisconnect
from litestar.params import Body, FromPath, FromQuery, JSONBody
from litestar.response import File, Response, ServerSentEvent, Stream
from support import read_head, wait_until
from ws_sessions import close_of, connect, refusal_of


@dataclass
class Point:
    x: int
    y: float = 0.5


class User(msgspec.Struct):
    name: str
    age: int


def test_handlers(client, tmp_path):
    @get("/add/{left:int}", sync_to_thread=False)
    def add(left: FromPath[int], right: FromQuery[int] = 1) -> dict[str, int]:
        return {"sum": left + right}

    @get("/thread", sync_to_thread=True, media_type=MediaType.TEXT)
    def in_thread(request: Request) -> str:
        return f"{request.client.host} {request.url.path} {request.headers['x-name']}"

    @post("/point")
    async def point(data: JSONBody[Point]) -> Point:
        return Point(data.x + 1, data.y)

    @post("/user", status_code=200)
    async def user(data: JSONBody[User]) -> User:
        return data

    @post("/upload")
    async def upload(
        data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)],
    ) -> dict[str, object]:
        return {"name": data.filename, "size": len(await data.read())}

    @post("/count")
    async def count(request: Request) -> dict[str, int]:
        return {"size": sum([len(part) async for part in request.stream()])}

    @get("/failing")
    async def failing() -> None:
        raise RuntimeError("on purpose")

    @get("/teapot")
    async def teapot() -> None:
        raise HTTPException("short and stout", status_code=418)

    handlers = [add, in_thread, point, user, upload, count, failing, teapot]
    http, running = client(Litestar(handlers, logging_config=None))
    assert http.get("/add/4", params={"right": 3}).json() == {"sum": 7}
    assert http.get("/add/four").status_code == 404
    assert http.get("/thread", headers={"X-Name": "Ada"}).text == "127.0.0.1 /thread Ada"
    reply = http.post("/point", json={"x": 1})
    assert (reply.status_code, reply.json()) == (201, {"x": 2, "y": 0.5})
    assert http.post("/point", json={"y": 1}).status_code == 400
    packed = msgspec.json.encode(User("Ada", 36))
    assert http.post("/user", content=packed).content == packed
    reply = http.post("/upload", files={"data": ("name.bin", b"x" * 2_000_000)})
    assert reply.json() == {"name": "name.bin", "size": 2_000_000}
    assert http.post("/count", content=(b"x" * 50_000 for _ in range(40))).json() == {
        "size": 2_000_000
    }
    assert http.get("/failing").status_code == 500
    assert http.get("/teapot").json() == {"status_code": 418, "detail": "short and stout"}
    assert http.get("/nowhere").status_code == 404
    assert http.delete("/point").status_code == 405
    assert http.get("/schema/openapi.json").json()["openapi"].startswith("3.")
    assert len(running.context.connections) == 1  # none of the requests ended the connection


def test_lifespan_and_state(client):
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def pool(app: Litestar) -> AsyncIterator[None]:
        events.append("up")
        app.state.pool = "the pool"
        yield
        events.append("down")

    @get("/", media_type=MediaType.TEXT)
    async def root(state: State) -> str:
        return state.pool

    app = Litestar([root], lifespan=[pool], on_startup=[lambda: events.append("started")])
    http, running = client(app, lifespan="on")
    assert http.get("/").text == "the pool"
    http.close()
    running.__exit__(None, None, None)
    assert events == ["up", "started", "down"]


def test_files_and_streams(client, tmp_path: Path):
    content = bytes(range(256)) * 8000
    file = tmp_path / "file.bin"
    file.write_bytes(content)
    ended = []
    gate = Gate()

    @get("/file")
    async def download() -> File:
        return File(path=file, filename="file.bin")

    async def numbers() -> AsyncIterator[str]:
        for number in range(500):
            yield f"{number}\n"

    @get("/stream")
    async def stream() -> Stream:
        return Stream(numbers)

    async def said() -> AsyncIterator[dict]:
        for number in range(3):
            yield {"data": number, "id": number, "event": "count"}

    @get("/events")
    async def events() -> ServerSentEvent:
        return ServerSentEvent(said())

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await gate.wait()
        finally:
            ended.append(True)

    @get("/endless")
    async def without_end() -> Stream:
        return Stream(endless())

    @get("/empty")
    async def empty() -> Response[None]:
        return Response(None, status_code=204)

    http, running = client(Litestar([download, stream, events, without_end, empty]))
    reply = http.get("/file")
    assert reply.content == content
    assert 'filename="file.bin"' in reply.headers["content-disposition"]
    assert http.get("/stream").text == "".join(f"{number}\n" for number in range(500))
    reply = http.get("/events")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.count("event: count") == 3
    assert http.get("/empty").status_code == 204
    with running.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        read_head(sock)
        wait_until(lambda: gate.reached)
    wait_until(lambda: ended)  # Litestar cancels it when the client has gone
    wait_until(lambda: not running.context.cycles)


def test_websockets(serve):
    ended: list[str] = []

    @websocket("/raw")
    async def raw(socket: WebSocket) -> None:
        await socket.accept(subprotocols="chosen")
        try:
            while True:
                await socket.send_text((await socket.receive_text()).upper())
        except WebSocketDisconnect as exc:
            ended.append(str(exc.code))

    @listener("/listener", dto=DataclassDTO[Point])
    async def points(data: Point) -> Point:
        if data.x < 0:
            raise ValueError("on purpose")
        return Point(data.x * 2, data.y)

    @listener("/text")
    async def texts(data: str) -> str:
        return data[::-1]

    @websocket_stream("/ticks")
    async def ticks() -> AsyncGenerator[int, None]:
        try:
            for number in range(20):
                yield number
            await asyncio.Event().wait()
        finally:
            ended.append("ticks")

    @websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.close(4003)

    app = Litestar([raw, points, texts, ticks, denied], logging_config=None)
    running = serve(app, log_level="critical")
    with connect(running, "/raw", subprotocols=["chosen"]) as ws:
        assert ws.subprotocol == "chosen"
        ws.send("grüße" * 20_000)
        assert ws.recv() == "GRÜSSE" * 20_000
        ws.close(4001)
    wait_until(lambda: ended)
    with connect(running, "/listener") as ws:
        for x in range(3):
            ws.send(json.dumps({"x": x}))
            assert json.loads(ws.recv()) == {"x": 2 * x, "y": 0.5}
        ws.send(json.dumps({"x": -1}))
        assert close_of(ws) == (4500, "Internal Server Error")  # Litestar's: 4000 and the status
    with connect(running, "/text") as ws:
        ws.send("abc")
        assert ws.recv() == "cba"
    with connect(running, "/ticks") as ws:
        assert [int(ws.recv()) for _ in range(20)] == list(range(20))
    wait_until(lambda: len(ended) == 2)
    assert ended == ["4001", "ticks"]
    assert refusal_of(running, "/denied").status_code == 403
    assert refusal_of(running, "/nowhere").status_code == 403
    wait_until(lambda: not running.context.connections)

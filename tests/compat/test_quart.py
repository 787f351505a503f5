"""Quart over HTTP and WebSocket."""

from __future__ import annotations

import asyncio

import pytest
from apps import Gate
from quart import Quart, abort, jsonify, make_response, request, send_file, websocket
from support import read_head, wait_until
from ws_sessions import close_of, connect, refusal_of


@pytest.fixture
def app():
    app = Quart(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4_000_000
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.logger.disabled = True
    return app


def test_routes(client, app, tmp_path):
    @app.get("/add/<int:left>")
    async def add(left: int):
        return {"sum": left + request.args.get("right", 1, type=int)}

    @app.post("/json")
    async def body():
        return jsonify(await request.get_json())

    @app.get("/thread")
    def in_thread():  # runs in a thread
        return f"{request.remote_addr} {request.scheme} {request.headers['X-Name']}"

    @app.post("/upload")
    async def upload():
        file = (await request.files)["file"]
        return {"name": file.filename, "size": len(file.read()), "form": dict(await request.form)}

    @app.get("/failing")
    async def failing():
        raise RuntimeError("on purpose")

    @app.get("/teapot")
    async def teapot():
        abort(418)

    @app.errorhandler(418)
    async def short(error):
        return {"handled": error.code}, 418

    @app.get("/file")
    async def download():
        return await send_file(tmp_path / "file.bin", conditional=True)

    @app.get("/cookie")
    async def cookie():
        response = await make_response("set")
        response.set_cookie("seen", request.cookies.get("seen", "") + "x")
        return response

    content = bytes(range(256)) * 8000
    (tmp_path / "file.bin").write_bytes(content)
    http, running = client(app)
    assert http.get("/add/4?right=3").json() == {"sum": 7}
    assert http.post("/json", json={"a": ["ü"]}).json() == {"a": ["ü"]}
    assert http.get("/thread", headers={"X-Name": "Ada"}).text == "127.0.0.1 http Ada"
    reply = http.post("/upload", data={"a": "b"}, files={"file": ("n.bin", b"x" * 3_000_000)})
    assert reply.json() == {"name": "n.bin", "size": 3_000_000, "form": {"a": "b"}}
    assert http.get("/failing").status_code == 500
    assert http.get("/teapot").json() == {"handled": 418}
    assert http.get("/nowhere").status_code == 404
    assert http.delete("/json").status_code == 405
    reply = http.get("/file")
    assert reply.content == content
    part = http.get("/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    kept = http.get("/file", headers={"If-None-Match": reply.headers["etag"]})
    assert (kept.status_code, kept.content) == (304, b"")
    assert http.head("/file").headers["content-length"] == str(len(content))
    assert [http.get("/cookie").cookies["seen"] for _ in range(3)] == ["x", "xx", "xxx"]
    assert len(running.context.connections) == 1  # none of the requests ended the connection


def test_lifespan_and_background_task(client, app):
    events: list[str] = []
    gate = Gate()

    @app.before_serving
    async def before():
        events.append("before")

    @app.while_serving
    async def around():
        events.append("up")
        yield
        events.append("down")

    @app.after_serving
    async def after():
        events.append("after")

    async def work():
        await gate.wait()
        events.append("worked")

    @app.get("/")
    async def root():
        app.add_background_task(work)
        return "accepted"

    http, running = client(app, lifespan="on")
    assert http.get("/").text == "accepted"
    assert events == ["before", "up"]
    gate.open(running)
    wait_until(lambda: events[-1] == "worked")
    http.close()
    running.__exit__(None, None, None)
    assert events == ["before", "up", "worked", "down", "after"]


def test_streams(client, app):
    gate = Gate()
    ended = []

    @app.get("/numbers")
    async def numbers():
        async def parts():
            for number in range(500):
                yield f"{number}\n"

        return parts(), {"X-Kind": "numbers"}

    @app.get("/endless")
    async def endless():
        async def parts():
            try:
                yield b"first"
                await gate.wait()
            finally:
                ended.append(True)

        response = await make_response(parts())
        response.timeout = None
        return response

    @app.post("/echo")
    async def echo():
        body = request.body

        async def parts():  # read while it is answered
            async for part in body:
                yield part

        return parts()

    @app.post("/count")
    async def count():
        return {"size": sum([len(part) async for part in request.body])}

    http, running = client(app)
    reply = http.get("/numbers")
    assert reply.text == "".join(f"{number}\n" for number in range(500))
    assert reply.headers["x-kind"] == "numbers"
    size = 3_000_000
    reply = http.post("/count", content=(b"x" * 50_000 for _ in range(60)))
    assert reply.json() == {"size": size}
    content = bytes(range(256)) * 8000
    assert http.post("/echo", content=content).content == content
    assert http.post("/count", content=b"x" * 5_000_000).status_code == 413
    with running.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        read_head(sock)
        wait_until(lambda: gate.reached)
    wait_until(lambda: ended)
    wait_until(lambda: not running.context.cycles)


def test_websockets(serve, app):
    ended = []

    @app.websocket("/echo")
    async def echo():
        await websocket.accept(subprotocol="chosen", headers={"X-Kind": "echo"})
        try:
            while True:
                await websocket.send(await websocket.receive())
        except asyncio.CancelledError:
            ended.append("echo")
            raise

    @app.websocket("/both")
    async def both():
        async def sending():
            for number in range(20):
                await websocket.send_json({"tick": number})

        async def receiving():
            while (message := await websocket.receive()) != "end":
                await websocket.send(f"got {message}")
            await websocket.close(4001, "as asked")

        await asyncio.gather(sending(), receiving())

    @app.websocket("/denied")
    async def denied():
        return "not you", 401

    @app.websocket("/failing")
    async def failing():
        await websocket.accept()
        raise RuntimeError("on purpose")

    running = serve(app, log_level="critical")
    with connect(running, "/echo", subprotocols=["chosen"]) as ws:
        assert ws.subprotocol == "chosen"
        assert ws.response.headers["x-kind"] == "echo"
        for message in ("grüße" * 20_000, b"\0\xff" * 50_000, ""):
            ws.send(message)
            assert ws.recv() == message
    wait_until(lambda: ended)
    with connect(running, "/both") as ws:
        ws.send("a")
        messages = [ws.recv() for _ in range(21)]
        assert "got a" in messages
        ws.send("end")
        assert close_of(ws) == (4001, "as asked")
    reply = refusal_of(running, "/denied")
    assert (reply.status_code, reply.body) == (401, b"not you")
    assert refusal_of(running, "/nowhere").status_code == 404
    with connect(running, "/failing") as ws:
        assert close_of(ws) == (1000, "")  # Quart's code, after it has logged the error
    wait_until(lambda: not running.context.connections)

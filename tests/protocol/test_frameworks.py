"""Real FastAPI and Starlette applications, through httpx and through plain sockets."""

import asyncio
import contextlib
import contextvars
import gc
import importlib.util
import threading
from pathlib import Path
from typing import Annotated

import anyio
import pytest
from apps import GET, Gate, get, is_closed, post, take_replies
from fastapi import BackgroundTasks, Depends, FastAPI, File, Request, UploadFile
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from support import read_all, read_head, read_response, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "application.py"


def test_example_application(client):
    spec = importlib.util.spec_from_file_location("example_application", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    http, running = client(module.app)
    assert http.get("/").json() == {"Hello": "World"}
    assert http.get("/items/5", params={"q": "ü"}).json() == {"item_id": 5, "q": "ü"}
    assert http.get("/items/5").json() == {"item_id": 5, "q": None}
    user = {"first_name": "Ada", "last_name": "Lovelace"}
    reply = http.post("/user", json=user)
    assert (reply.status_code, reply.json()) == (200, user)
    assert http.post("/user", json={"first_name": "Ada"}).status_code == 422
    assert http.get("/items/x").status_code == 422
    assert http.get("/nowhere").status_code == 404
    assert http.request("DELETE", "/").status_code == 405
    assert http.get("/openapi.json").json()["openapi"].startswith("3.")
    assert len(running.context.connections) == 1  # none of this ended the connection


def test_lifespan_state_reaches_requests(client):
    events = []

    async def lifespan(app):
        events.append("up")
        yield {"pool": "the pool"}
        events.append("down")

    app = FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))

    @app.get("/")
    async def root(request: Request):
        return request.state.pool

    http, running = client(app, lifespan="on")
    assert http.get("/").json() == "the pool"
    assert events == ["up"]
    http.close()
    running.__exit__(None, None, None)
    assert events == ["up", "down"]


def test_base_http_middleware(client):
    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            body = await request.body()
            response = await call_next(request)
            response.headers["x-seen"] = str(len(body))
            return response

    async def echo(request):
        return PlainTextResponse(await request.body())

    async def stream(request):
        return StreamingResponse(iter([b"a", b"b"]))

    async def boom(request):
        raise RuntimeError("on purpose")

    app = Starlette(
        routes=[
            Route("/", echo, methods=["POST"]),
            Route("/stream", stream),
            Route("/boom", boom),
        ],
        middleware=[Middleware(Stamp), Middleware(Stamp)],
    )
    http, _ = client(app)
    for size in (0, 5, 200_000):
        reply = http.post("/", content=b"x" * size)
        assert reply.content == b"x" * size
        assert reply.headers["x-seen"] == str(size)
    assert http.get("/stream").content == b"ab"
    assert http.get("/boom").status_code == 500
    assert http.get("/stream").content == b"ab"


@pytest.mark.parametrize("middleware", [False, True])
def test_client_gone_mid_stream_stops_the_generator(serve, middleware):
    ended = []

    async def numbers():
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.append(True)

    async def stream(request):
        return StreamingResponse(numbers())

    class Plain(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    app = Starlette(
        routes=[Route("/", stream)], middleware=[Middleware(Plain)] if middleware else []
    )
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET)
        read_head(sock)
    wait_until(lambda: not running.context.cycles)
    gc.collect()  # the middleware leaves it in a cycle of references
    wait_until(lambda: ended, 3)
    assert not running.context.connections


def test_client_gone_between_events_stops_the_generator(serve):
    """Server-sent events: nothing is being sent when the client leaves."""
    ended = []
    gate = Gate()

    async def events():
        try:
            yield b"data: 1\n\n"
            await gate.wait()
            while True:
                yield b"data: 2\n\n"
                await asyncio.sleep(0)
        finally:
            ended.append(True)

    async def stream(request):
        return StreamingResponse(events(), media_type="text/event-stream")

    running = serve(Starlette(routes=[Route("/", stream)]))
    with running.connect() as sock:
        sock.sendall(GET)
        read_head(sock)
        wait_until(lambda: gate.reached)
    gate.open(running)
    wait_until(lambda: ended)
    wait_until(lambda: not running.context.cycles)


def test_file_response(client, tmp_path):
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(range(256)) * 4000)

    async def download(request):
        return FileResponse(file)

    http, _ = client(Starlette(routes=[Route("/", download)]))
    reply = http.get("/")
    assert reply.content == file.read_bytes()
    assert reply.headers["content-length"] == str(file.stat().st_size)
    part = http.get("/", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, file.read_bytes()[10:20])
    head = http.head("/")
    assert head.headers["content-length"] == str(file.stat().st_size)
    assert head.content == b""
    assert http.get("/").content == file.read_bytes()


def test_background_task_holds_neither_response_nor_connection(serve):
    gate = Gate()
    done = []
    app = FastAPI()

    async def work():
        await gate.wait()
        done.append(True)

    @app.get("/")
    async def root(tasks: BackgroundTasks):
        tasks.add_task(work)
        return "accepted"

    @app.get("/next")
    async def next_one():
        return "next"

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET + get("/next"))  # pipelined behind it, even
        assert read_response(sock)[1] == b'"accepted"'
        assert read_response(sock)[1] == b'"next"'
        sock.sendall(get("/next", "Connection: close"))
        assert read_response(sock)[1] == b'"next"'
        assert is_closed(sock)
    assert done == []
    assert len(running.context.cycles) == 1
    gate.open(running)
    wait_until(lambda: not running.context.cycles)
    assert done == [True]


def test_sync_endpoints_run_in_threads(client):
    app = FastAPI()
    threads = set()
    barrier = threading.Barrier(4, timeout=10)

    @app.get("/")
    def root(n: int):
        threads.add(threading.current_thread().name)
        barrier.wait()  # four must run at once, or none goes on
        return n

    http, _ = client(app)
    results = []

    def ask(n):
        results.append(http.get("/", params={"n": n}).json())

    askers = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(results) == [0, 1, 2, 3]
    assert "thestral" not in threads


def test_timeouts_and_task_groups_of_the_application(client):
    app = FastAPI()

    @app.get("/timeout")
    async def timeout():
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"

    @app.get("/wait_for")
    async def wait_for():
        return await asyncio.wait_for(asyncio.sleep(0, "done"), 5)

    @app.get("/anyio")
    async def anyio_group():
        found = []

        async def add(n):
            await anyio.sleep(0)
            found.append(n)

        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(add, n)
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        return [sorted(found), scope.cancelled_caught]

    @app.get("/taskgroup")
    async def task_group():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
        return [task.result() for task in tasks]

    @app.get("/task")
    async def current():
        task = asyncio.current_task()
        return isinstance(task, asyncio.Task) and task in asyncio.all_tasks()

    http, _ = client(app)
    assert http.get("/timeout").json() == "timed out"
    assert http.get("/wait_for").json() == "done"
    assert http.get("/anyio").json() == [[0, 1, 2], True]
    assert http.get("/taskgroup").json() == [0, 1, 2]
    assert http.get("/task").json() is True


user = contextvars.ContextVar("user", default=None)


@pytest.mark.parametrize("sync", [False, True])
def test_contextvars_through_dependencies(serve, sync):
    """Set by a dependency, seen by the endpoint, gone by the next request of the connection."""
    app = FastAPI()
    before = []

    async def who(name: str):
        before.append(user.get())
        user.set(name)
        yield name

    if sync:

        @app.get("/")
        def root(name: Annotated[str, Depends(who)]):
            return user.get()
    else:

        @app.get("/")
        async def root(name: Annotated[str, Depends(who)]):
            return user.get()

    with serve(app).connect() as sock:
        sock.sendall(get("/?name=a") + get("/?name=b") + get("/?name=c", "Connection: close"))
        replies = take_replies(read_all(sock))
    assert [reply.body for reply in replies] == [b'"a"', b'"b"', b'"c"']
    assert before == [None, None, None]


def test_upload_file(client):
    app = FastAPI()

    @app.post("/")
    async def root(file: Annotated[UploadFile, File()]):
        return [file.filename, file.size, (await file.read()).count(b"x")]

    http, _ = client(app)
    for size in (0, 10, 3_000_000):  # within memory, and beyond what is kept there
        reply = http.post("/", files={"file": ("name.bin", b"x" * size)})
        assert reply.json() == ["name.bin", size, size]


def test_streamed_upload_is_read_as_it_comes(client):
    async def count(request):
        size = 0
        async for part in request.stream():
            size += len(part)
        return PlainTextResponse(str(size))

    http, _ = client(Starlette(routes=[Route("/", count, methods=["POST"])]))
    reply = http.post("/", content=(b"x" * 50_000 for _ in range(40)))  # httpx sends it chunked
    assert reply.text == "2000000"


def test_is_disconnected(serve):
    gate = Gate()
    seen = []

    async def root(request):
        seen.append(await request.is_disconnected())
        await gate.wait()
        while not await request.is_disconnected():
            await asyncio.sleep(0.005)
        seen.append(True)
        return PlainTextResponse("too late")

    running = serve(Starlette(routes=[Route("/", root)]))
    with running.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: gate.reached)
        assert seen == [False]
        gate.open(running)
    wait_until(lambda: seen == [False, True])
    wait_until(lambda: not running.context.cycles)


def test_unread_json_body_of_a_404_is_in_step(serve):
    """FastAPI answers without receiving; the body must not be taken for the next request."""
    with serve(FastAPI()).connect() as sock:
        sock.sendall(post(b"GET /smuggled HTTP/1.1\r\n\r\n", path="/nowhere") + GET)
        for _ in range(2):
            assert read_response(sock)[0].startswith(b"HTTP/1.1 404 ")

"""Requests by route, which Starlette and FastAPI leave in the scope, without a middleware."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from support import Running, wait_until
from ws_client import Client, handshake

from thestral.protocol.routes import template_of

ADMIN = {"admin": "127.0.0.1:0", "lifespan": "off"}


def plain(request):
    return PlainTextResponse("ok")


async def talk(websocket: WebSocket):
    await websocket.accept()
    await websocket.close()


def routes_of(running):
    found = running.server.metrics.snapshot().counts.requests
    return {(key.method, key.route, key.status): value.count for key, value in found.items()}


def asked(app, *paths, method="GET", **options):
    """The routes of requests for these paths, in order."""
    with (
        Running(app, **(ADMIN | options)) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        found = []
        before: dict = {}
        for path in paths:
            client.request(method, path)
            now = routes_of(running)
            (new,) = [key for key, value in now.items() if value != before.get(key)]
            found.append(new[1])
            before = now
        return found


def starlette_app(directory):
    inner = Starlette(routes=[Route("/users/{id:int}", plain), Route("/", plain)])
    return Starlette(
        routes=[
            Route("/", plain),
            Route("/items/{id:int}", plain, methods=["GET", "POST"]),
            Route("/files/{path:path}", plain),
            WebSocketRoute("/talk/{room}", talk),
            Mount("/api", routes=[Route("/deep/{a}/{b}", plain)]),
            Mount("/inner", app=inner),
            Mount("/tenant/{tenant}", routes=[Route("/item/{id}", plain)]),
            Mount("/outer/{one}", routes=[Mount("/mid/{two}", routes=[Route("/{three}", plain)])]),
            Mount("/static", app=StaticFiles(directory=directory)),
            Host("other.example", app=Router([Route("/hosted/{id}", plain)])),
        ]
    )


STARLETTE = {
    "/": "/",
    "/items/5": "/items/{id}",
    "/files/a/b/c": "/files/{path}",
    "/api/deep/1/2": "/api/deep/{a}/{b}",
    "/inner/users/7": "/inner/users/{id}",
    "/inner/": "/inner/",
    "/tenant/acme/item/3": "/tenant/{tenant}/item/{id}",
    "/outer/x/mid/y/z": "/outer/{one}/mid/{two}/{three}",
    "/static/file.txt": "/static/{path}",
    "/nothing": "",
    "/api/nothing": "/api/{path}",
}


@pytest.mark.parametrize("root_path", ["", "/prefix"])
def test_starlette(tmp_path, root_path):
    (tmp_path / "file.txt").write_text("text")
    app = starlette_app(tmp_path)
    paths = list(STARLETTE)
    assert asked(app, *paths, root_path=root_path) == [STARLETTE[path] for path in paths]


def test_starlette_by_host_and_method(tmp_path):
    with Running(starlette_app(tmp_path), **ADMIN) as running:
        httpx.get(f"{running.url}/hosted/5", headers={"host": "other.example"}, trust_env=False)
        httpx.post(f"{running.url}/items/5", trust_env=False)
        httpx.put(f"{running.url}/items/5", trust_env=False)
        assert routes_of(running) == {
            ("GET", "/hosted/{id}", "2xx"): 1,
            ("POST", "/items/{id}", "2xx"): 1,
            ("PUT", "/items/{id}", "4xx"): 1,
        }


def test_websocket_route(tmp_path):
    with Running(starlette_app(tmp_path), **ADMIN) as running:
        with Client(running, handshake(path="/talk/5")) as client:
            client.accepted()
        wait_until(lambda: routes_of(running) == {("GET", "/talk/{room}", "1xx"): 1})


def fastapi_app():
    app = FastAPI()
    items = APIRouter(prefix="/items")
    details = APIRouter()
    inner = FastAPI()
    included = FastAPI()

    @app.get("/")
    @app.get("/plain/{id}")
    async def top(id: int = 0):
        return id

    @items.get("/{id}")
    async def item(id: int):
        return id

    @details.get("/detail/{name}")
    async def detail(name: str):
        return name

    @inner.get("/users/{id}")
    async def user(id: int):
        return id

    @included.get("/x/{id}")
    async def deep(id: int):
        return id

    items.include_router(details, prefix="/{id}")
    items.mount("/mounted", included)
    items.add_route("/starlette/{id}", plain)
    app.include_router(items, prefix="/v1/{version}")
    app.include_router(items, prefix="/v2")
    app.mount("/sub/{tenant}", inner)
    return app


FASTAPI = {
    "/": "/",
    "/plain/5": "/plain/{id}",
    "/v1/9/items/5": "/v1/{version}/items/{id}",
    "/v2/items/5": "/v2/items/{id}",
    "/v2/items/5/detail/tea": "/v2/items/{id}/detail/{name}",
    "/v2/starlette/5": "/v2/starlette/{id}",
    "/v2/mounted/x/5": "/v2/mounted/x/{id}",
    "/sub/acme/users/3": "/sub/{tenant}/users/{id}",
    "/plain/no-number": "/plain/{id}",
    "/nothing": "",
}


def test_fastapi():
    paths = list(FASTAPI)
    assert asked(fastapi_app(), *paths) == [FASTAPI[path] for path in paths]


def test_routes_are_bounded():
    """The first 256 have rows of their own."""
    app = Starlette(routes=[Route(f"/{number}/{{id}}", plain) for number in range(260)])
    found = asked(app, *(f"/{number}/5" for number in range(260)))
    assert found == [f"/{number}/{{id}}" for number in range(256)] + ["other"] * 4


def test_no_routes_if_they_are_not_wanted(tmp_path):
    app = starlette_app(tmp_path)
    assert asked(app, "/items/5", "/api/deep/1/2", metrics_routes=False) == ["", ""]


class Raises:
    @property
    def path_format(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "extra",
    [
        {"route": object()},
        {"route": Raises()},
        {"route": 5, "fastapi": 7},
        {"route": object(), "fastapi": {"effective_route_context": 3}},
        {"route": type("R", (), {"path_format": 5})},
        {"route": type("R", (), {"path_format": "/x"}), "app_root_path": 3},
    ],
)
def test_what_no_framework_leaves_is_no_route(extra):
    async def app(scope, receive, send):
        scope.update(extra)
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    assert asked(app, "/") == [""]
    assert template_of({"type": "http", **extra}) == ""

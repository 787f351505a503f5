"""Examples in the documentation of Starlette and FastAPI that depend on HTTP."""

from __future__ import annotations

import gzip
import time

import httpx
import pytest
from apps import GET, Gate
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.httpsredirect import HTTPSRedirectMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Host, Mount, Route
from support import wait_until


def test_static_files(client, tmp_path):
    content = bytes(range(256)) * 8000
    (tmp_path / "large.bin").write_bytes(content)
    (tmp_path / "index.html").write_text("<h1>index</h1>")
    (tmp_path / "empty.txt").touch()
    app = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path, html=True))])
    http, running = client(app)
    whole = http.get("/static/large.bin")
    assert whole.content == content
    for field, name in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
        kept = http.get("/static/large.bin", headers={field: whole.headers[name]})
        assert (kept.status_code, kept.content) == (304, b"")
        assert kept.headers["etag"] == whole.headers["etag"]
    assert http.head("/static/large.bin").headers["content-length"] == str(len(content))
    ranges = {
        "bytes=10-19": content[10:20],
        "bytes=-5": content[-5:],
        "bytes=2047990-": content[2047990:],
    }
    for asked, part in ranges.items():
        reply = http.get("/static/large.bin", headers={"Range": asked})
        assert (reply.status_code, reply.content) == (206, part)
    reply = http.get("/static/large.bin", headers={"Range": "bytes=0-1,1000-1001"})
    assert reply.status_code == 206
    assert reply.headers["content-type"].startswith("multipart/byteranges")
    assert int(reply.headers["content-length"]) == len(reply.content)
    reply = http.get("/static/large.bin", headers={"Range": "bytes=9999999-"})
    assert (reply.status_code, reply.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert http.get("/static/").text == "<h1>index</h1>"
    assert http.get("/static").status_code == 307
    assert http.get("/static/empty.txt").content == b""
    for wrong in ("/static/nothing", "/static/%2e%2e/secret"):
        assert http.get(wrong).status_code == 404
    assert len(running.context.connections) == 1  # none of the requests ended the connection


def test_gzip_of_a_stream(serve):
    """The head is sent before the last part exists."""
    gate = Gate()

    async def stream(request):
        async def parts():
            yield "first" * 1000
            await gate.wait()
            yield "last" * 1000

        return StreamingResponse(parts(), media_type="text/plain")

    app = Starlette(routes=[Route("/", stream)], middleware=[Middleware(GZipMiddleware)])
    running = serve(app)
    with (
        httpx.Client(trust_env=False) as http,
        http.stream("GET", running.url, headers={"Accept-Encoding": "gzip"}) as reply,
    ):
        assert reply.headers["content-encoding"] == "gzip"
        wait_until(lambda: gate.reached)
        gate.open(running)
        packed = b"".join(reply.iter_raw())
    assert gzip.decompress(packed) == b"first" * 1000 + b"last" * 1000


@pytest.mark.parametrize("pathsend", [True, False])
def test_gzip_of_a_file(client, tmp_path, pathsend):
    """Starlette compresses files that it sends itself, but not those that the server sends."""
    (tmp_path / "page.css").write_text("a {}\n" * 10_000)
    app = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))])
    app.add_middleware(GZipMiddleware)
    http, _ = client(app, pathsend=pathsend)
    for _ in range(2):
        reply = http.get("/static/page.css")
        assert reply.text == "a {}\n" * 10_000
        assert reply.headers.get("content-encoding") == (None if pathsend else "gzip")


def test_cors(client):
    app = FastAPI()
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://page.example"],
        allow_methods=["PUT"],
        allow_headers=["X-Token"],
        allow_credentials=True,
        max_age=60,
    )

    @app.put("/")
    async def put():
        return "put"

    http, _ = client(app)
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "X-Token",
    }
    reply = http.options("/", headers=asked)
    assert (reply.status_code, reply.headers["access-control-max-age"]) == (200, "60")
    reply = http.put("/", headers={"Origin": "https://page.example", "X-Token": "t"})
    assert reply.json() == "put"
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    assert http.options("/", headers={**asked, "Origin": "https://evil.example"}).is_client_error
    assert http.options("/").status_code == 405


def test_hosts(client):
    async def name(request: Request):
        return PlainTextResponse(request.path_params.get("name", "main"))

    routes = [Host("{name}.example", Route("/", name)), Route("/", name)]
    allowed = Middleware(TrustedHostMiddleware, allowed_hosts=["*.example", "127.0.0.1"])
    http, _ = client(Starlette(routes=routes, middleware=[allowed]))
    assert http.get("/").text == "main"
    assert http.get("/", headers={"Host": "ada.example:8000"}).text == "ada"
    assert http.get("/", headers={"Host": "evil.test"}).status_code == 400


def test_https_behind_a_proxy(client):
    app = FastAPI()
    app.add_middleware(HTTPSRedirectMiddleware)

    @app.get("/here", name="here")
    async def here(request: Request):
        return {"url": str(request.url_for("here")), "client": request.client.host}

    http, _ = client(app)
    reply = http.get("/here?a=b", headers={"Host": "site.example"})
    assert reply.status_code == 307
    assert reply.headers["location"] == "https://site.example/here?a=b"
    fields = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "Host": "site.example"}
    reply = http.get("/here", headers=fields)
    assert reply.json() == {"url": "https://site.example/here", "client": "192.0.2.7"}


def test_session(client):
    async def visit(request: Request):
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session)

    async def leave(request: Request):
        request.session.clear()
        return PlainTextResponse("gone")

    session = Middleware(SessionMiddleware, secret_key="secret")  # protects nothing
    http, _ = client(
        Starlette(routes=[Route("/", visit), Route("/leave", leave)], middleware=[session])
    )
    assert [http.get("/").json()["visits"] for _ in range(3)] == [1, 2, 3]
    http.get("/leave")
    assert http.get("/").json() == {"visits": 1}


@pytest.mark.parametrize("strips", [True, False])
def test_root_path_behind_a_proxy(client, strips):
    """Documents of FastAPI have the prefix, whether the proxy strips it or not."""
    app, sub = FastAPI(), FastAPI()

    @app.get("/items", name="items")
    async def items(request: Request):
        return {"root_path": request.scope["root_path"], "url": request.url_for("items").path}

    @sub.get("/inner", name="inner")
    async def inner(request: Request):
        return {"root_path": request.scope["root_path"], "url": request.url_for("inner").path}

    app.mount("/sub", sub)
    http, _ = client(app, root_path="/api/v1")
    proxied = "" if strips else "/api/v1"
    assert http.get(f"{proxied}/items").json() == {"root_path": "/api/v1", "url": "/api/v1/items"}
    assert http.get(f"{proxied}/sub/inner").json() == {
        "root_path": "/api/v1/sub",
        "url": "/api/v1/sub/inner",
    }
    assert "'/api/v1/openapi.json'" in http.get(f"{proxied}/docs").text
    assert "'/api/v1/sub/openapi.json'" in http.get(f"{proxied}/sub/docs").text
    schema = http.get(f"{proxied}/openapi.json").json()
    assert schema["servers"] == [{"url": "/api/v1"}]
    assert set(schema["paths"]) == {"/items"}
    redirect = http.get(f"{proxied}/items/", headers={"Host": "site.example"})
    assert redirect.headers["location"] == "http://site.example/api/v1/items"


def test_stream_of_a_file(client, tmp_path):
    """As FastAPI shows it: a generator over an open file, read in threads."""
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(range(256)) * 8000)
    app = FastAPI()
    closed = []

    @app.get("/")
    def video():
        def parts():
            with file.open("rb") as opened:
                yield from iter(lambda: opened.read(65536), b"")
            closed.append(True)

        return StreamingResponse(parts(), media_type="video/mp4")

    http, _ = client(app)
    for _ in range(2):
        assert http.get("/").content == file.read_bytes()
    assert closed == [True, True]


class ServerTiming:
    """Pure ASGI middleware that adds a field to each head."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed(message) -> None:
            if message["type"] == "http.response.start":
                spent = f"app;dur={(time.perf_counter() - began) * 1000:.3f}".encode()
                message["headers"] = [*message["headers"], (b"server-timing", spent)]
            await send(message)

        await self.app(scope, receive, timed)


def test_pure_asgi_middleware_and_exception_handlers(client):
    class OwnError(Exception):
        pass

    app = FastAPI()
    app.add_middleware(ServerTiming)

    @app.exception_handler(OwnError)
    async def own(request: Request, exc: OwnError):
        return JSONResponse({"handled": str(exc)}, status_code=418)

    @app.exception_handler(500)
    async def any_other(request: Request, exc: Exception):
        return JSONResponse({"error": type(exc).__name__}, status_code=500)

    @app.get("/own")
    async def raises_own():
        raise OwnError("mine")

    @app.get("/http")
    async def raises_http():
        raise HTTPException(401, "who?", headers={"WWW-Authenticate": "Bearer"})

    @app.get("/other")
    async def raises_other():
        raise ZeroDivisionError

    http, running = client(app)
    reply = http.get("/own")
    assert (reply.status_code, reply.json()) == (418, {"handled": "mine"})
    assert reply.headers["server-timing"].startswith("app;dur=")
    reply = http.get("/http")
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    reply = http.get("/other")
    assert (reply.status_code, reply.json()) == (500, {"error": "ZeroDivisionError"})
    assert len(running.context.connections) == 1  # it raised, but after a whole response


def test_upload_that_breaks_off(serve):
    """Request.stream() raises Starlette's ClientDisconnect."""
    seen = []

    async def upload(request: Request):
        try:
            async for part in request.stream():
                seen.append(part)
        except ClientDisconnect:
            seen.append("disconnect")
        return PlainTextResponse("too late")

    running = serve(Starlette(routes=[Route("/", upload, methods=["POST"])]))
    with running.connect() as sock:
        sock.sendall(GET.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 9\r\nHost"))
        sock.sendall(b"half")
        wait_until(lambda: seen)
    wait_until(lambda: not running.context.cycles)
    assert seen[-1] == "disconnect"
    assert b"".join(seen[:-1]) == b"half"

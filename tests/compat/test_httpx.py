"""httpx over HTTP/2, to Starlette."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support import PATIENCE

CONTENT = bytes(range(256)) * 8000


async def form(request: Request):
    async with request.form() as fields:
        return JSONResponse({"text": fields["text"], "size": fields["file"].size})


async def numbers(request: Request):
    async def parts():
        for number in range(1000):
            yield f"{number}\n"

    return StreamingResponse(parts())


async def echo(request: Request):
    assert request.scope["http_version"] == "2"
    return Response(await request.body())


@pytest.fixture(params=["prior knowledge", "tls"])
def options(request, serve, certificate, tmp_path):
    """Options of a client that speaks HTTP/2 to the application."""
    (tmp_path / "file").write_bytes(CONTENT)
    routes = [Route("/form", form, methods=["POST"]), Route("/numbers", numbers)]
    routes += [Route("/echo", echo, methods=["POST"])]
    routes += [Route("/file", lambda request: FileResponse(tmp_path / "file"))]
    tls = request.param == "tls"
    running = serve(Starlette(routes=routes), **(certificate.options if tls else {}))
    return {
        "base_url": f"http{'s' if tls else ''}://127.0.0.1:{running.port}",
        "verify": certificate.client(),
        "http1": False,
        "http2": True,
        "trust_env": False,
        "timeout": PATIENCE,
    }


def test_streams_files_and_forms(options):
    with httpx.Client(**options) as client:
        reply = client.get("/numbers")
        assert (reply.http_version, reply.text.count("\n")) == ("HTTP/2", 1000)
        assert client.get("/file").content == CONTENT
        assert client.get("/file", headers={"Range": "bytes=10-19"}).content == CONTENT[10:20]
        reply = client.post("/form", data={"text": "ü"}, files={"file": ("a.bin", CONTENT)})
        assert reply.json() == {"text": "ü", "size": len(CONTENT)}
        parts = (CONTENT[at : at + 10_000] for at in range(0, len(CONTENT), 10_000))
        assert client.post("/echo", content=parts).content == CONTENT


def test_a_hundred_at_once(options):
    async def ask():
        async with httpx.AsyncClient(**options) as client:
            replies = [client.post("/echo", content=b"%d" % i) for i in range(100)]
            return [reply.content for reply in await asyncio.gather(*replies)]

    assert asyncio.run(ask()) == [b"%d" % i for i in range(100)]

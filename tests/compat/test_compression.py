"""Middleware that compresses, or that holds back the head until it has seen some of the body."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import brotli
import httpx
import pytest
from apps import get
from brotli_asgi import BrotliMiddleware
from feed import Feed
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route
from support import PATIENCE, read_head, wait_until
from uvicorn_peer import beside_uvicorn

cramjam = pytest.importorskip("cramjam", reason="cramjam has no wheel for Python 3.15")
CompressionMiddleware = pytest.importorskip("starlette_cramjam.middleware").CompressionMiddleware
CONTENT = b"".join(b"line %d of a text\n" % number for number in range(5000))
FIRST_PIECE = 64 * 1024  # of a FileResponse


class Coding(NamedTuple):
    middleware: type
    name: str  # in Accept-Encoding and Content-Encoding
    whole: Callable[[bytes], Any]  # decompresses all at once
    pieces: Callable[[], Callable[[bytes], bytes]]  # makes a function that decompresses a stream


def gunzip() -> Callable[[bytes], bytes]:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress


def inflate() -> Callable[[bytes], bytes]:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress


def unbrotli() -> Callable[[bytes], bytes]:
    return brotli.Decompressor().process


GZIP = Coding(GZipMiddleware, "gzip", cramjam.gzip.decompress, gunzip)
BROTLI = Coding(BrotliMiddleware, "br", cramjam.brotli.decompress, unbrotli)
FALLBACK = BROTLI._replace(name="gzip", whole=GZIP.whole, pieces=gunzip)
CRAMJAM = [
    each._replace(middleware=CompressionMiddleware)
    for each in (GZIP, BROTLI, Coding(object, "deflate", cramjam.deflate.decompress, inflate))
]
# Nothing here decompresses a part of a zstd stream.
ZSTD = Coding(CompressionMiddleware, "zstd", cramjam.zstd.decompress, lambda: bytes)


def identify(coding: Coding) -> str:
    return f"{coding.middleware.__module__.partition('.')[0]}-{coding.name}"


codings = pytest.mark.parametrize("coding", [GZIP, BROTLI, FALLBACK, *CRAMJAM, ZSTD], ids=identify)


@pytest.fixture
def app(tmp_path) -> Starlette:
    (tmp_path / "page.txt").write_bytes(CONTENT)

    async def file(request):
        return FileResponse(tmp_path / "page.txt")

    async def stream(request):
        async def parts():
            for start in range(0, len(CONTENT), 1000):
                yield CONTENT[start : start + 1000]

        return StreamingResponse(parts(), media_type="text/plain")

    async def small(request):
        return JSONResponse({"small": True})

    routes = [Route("/file", file), Route("/stream", stream), Route("/small", small)]
    return Starlette(routes=routes)


@beside_uvicorn
@codings
def test_files_and_streams_are_compressed(serve, app, coding, complaints):
    app.add_middleware(coding.middleware)
    running = serve(app)
    fields = {"Accept-Encoding": coding.name}
    with httpx.Client(base_url=running.url, trust_env=False, headers=fields) as http:
        for path in ("/file", "/stream", "/file", "/stream"):
            with http.stream("GET", path) as reply:
                packed = b"".join(reply.iter_raw())
            assert reply.status_code == 200
            assert reply.headers["content-encoding"] == coding.name
            assert reply.headers["transfer-encoding"] == "chunked"
            assert len(packed) < len(CONTENT) / 2
            assert bytes(coding.whole(packed)) == CONTENT
        head = http.head("/file")
        assert (head.status_code, head.content) == (200, b"")
        small = http.get("/small")
        assert small.json() == {"small": True}
        assert "content-encoding" not in small.headers
        assert len(running.context.connections) == 1
    assert not complaints()


def events(feed: Feed, middleware: Middleware) -> Starlette:
    async def root(request):
        return EventSourceResponse(({"data": item} async for item in feed), ping=0, sep="\n")

    return Starlette(routes=[Route("/", root)], middleware=[middleware])


@beside_uvicorn
@pytest.mark.parametrize("coding", [GZIP, BROTLI, *CRAMJAM], ids=identify)
def test_each_event_comes_through_before_the_next_is_sent(serve, coding, complaints):
    feed = Feed()
    running = serve(events(feed, Middleware(coding.middleware)))
    feed.put(running, "0")  # some middleware holds back the head until this comes
    fields = {"Accept-Encoding": coding.name}
    with (
        httpx.Client(trust_env=False, timeout=PATIENCE, headers=fields) as http,
        http.stream("GET", running.url) as reply,
    ):
        compressed = reply.headers.get("content-encoding")
        # Starlette's own middleware leaves event streams alone.
        assert compressed == (None if coding is GZIP else coding.name)
        unpack = coding.pieces() if compressed else bytes
        received = b""
        pieces = reply.iter_raw()
        for number in range(10):
            while f"data: {number}\n\n".encode() not in received:
                received += unpack(next(pieces))
            feed.put(running, str(number + 1))
        feed.put(running, None)
        received += b"".join(unpack(piece) for piece in pieces)
    assert received == b"".join(b"data: %d\n\n" % number for number in range(11))
    wait_until(lambda: not running.context.cycles)
    assert not complaints()


class ETag:
    """Holds back a head until it has seen the first part of the body, and adds that part's hash."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        held: list[Any] = []

        async def send_tagged(message) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
                return
            if held:
                start = held.pop()
                MutableHeaders(raw=start["headers"])["etag"] = tag(message["body"])
                await send(start)
            await send(message)

        await self.app(scope, receive, send_tagged if scope["type"] == "http" else send)


def tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()}"'


@beside_uvicorn
def test_middleware_that_holds_the_head(serve, app, complaints):
    app.add_middleware(ETag)
    running = serve(app)
    with httpx.Client(base_url=running.url, trust_env=False) as http:
        for _ in range(2):
            file = http.get("/file")
            assert file.content == CONTENT
            assert file.headers["content-length"] == str(len(CONTENT))
            assert file.headers["etag"] == tag(CONTENT[:FIRST_PIECE])
            stream = http.get("/stream")
            assert stream.content == CONTENT
            assert stream.headers["etag"] == tag(CONTENT[:1000])
            assert http.head("/file").headers["etag"] == tag(b"")
        assert len(running.context.connections) == 1
    assert not complaints()


@beside_uvicorn
def test_event_stream_whose_head_is_held(serve, complaints):
    feed = Feed()
    running = serve(events(feed, Middleware(ETag)))
    with running.connect() as sock:
        sock.sendall(get())
        wait_until(lambda: feed.waits)
        feed.put(running, "first")
        event = b"data: first\n\n"
        assert tag(event).encode() in read_head(sock)
        feed.put(running, None)
        expected = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
        received = b""
        while len(received) < len(expected):
            received += sock.recv(4096)
        assert received == expected
    wait_until(lambda: not running.context.cycles)
    assert not complaints()

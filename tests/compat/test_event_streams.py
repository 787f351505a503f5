"""Event streams: the head is sent before there is an event, and each event before the next."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from apps import get
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEventSourceResponse
from feed import Feed
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from support import read_head, read_to, wait_until
from uvicorn_peer import every_transport_beside_uvicorn


def sse_starlette(feed: Feed) -> Starlette:
    async def root(request):
        return EventSourceResponse(({"data": item} async for item in feed), ping=0)

    return Starlette(routes=[Route("/", root)])


def starlette(feed: Feed) -> Starlette:
    async def root(request):
        events = (f"data: {item}\n\n" async for item in feed)
        return StreamingResponse(events, media_type="text/event-stream")

    return Starlette(routes=[Route("/", root)])


def fastapi(feed: Feed) -> FastAPI:
    app = FastAPI()

    @app.get("/", response_class=FastAPIEventSourceResponse)
    async def root():
        async for item in feed:
            yield item

    return app


def generator_in_a_thread(feed: Feed) -> Starlette:
    async def root(request):
        events = (f"data: {item}\n\n" for item in feed.in_thread())
        return StreamingResponse(events, media_type="text/event-stream")

    return Starlette(routes=[Route("/", root)])


streams = pytest.mark.parametrize(
    "stream", [sse_starlette, starlette, fastapi, generator_in_a_thread]
)
Stream = Callable[[Feed], Starlette]


@every_transport_beside_uvicorn
@streams
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_head_comes_before_the_first_event(serve, stream: Stream, version, complaints):
    feed = Feed()
    running = serve(stream(feed))
    with running.connect() as sock:
        sock.sendall(get().replace(b"HTTP/1.1", b"HTTP/" + version))
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/event-stream" in head
        feed.put(running, 1)
        read_to(sock, b"data: 1")
        feed.put(running, None)
        while data := sock.recv(4096):
            if version == b"1.1" and data.endswith(b"0\r\n\r\n"):
                break
    wait_until(lambda: not running.context.cycles)
    assert not complaints()


@every_transport_beside_uvicorn
@streams
def test_client_with_a_short_time_out_gets_the_head(serve, stream: Stream, complaints):
    feed = Feed()
    running = serve(stream(feed))
    with (
        httpx.Client(trust_env=False, timeout=5) as http,
        http.stream("GET", running.url) as reply,
    ):
        assert reply.status_code == 200
        feed.put(running, None)
        assert reply.read() == b""
    assert feed.waits == 1
    assert not complaints()


@every_transport_beside_uvicorn
@streams
def test_each_event_comes_before_the_next_is_sent(serve, stream: Stream, complaints):
    feed = Feed()
    running = serve(stream(feed))
    with running.connect() as sock:
        sock.sendall(get())
        for number in range(20):
            feed.put(running, number)
            assert read_to(sock, f"data: {number}".encode()).count(b"data: ") == 1
        feed.put(running, None)
        read_to(sock, b"0\r\n\r\n")
    wait_until(lambda: not running.context.cycles)
    assert not complaints()

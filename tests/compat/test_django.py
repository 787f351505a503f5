"""Django over ASGI, without anything in between."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from apps import Gate
from django.core.asgi import get_asgi_application
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test.utils import override_settings
from django.urls import path
from support import read_head, wait_until


class Site:
    """State that the views share with the running test."""

    file: Path
    gate: Gate
    ended: list[Any]


META = ["REMOTE_ADDR", "REMOTE_HOST", "SERVER_NAME", "SERVER_PORT", "REQUEST_METHOD", "PATH_INFO"]
META += [
    "QUERY_STRING",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "HTTP_HOST",
    "HTTP_X_NAME",
    "HTTP_COOKIE",
]


def about(request):
    seen = {name: request.META.get(name) for name in [*META, "SCRIPT_NAME"]}
    seen["thread"] = threading.current_thread().name
    return JsonResponse({**seen, "url": request.build_absolute_uri()})


async def echo(request):
    return HttpResponse(request.body, content_type=request.content_type)


async def cookies(request):
    response = JsonResponse(request.COOKIES)
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


async def upload(request):
    file = request.FILES["file"]
    return JsonResponse(
        {"name": file.name, "size": file.size, "kind": type(file).__name__, **request.POST.dict()}
    )


async def numbers(request):
    async def parts():
        for number in range(500):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts(), content_type="text/plain")


def threaded_numbers(request):
    return StreamingHttpResponse(f"{number}\n" for number in range(500))


async def endless(request):
    async def parts():
        try:
            yield b"first"
            await Site.gate.wait()
        except asyncio.CancelledError:
            Site.ended.append("cancelled")
            raise

    return StreamingHttpResponse(parts())


async def waiting(request):
    try:
        await Site.gate.wait()
    except asyncio.CancelledError:
        Site.ended.append("cancelled")
        raise
    return HttpResponse()


def download(request):
    return FileResponse(Site.file.open("rb"), as_attachment=True)


async def failing(request):
    raise RuntimeError("on purpose")


urlpatterns = [
    path(view.__name__, view)
    for view in (
        *(about, echo, cookies, upload, numbers, threaded_numbers),
        *(endless, waiting, download, failing),
    )
]
# Django's warning about a synchronous iterator, which it reads as a whole in an ASGI server.
SYNCHRONOUS = "ignore:StreamingHttpResponse must consume synchronous iterators:Warning"


@pytest.fixture
def site(client, django_urls, tmp_path):
    """Client and server, for the views above."""
    Site.file = tmp_path / "file.bin"
    Site.file.write_bytes(bytes(range(256)) * 20_000)
    Site.gate = Gate()
    Site.ended = []
    return client(get_asgi_application())


def test_views(site):
    http, running = site
    reply = http.get("/about?q=%C3%BC", headers={"X-Name": "Ada", "Cookie": "a=b"})
    seen = reply.json()
    assert seen.pop("thread") != "thestral"  # a synchronous view has a thread of its own
    assert seen == {
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(running.port),
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/about",
        "QUERY_STRING": "q=%C3%BC",
        "CONTENT_TYPE": None,
        "CONTENT_LENGTH": None,
        "HTTP_HOST": f"127.0.0.1:{running.port}",
        "HTTP_X_NAME": "Ada",
        "HTTP_COOKIE": "a=b",
        "SCRIPT_NAME": "",
        "url": f"{running.url}/about?q=%C3%BC",
    }
    for size in (0, 10, 2_000_000):
        reply = http.post("/echo", content=b"x" * size, headers={"Content-Type": "text/x"})
        assert (reply.content, reply.headers["content-type"]) == (b"x" * size, "text/x")
    reply = http.get("/cookies")
    assert reply.headers.get_list("set-cookie") == ["first=1; Path=/", "second=2; Path=/"]
    assert http.get("/cookies").json() == {"first": "1", "second": "2"}
    assert http.get("/nowhere").status_code == 404
    assert http.head("/about").content == b""
    assert len(running.context.connections) == 1  # none of the requests ended the connection


def test_upload(site):
    http, _ = site
    for size, kind in ((10, "InMemoryUploadedFile"), (4_000_000, "TemporaryUploadedFile")):
        files = {"file": ("n.bin", b"x" * size)}
        reply = http.post("/upload", data={"a": "ü"}, files=files)
        assert reply.json() == {"name": "n.bin", "size": size, "kind": kind, "a": "ü"}
    chunked = http.post("/echo", content=(b"x" * 50_000 for _ in range(40)))
    assert len(chunked.content) == 2_000_000


def test_limits_of_django(site):
    http, _ = site
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000):
        assert http.post("/echo", content=b"x" * 1_000_000).status_code == 400
    with override_settings(ALLOWED_HOSTS=["site.example"]):
        assert http.get("/about").status_code == 400
        assert http.get("/about", headers={"Host": "site.example"}).status_code == 200


@pytest.mark.filterwarnings(SYNCHRONOUS)
def test_streams(site):
    http, _ = site
    expected = "".join(f"{number}\n" for number in range(500))
    assert http.get("/numbers").text == expected
    assert http.get("/threaded_numbers").text == expected
    reply = http.get("/download")
    assert reply.content == Site.file.read_bytes()
    assert reply.headers["content-length"] == str(Site.file.stat().st_size)


def test_failing_view(site):
    http, _ = site
    assert http.get("/failing").status_code == 500
    assert http.get("/about").status_code == 200


@pytest.mark.parametrize("target", ["endless", "waiting"])
def test_client_gone(site, target):
    """Django cancels the view, or the stream, when http.disconnect comes."""
    _, running = site
    with running.connect() as sock:
        sock.sendall(f"GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        if target == "endless":
            read_head(sock)
        wait_until(lambda: Site.gate.reached)
    wait_until(lambda: Site.ended)
    assert Site.ended == ["cancelled"]
    wait_until(lambda: not running.context.cycles)


def test_prefix(serve, django_urls):
    running = serve(get_asgi_application(), root_path="/prefix")
    with httpx.Client(trust_env=False) as http:
        seen = http.get(f"{running.url}/about").json()
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/prefix", "/about")
    assert seen["url"] == f"{running.url}/prefix/about"

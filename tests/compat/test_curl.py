"""curl, as people use it on a command line."""

from __future__ import annotations

import gzip
import json
import re
import subprocess

import pytest
import trustme
from apps import http_only, respond
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from support import PATIENCE, program

CONTENT = bytes(range(256)) * 8000


def curl(*arguments: object, data: bytes = b"") -> bytes:
    """What curl prints; it must succeed, and complain of nothing."""
    result = subprocess.run(
        [program("curl"), "-sS", "--noproxy", "*", *map(str, arguments)],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


def parts(output: bytes) -> tuple[list[bytes], bytes]:
    """Heads and last body of what `curl -i` prints."""
    heads = []
    while output.startswith(b"HTTP/"):
        head, _, output = output.partition(b"\r\n\r\n")
        heads.append(head)
    return heads, output


@pytest.fixture
def site(serve, tmp_path):
    """Function (**options) that serves what curl is to ask for."""

    async def about(request: Request):
        body = await request.body()
        said = {name: request.headers.get(name) for name in ("expect", "transfer-encoding")}
        scope = request.scope
        described = {key: scope[key] for key in ("method", "http_version", "scheme", "client")}
        return JSONResponse({**said, **described, "size": len(body)})

    async def echo(request: Request):
        return Response(await request.body())

    async def file(request: Request):
        return FileResponse(tmp_path / "file.bin")

    (tmp_path / "file.bin").write_bytes(CONTENT)
    methods = ["GET", "POST", "PUT"]
    app = Starlette(
        routes=[
            Route("/about", about, methods=methods),
            Route("/echo", echo, methods=methods),
            Route("/file", file),
            Route("/text", lambda request: Response("text" * 10_000, media_type="text/plain")),
            Route("/away", lambda request: RedirectResponse("/about"), methods=methods),
        ],
        middleware=[Middleware(GZipMiddleware)],
    )
    return lambda **options: serve(app, **options)


def test_uploads(site, tmp_path):
    running = site()
    heads, body = parts(
        curl("-i", "--http1.1", "-T", "-", f"{running.url}/echo", data=CONTENT)
    )  # from a pipe, so in chunks
    assert heads[0] == b"HTTP/1.1 100 Continue"
    assert body == CONTENT
    about = json.loads(curl("-T", "-", f"{running.url}/about", data=CONTENT))
    assert (about["transfer-encoding"], about["size"]) == ("chunked", len(CONTENT))
    about = json.loads(curl("-T", tmp_path / "file.bin", f"{running.url}/about"))
    assert (about["method"], about["size"]) == ("PUT", len(CONTENT))
    heads, body = parts(
        curl("-i", "--data-binary", f"@{tmp_path / 'file.bin'}", f"{running.url}/echo")
    )  # above 1 MiB curl expects the 100
    assert [head.split(b"\r\n")[0] for head in heads] == [
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 200 OK",
    ]
    assert body == CONTENT
    small = json.loads(curl("-H", "Expect:", "-d", "small", f"{running.url}/about"))
    assert (small["expect"], small["size"]) == (None, 5)
    form = ("-F", f"file=@{tmp_path / 'file.bin'}", "-F", "name=value")
    assert json.loads(curl(*form, f"{running.url}/about"))["size"] > len(CONTENT)


def test_upload_that_is_refused_before_it_comes(serve):
    """No 100: curl waits a second for it and would send what nobody reads."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, b"too large", 413)

    running = serve(app)
    arguments = ("-i", "-H", "Expect: 100-continue", "--expect100-timeout", PATIENCE, "-T", "-")
    heads, body = parts(curl(*arguments, running.url, data=CONTENT))
    assert [head.split(b" ")[1] for head in heads] == [b"413"]
    assert body == b"too large"
    assert running.context.total_requests == 1


def test_downloads(site):
    running = site()
    url = f"{running.url}/file"
    assert curl("--limit-rate", "8M", url) == CONTENT
    assert curl("--range", "10-19", url) == CONTENT[10:20]
    assert curl("--range", "-7", url) == CONTENT[-7:]
    assert curl("-C", len(CONTENT) - 3, url) == CONTENT[-3:]
    head = curl("-I", url)
    assert b"content-length: %d\r\n" % len(CONTENT) in head
    assert head.endswith(b"\r\n\r\n")
    texts = f"{running.url}/text"
    assert curl("--compressed", texts) == b"text" * 10_000
    assert gzip.decompress(curl("-H", "Accept-Encoding: gzip", texts)) == b"text" * 10_000
    assert curl("--http1.0", url) == CONTENT
    assert json.loads(curl("-L", f"{running.url}/away"))["method"] == "GET"
    assert json.loads(curl("-L", "-d", "x" * 50, f"{running.url}/away"))["size"] == 50


def test_upgrade_to_http2_is_not_taken(site):
    running = site()
    output = curl("-i", "--http2", f"{running.url}/about")
    heads, body = parts(output)
    assert [head.split(b"\r\n")[0] for head in heads] == [b"HTTP/1.1 200 OK"]
    assert json.loads(body)["http_version"] == "1.1"
    assert json.loads(curl("--http2", "-d", "x" * 50, f"{running.url}/about"))["size"] == 50


def test_connection_is_kept_for_several_urls(site):
    running = site()
    urls = [f"{running.url}/about"] * 3
    statuses = "%{http_code} %{num_connects} %{local_port}\n"
    output = curl("-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null", "-w", statuses, *urls)
    seen = [line.split() for line in output.decode().splitlines()]
    assert [status for status, _, _ in seen] == ["200"] * 3
    assert [connects for _, connects, _ in seen] == ["1", "0", "0"]
    # A file, a HEAD, an upload and a page, one after the other.
    output = curl(
        *("-o", "/dev/null", f"{running.url}/file", "--next", "-sS", "-I", f"{running.url}/file"),
        *("--next", "-sS", "-T", "-", f"{running.url}/echo"),
        *("--next", "-sS", "-w", "%{num_connects}", f"{running.url}/about"),
        data=b"upload",
    )
    assert b"\r\n\r\nupload{" in output
    assert output.endswith(b"}0")


def test_over_tls(site, tmp_path):
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    running = site(ssl_certfile=str(tmp_path / "cert.pem"))
    url = f"https://127.0.0.1:{running.port}"
    about = json.loads(curl("-k", "--http2", f"{url}/about"))
    assert (about["scheme"], about["http_version"]) == ("https", "1.1")
    assert curl("-k", "-T", "-", f"{url}/echo", data=CONTENT) == CONTENT
    assert curl("-k", "--compressed", f"{url}/text") == b"text" * 10_000


def test_over_a_unix_socket(serve, site, tmp_path):
    path = tmp_path / "sock"
    site(uds=str(path))
    about = json.loads(curl("--unix-socket", path, "http://localhost/about"))
    assert about["client"] is None
    assert curl("--unix-socket", path, "http://localhost/file") == CONTENT


def test_with_the_proxy_protocol(site):
    running = site(proxy_protocol=True)
    arguments = ("--haproxy-protocol", "-w", "%{local_port}", f"{running.url}/about")
    about, port = re.fullmatch(rb"({.*})(\d+)", curl(*arguments)).groups()
    assert json.loads(about)["client"] == ["127.0.0.1", int(port)]

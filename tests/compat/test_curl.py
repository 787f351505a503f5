"""curl, as people use it on a command line."""

from __future__ import annotations

import gzip
import json
import re
import subprocess

import pytest
from apps import http_only, respond
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from support import PATIENCE, program

CONTENT = bytes(range(256)) * 8000
HTTP2 = "--http2-prior-knowledge"


def curl(*arguments: object, data: bytes = b"") -> bytes:
    """Return curl's output; it must succeed, and print no error."""
    result = subprocess.run(
        [program("curl"), "-sS", "--noproxy", "*", *map(str, arguments)],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


def parts(output: bytes) -> tuple[list[bytes], bytes]:
    """The heads and the last body in the output of `curl -i`."""
    heads = []
    while output.startswith(b"HTTP/"):
        head, _, output = output.partition(b"\r\n\r\n")
        heads.append(head)
    return heads, output


@pytest.fixture
def site(serve, tmp_path):
    """Function (**options) that serves an application for curl's requests."""

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
    )  # above 1 MiB curl waits for the 100
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
    """The server sends no 100, so curl waits a second and would then send a body in vain."""

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


def test_over_tls(site, certificate):
    running = site(**certificate.options)
    url = f"https://127.0.0.1:{running.port}"
    trusted = ("--cacert", certificate.authority)
    about = json.loads(curl(*trusted, "--http1.1", f"{url}/about"))
    assert (about["scheme"], about["http_version"]) == ("https", "1.1")
    assert curl(*trusted, "--http1.1", "-T", "-", f"{url}/echo", data=CONTENT) == CONTENT
    assert curl(*trusted, "--http1.1", "--compressed", f"{url}/text") == b"text" * 10_000


@pytest.fixture(params=["prior knowledge", "tls"])
def over_http2(request, site, certificate):
    """Options of curl to speak HTTP/2, the URL of the site, and the running server."""
    if request.param == "tls":
        running = site(**certificate.options)
        return ("--cacert", certificate.authority), f"https://127.0.0.1:{running.port}", running
    running = site()
    return (HTTP2,), running.url, running


def test_downloads_over_http2(over_http2):
    how, url, _ = over_http2
    about = json.loads(curl(*how, f"{url}/about"))
    assert (about["http_version"], about["scheme"]) == ("2", url.partition(":")[0])
    heads, body = parts(curl(*how, "-i", f"{url}/file"))
    assert heads[0].startswith(b"HTTP/2 200")
    assert body == CONTENT
    assert curl(*how, "--limit-rate", "8M", f"{url}/file") == CONTENT
    assert curl(*how, "--range", "10-19", f"{url}/file") == CONTENT[10:20]
    head = curl(*how, "-I", f"{url}/file")
    assert b"content-length: %d\r\n" % len(CONTENT) in head
    assert head.endswith(b"\r\n\r\n")
    assert curl(*how, "--compressed", f"{url}/text") == b"text" * 10_000
    if HTTP2 not in how:  # curl 7.88 sends the preface again on a connection that it reuses
        assert json.loads(curl(*how, "-L", f"{url}/away"))["method"] == "GET"
    fields = [field for number in range(50) for field in ("-H", f"x-{number}: {'v' * 300}")]
    assert json.loads(curl(*how, *fields, f"{url}/about"))["size"] == 0


def test_uploads_over_http2(over_http2, tmp_path):
    how, url, _ = over_http2
    content = bytes(range(256)) * 65_536  # 16 MiB
    (tmp_path / "large.bin").write_bytes(content)
    assert curl(*how, "-T", tmp_path / "large.bin", f"{url}/echo") == content
    about = json.loads(curl(*how, "-T", "-", f"{url}/about", data=content))  # of unknown length
    assert (about["method"], about["size"], about["http_version"]) == ("PUT", len(content), "2")
    form = ("-F", f"file=@{tmp_path / 'large.bin'}", "-F", "name=value")
    assert json.loads(curl(*how, *form, f"{url}/about"))["size"] > len(content)
    wait = ("-H", "Expect: 100-continue", "--expect100-timeout", PATIENCE)
    heads, body = parts(curl(*how, *wait, "-i", "-T", "-", f"{url}/echo", data=CONTENT))
    assert heads[-1].startswith(b"HTTP/2 200")
    assert body == CONTENT


@pytest.mark.parametrize("over_http2", ["tls"], indirect=True)
def test_many_at_once_over_http2(over_http2, tmp_path):
    """Downloads and uploads side by side. (Not by prior knowledge: see above.)"""
    how, url, running = over_http2
    (tmp_path / "file").write_bytes(CONTENT)
    arguments: list[object] = []
    for number in range(40):
        asked = ("-T", tmp_path / "file", f"{url}/echo") if number % 2 else (f"{url}/file",)
        arguments += [*how, "--noproxy", "*", "-o", tmp_path / str(number), *asked, "--next"]
    curl("-Z", "--no-progress-meter", "--parallel-max", 40, *arguments[:-1])
    for number in range(40):
        assert (tmp_path / str(number)).read_bytes() == CONTENT, number
    assert running.context.total_requests == 40


def test_over_a_unix_socket(serve, site, tmp_path):
    path = tmp_path / "sock"
    site(uds=str(path))
    about = json.loads(curl("--unix-socket", path, "http://localhost/about"))
    assert about["client"] is None
    assert curl("--unix-socket", path, "http://localhost/file") == CONTENT
    http2 = (HTTP2, "--unix-socket", path)
    about = json.loads(curl(*http2, "http://localhost/about"))
    assert (about["client"], about["http_version"]) == (None, "2")


@pytest.mark.parametrize(("how", "version"), [("--http1.1", "1.1"), (HTTP2, "2")])
def test_with_the_proxy_protocol(site, how, version):
    running = site(proxy_protocol=True)
    arguments = ("--haproxy-protocol", "-w", "%{local_port}", f"{running.url}/about")
    about, port = re.fullmatch(rb"({.*})(\d+)", curl(how, *arguments)).groups()
    assert json.loads(about)["client"] == ["127.0.0.1", int(port)]
    assert json.loads(about)["http_version"] == version

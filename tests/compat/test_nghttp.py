"""nghttp and h2load, the clients of nghttp2."""

from __future__ import annotations

import re
import subprocess

import pytest
from apps import http_only, read_body, respond
from support import PATIENCE, program

CONTENT = bytes(range(256)) * 8000


@http_only
async def app(scope, receive, send):
    """Answer a POST with its body, a GET with as many bytes as the path says, in parts."""
    assert scope["http_version"] == "2"
    if scope["method"] == "POST":
        await respond(send, await read_body(receive))
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    size = int(scope["path"].removeprefix("/"))
    while size > 0:
        part = bytes(min(size, 10_000))
        size -= len(part)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(params=["h2c", "tls"])
def url(request, serve, certificate):
    running = serve(app, **(certificate.options if request.param == "tls" else {}))
    return f"{'https' if request.param == 'tls' else 'http'}://127.0.0.1:{running.port}"


def run(path: str, *arguments: object) -> bytes:
    command = [path, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout


def nghttp(*arguments: object) -> bytes:
    return run(program("nghttp"), "--no-verify-peer", *arguments)


def loaded(*arguments: object) -> tuple[int, int]:
    """The number of requests for which h2load got a 2xx, and of bytes in the bodies."""
    output = run(program("h2load"), *arguments).decode()
    ended = re.search(r"requests: \d+ total, .* (\d+) succeeded, 0 failed, 0 errored", output)
    statuses = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", output)
    size = re.search(r"\((\d+)\) data$", output, re.MULTILINE)
    assert None not in (ended, statuses, size), output
    assert ended[1] == statuses[1]
    return int(statuses[1]), int(size[1])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-w", 10, "-W", 10),  # windows of 1 KiB
        ("-w", 30, "-W", 30),
        ("-b", 200),  # padding
        ("--continuation",),
        ("--no-dep",),
        ("--no-rfc7540-pri",),
        ("-c", 0),  # size of the dynamic table
        ("-c", 0, "-c", 65536, "--encoder-header-table-size", 65536),
    ],
    ids=lambda options: " ".join(map(str, options)) or "plain",
)
def test_download_and_upload(url, tmp_path, options):
    (tmp_path / "file").write_bytes(CONTENT)
    assert len(nghttp(*options, f"{url}/100000")) == 100_000
    assert nghttp(*options, "-d", tmp_path / "file", f"{url}/") == CONTENT


def test_upload_that_expects_100_or_has_trailers(url, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    post = ("-d", tmp_path / "file", f"{url}/")
    shown = nghttp("-v", "--expect-continue", *post)
    assert b":status: 100" in shown
    assert nghttp("--trailer", "x-digest: 1", *post) == CONTENT
    assert nghttp("--no-content-length", "--trailer", "x-digest: 1", *post) == CONTENT


def test_a_hundred_requests_at_once(url):
    """With weights of RFC 7540, which are ignored."""
    weights = [option for weight in (1, 16, 256) for option in ("-p", weight)]
    urls = [f"{url}/{size}" for size in (100, 20_000, 300_000)]
    assert len(nghttp("-m", 34, *weights, *urls)) == 34 * 320_100


@pytest.mark.parametrize(
    "options",
    [("-c", 1, "-m", 1), ("-c", 4, "-m", 100), ("-c", 50, "-m", 2), ("-c", 2, "-m", 500)],
    ids=lambda options: " ".join(map(str, options)),
)
def test_many_streams(url, options):
    """The client wants 500 at once, with a limit of 128: it waits, and none fails."""
    assert loaded("-n", 2000, *options, f"{url}/1000") == (2000, 2_000_000)


@pytest.mark.parametrize("windows", [("-w", 10, "-W", 12), ("-w", 24, "-W", 28)])
def test_large_downloads_at_once(url, windows):
    assert loaded("-n", 40, "-c", 2, "-m", 10, *windows, f"{url}/1000000") == (40, 40_000_000)


def test_uploads_at_once(url, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    upload = ("-d", tmp_path / "file")
    done = loaded("-n", 40, "-c", 2, "-m", 10, "-w", 24, "-W", 24, *upload, f"{url}/")
    assert done == (40, 40 * len(CONTENT))

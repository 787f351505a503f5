"""FileResponse with the paths that people use: in FastAPI's documentation one has no slash."""

from __future__ import annotations

import socket

import httpx
import pytest
from apps import get
from process import Command
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import FileResponse
from starlette.routing import Route
from support import read_to, reset, wait_until
from uvicorn_peer import UvicornCommand

APPLICATION = """
import os
import pathlib

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

app = FastAPI()
name = "n\\u00e4me 100%25.txt"

@app.get("/string")
async def string():
    return FileResponse("file.txt")

@app.get("/dot")
async def dot():
    return FileResponse("./file.txt")

@app.get("/up")
async def up():
    return FileResponse("directory/../file.txt")

@app.get("/pathlib")
async def path():
    return FileResponse(pathlib.Path("file.txt"))

@app.get("/absolute")
async def absolute():
    return FileResponse(os.path.abspath("file.txt"))

@app.get("/class", response_class=FileResponse)
async def response_class():
    return "file.txt"

@app.get("/in-a-thread", response_class=FileResponse)
def in_a_thread():
    return "file.txt"

@app.get("/odd")
async def odd():
    return FileResponse(name, filename=name, media_type="text/plain")

@app.get("/missing")
async def missing():
    return FileResponse("missing.txt")

@app.get("/directory")
async def directory():
    return FileResponse("directory")

@app.get("/extensions")
async def extensions(request: Request):
    return sorted(request.scope.get("extensions", {}))
"""
PATHS = ["string", "dot", "up", "pathlib", "absolute", "class", "in-a-thread"]
CONTENT = b"a line\n" * 3000
ODD = "näme 100%25.txt"


@pytest.mark.parametrize(
    ("command_class", "options"),
    [(Command, ()), (Command, ("--pathsend",)), (UvicornCommand, ())],
    ids=["thestral", "pathsend", "uvicorn"],
)
def test_relative_and_other_paths(tmp_path, command_class, options):
    (tmp_path / "main.py").write_text(APPLICATION)
    (tmp_path / "file.txt").write_bytes(CONTENT)
    (tmp_path / ODD).write_bytes(b"odd")
    (tmp_path / "directory").mkdir()
    with command_class("main:app", "--port", "0", *options, cwd=tmp_path) as command:
        with httpx.Client(base_url=command.url(), trust_env=False) as http:
            offered = "http.response.pathsend" in http.get("/extensions").json()
            assert offered == ("--pathsend" in options)
            for path in PATHS:
                reply = http.get(f"/{path}")
                assert (path, reply.status_code, reply.content) == (path, 200, CONTENT)
                assert reply.headers["content-length"] == str(len(CONTENT))
                assert reply.headers["content-type"] == "text/plain; charset=utf-8"
                head = http.head(f"/{path}")
                assert head.status_code == 405  # FastAPI's routes of GET have no HEAD
                part = http.get(f"/{path}", headers={"Range": "bytes=7-13"})
                assert (part.status_code, part.content) == (206, CONTENT[7:14])
            odd = http.get("/odd")
            assert odd.content == b"odd"
            assert "filename*=utf-8''n%C3%A4me%20100%2525.txt" in odd.headers["content-disposition"]
        for path in ("missing", "directory"):
            reply = httpx.get(f"{command.url()}/{path}", trust_env=False)
            assert reply.status_code == 500
        command.saw("RuntimeError: File at path missing.txt does not exist.")
        command.saw("RuntimeError: File at path directory is not a file.")


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])
def test_client_leaves_a_file_that_the_server_sends(serve, leave, tmp_path, complaints):
    """The background task runs, as it does without pathsend."""
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(5 * 2**20))
    ended: list[str] = []

    async def endpoint(request):
        return FileResponse(file, background=BackgroundTask(ended.append, "background"))

    running = serve(Starlette(routes=[Route("/", endpoint)]), pathsend=True)
    sock = running.connect(receive_buffer=4096)
    sock.sendall(get())
    read_to(sock, b"\r\n\r\n")
    leave(sock)
    wait_until(lambda: not running.context.cycles)
    assert ended == ["background"]
    assert not complaints()

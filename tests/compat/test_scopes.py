"""Changes that middleware makes to a scope are seen only by the same request."""

from __future__ import annotations

import copy
from typing import Any

from apps import get
from fastapi import FastAPI, Request, WebSocket
from support import read_response
from uvicorn_peer import beside_uvicorn
from ws_sessions import connect


class Writer:
    """Pure ASGI middleware that keeps a copy of each scope, then writes wherever it can."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.given: list[dict[str, Any]] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "lifespan":
            kept = {name: scope.get(name) for name in ("type", "asgi", "extensions", "state")}
            self.given.append(copy.deepcopy(kept) | {"fields": len(scope["headers"])})
            scope["asgi"].update(spec_version="2.0", written=True)
            for extension in scope.setdefault("extensions", {}).values():
                extension["written"] = True
            scope["extensions"]["written"] = {}
            scope["headers"].append((b"x-written", b"1"))
            scope["state"]["written"] = True
        await self.app(scope, receive, send)


@beside_uvicorn
def test_no_other_request_sees_it(serve, complaints):
    app = FastAPI()

    @app.get("/")
    async def root(request: Request):
        scope = request.scope
        return [scope["asgi"]["written"], "written" in scope["extensions"], request.state.written]

    @app.websocket("/")
    async def websocket(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_json(websocket.scope["asgi"]["written"])
        await websocket.close()

    writer = Writer(app)
    running = serve(writer)
    with running.connect() as sock:
        for _ in range(3):
            sock.sendall(get())
            assert read_response(sock)[1] == b"[true,true,true]"
        for _ in range(2):
            with connect(running) as session:
                assert session.recv() == "true"
        sock.sendall(get())
        read_response(sock)
    with running.connect() as sock:
        sock.sendall(get())
        read_response(sock)
    http = [each for each in writer.given if each["type"] == "http"]
    websockets = [each for each in writer.given if each["type"] == "websocket"]
    assert (len(http), len(websockets)) == (5, 2)
    assert http[1:] == http[:-1]
    assert websockets[0] == websockets[1]
    assert not complaints()

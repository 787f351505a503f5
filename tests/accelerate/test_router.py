"""The group `router` finds the same route as FastAPI, with the same scope, whatever its kind."""

from __future__ import annotations

import compare
import pytest
from compare import check, get

ON = "router"

ROUTES = """
import uuid
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Host, Mount, Route

class Pair(Convertor):
    regex = "[0-9]+-[0-9]+"
    def convert(self, value):
        log.append(("convert", value))
        return tuple(value.split("-"))
    def to_string(self, value): return "-".join(value)

register_url_convertor("pair", Pair())
app = FastAPI()

def make(owner, path, name, methods=("GET",)):
    async def endpoint(request: Request):
        log.append(str(request.url_for("home")))
        return [name, repr(request.path_params)]
    endpoint.__qualname__ = name
    owner.add_api_route(path, endpoint, methods=list(methods), name=name)

make(app, "/", "home")
make(app, "/items/me", "me")
make(app, "/items/{a}", "item")
make(app, "/items/{a}", "change", ["PUT"])
make(app, "/items/{a:int}", "number")
make(app, "/items/{a}/b", "b")
make(app, "/file.{ext}", "file")
make(app, "/f/{x:float}", "float")
make(app, "/u/{x:uuid}", "uuid")
make(app, "/rest/{x:path}", "rest")
make(app, "/rest/fixed", "hidden")
make(app, "/pair/{x:pair}", "pair")
make(app, "/pair/1-2", "hidden pair")
make(app, "/slash/", "slash")
make(app, "/é/{x}", "é")
inner, deep = APIRouter(prefix="/deep"), APIRouter()
make(deep, "/{k}", "deep")
make(deep, "/{k}", "deep change", ["DELETE"])
inner.include_router(deep, prefix="/er")
router = APIRouter()
make(router, "/r/{z}", "included")
make(router, "/items/{a}", "never")
router.include_router(inner)
app.include_router(router, prefix="/v1")
app.include_router(router, prefix="/v2/{tenant}")

@app.websocket("/items/{a}")
async def talk(websocket: WebSocket, a: str):
    await websocket.accept()
    await websocket.send_text(a)

below = FastAPI(root_path="")
make(below, "/", "home")
make(below, "/y/{n:int}", "below")
app.mount("/mount", below)
plain = Route("/x", lambda request: PlainTextResponse("x"))
app.router.routes.append(Mount("/plain/{p}", routes=[plain]))
app.router.routes.append(Route("/starlette", plain.endpoint, methods=["POST"]))
other = FastAPI()
make(other, "/only", "home")
app.router.routes.append(Host("{sub}.example.net", other))
make(app, "/after", "after")
"""
PATHS = [
    *("/", "", "//", "/items", "/items/", "/items/me", "/items/5", "/items/me/", "/items/x/b"),
    *("/items//b", "/items/5\n", "/items/\n", "/file.txt", "/file.", "/file.a.b", "/f/1.5", "/f/x"),
    *("/u/6ba7b810-9dad-11d1-80b4-00c04fd430c8", "/u/no", "/rest/", "/rest/a/b", "/rest/fixed"),
    *("/rest", "/pair/1-2", "/pair/x", "/slash", "/slash/", "/é/ü", "/v1/r/z", "/v1/items/9"),
    *("/v1/deep/er/k", "/v1/deep/er/", "/v1/deep", "/v2/t/r/z", "/v2/t/deep/er/k", "/v2//r/z"),
    *("/mount", "/mount/", "/mount/y/3", "/mount/y/x", "/mount/none", "/plain/p/x", "/plain/p/"),
    *("/starlette", "/after", "/none", "/docs", "/openapi.json", "/only", "/ITEMS/me"),
]


@pytest.mark.parametrize("groups", [ON, compare.ALL])
def test_each_path_and_method(groups):
    methods = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "get")
    requests = [get(path) | {"method": method} for path in PATHS for method in methods]
    seen = check(ROUTES, *requests, groups=groups)
    assert sum("'status': 200" in one for one in seen) > 30


def test_root_paths_and_hosts():
    requests = [
        get(path, root_path=root)
        for root in ("/items", "/v1", "/mount", "/x")
        for path in (*PATHS, root, f"{root}/items/me", f"{root}/v1/r/z")
    ]
    requests += [
        get("/only", headers=[["host", "a.example.net"]]),
        get("/after", headers=[["host", "a.example.net"]]),
        get("/after", headers=[["host", "b.example.net:80"]]),
    ]
    check(ROUTES, *requests, groups=ON)


def test_websockets():
    requests = [{"path": path, "messages": []} for path in ("/items/5", "/none", "/v1/r/z")]
    check(ROUTES, *requests, groups=ON)


def test_long_numbers_fail_as_they_did():
    digits = "9" * 5000  # more than int() takes
    methods = ("GET", "PUT", "PATCH")
    source = ROUTES + "\nmake(app, '/n/{x:int}', 'n')\nmake(app, '/n/{x}', 'put', ['PUT'])"
    check(source, *({"path": f"/n/{digits}", "method": method} for method in methods), groups=ON)


def test_routes_that_change():
    check(
        ROUTES,
        get("/late"),
        get("/v1/late"),
        "make(app, '/late', 'late')",
        get("/late"),
        "make(router, '/late', 'late included')",
        get("/v1/late"),
        get("/v2/t/late"),
        "make(deep, '/late/er', 'deeper')",
        get("/v1/deep/er/late/er"),
        "app.router.routes.insert(0, Route('/items/me', lambda r: PlainTextResponse('first')))",
        get("/items/me"),
        "del app.router.routes[0]",
        get("/items/me"),
        "app.router.routes.clear()",
        get("/items/me"),
        groups=ON,
    )


OWN_CLASSES = """
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match, Route

class Versioned(APIRoute):
    def matches(self, scope):
        log.append("matches")
        if dict(scope["headers"]).get(b"x-version") != b"2":
            return Match.NONE, {}
        return super().matches(scope)

class Noted(APIRoute):
    async def handle(self, scope, receive, send):
        log.append("handle")
        await super().handle(scope, receive, send)

class Named(APIRoute):
    "Changes nothing of what finds it."

class OwnRouter(APIRouter):
    def matches(self, scope):
        log.append("router matches")
        return super().matches(scope)

app = FastAPI()
for kind, path in ((Versioned, "/a"), (Named, "/a"), (Noted, "/b"), (Named, "/c")):
    router = APIRouter(route_class=kind)
    async def endpoint(kind=kind.__name__):
        return kind
    router.add_api_route(path, endpoint)
    app.include_router(router)
    app.router.routes.append(kind(f"/direct{path}", endpoint))
own = OwnRouter()
own.add_api_route("/own", endpoint)
app.include_router(own)

async def last():
    return "last"
app.add_api_route("/last", last)
patched = app.router.routes[-1]
"""


def test_classes_with_their_own_ways():
    paths = ("/a", "/b", "/c", "/own", "/direct/a", "/direct/b", "/direct/c", "/last")
    requests = [get(path) for path in paths]
    requests += [get(path, headers=[["x-version", "2"]]) for path in paths]
    seen = check(OWN_CLASSES, *requests, groups=ON)
    assert sum("'status': 200" in one for one in seen) == len(requests)


def test_methods_that_are_replaced_on_a_route():
    change = """
original = patched.handle
async def handle(scope, receive, send):
    log.append("replaced")
    await original(scope, receive, send)
patched.handle = handle
app.router.routes[:] = list(app.router.routes)
app.router._mark_routes_changed()
"""
    seen = check(OWN_CLASSES, get("/last"), change, get("/last"), groups=ON)
    assert "replaced" in seen[1]


def test_expressions_that_are_replaced():
    source = """
import re
from fastapi import FastAPI
app = FastAPI()
@app.get("/a/{x}")
async def endpoint(x: str):
    return x
app.router.routes[-1].path_regex = re.compile("^/other/(?P<x>.*)$")
"""
    check(source, get("/a/b"), get("/other/b/c"), groups=ON)


FORMS = """
from fastapi import APIRouter, FastAPI, Form
app = FastAPI()
router = APIRouter()
@router.post("/form")
async def form(a: str = Form()):
    return a
app.include_router(router, prefix="/v")
app.include_router(router)
"""


def test_scopes_of_included_routers():
    form = {"method": "POST", "body": "a=1"}
    form["headers"] = [["content-type", "application/x-www-form-urlencoded"]]
    check(FORMS, {"path": "/form", **form}, {"path": "/v/form", **form}, groups=ON)


def test_routes_are_named_in_the_metrics():
    """What thestral counts by is in the scope, or comes from it."""
    source = (
        ROUTES
        + """
from thestral.protocol.routes import template_of
real = app
async def app(scope, receive, send):
    await real(scope, receive, send)
    log.append(template_of(scope))
"""
    )
    seen = check(source, *map(get, PATHS), groups=compare.ALL)
    assert any("/v2/{tenant}/deep/er/{k}" in one for one in seen)
    assert any("/mount/y/{n}" in one for one in seen)

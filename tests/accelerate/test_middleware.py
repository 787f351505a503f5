"""The group `middleware`: what FastAPI's middlewares do around requests and around failures."""

from __future__ import annotations

import compare
import pytest
from compare import check, get, post

ON = "middleware"

SOURCE = """
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware

class Own(Exception): pass

OPTIONS = {}
app = FastAPI(**OPTIONS)

@app.get("/ok")
async def ok(): return "ok"

@app.get("/http")
async def http(): raise HTTPException(404, "none", {"x-a": "1"})

@app.get("/own")
async def own(): raise Own("own")

@app.get("/value")
async def value(): raise ValueError("value")

@app.get("/base")
async def base(): raise BaseException("base")

@app.get("/started")
async def started():
    async def parts():
        yield b"1"
        raise Own("late")
    return StreamingResponse(parts())

@app.post("/file")
async def file(f: UploadFile):
    log.append(f.filename)
    return (await f.read()).decode()
"""
PATHS = ("/ok", "/http", "/own", "/value", "/base", "/started", "/none")
MULTIPART = '--b\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\nc\r\n--b--\r\n'

VARIANTS = {
    "alone": "",
    "handler": """
@app.exception_handler(Own)
async def handle(request, exc):
    log.append(("handler", repr(exc), request.url.path, sorted(request.scope)))
    return PlainTextResponse("own", 418)
""",
    "sync handler": """
@app.exception_handler(Own)
def handle(request, exc): return PlainTextResponse("own", 418)
""",
    "handler of everything": """
@app.exception_handler(Exception)
async def handle(request, exc):
    log.append(("500", repr(exc)))
    return PlainTextResponse("all", 500)
""",
    "sync handler of everything": """
@app.exception_handler(500)
def handle(request, exc): return PlainTextResponse("all", 500)
""",
    "handler of a status": """
@app.exception_handler(404)
async def handle(request, exc): return PlainTextResponse("nothing", 404)
""",
    "handler that fails": """
@app.exception_handler(Own)
async def handle(request, exc): raise ValueError("handler") from exc
""",
    "handler that returns nothing": """
@app.exception_handler(Own)
async def handle(request, exc): return None
""",
    "middlewares": """
class Noting:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        async def sender(message):
            log.append(message["type"])
            await send(message)
        try:
            await self.app(scope, receive, sender)
        except Exception as exc:
            log.append(repr(exc))
            raise
app.add_middleware(Noting)
app.add_middleware(CORSMiddleware, allow_origins=["*"])
app.add_middleware(GZipMiddleware, minimum_size=1)
""",
    "middleware that starts the response": """
class Starting:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async def sender(message):
            if message["type"] != "http.response.start":
                await send(message)
        await self.app(scope, receive, sender)
app.add_middleware(Starting)
@app.exception_handler(Own)
async def handle(request, exc): return PlainTextResponse("own", 418)
""",
    "middleware of functions": """
@app.middleware("http")
async def timing(request, call_next):
    response = await call_next(request)
    response.headers["x-time"] = "1"
    return response
""",
    "middleware that looks at send()": """
import inspect
class Looking:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        log.append(inspect.iscoroutinefunction(send))
        await self.app(scope, receive, send)
app.add_middleware(Looking)
""",
    "root path": "app.root_path = '/root'",
    "limit of bodies": "app = FastAPI(max_body_size=10); app.post('/file')(file)",
    "mounted": """
outer = FastAPI()
outer.mount("/sub", app)
@outer.exception_handler(Own)
async def handle(request, exc): return PlainTextResponse("outer", 418)
inner, app = app, outer
""",
    "mounted in Starlette": "inner = app; app = Starlette(); app.mount('/sub', inner)",
    "derived": """
class Derived(FastAPI):
    "Adds nothing."
real = app
app = Derived()
app.router = real.router
""",
    "derived, with its own call": """
class Derived(FastAPI):
    async def __call__(self, scope, receive, send):
        log.append("own call")
        await super().__call__(scope, receive, send)
router = app.router
app = Derived()
app.router = router
""",
    "between": """
from starlette.applications import Starlette as Base
class Mixed:
    async def __call__(self, scope, receive, send):
        log.append("mixed in")
        await super().__call__(scope, receive, send)
class Derived(FastAPI, Mixed): pass
router = app.router
app = Derived()
app.router = router
""",
}


@pytest.mark.parametrize("groups", [ON, compare.ALL])
def test_answers_and_failures(groups):
    requests = [get(prefix + path) for prefix in ("", "/sub") for path in PATHS]
    requests.append(post("/file", MULTIPART, "multipart/form-data; boundary=b"))
    requests.append(post("/sub/file", MULTIPART, "multipart/form-data; boundary=b", pieces=3))
    requests += [get(path, leaves=0, refuses=True) for path in PATHS]
    requests += [get(path, headers=[["origin", "https://a.example"]]) for path in PATHS]
    requests.append({"path": "/none", "messages": []})
    cases = [compare.Case(SOURCE + variant, requests) for variant in VARIANTS.values()]
    found = compare.differences(cases, groups)
    names = list(VARIANTS)
    for index, plain, accelerated in found:
        assert plain == accelerated, names[index]
    seen = compare.observed(cases, groups)
    assert all(len(case) == len(requests) for case in seen)


CHANGES = {
    "a handler added to the built stack": """
async def handle(request, exc): return PlainTextResponse("late", 418)
found = app.middleware_stack
while not isinstance(found, ExceptionMiddleware): found = found.app
found.add_exception_handler(Own, handle)
""",
    "a middleware put into the built stack": """
class Noting:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        log.append("noting")
        await self.app(scope, receive, send)
app.middleware_stack.app = Noting(app.middleware_stack.app)
""",
    "one behind the others": """
class Noting:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        log.append("noting")
        await self.app(scope, receive, send)
found = app.middleware_stack
while not isinstance(found, ExceptionMiddleware): found = found.app
found.app = Noting(found.app)
""",
    "classes that are traced": """
import functools
def traced(kind):
    original = kind.__call__
    @functools.wraps(original)
    async def call(self, *arguments):
        log.append(kind.__name__)
        await original(self, *arguments)
    kind.__call__ = call
for kind in (ServerErrorMiddleware, ExceptionMiddleware, Starlette): traced(kind)
""",
    "the stack is built again": "app.middleware_stack = app.build_middleware_stack()",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_while_serving(change):
    requests = [get(path) for path in PATHS]
    check(SOURCE, *requests, CHANGES[change], *requests, groups=ON)


def test_the_stack_is_what_others_look_for():
    """OpenTelemetry's instrumentation wants to find ServerErrorMiddleware outermost."""
    look = """
outermost = found = app.middleware_stack
while not isinstance(found, ExceptionMiddleware): found = found.app
app.get("/found")(lambda: [isinstance(outermost, ServerErrorMiddleware), found.debug])
"""
    check(SOURCE, get("/ok"), look, get("/found"), groups=ON)

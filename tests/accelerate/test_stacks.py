"""The group `stacks`: exit stacks, exceptions and messages as FastAPI has them."""

from __future__ import annotations

import asking
import pytest

GROUPS = ("stacks", "introspection,telemetry,parameters,stacks")

STACKS = """
from contextlib import AsyncExitStack, asynccontextmanager
from fastapi import *
from fastapi.responses import *
from fastapi.routing import APIRoute
from starlette.background import BackgroundTask
from starlette.routing import Route, request_response

app = FastAPI()
log = []

class Mine(Exception): pass
class Late(Exception): pass

@app.exception_handler(Mine)
async def mine(request, exc):
    log.append(f"mine {request.scope is exc.args[0] if exc.args else None}")
    return PlainTextResponse(f"mine {(await request.body()).decode()}", 418)

@app.exception_handler(409)
def conflict(request, exc): return PlainTextResponse("conflict", 409)

@app.exception_handler(410)
async def nothing(request, exc): return None

@app.exception_handler(Late)
async def again(request, exc): raise KeyError("handler")

def opened(name, fails=None, swallows=False):
    async def dependency(request: Request):
        log.append(f"in {name}")
        try:
            yield name
        except BaseException as exc:
            log.append(f"{name} {type(exc).__name__}")
            if not swallows: raise
        finally:
            log.append(f"out {name}")
            if fails: raise fails
    return dependency

ERRORS = {
    "mine": Mine(), "late": Late(), "value": ValueError("v"), "http": HTTPException(404, "no"),
    "conflict": HTTPException(409), "gone": HTTPException(410), "exit": SystemExit(1),
    "cancelled": asyncio.CancelledError(), "generator": GeneratorExit(), "group": ExceptionGroup("g", [Mine()]),
}
WAYS = {
    "plain": [], "request": [Depends(opened("a"))], "function": [Depends(opened("b"), scope="function")],
    "both": [Depends(opened("a")), Depends(opened("b"), scope="function"), Depends(opened("c"))],
    "swallows": [Depends(opened("a", swallows=True))],
    "swallows-function": [Depends(opened("a", swallows=True), scope="function")],
    "fails": [Depends(opened("a", KeyError("exit")))],
    "fails-function": [Depends(opened("a", Mine()), scope="function"), Depends(opened("b"))],
}
for way, dependencies in WAYS.items():
    @app.post(f"/{way}/{{name}}", dependencies=dependencies)
    async def raising(name: str, request: Request):
        log.append("called")
        if name == "scope": raise Mine(request.scope)
        if name in ERRORS: raise ERRORS[name]
        return name

@app.get("/log")
async def get_log():
    found = list(map(str, log))
    log.clear()
    return found

async def task(): log.append("task")
async def failing_task(): raise Mine()
def made(name):
    async def parts():
        yield "a"
        if name == "broken": raise Mine()
        yield "b"
    async def callable_response(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ERRORS["http"]
    class Own(Response):
        async def __call__(self, scope, receive, send):
            assert asyncio.iscoroutinefunction(send) or True
            await asyncio.create_task(send({"type": "http.response.start", "status": 207, "headers": []}))
            await send({"type": "http.response.body", "body": b"own"})
    class Counted(PlainTextResponse):
        charset = "latin-1"
    class Cleared(JSONResponse):
        @property
        def body(self): return b"{}"
        @body.setter
        def body(self, value): pass
    return {
        "json": JSONResponse([1], 201, {"x": "y"}), "html": HTMLResponse("<p>"), "none": None,
        "stream": StreamingResponse(parts()), "broken": StreamingResponse(parts()), "own": Own(),
        "task": Response(b"x", background=BackgroundTask(task)), "callable": callable_response,
        "failing": Response(b"x", background=BackgroundTask(failing_task)), "counted": Counted("é"),
        "cleared": Cleared({}), "redirect": RedirectResponse("/x"), "file": FileResponse("/dev/null"),
        "text": "no response",
    }[name]
NAMES = ("json", "html", "none", "stream", "broken", "own", "task", "callable", "failing", "counted",
         "cleared", "redirect", "file", "text")

class Answering(APIRoute):
    # Whose handlers return anything, and do not call what FastAPI made.
    def get_route_handler(self):
        async def handler(request): return made(request.path_params["name"])
        return handler
class Wrapping(APIRoute):
    def get_route_handler(self):
        import functools
        inner = super().get_route_handler()
        @functools.wraps(inner)
        async def handler(request):
            try:
                response = await inner(request)
            except Mine:
                return PlainTextResponse("wrapped")
            response.headers["x-wrapped"] = "1"
            return response
        return handler
class Sync(APIRoute):
    def get_route_handler(self): return lambda request: PlainTextResponse("sync")
for kind in (Answering, Wrapping, Sync):
    router = APIRouter(route_class=kind, prefix=f"/{kind.__name__.lower()}")
    @router.get("/{name}")
    async def answering(name: str, response: Response):
        if name in ERRORS: raise ERRORS[name]
        response.headers["x-own"] = "2"
        found = made(name)
        return found if isinstance(found, Response) else {"name": name}
    app.include_router(router)

other = FastAPI()
@other.exception_handler(Mine)
async def others(request, exc): return PlainTextResponse("other's")
@other.get("/inside/{name}")
async def inside(name: str): raise ERRORS[name]
@app.get("/inside/{name}")
async def through(name: str, request: Request):
    # Another application, which puts its own handlers into the scope.
    async def drop(message): log.append(message["type"])
    await other(request.scope, request.receive, drop)
    raise ERRORS[name]

@app.get("/stacks")
async def stacks(request: Request):
    names = "fastapi_inner_astack", "fastapi_function_astack"
    found = [request.scope[name] for name in names]
    for stack, name in zip(found, names): stack.callback(log.append, name)
    moved = found[0].pop_all()
    await moved.aclose()
    return [type(stack) is AsyncExitStack for stack in found] + log
"""

ASKED = """
async def main():
    for way in WAYS:
        for name in (*ERRORS, "scope", "fine"):
            await ask(app, "POST", f"/{way}/{name}", body=b"sent")
            await ask(app, "GET", "/log")
        for breaks in (0, 1):
            await ask(app, "POST", f"/{way}/fine", breaks=breaks)
            await ask(app, "POST", f"/{way}/mine", breaks=breaks)
            await ask(app, "GET", "/log")
    for kind in ("answering", "wrapping", "sync"):
        for name in (*NAMES, *ERRORS):
            await ask(app, "GET", f"/{kind}/{name}")
            await ask(app, "GET", f"/{kind}/{name}", breaks=1)
        await ask(app, "GET", "/log")
    for name in ("mine", "value", "http"):
        await ask(app, "GET", f"/inside/{name}")
        await ask(app, "GET", "/log")
    await ask(app, "GET", "/stacks")
    await ask(app, "GET", "/log")
    bare = app.routes[-1].app
    await ask(bare, "GET", "/stacks")
    await ask(bare, "GET", "/stacks", fastapi_middleware_astack=AsyncExitStack())
    await ask(bare, "GET", "/stacks", type="websocket")
    await ask(bare, "GET", "/stacks", type="lifespan")
finish(main())
"""


@pytest.mark.parametrize("groups", GROUPS)
def test_same_answers(groups):
    answers = asking.both(STACKS + ASKED, groups)
    assert any("Response not awaited" in found for _, found in answers)
    assert any("other's" not in found and "mine" in found for _, found in answers)


@pytest.mark.parametrize("groups", GROUPS)
def test_exceptions_leave_nothing_behind(groups):
    """What an unhandled exception refers to goes with it, not with the next garbage collection."""
    program = """
import gc, weakref

class Large: pass
kept = []

@app.get("/large")
async def large(name: str = "value"):
    local = Large()
    kept.append(weakref.ref(local))
    raise type(ERRORS[name])(404)

async def main():
    gc.disable()
    for name in ("value", "mine", "http", "conflict"):
        await ask(app, "GET", f"/large?name={name}")
        answers.append(["kept", repr([one() is None for one in kept])])
finish(main())
"""
    answers = asking.both(STACKS + program, groups)
    assert answers[-1][1] == "[True, True, True, True]"

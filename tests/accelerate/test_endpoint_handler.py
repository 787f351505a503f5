"""The group `parameters` leaves a request to FastAPI wherever something is not as it was."""

from __future__ import annotations

import asking
import child
import pytest
from shapes import ALL, GROUPS

# What programs and tracers replace, once the routes have served requests.
REPLACED = """
from fastapi import *
from fastapi import routing
from fastapi.dependencies import utils
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
import starlette.requests

app = FastAPI()
log = []

class Item(BaseModel):
    a: int

def sync(q: int = 1): return q
async def nested(a=Depends(sync), q: int = 1): return a
def exits():
    yield 1

@app.get("/dict", response_model=None)
async def plain(q: int = 1): return {"q": q}
@app.get("/model")
async def model(q: int = 1) -> Item: return {"a": q}
@app.get("/sync")
def in_thread(q: int = 1) -> Item: return {"a": q}
@app.get("/needs")
async def needs(a=Depends(nested), b=Depends(exits), c: str = "c") -> list[int]: return [a, b]
@app.post("/body")
async def body(item: Item, q: int = 1) -> Item: return item
@app.get("/response")
async def response(q: int = 1): return Response("x")

PATHS = ("/dict", "/model", "/sync", "/needs", "/body", "/response", "/model?q=x", "/needs?q=x")

async def ask_all():
    for path in PATHS:
        method = "POST" if path == "/body" else "GET"
        await ask(app, method, path, [("content-type", "application/json")], b'{"a":1}', cut=3)
        answers.append(["calls", repr(log)])
        log.clear()
"""

TARGETS = (
    "routing.solve_dependencies",
    "routing.serialize_response",
    "routing.run_endpoint_function",
    "routing.run_in_threadpool",
    "routing.jsonable_encoder",
    "utils.solve_dependencies",
    "utils.request_params_to_args",
    "utils.run_in_threadpool",
    "utils._solve_generator",
    "starlette.requests.Request.body",
    "starlette.requests.Request.stream",
    "starlette.requests.Request.json",
    "json.loads",
    "json.dumps",
    "JSONResponse.render",
    "Response.__init__",
    "Response.init_headers",
    "Response.render",
    "Response.__call__",
    "routing.wrap_app_handling_exceptions",
    "routing.AsyncExitStack",
    "routing.Request",
)


@pytest.mark.parametrize("target", TARGETS)
def test_what_someone_has_replaced_is_called(target):
    program = """
owner, _, name = TARGET.rpartition(".")
owner = eval(owner)
original = getattr(owner, name)
if isinstance(original, type):
    class Replaced(original):
        def __init__(self, *args, **kwargs):
            log.append(name)
            super().__init__(*args, **kwargs)
else:
    def Replaced(*args, **kwargs):
        log.append(name)
        return original(*args, **kwargs)

async def main():
    await ask_all()
    setattr(owner, name, Replaced)
    await ask_all()
    setattr(owner, name, original)
    await ask_all()
finish(main())
"""
    answers = asking.both(f"{REPLACED}\nTARGET = {target!r}\n{program}", ALL)
    calls = [calls != "[]" for asked, calls in answers if asked == "calls"]
    third = len(calls) // 3
    assert not any(calls[:third] + calls[2 * third :])
    assert any(calls[third : 2 * third])


USUAL = """
from thestral.accelerate import handler, stacks
from thestral.accelerate.handler import fill

def counting(*args):
    log.append(1)
    return fill(*args)
handler.fill = counting

async def count(path="/model", method="GET", **options):
    # How many requests went the fast way: one, or none.
    log.clear()
    await ask(app, method, path, **options)
    return len(log)
"""


def test_requests_go_the_fast_way():
    program = f"""{asking.BEFORE}{REPLACED}{USUAL}
async def main():
    for path in PATHS:
        assert await count(path, "POST" if path == "/body" else "GET") == 1, path
asyncio.run(main())
"""
    for groups in GROUPS:
        child.run(program, groups)


CHANGES = {
    "an override": (
        "app.dependency_overrides[sync] = lambda: 7",
        "del app.dependency_overrides[sync]",
    ),
    "overrides": (
        "app.dependency_overrides = {nested: lambda q: q}",
        "app.dependency_overrides = {}",
    ),
    "a dependency more": ("dependencies.append(more)", "dependencies.pop()"),
    "a dependency less": ("kept = dependencies.pop()", "dependencies.append(kept)"),
    "other dependencies": (
        "dependant.dependencies = [more]",
        "dependant.dependencies = dependencies",
    ),
    "another parameter": (
        "dependant.query_params.append(parameter)",
        "dependant.query_params.pop()",
    ),
    "a parameter of a dependency": (
        "below.query_params.clear()",
        "below.query_params.append(parameter)",
    ),
    "an endpoint": ("dependant.call = lambda a, b, c: [9]", "dependant.call = needs"),
    "what a dependency calls": ("below.call = lambda a=0, q=0: 9", "below.call = nested"),
    "a copied dependency": ("dependencies[0] = copied", "dependencies[0] = below"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_requests(change):
    done, undone = CHANGES[change]
    program = f"""
import copy
route = next(route for route in app.routes if route.path == "/needs")
dependant = route.dependant
dependencies = dependant.dependencies
below = dependencies[0]
parameter = below.query_params[0]
def extra(z: int): log.append(z)
more = utils.get_parameterless_sub_dependant(depends=Depends(extra), path="/needs")
copied = copy.copy(below)
copied.call = lambda a=0, q=0: 8

async def main():
    await ask_all()
    {done}
    await ask_all()
    await ask(app, "GET", "/needs?z=5&q=2")
    {undone}
    await ask_all()
finish(main())
"""
    answers = asking.both(REPLACED + program, ALL)
    found = [
        answer for asked, answer in answers if asked.startswith(("GET /needs  ", "GET /needs q=x"))
    ]
    assert len(found) == 6
    assert found[:2] == found[4:] != found[2:4]


def test_fields_of_other_classes():
    """Of a subclass of FastAPI's, and with a validator or a serializer that is not pydantic's own,
    as plugins of pydantic put there.
    """
    program = """
from fastapi._compat.v2 import ModelField

class Loud(ModelField):
    def validate(self, *args, **kwargs):
        log.append("validate")
        return super().validate(*args, **kwargs)
    def serialize_json(self, *args, **kwargs):
        log.append("serialize")
        return super().serialize_json(*args, **kwargs)

class Plugged:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name):
        def call(*args, **kwargs):
            log.append((name, sorted(kwargs)))
            return getattr(self.inner, name)(*args, **kwargs)
        return call

def fields_of(route):
    dependants = [route.dependant]
    for one in dependants:
        dependants += one.dependencies
        yield from one.query_params + one.body_params
    if route.response_field is not None:
        yield route.response_field

async def main():
    for route in app.routes[4:]:
        for field in fields_of(route):
            adapter = field._type_adapter
            if route.path in ("/model", "/sync", "/body"): field.__class__ = Loud
            elif route.path == "/response": adapter.serializer = Plugged(adapter.serializer)
            else: adapter.validator = Plugged(adapter.validator)
    plugged = app.get("/plugged")(model) and app.routes[-1]
    adapter = plugged.response_field._type_adapter
    adapter.serializer = Plugged(adapter.serializer)
    await ask_all()
    await ask(app, "GET", "/plugged")
    answers.append(["calls", repr(log)])
finish(main())
"""
    answers = asking.both(REPLACED + program, ALL)
    calls = [found for asked, found in answers if asked == "calls"]
    assert len([found for found in calls if found != "[]"]) == len(calls) - 2


def test_deep_and_circular_json_is_left_to_fastapi():
    program = """
import sys
import thestral.accelerate
from thestral.accelerate.responses import DEEPEST, is_plain
def deep(levels):
    found = 1
    for _ in range(levels): found = [{"a": found}]
    return found
circular = {}
circular["a"] = [circular]
assert is_plain(deep(DEEPEST // 2)) and not is_plain(deep(DEEPEST // 2 + 1))
assert not is_plain(circular)
"""
    child.run(program)


def test_telemetry_that_is_on():
    """FastAPI's spans, of the application's own provider, of the global one, and of another context
    of OpenTelemetry's.
    """
    program = """
from opentelemetry import context as otel_context, trace
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

def note():
    answers.append(["spans", repr([span.name for span in exporter.get_finished_spans()])])
    exporter.clear()

async def main():
    await ask_all()
    note()
    app._telemetry["tracer_provider"] = provider
    await ask_all()
    note()
    otel_context._RUNTIME_CONTEXT = ContextVarsRuntimeContext()
    await ask_all()
    note()
    app._telemetry["tracer_provider"] = None
    await ask_all()
    note()
finish(main())
"""
    answers = asking.both(REPLACED + program, ALL)
    spans = [found for asked, found in answers if asked == "spans"]
    assert "fastapi.endpoint" in spans[1]
    assert spans == ["[]", spans[1], spans[1], "[]"]


def test_handlers_without_the_stacks_of_the_application():
    program = """
from contextlib import AsyncExitStack
router = APIRouter()
router.get("/model")(model)
handler = router.routes[0].get_route_handler()
ours = "fastapi_middleware_astack", "fastapi_inner_astack", "fastapi_function_astack"

async def direct(scope, receive, send):
    response = await handler(starlette.requests.Request(scope, receive, send))
    await response(scope, receive, send)

async def main():
    await ask(router, "GET", "/model")
    for missing in (*ours, None):
        stacks = {name: AsyncExitStack() for name in ours if name != missing}
        await ask(direct, "GET", "/model", **stacks)
        await ask(direct, "GET", "/model", **stacks | {missing or ours[0]: object()})
finish(main())
"""
    answers = asking.both(REPLACED + program, ALL)
    assert sum("AssertionError" in found for _, found in answers) == 8


def test_why_not():
    program = f"""{asking.BEFORE}
from fastapi import *
from fastapi.sse import EventSourceResponse
from fastapi.responses import StreamingResponse
from starlette.routing import Route
from thestral.accelerate import parameters, stacks

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
async def one(a: int): return a
async def form(a: int = Form()): return a
async def stream():
    yield 1
async def talk(websocket: WebSocket): ...
app.get("/one")(one)
app.post("/form")(form)
app.get("/lines")(stream)
app.get("/events", response_class=EventSourceResponse)(stream)
app.get("/stream", response_class=StreamingResponse)(stream)
app.websocket("/talk")(talk)
app.add_route("/starlette", one)
router = APIRouter(routes=[])
router.get("/inner")(one)
app.include_router(router)
inner = app.routes[-1].effective_candidates()
for route in [*app.routes[:-1], *inner]:
    print(parameters.why_not(route), "/", stacks.why_not(route))
"""
    assert child.run(program, ALL).splitlines() == [
        "None / None",
        "a form / None",
        *["a stream / None"] * 3,
        "of class APIWebSocketRoute / of class APIWebSocketRoute",
        "of class Route / of class Route",
        "None / None",
    ]


def test_routes_made_before():
    program = """
import sys
from fastapi import FastAPI
app = FastAPI()
app.get("/")(lambda: 1)
import thestral.accelerate
thestral.accelerate.fastapi(sys.argv[1].split(","), require=True)
from thestral.accelerate import parameters
print(parameters.why_not(app.routes[-1]))
"""
    assert child.run(program, ALL) == "made before the acceleration, or by a class of its own\n"

"""The group `parameters`: the same answers as FastAPI's own handler, and its own wherever something
is not as it was.
"""

from __future__ import annotations

import asking
import child
import pytest

SHAPES = """
from typing import Annotated, Any, Literal, Optional, Union
from fastapi import *
from fastapi.exceptions import RequestValidationError
from fastapi.responses import *
from fastapi.security import *
from pydantic import *
from starlette.requests import HTTPConnection
import datetime, decimal, enum, http, uuid

var = contextvars.ContextVar("var", default="none")
log = []
app = FastAPI()
JSON = ("content-type", "application/json")

class Colour(str, enum.Enum):
    red = "red"
    blue = "blue"

class Inner(BaseModel):
    a: int
    day: Optional[datetime.date] = None

class Model(BaseModel):
    name: str = Field(min_length=2, alias="Name")
    inner: list[Inner] = []
    colour: Colour = Colour.red
    @computed_field
    @property
    def size(self) -> int:
        return len(self.inner)

class Many(BaseModel):
    model_config = {"extra": "forbid"}
    limit: int = 10
    tags: list[str] = []
"""

PARAMETERS = """
@app.get("/path/{a}/{b:path}")
async def path(a: int, b: str, c: Annotated[Any, Query()] = None): return [a, b, c]

@app.get("/typed/{a:int}/{b:uuid}/{c}")
async def typed(a: int, b: uuid.UUID, c: Literal["x", "y"]): return [a, str(b), c]

@app.get("/query")
async def query(
    *, a: int,
    b: Annotated[Optional[str], Query(min_length=2, max_length=4, pattern="^x")] = None,
    c: bool = False,
    d: Annotated[list[int], Query()] = [],
    e: Colour = Colour.red,
    f: Annotated[str, Query(alias="f-f")] = "ff",
    g: decimal.Decimal = decimal.Decimal("1.5"),
    h: Json[dict[str, int]] = {},
    i: Annotated[Json[list[int]], Query()] = None,
    j: Annotated[str, Query(validation_alias=AliasChoices("jj", "kk"))] = "j",
    k: Annotated[list[int], Query(default_factory=list)],
    l: Annotated[int, Query(default_factory=lambda: len(log))],
    m: Annotated[int, Query(validate_default=True)] = "7",
    n: Annotated[int, BeforeValidator(lambda v: int(v) * 2)] = 1,
): return repr((a, b, c, d, e, f, g, h, i, j, k, l, m, n))

@app.get("/bad-default")
async def bad_default(a: Annotated[int, Query(validate_default=True)] = "x"): return a

@app.get("/model")
async def model(q: Annotated[Many, Query()], x: Annotated[Optional[Inner], Cookie()] = None):
    return [q, x]

def broken(value):
    raise LookupError(value)

@app.get("/raises")
async def raises(a: Annotated[str, AfterValidator(broken)] = "", b: int = 0): return a

@app.get("/headers")
async def headers(
    x_token: Annotated[str, Header()],
    plain_name: Annotated[str, Header(convert_underscores=False)] = "p",
    again: Annotated[int, Header(alias="X-Token")] = 3,
    many: Annotated[list[str] | None, Header()] = None,
    sid: Annotated[str | None, Cookie()] = None,
    number: Annotated[int, Cookie()] = 3,
): return [x_token, plain_name, again, many, sid, number]

@app.get("/more")
async def more(
    request: Request, connection: HTTPConnection, response: Response, tasks: BackgroundTasks,
    x: int = 1,
):
    assert request is connection
    response.headers["x-a"] = "1"
    response.set_cookie("k", "v")
    response.status_code = 202
    tasks.add_task(log.append, x)
    return [len(log), request.url.path, sorted(request.headers), sorted(request.query_params)]

async def main():
    queries = [
        "", "a=1", "a=%31&b=x+y", "a=", "a", "&&a=3&&", "a=1&a=2", "a=1&b=x\\xe9", "a=1&b=x%00",
        "a=1&h=", "a=1&l=5", "%61=5", "a=1;c=1", "=5&a=1", "a=1&i=[]", "a==1", "a=1&jj=&kk=4",
        "a=1&b=xy&c=true&d=1&d=2&e=blue&f-f=z&g=2.50&h={\\"q\\":1}&i=[1]&jj=2&n=4",
        "a=x&b=y&c=maybe&d=q&e=green&h=nope&i=&kk=3&k=1&k=2&l=x&m=y&n=z",
    ]
    for query in queries:
        await ask(app, "GET", f"/query?{query}")
    for path in ("/path/1/", "/path/1/x/y", "/path/x/y", "/path/1/x?c=1", "/typed/5/x/y",
                 "/typed/5/00000000-0000-0000-0000-000000000001/x",
                 "/typed/5/00000000-0000-0000-0000-000000000001/q", "/bad-default",
                 "/bad-default?a=1", "/raises", "/raises?a=1", "/raises?a=1&b=x", "/nowhere",
                 "/model", "/model?limit=2&tags=a&tags=b", "/model?limit=x&other=1", "/more?x=2",
                 "/more", "/more?x=y", "/more"):
        await ask(app, "GET", path)
    for fields in ([], [("x-token", "5")], [("x-token", "t"), ("many", "a"), ("many", "b")],
                   [("x-token", ""), ("cookie", "sid=5; number=7"), ("plain_name", "q")],
                   [("x-token", "1"), ("x-token", "2"), ("cookie", "number=x"), ("cookie", "sid")],
                   [("x-token", "\\xe9"), ("plain-name", "q")]):
        await ask(app, "GET", "/headers", fields)
        await ask(app, "GET", "/headers", fields, typed=tuple)
        await ask(app, "GET", "/headers", fields, typed=iter)
    await ask(app, "GET", "/model", [("cookie", "a=5")])
    await ask(app, "GET", "/model", [("cookie", "a=x; day=y")])
    await ask(app, "HEAD", "/query?a=1")
    await ask(app, "GET", "/sub/query?a=x", root_path="/sub")
finish(main())
"""


BODIES = """
@app.post("/model", status_code=201)
async def model(m: Model) -> Model: return m

@app.post("/two")
async def two(m: Model, i: Inner, k: Annotated[int, Body()]): return {"m": m, "i": i, "k": k}

@app.post("/embedded")
async def embedded(i: Annotated[Inner, Body(embed=True)]): return i

@app.post("/any")
async def anything(b: Any = Body()): return repr(b)

@app.post("/optional")
async def optional(i: Inner | None = None): return {"i": i}

@app.post("/default")
async def default(i: Annotated[Inner, Body(default_factory=lambda: Inner(a=7))]): return i

@app.post("/union")
async def union(b: Union[Inner, list[Inner], str]): return repr(b)

@app.put("/bytes")
async def raw(b: Annotated[bytes, Body(media_type="application/x")], q: int = 1): return len(b)

@app.post("/form")
async def form(a: Annotated[int, Form()], f: UploadFile | None = None): return a

@app.post("/request")
async def request(request: Request, i: Inner):
    return [(await request.body()).decode(), await request.json(), i]

def below(i: Inner): return i.a

@app.post("/below")
async def twice(i: Inner, b: Annotated[int, Depends(below)]): return [i, b]

lax = APIRouter(strict_content_type=False)
@lax.post("/lax")
async def lax_model(i: Inner): return i
app.include_router(lax)

class Loud(Request):
    async def body(self):
        log.append("loud")
        return (await super().body()).replace(b"1", b"2")

from fastapi.routing import APIRoute
class LoudRoute(APIRoute):
    def get_route_handler(self):
        original = super().get_route_handler()
        async def custom(request):
            return await original(Loud(request.scope, request.receive))
        return custom
loud = APIRouter(route_class=LoudRoute)
@loud.post("/loud")
async def loud_model(i: Inner): return [i, log.copy()]
app.include_router(loud)

class PresetRoute(APIRoute):
    def get_route_handler(self):
        original = super().get_route_handler()
        async def custom(request):
            request._body = b'{"a":7}'
            return await original(request)
        return custom
preset = APIRouter(route_class=PresetRoute)
@preset.post("/preset")
async def preset_model(i: Inner): return i
app.include_router(preset)

@app.exception_handler(RequestValidationError)
async def invalid(request, exc):
    found = [exc, exc.body, exc.errors(), await request.body()]
    return JSONResponse([str(exc), *map(repr, found)], 422)

async def main():
    bodies = [b"", b"{}", b'{"Name":"aa","inner":[{"a":1,"day":"2020-01-01"}],"colour":"blue"}',
              b'{"Name":"a","inner":[{"a":"x"}],"colour":"green"}', b"[1]", b"null", b"nul",
              b'{"a":1', b'{"a":1}}', b' {"a":1} ', b'{"a":NaN}', b"\\xff\\xfe", b'{"a":1,"a":2}',
              *('{"a":1}'.encode(name) for name in ("utf-16", "utf-16-le", "utf-8-sig")),
              b'{"m":{"Name":"aa"},"i":{"a":1},"k":3}', b'{"i":{"a":"1"}}', b'{"a":1e400}', b'"x"',
              b"a=1", b'{"\\xff":1}', b'{"\\xed\\xa0\\x80":1}',
              b'{"a":' * 3000 + b"1" + b"}" * 3000,
              b'{"a":12345678901234567890123}', b"{\\x00}", b"{", b"}", b'{"a":1}x}', b'[{"a":1}]']
    types = ["application/json", "application/vnd.x+json; charset=utf-8", "text/plain", None, ";;",
             "application/x-www-form-urlencoded", "APPLICATION/JSON", "multipart/form-data", ""]
    for path in ("/model", "/two", "/embedded", "/any", "/optional", "/default", "/union", "/form",
                 "/request", "/below", "/lax", "/loud", "/preset"):
        for body in bodies:
            for kind in types if path in ("/model", "/any", "/lax") else types[:3]:
                fields = [] if kind is None else [("content-type", kind)]
                await ask(app, "POST", path, fields, body)
    await ask(app, "PUT", "/bytes", [("content-type", "application/x")], b"abc")
    for cut in (1, 6):
        await ask(app, "POST", "/model", [JSON], b'{"Name":"aa"}', cut=cut)
    gone = [[], [{"type": "http.disconnect"}], [{"type": "http.request", "more_body": True}],
            [{"type": "other"}, {"type": "http.request", "body": b'{"a":1}'}]]
    for messages in gone:
        async def receive(): return messages.pop(0) if messages else {"type": "http.disconnect"}
        async def gone_app(scope, _, send): await app(scope, receive, send)
        await ask(gone_app, "POST", "/request", [JSON])
    async def raising(): raise RuntimeError("lost")
    async def lost_app(scope, _, send): await app(scope, raising, send)
    await ask(lost_app, "POST", "/request", [JSON])
    limited = FastAPI(max_body_size=5)
    limited.post("/model")(model)
    await ask(limited, "POST", "/model", [JSON], b'{"Name":"aa"}', cut=4)
finish(main())
"""


DEPENDENCIES = """
def gen(name, fails=None):
    def generator():
        log.append(f"in {name}")
        try:
            yield name
        except HTTPException as exc:
            log.append(f"{name} {exc.status_code}")
            raise
        finally:
            log.append(f"out {name}")
            if fails: raise fails
    return generator

async def agen(x: int = 1):
    log.append("ain")
    var.set("a")
    try:
        yield x
    except ValueError:
        raise HTTPException(499)
    finally:
        log.append("aout")

async def swallow():
    try: yield 1
    except Exception: log.append("swallowed")

one, two, failing = gen("one"), gen("two"), gen("three", KeyError("late"))

@app.get("/generators")
async def generators(a=Depends(one), b=Depends(two, scope="function"), c=Depends(agen)):
    return [a, b, c, var.get(), list(log)]

@app.get("/log")
async def get_log():
    found = list(log)
    log.clear()
    return found

@app.get("/value-error")
async def value_error(a=Depends(one), c=Depends(agen)): raise ValueError("mine")

@app.get("/http-error")
async def http_error(a=Depends(one), b=Depends(two, scope="function")):
    raise HTTPException(400, "no")

@app.get("/swallow")
async def swallowing(a=Depends(swallow)): raise ValueError

@app.get("/swallow-function")
async def swallowing_function(a=Depends(swallow, scope="function")): raise ValueError

@app.get("/failing")
async def failing_exit(a=Depends(failing), b=Depends(one)): return 1

calls = []
def counted(n: int = 0):
    calls.append(n)
    return len(calls)
def nested(a=Depends(counted)): return a
async def deeper(a=Depends(nested), b=Depends(counted), q: int = 5): return [a, b, q]

@app.get("/cache")
async def cache(a=Depends(counted), b=Depends(nested), c=Depends(counted, use_cache=False),
                d=Depends(deeper), e=Depends(deeper, use_cache=False)):
    found = [a, b, c, d, e, list(calls)]
    calls.clear()
    return found

class Taken:
    def __init__(self, z: int, y: str = "y"): self.z, self.y = z, y
class Callable:
    async def __call__(self, z: int): return z
class SyncCallable:
    def __call__(self, z: int, t: BackgroundTasks): t.add_task(log.append, z); return z
import functools
@app.get("/kinds", dependencies=[Depends(counted)])
async def kinds(c: Annotated[Taken, Depends()], d: Annotated[Taken, Depends(Taken)],
                e=Depends(Callable()), f=Depends(SyncCallable()),
                g=Depends(functools.partial(counted, 4)), h=Depends(lambda z: z)):
    return [c.z, c.y, d.z, c is d, e, f, g, h]

oauth = OAuth2PasswordBearer(tokenUrl="t", scopes={"r": "R"})
async def user(s: SecurityScopes, t: Annotated[str, Depends(oauth)]):
    return [t, s.scopes, s.scope_str]
@app.get("/scopes")
async def scopes(u=Security(user, scopes=["r"]), v=Security(user, scopes=["w"]), w=Depends(user)):
    return [u, v, w]

@app.get("/basic")
async def basic(u=Depends(HTTPBasic())): return u

async def sets(response: Response, request: Request, tasks: BackgroundTasks, status: int = 0):
    response.headers.append("x-set", "1")
    response.status_code = status or None
    tasks.add_task(log.append, "task")
def sets_sync(response: Response): response.headers.append("x-set", "2")

@app.get("/sets", status_code=203)
async def setting(response: Response, a=Depends(sets), b=Depends(sets_sync)) -> list[int]:
    return [len(log)]
@app.get("/sets-class")
async def setting_class(a=Depends(sets)): return HTMLResponse("x")
@app.get("/sets-nothing")
def setting_nothing(a=Depends(sets)) -> dict[str, int]: return {"a": 1}

async def alters(request: Request):
    request.scope["query_string"] = b"z=9"
    request.headers._list.append((b"x-late", b"1"))
    request.scope["path_params"] = {"p": "8"}
async def rebinds(request: Request): request.scope["headers"] = [(b"x-late", b"2")]
def reads(x_late: Annotated[str | None, Header()] = None): return x_late
@app.get("/alters/{p}")
async def altering(p: int, a=Depends(alters), b=Depends(reads), z: int = 1,
                   x_late: Annotated[str | None, Header()] = None): return [p, b, z, x_late]
@app.get("/rebinds/{p}")
async def rebinding(p: int, a=Depends(rebinds), b=Depends(reads)): return [p, b]

async def refuses(z: int): raise HTTPException(403, headers={"x-no": "1"})
def raises_stop(): raise StopIteration("s")
async def async_stop(): raise StopAsyncIteration
async def base(): raise SystemExit(3)
raising = {"refuses": refuses, "stop": raises_stop, "astop": async_stop, "base": base}
for name, dependency in raising.items():
    app.get(f"/{name}", dependencies=[Depends(counted), Depends(dependency), Depends(one)])(get_log)

@app.get("/limited")
async def limited(a=Depends(counted, max_concurrency=1), b=Depends(nested, max_concurrency=2),
                  c=Depends(deeper), d=Depends(agen, max_concurrency=1)):
    found = [a, b, c, d, list(calls)]
    calls.clear()
    return found

def wrong(q: int, w: int = Query()): calls.append("wrong")
def fine(): calls.append("fine")
def below_wrong(a=Depends(wrong), b=Depends(fine), x: int = 1): calls.append("below")
@app.get("/errors/{p}")
async def errors(p: int, a=Depends(below_wrong), b=Depends(fine), c=Depends(wrong, use_cache=False),
                 y: int = Query(gt=3)): return calls

router = APIRouter(prefix="/v1/{org}", dependencies=[Depends(nested)])
@router.get("/items/{i}")
async def item(org: str, i: int, request: Request):
    return [org, i, sorted(request.path_params), request.url_for("item", org="o", i=3).path]
app.include_router(router)
app.include_router(router, prefix="/again", dependencies=[Depends(refuses)])
below_app = FastAPI()
@below_app.get("/y/{z}")
async def mounted(z: int, request: Request): return [z, request.scope["root_path"]]
app.mount("/mounted", below_app)

def other(d=Depends(counted)): calls.append("other")
async def overrides(): app.dependency_overrides[fine] = other
async def restores(): app.dependency_overrides.clear()
def once(): calls.append("once")
def later(): calls.append("later")
def needing(a=Depends(once), b=Depends(later)): calls.append("needing")
async def overrides_more(): app.dependency_overrides[agen] = needing
@app.get("/overriding")
async def overriding(a=Depends(counted), b=Depends(overrides), c=Depends(fine), d=Depends(restores),
                     e=Depends(counted), f=Depends(fine, use_cache=False)):
    found = [a, e, *calls]
    calls.clear()
    return found
@app.get("/overriding-more")
async def overriding_more(a=Depends(once), b=Depends(overrides_more), c=Depends(agen),
                          d=Depends(restores), e=Depends(later)):
    found = list(calls)
    calls.clear()
    return found

async def main():
    paths = [
        "/generators", "/log", "/generators?x=q", "/log", "/value-error", "/log", "/http-error",
        "/log", "/swallow", "/log", "/swallow-function", "/log", "/failing", "/log", "/cache",
        "/cache?n=4", "/cache?n=x", "/cache?q=x", "/kinds?z=1", "/kinds?z=1&y=q", "/kinds", "/log",
        "/scopes", "/basic", "/sets", "/sets?status=208", "/sets?status=204",
        "/sets-class?status=208", "/sets-nothing?status=208", "/sets-nothing?status=304", "/log",
        "/alters/5", "/rebinds/5", "/refuses?z=1", "/refuses", "/stop", "/astop", "/base", "/log",
        "/limited", "/limited?n=x", "/limited?x=q", "/log", "/errors/5", "/errors/x?q=1&w=2&y=1",
        "/errors/5?q=1&w=2&y=9", "/errors/5?q=1&y=9&x=x", "/v1/a/items/5", "/v1/a/items/x",
        "/again/v1/a/items/5?z=1", "/mounted/y/3", "/mounted/y/x", "/overriding", "/overriding",
        "/overriding-more",
    ]
    for path in paths:
        for fields in ([], [("authorization", "Bearer abc")], [("authorization", "Basic dTpw")]):
            if not fields or path in ("/scopes", "/basic", "/rebinds/5", "/alters/5"):
                await ask(app, "GET", path, fields)
                var.set("asked")
    for breaks in (0, 1):
        for path in ("/generators", "/sets", "/more"):
            await ask(app, "GET", path, breaks=breaks)
            await ask(app, "GET", "/log")
finish(main())
"""


RESPONSES = """
class Custom(JSONResponse):
    media_type = "application/x+json"
    def render(self, content): return b"custom " + super().render(content)

class Aware(BaseModel):
    x: int = 1
    y: Annotated[str, PlainSerializer(lambda v: v + var.get())] = "y"
    @field_validator("x")
    @classmethod
    def seen(cls, value):
        log.append(var.get())
        if value == 13: raise LookupError("bad luck")
        return value

def circular():
    found = []
    found.append(found)
    return found

def deep(levels):
    found = 1
    for _ in range(levels): found = [found]
    return found

class Strange(dict): pass
RESULTS = {
    "none": None, "true": True, "text": "é\\u2028\\x00\\x7f\\"", "int": 2**70, "float": 1e16,
    "nan": float("nan"), "infinite": {"a": float("-inf")},
    "list": [1, [2, {"a": None, "b": [1.5, "x"]}]], "dict": {"a": 1, "_sa": 2, "b": {"_sa_y": 3}},
    "keys": {1: "a", None: "b", 2.5: "c"}, "tuple": (1, {2}), "day": datetime.date(2020, 1, 1),
    "model": Model(Name="aa"), "enum": Colour.red, "strange": Strange(a=1), "surrogate": "\\ud83d",
    "deep": deep(30), "deeper": deep(1200), "circular": circular(), "bytes": b"abc", "empty": {},
    "response": PlainTextResponse("x", 203, {"x-y": "z"}), "json": JSONResponse([1]),
    "object": object(),
    "inner": Inner(a=1), "bad": {"a": "no"}, "good": {"a": "5", "day": "2020-01-01"},
}
OPTIONS = {
    "plain": {}, "status": {"status_code": 201}, "enum": {"status_code": http.HTTPStatus.ACCEPTED},
    "204": {"status_code": 204}, "205": {"status_code": 205}, "304": {"status_code": 304},
    "any": {"response_model": Any}, "model": {"response_model": Inner},
    "str": {"response_model": str},
    "union": {"response_model": Union[Inner, Model, None]}, "class": {"response_class": Custom},
    "class-model": {"response_class": Custom, "response_model": Inner},
    "json": {"response_class": JSONResponse, "response_model": Inner},
    "html": {"response_class": HTMLResponse}, "unset": {
        "response_model": Model, "response_model_exclude_unset": True,
        "response_model_by_alias": False,
    },
    "include": {"response_model": Model, "response_model_include": {"name"}},
    "exclude": {
        "response_model": Inner, "response_model_exclude_none": True,
        "response_model_exclude": {"a"},
    },
    "defaults": {"response_model": Inner, "response_model_exclude_defaults": True},
}
def add(name, options):
    async def endpoint(result: str, response: Response, tasks: BackgroundTasks, code: int = 0):
        if code: response.status_code = code
        tasks.add_task(log.append, result)
        return RESULTS[result]
    def in_thread(result: str): return RESULTS[result]
    app.get(f"/{name}/{{result}}", **options)(endpoint)
    app.get(f"/sync/{name}/{{result}}", **options)(in_thread)
for name, options in OPTIONS.items():
    if "response_class" not in options: options.setdefault("response_model", None)
    add(name, options)

@app.get("/aware")
async def aware(x: int = 1) -> Aware:
    var.set("endpoint")
    return {"x": x}
@app.get("/sync-aware")
def sync_aware(x: int = 1) -> Aware:
    var.set("endpoint")
    return {"x": x}

@app.get("/log")
async def get_log():
    found = list(map(str, log))
    log.clear()
    return found

@app.get("/stream")
async def stream():
    async def parts():
        for number in range(3): yield str(number)
        raise ValueError("late")
    return StreamingResponse(parts())
@app.get("/generated", response_class=StreamingResponse)
async def generated():
    yield "a"
@app.get("/lines")
async def lines_of() -> Any:
    yield {"a": 1}
@app.get("/redirect")
async def redirect(): return RedirectResponse("/stream")
@app.get("/raises")
async def raising(code: int = 0):
    if code: raise HTTPException(code, {"a": code}, {"x-b": "2"})
    raise ValueError("mine")
@app.get("/sync-raises")
def sync_raising(code: int = 0):
    if code == 1: raise StopIteration("s")
    if code: raise HTTPException(code)
    raise ValueError("mine")

async def main():
    for name in OPTIONS:
        for result in RESULTS:
            await ask(app, "GET", f"/{name}/{result}")
            if name in ("plain", "model", "class", "204", "unset"):
                await ask(app, "GET", f"/sync/{name}/{result}")
        for code in (200, 204, 205, 100, 418, 999):
            await ask(app, "GET", f"/{name}/inner?code={code}")
    for path in ("/aware", "/sync-aware", "/aware?x=13", "/sync-aware?x=13", "/aware?x=x", "/log",
                 "/stream", "/generated", "/lines", "/redirect", "/raises", "/raises?code=418",
                 "/sync-raises", "/sync-raises?code=409", "/sync-raises?code=1", "/openapi.json"):
        var.set("asked")
        await ask(app, "GET", path)
finish(main())
"""

ALL = "introspection,telemetry,parameters,stacks"
GROUPS = ("parameters", ALL)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=name)
        for name, program in (
            ("parameters", PARAMETERS),
            ("bodies", BODIES),
            ("dependencies", DEPENDENCIES),
            ("responses", RESPONSES),
        )
    ],
)
def test_same_answers(program, groups):
    asking.both(SHAPES + program, groups)


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

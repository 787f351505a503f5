"""Programs that ask routes with parameters and bodies of all kinds; see asking.py."""

from __future__ import annotations

ALL = "introspection,telemetry,parameters,stacks"
GROUPS = ("parameters", ALL)

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

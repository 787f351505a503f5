"""The group `parameters`: the same answers as FastAPI's own handler, and its own wherever something
is not as it was.
"""

from __future__ import annotations

import asking
import pytest
from shapes import BODIES, GROUPS, PARAMETERS, SHAPES

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

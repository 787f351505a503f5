"""Makes applications of FastAPI at random, and requests for them: the same for the same seed."""

from __future__ import annotations

from random import Random
from typing import Any

from compare import Case

HEAD = """\
import asyncio, contextvars, datetime, decimal, enum, uuid
from typing import Annotated, Literal
from fastapi import (
    APIRouter, BackgroundTasks, Body, Cookie, Depends, FastAPI, File, Form, Header, HTTPException,
    Path, Query, Request, Response, Security, UploadFile, WebSocket,
)
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from pydantic import BaseModel, Field, field_validator
from starlette.requests import HTTPConnection
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

var = contextvars.ContextVar("var", default="unset")

class Colour(enum.Enum):
    red = "red"
    blue = "blue"

class Inner(BaseModel):
    n: int = 3
    when: datetime.date | None = None

class Item(BaseModel):
    name: str = Field(min_length=2, alias="Name")
    inner: list[Inner] = []
    colour: Colour = Colour.red
    price: float | None = None
    model_config = {"populate_by_name": True}

    @field_validator("price")
    @classmethod
    def not_negative(cls, value):
        if value is not None and value < 0:
            raise ValueError("negative")
        return value

class Other(BaseModel):
    kind: Literal["other"]
    size: int

class Own(Exception):
    pass

async def note(text):
    log.append(("task", text, var.get()))

def note_sync(text):
    log.append(("sync task", text, var.get()))

async def note_failing(text):
    raise HTTPException(410)

async def breaking():
    yield b"1"
    raise HTTPException(411)
"""
# name, annotation with default (or without), values to send
QUERY = [
    ("a", "int | None = None", ["1", "x", "", "-5"]),
    ("b", "str = 'b'", ["y", "", "%C3%A9", "a+b", "a%20b", "é"]),
    ("c", "bool = False", ["true", "0", "maybe"]),
    ("d", "Annotated[list[int], Query()] = [1]", ["2", "q"]),
    ("e", "Colour | None = None", ["red", "green"]),
    ("f", "Annotated[float, Query(ge=0, alias='f-f')]", ["1.5", "-1", "nan"]),
    ("g", "Annotated[str | None, Query(max_length=3)] = None", ["abc", "abcd"]),
    ("h", "Annotated[int, Query(default_factory=lambda: 7)]", ["8", "z"]),
    ("i", "datetime.date | None = None", ["2020-02-29", "2020-02-30"]),
    ("j", "Literal['u', 'v'] = 'u'", ["v", "w"]),
    ("k", "Annotated[int, Query(validate_default=True)] = 'no'", ["9"]),
    ("o", "Annotated[set[str] | None, Query()] = None", ["s", "t"]),
]
HEADERS = [
    ("x_token", "Annotated[str | None, Header()] = None", "x-token", ["t", "é"]),
    ("x_many", "Annotated[list[str], Header()] = []", "x-many", ["1", "2"]),
    ("x_raw", "Annotated[int, Header(alias='X-Number')] = 4", "x-number", ["5", "n"]),
    ("x_need", "Annotated[str, Header()]", "x-need", ["yes"]),
]
COOKIES = [
    ("sid", "Annotated[str | None, Cookie()] = None", ["5", "a b"]),
    ("num", "Annotated[int, Cookie()] = 1", ["7", "x"]),
]
PATHS = [
    ("{pid}", "pid", "int", ["5", "x", "-3", "99999999999999999999"]),
    ("{pid:int}", "pid", "int", ["5", "x"]),
    ("{pid:float}", "pid", "float", ["1.5", "2", "x"]),
    ("{pid:uuid}", "pid", "uuid.UUID", ["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "no"]),
    ("{pid:path}", "pid", "str", ["a/b", "", "c"]),
    ("{pid}.json", "pid", "str", ["f.json", "f.txt", "a.b.json"]),
    ("me", "", "", ["me", "Me"]),
    ("{pid}", "pid", "Colour", ["red", "pink"]),
]
BODIES = [
    (
        "item: Item",
        ['{"Name":"aa"}', '{"Name":"a","inner":[{"n":"x"}]}', '{"name":"bb","price":-1}'],
    ),
    ("item: Item | None = None", ['{"Name":"aa"}', "null"]),
    ("item: Item | Other", ['{"kind":"other","size":1}', '{"Name":"aa"}', "{}"]),
    ("item: Annotated[Item, Body(embed=True)]", ['{"item":{"Name":"aa"}}', '{"Name":"aa"}', "[1]"]),
    (
        "item: Item, other: Other",
        ['{"item":{"Name":"aa"},"other":{"kind":"other","size":2}}', "{}"],
    ),
    ("item: list[Inner]", ['[{"n":1},{"n":"2"}]', '[{"n":"x"}]', "{}"]),
    ("item: dict[str, int]", ['{"a":1}', '{"a":"b"}']),
    ("item: Annotated[int, Body()]", ["5", '"5"', "x"]),
    ("item: Annotated[str, Form()] = 'f'", ["item=1", "item=&item=2", ""]),
    ("item: Annotated[Inner, Form()]", ["n=1&when=2020-01-01", "n=x"]),
    ("item: Annotated[UploadFile | None, File()] = None", []),
    ("item: Annotated[bytes, Body(media_type='text/plain')]", ["raw", ""]),
]
ODD_BODIES = [
    *("", "{", '{"Name":"aa"', '{"Name":"aa"}}', ' {"Name":"aa"} ', "nul", "[1,2]", "\xff\xfe{"),
    *('{"a":NaN}', '{"Name":"aa","Name":"bb"}', "\xef\xbb\xbf{}", '{"a":1e400}', '"x"'),
]
MULTIPART = (
    "--b\r\nContent-Disposition: form-data; name=item; filename=f.txt\r\n\r\ncontent\r\n--b--\r\n"
)
TYPES = [
    *(
        "application/json",
        "application/vnd.x+json; charset=utf-8",
        "APPLICATION/JSON",
        "text/plain",
    ),
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", ";;", ""),
]
RETURNS = [
    "values",
    "values",
    "values",
    "{'nested': [{'a': None, 'b': True, 'c': 1.5, 'd': 'é'}], '_sa_x': 1}",
    "{1: 'a', None: 2, 'when': datetime.date(2020, 1, 1), 'd': decimal.Decimal('1.50')}",
    "Inner(n=4)",
    "Item(Name='aa', price=2)",
    "[Inner(), Inner(n=2)]",
    "None",
    "'text'",
    "float('nan')",
    "(1, 2)",
    "{'bad': object}",
    "JSONResponse({'own': 1}, 202, {'x-own': '1'})",
    "PlainTextResponse('plain')",
    "Response(status_code=204)",
    "RedirectResponse('/elsewhere')",
    "StreamingResponse(parts(), media_type='text/plain')",
    "StreamingResponse(iter([b'1', b'2']))",
    "StreamingResponse(breaking())",
]
RAISES = [
    "raise HTTPException(418, {'tea': 1}, {'x-tea': '1'})",
    "raise HTTPException(204)",
    "raise ValueError('endpoint')",
    "raise Own('endpoint')",
    "raise RequestValidationError([{'loc': ('a',), 'msg': 'm', 'type': 't'}])",
    "raise StopIteration",
    "raise asyncio.CancelledError",
]
MODELS = [
    "",
    "",
    "",
    "Inner",
    "Item",
    "list[Inner]",
    "dict[str, str]",
    "int",
    "Inner | None",
    "None",
]
OPTIONS = [
    *("status_code=201", "response_class=PlainTextResponse", "response_class=JSONResponse"),
    *("response_model_exclude_unset=True", "response_model_exclude_none=True"),
    *("response_model_by_alias=False", "response_model_exclude={'n'}", "status_code=204"),
    *("response_model_include={'name'}", "response_class=HTMLResponse", "status_code=304"),
]
METHODS = ["get", "get", "get", "post", "put", "delete"]


class Maker:
    """Makes one application.

    Attributes:
        routes: of each route its method, the path in the whole application, and what it takes.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.lines: list[str] = []
        self.dependencies: list[str] = []
        self.routes: list[dict[str, Any]] = []

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def case(self) -> Case:
        choose = self.random.choice
        for number in range(self.random.randint(1, 5)):
            self.dependency(number)
        options = [
            option
            for option in ("root_path='/r'", "redirect_slashes=False", "docs_url=None")
            if self.chance(0.1)
        ]
        if self.chance(0.1):
            options.append("max_body_size=20")
        if self.chance(0.15):
            options.append(f"dependencies=[Depends({choose(self.dependencies)})]")
        self.lines.append(f"app = FastAPI({', '.join(options)})")
        self.lines.append("router, inner = APIRouter(prefix='/p'), APIRouter()")
        self.lines.append("below = FastAPI(); below.dependency_overrides_provider = None")
        for number in range(self.random.randint(2, 6)):
            owner, prefix = choose(
                [("app", ""), ("app", ""), ("router", "/v/p"), ("inner", "/v/p/i"), ("below", "/m")]
            )
            self.route(number, owner, prefix)
        if self.chance(0.3):
            self.handlers()
        self.lines.append("router.include_router(inner, prefix='/i')")
        extra = f", dependencies=[Depends({choose(self.dependencies)})]" if self.chance(0.3) else ""
        self.lines.append(f"app.include_router(router, prefix='/v'{extra})")
        if self.chance(0.5):
            self.lines.append("app.mount('/m', below)")
        self.middleware()
        self.websocket()
        steps: list[Any] = []
        for _ in range(12):
            if self.chance(0.05):
                target, other = choose(self.dependencies), choose(self.dependencies)
                steps.append(f"app.dependency_overrides[{target}] = {other}")
            elif self.chance(0.03):
                steps.append("app.dependency_overrides.clear()")
            elif self.chance(0.03):
                steps.append("@app.get('/late')\nasync def late(a: int = 1): return a")
            steps.append(self.request())
        at_once = self.chance(0.1)
        if at_once:
            # FastAPI names the path in an error from a dictionary that the endpoint's requests
            # share, so it may be that of another request.
            for step in steps:
                if isinstance(step, dict):
                    step.pop("root_path", None)
        return Case(HEAD + "\n".join(self.lines), steps, at_once=at_once)

    def arguments(self, kinds: int) -> tuple[str, str, dict[str, Any]]:
        """Arguments of a function, an expression of their values, and what to send for them."""
        takes: dict[str, Any] = {"query": [], "headers": [], "cookies": []}
        found: list[tuple[str, str]] = []
        for _ in range(self.random.randint(0, kinds)):
            table = self.random.choice([QUERY, QUERY, QUERY, HEADERS, COOKIES])
            entry: Any = self.random.choice(table)
            if any(name == entry[0] for name, _ in found):
                continue
            found.append((entry[0], entry[1]))
            name = "f-f" if entry[0] == "f" else entry[0]
            if table is QUERY:
                takes["query"].append((name, entry[2]))
            elif table is HEADERS:
                takes["headers"].append((entry[2], entry[3]))
            else:
                takes["cookies"].append((entry[0], entry[2]))
        text = ", ".join(f"{name}: {kind}" for name, kind in found)
        shown = ", ".join(f"{name!r}: repr({name})" for name, _ in found)
        return text, "{" + shown + "}", takes

    def specials(self) -> list[tuple[str, str]]:
        """Arguments that FastAPI fills in by their type, and what is done with each."""
        found = []
        if self.chance(0.15):
            found.append(("request: Request", "log.append(('query', str(request.query_params)))"))
        if self.chance(0.1):
            found.append(("conn: HTTPConnection", "log.append(('path', conn.url.path))"))
        if self.chance(0.2):
            done = "response.headers['x-set'] = '1'; response.set_cookie('k', 'v')"
            if self.chance(0.3):
                done += "; response.status_code = 206"
            found.append(("response: Response", done))
        if self.chance(0.2):
            task = self.random.choice(["note", "note_sync", "note_failing"])
            found.append(("tasks: BackgroundTasks", f"tasks.add_task({task}, 'added')"))
        return found

    def dependency(self, number: int) -> None:
        name = f"dep{number}"
        text, shown, takes = self.arguments(2)
        arguments, body = [], []
        for argument, done in self.specials():
            arguments.append(argument)
            body.append(done)
        if self.dependencies and self.chance(0.5):
            other = self.random.choice(self.dependencies)
            cache = ", use_cache=False" if self.chance(0.2) else ""
            arguments.append(f"below_{number}: Annotated[object, Depends({other}{cache})]")
            body.append(f"log.append(('below', repr(below_{number})))")
        if text:
            arguments.append(text)
        body += [f"log.append(({name!r}, {shown}, var.get()))", f"var.set({name!r})"]
        kind = self.random.choice(["async def", "async def", "def"])
        if self.chance(0.1):
            body.append(self.random.choice(RAISES[:4]))
        if self.chance(0.35):
            self.generator(name, kind, arguments, body)
        else:
            body.append(f"return {number}")
            self.define(kind, name, arguments, body)
        self.dependencies.append(name)
        self.takes = {**getattr(self, "takes", {}), name: takes}

    def generator(self, name: str, kind: str, arguments: list[str], body: list[str]) -> None:
        after = f"log.append(('after', {name!r}))"
        refusing = "log.append(repr(exc)); raise HTTPException(409) from exc"
        swallowing = f"log.append(repr(exc)){self.random.choice(['', '; raise'])}"
        ending = self.random.choice(
            [
                f"try:\n        yield {name!r}\n    finally:\n        {after}",
                f"yield {name!r}\n    {after}",
                f"try:\n        yield {name!r}\n    except ValueError as exc:\n        {refusing}",
                f"try:\n        yield {name!r}\n    except Exception as exc:\n        {swallowing}",
                f"yield {name!r}\n    raise Own('exit')",
            ]
        )
        self.define(kind, name, arguments, [*body, ending])

    def define(self, kind: str, name: str, arguments: list[str], body: list[str]) -> None:
        lines = "\n    ".join(body)
        self.lines.append(
            f"{kind} {name}(*, {', '.join(arguments)}):\n    {lines}".replace("(*, )", "()")
        )

    def route(self, number: int, owner: str, prefix: str) -> None:
        choose = self.random.choice
        path, name, kind, values = choose(PATHS)
        method = choose(METHODS)
        text, shown, takes = self.arguments(3)
        arguments = [f"{name}: {kind}"] if name else []
        if text:
            arguments.append(text)
        body = []
        for argument, done in self.specials():
            arguments.append(argument)
            body.append(done)
        for at in range(self.random.choice([0, 0, 1, 1, 2])):
            dependency = choose(self.dependencies)
            scope = choose(["", "", ", scope='function'", ", scope='request'"])
            arguments.append(f"dep_{at}: Annotated[object, Depends({dependency}{scope})]")
            body.append(f"log.append(('dep', repr(dep_{at})))")
        bodies: list[str] = []
        if method in ("post", "put") and self.chance(0.8):
            taken, bodies = choose(BODIES)
            arguments.append(taken)
            body.append("log.append(repr(item))")
        body.append(f"values = {shown}; log.append(('endpoint', var.get()))")
        if name:
            body.append(f"values['pid'] = repr({name})")
        body.append(choose(RAISES) if self.chance(0.15) else f"return {choose(RETURNS)}")
        options = [option for option in OPTIONS if self.chance(0.05)]
        options = list({option.split("=")[0]: option for option in options}.values())
        model = choose(MODELS)
        if model and "status_code=204" not in options and "status_code=304" not in options:
            options.append(f"response_model={model}")
        base = f"/x{number % 3}/{path}"
        decorator = f"@{owner}.{method}({', '.join([repr(base), *options])})"
        kind = choose(["async def", "async def", "async def", "def"])
        self.lines.append("async def parts():\n    for i in range(3):\n        yield f'{i}'")
        self.lines.append(decorator)
        self.define(kind, f"end{number}", arguments, body)
        for value in values:
            shown_path = f"{prefix}/x{number % 3}/{value}"
            self.routes.append(
                {"method": method, "path": shown_path, "takes": takes, "bodies": bodies}
            )

    def handlers(self) -> None:
        kind = self.random.choice(["async def", "def"])
        what = self.random.choice(
            ["Own", "ValueError", "418", "RequestValidationError", "Exception"]
        )
        self.lines.append(
            f"@app.exception_handler({what})\n{kind} handle(request, exc):\n"
            f"    log.append(('handler', repr(exc)))\n    return PlainTextResponse('handled', 555)"
        )

    def middleware(self) -> None:
        if self.chance(0.15):
            self.lines.append(
                "@app.middleware('http')\nasync def timing(request, call_next):\n"
                "    response = await call_next(request)\n"
                "    response.headers['x-time'] = '1'\n    return response"
            )
        if self.chance(0.15):
            self.lines.append("app.add_middleware(CORSMiddleware, allow_origins=['*'])")
        if self.chance(0.15):
            self.lines.append(
                "class Pure:\n    def __init__(self, app): self.app = app\n"
                "    async def __call__(self, scope, receive, send):\n"
                "        log.append(scope['type'])\n"
                "        try:\n            await self.app(scope, receive, send)\n"
                "        finally:\n            log.append('left')\n"
                "app.add_middleware(Pure)"
            )

    def websocket(self) -> None:
        if not self.chance(0.3):
            return
        owner, path = self.random.choice([("app", "/x0/{pid}"), ("router", "/x0/{pid}")])
        dependency = self.random.choice(self.dependencies)
        self.lines.append(
            f"@{owner}.websocket({path!r})\n"
            f"async def talk(websocket: WebSocket, pid: int,"
            f" d: Annotated[object, Depends({dependency})]):\n"
            "    await websocket.accept()\n"
            "    async for text in websocket.iter_text():\n"
            "        await websocket.send_text(text * pid)"
        )
        path = path if owner == "app" else f"/v/p{path}"
        self.routes.append({"messages": ["a", "b"], "path": path.replace("{pid}", "2")})

    def request(self) -> dict[str, Any]:
        choose = self.random.choice
        if self.chance(0.08):
            paths = [
                "/",
                "/late",
                "/x0",
                "/x0/",
                "//x1/5",
                "/openapi.json",
                "/docs",
                "/v/p/i",
                "/m",
            ]
            return {"method": choose(["GET", "HEAD", "POST", "OPTIONS"]), "path": choose(paths)}
        route = choose(self.routes)
        if "messages" in route:
            return dict(route)
        path = route["path"]
        if self.chance(0.05):
            path += choose(["/", "\n", "%20", "é"])
        takes = route["takes"]
        request: dict[str, Any] = {"path": path, "method": route["method"].upper()}
        if self.chance(0.07):
            request["method"] = choose(["HEAD", "POST", "OPTIONS", "PATCH", "GET"])
        if self.chance(0.05):
            request["root_path"] = choose(["/v", "/root"])
        request["query"] = self.query(takes["query"])
        headers = []
        for name, values in takes["headers"]:
            headers += [[name, choose(values)] for _ in range(choose([0, 1, 1, 2]))]
        cookies = [
            f"{name}={choose(values)}" for name, values in takes["cookies"] if self.chance(0.7)
        ]
        if cookies:
            headers.append(["cookie", "; ".join(cookies)])
        if self.chance(0.1):
            headers.append(["origin", "https://other.example"])
        if request["method"] in ("POST", "PUT"):
            self.add_body(request, headers, route["bodies"])
        request["headers"] = headers
        if self.chance(0.1):
            request["leaves"] = choose([0, 1, 2])
            request["refuses"] = self.chance(0.5)
        return request

    def query(self, takes: list[Any]) -> str:
        pairs = []
        for name, values in takes:
            for _ in range(self.random.choice([0, 1, 1, 1, 2])):
                if values:
                    pairs.append(f"{name}={self.random.choice(values)}")
        if self.chance(0.15):
            pairs.append(
                self.random.choice(["n=5", "", "junk", "=", "a", "a=%", "n=x&when=2020-01-01"])
            )
        self.random.shuffle(pairs)
        return "&".join(pairs)

    def add_body(self, request: dict[str, Any], headers: list[Any], bodies: list[str]) -> None:
        body = self.random.choice([*bodies, *bodies, *bodies, self.random.choice(ODD_BODIES)])
        kind = "application/json"
        if "=" in body and not body.startswith(("{", "[")):
            kind = "application/x-www-form-urlencoded"
        if self.chance(0.15):
            kind = self.random.choice(TYPES)
        if "multipart" in kind:
            body = MULTIPART
        if kind:
            headers.append(["content-type", kind])
        request["body"] = body
        request["pieces"] = self.random.choice([1, 1, 1, 2, 5])


def case_of(seed: int) -> Case:
    return Maker(seed).case()

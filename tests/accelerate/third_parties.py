"""Packages that reach into FastAPI, with and without acceleration: `make accelerate-third-parties`
installs them into an environment of their own and compares what applications do that use them.

`tests/accelerate/test_third_parties.py` compares those that the tests need anyway.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from compare import ALL, Case, differences, get, post

ROUTES = """
from typing import Annotated
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

class Item(BaseModel):
    name: str

async def one(limit: int = 1):
    yield limit

def add(owner):
    @owner.get("/items/{number}")
    async def item(number: int, one: Annotated[int, Depends(one)]) -> dict[str, int]:
        return {"number": number, "one": one}

    @owner.get("/sync/{number}")
    def sync(number: int) -> int:
        return number

    @owner.post("/items")
    async def create(item: Item) -> Item:
        return item

    @owner.get("/http")
    async def http():
        raise HTTPException(418)

    @owner.get("/fails")
    async def fails():
        raise ValueError("fails")

app = FastAPI()
add(app)
router = APIRouter(prefix="/inner")
add(router)
app.include_router(router)
"""
PATHS = ("/items/5", "/items/x", "/items/5?limit=3", "/sync/7", "/http", "/fails", "/none")
STEPS: list[Any] = [
    get(path.partition("?")[0], path.partition("?")[2])
    for prefix in ("", "/inner")
    for path in (prefix + one for one in PATHS)
]
STEPS += [post("/items", '{"name":"a"}'), post("/inner/items", "{}")]

TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult, SimpleSpanProcessor

class Keep(SpanExporter):
    def export(self, spans):
        for span in spans:
            kept = dict(span.attributes or {})
            status = span.status.status_code.name
            log.append((span.name, span.kind.name, sorted(kept.items()), status,
                        [event.name for event in span.events]))
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Keep()))
"""
# Package: what an application does with it.
USES = {
    "opentelemetry-instrumentation-fastapi": ROUTES
    + TRACED
    + """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
""",
    "opentelemetry-sdk": TRACED + "\ntrace.set_tracer_provider(provider)\n" + ROUTES,
    "sentry-sdk": """
import sentry_sdk
sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1",
    traces_sample_rate=1.0,
    before_send=lambda event, hint: log.append(
        (event.get("transaction"), [one["type"] for one in event["exception"]["values"]])
    ),
    before_send_transaction=lambda event, hint: log.append(
        (event["transaction"], event["transaction_info"], event["contexts"]["trace"]["op"])
    ),
)
"""
    + ROUTES,
    "prometheus-fastapi-instrumentator": ROUTES
    + """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_fastapi_instrumentator import Instrumentator
registry = CollectorRegistry()
Instrumentator(registry=registry).instrument(app)

@app.get("/counted")
def counted():
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if line.startswith("http_requests_total")]
""",
    "slowapi": ROUTES
    + """
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
limiter = Limiter(key_func=lambda request: "one")
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

@app.get("/limited")
@limiter.limit("2/hour")
async def limited(request: Request, a: int = 1):
    return a
""",
    "fastapi-pagination": ROUTES
    + """
from fastapi_pagination import Page, add_pagination, paginate

@app.get("/pages")
async def pages() -> Page[int]:
    return paginate(list(range(30)))

add_pagination(app)
""",
    "fastapi-users": ROUTES
    + """
from fastapi.security import OAuth2PasswordRequestForm
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.authentication.authenticator import Authenticator

class Manager:
    async def get(self, number): return number

async def manager():
    yield Manager()

def strategy(): return JWTStrategy("s" * 32, 60)
backend = AuthenticationBackend("jwt", BearerTransport("login"), strategy)
current = Authenticator([backend], manager).current_user(optional=True)

@app.get("/me")
async def me(user: Annotated[object, Depends(current)]):
    return repr(user)
""",
}
MORE: dict[str, list[Any]] = {
    "prometheus-fastapi-instrumentator": [get("/counted")],
    "slowapi": [get("/limited")] * 3,
    "fastapi-pagination": [get("/pages"), get("/pages", "page=2&size=20"), get("/pages", "size=x")],
    "fastapi-users": [get("/me"), get("/me", headers=[["authorization", "Bearer x"]])],
}


def compare(package: str) -> list[str]:
    """Return what differs."""
    case = Case(USES[package], STEPS + MORE.get(package, []))
    return [f"without: {a}\n   with: {b}" for _, a, b in differences([case], ALL, required=False)]


def main() -> int:
    if len(sys.argv) > 1:  # in the environment of its own
        found = {package: compare(package) for package in USES}
        for package, differing in found.items():
            print(f"{package}: {len(differing)} differences", *differing[:3], sep="\n  ")
        return int(any(found.values()))
    with tempfile.TemporaryDirectory() as temporary:
        venv.create(temporary, with_pip=True)
        python = Path(temporary, "bin", "python")
        root = Path(__file__).resolve().parents[2]
        command = [python, "-m", "pip", "install", "-q", "-e", f"{root}[test]", *USES]
        subprocess.run(command, check=True)
        return subprocess.run([python, __file__, "here"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

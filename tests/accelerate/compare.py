"""Compares applications with and without acceleration: everything that can be seen of each request.

An application is source text, so that it is made anew in an interpreter of each side. It has `app`,
and may append what happens to `log`. Steps of source text may run between requests, too.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

ADDRESS = re.compile(r"0x[0-9a-f]+")
FILE = "<application>"
REFUSED = "refused: "
LONGEST = 30.0  # seconds for a request, which none needs unless it hangs
TIMES = 4  # to look again at what differs
ALL = "introspection,telemetry,parameters,stacks,middleware,router,threads"


@dataclass
class Case:
    """An application, and what it is asked.

    Attributes:
        source: the application.
        steps: requests (dicts) and source to run between them (strings).
        at_once: whether all requests are sent at once.
    """

    source: str
    steps: list[Any] = field(default_factory=list)
    at_once: bool = False


def get(path: str, query: str = "", **more: Any) -> dict[str, Any]:
    return {"method": "GET", "path": path, "query": query, **more}


def post(path: str, body: str, content_type: str = "application/json", **more: Any) -> Any:
    headers = [["content-type", content_type], *more.pop("headers", [])]
    return {"method": "POST", "path": path, "body": body, "headers": headers, **more}


def differences(
    cases: list[Case], groups: str = ALL, fault: str = "", required: bool = True
) -> list[tuple[int, str, str]]:
    """Return for each difference the index of the case, and what is seen without and with.

    Args:
        cases: the applications.
        groups: those that are on, separated by commas.
        fault: source that is run after they have been turned on.
        required: whether all must be on.
    """
    plain, accelerated = observed(cases, ""), observed(cases, groups, fault, required)
    return [
        (index, *pair)
        for index, (first, second) in enumerate(zip(plain, accelerated, strict=True))
        for pair in zip(first, second, strict=True)
        if pair[0] != pair[1]
    ]


def lasting(cases: list[Case], groups: str = ALL) -> list[tuple[int, str, str]]:
    """Return the differences that are more than chance. What a thread does just as the client
    leaves comes now before, now after: such a case differs from itself, too. It is run again
    several times, and what one side shows the other must show once.
    """
    found = []
    for index in sorted({index for index, *_ in differences(cases, groups)}):
        case = [cases[index]]
        plain = [observed(case, "")[0] for _ in range(TIMES)]
        accelerated = [observed(case, groups)[0] for _ in range(TIMES)]
        found += [
            (index, first[0], second[0])
            for first, second in zip(
                zip(*plain, strict=True), zip(*accelerated, strict=True), strict=True
            )
            if not set(first) & set(second)
        ]
    return found


def check(source: str, *steps: Any, groups: str = ALL, at_once: bool = False) -> list[str]:
    """Assert that nothing differs; return what is seen of each request."""
    case = Case(source, list(steps), at_once)
    plain, accelerated = observed([case], ""), observed([case], groups)
    for first, second in zip(plain[0], accelerated[0], strict=True):
        assert first == second
    return plain[0]


def observed(
    cases: list[Case], groups: str, fault: str = "", required: bool = True
) -> list[list[str]]:
    """Run cases in a new interpreter; return what is seen of each request."""
    given = json.dumps([[case.source, case.steps, case.at_once] for case in cases])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, groups, fault, str(required)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": "0"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


# --- In the new interpreter -----------------------------------------------------------------------


current: ContextVar[list[Any]] = ContextVar("current")


class Log:
    """What happens, kept apart for each request."""

    def append(self, event: Any) -> None:
        current.get().append(event)


def main() -> None:
    if sys.argv[1]:
        import thestral.accelerate

        thestral.accelerate.fastapi(sys.argv[1].split(","), require=sys.argv[3] == "True")
        exec(sys.argv[2], {})  # one namespace: functions of the fault see its names
    results = [run_case(*given) for given in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


def run_case(source: str, steps: list[Any], at_once: bool) -> list[str]:
    module = sys.modules["application"] = type(sys)(
        "application"
    )  # where annotations are looked up
    space = vars(module)
    space["log"] = Log()
    try:
        exec(compile(source, FILE, "exec"), space)
    except Exception as exc:  # FastAPI refuses it
        return [f"{REFUSED}{describe(exc)}"]
    return asyncio.run(run_steps(space, steps, at_once))


async def run_steps(space: dict[str, Any], steps: list[Any], at_once: bool) -> list[str]:
    if at_once:
        requests = [step for step in steps if not isinstance(step, str)]
        return list(await asyncio.gather(*(run_request(space, one) for one in requests)))
    found = []
    for step in steps:
        if isinstance(step, str):
            exec(compile(step, FILE, "exec"), space)
        else:
            found.append(await run_request(space, step))
    return found


async def run_request(space: dict[str, Any], request: dict[str, Any]) -> str:
    """Ask the application, and return what can be seen.

    Args:
        request: method, path, query, headers, body, and `pieces` of the body, `leaves` (how many
            messages the client takes before it is gone), `refuses` (send() fails once it is gone),
            `root_path`; or `messages`, those of a WebSocket.
    """
    sent: list[Any] = []
    incoming = messages_of(request)
    leaves = request.get("leaves")
    gone = asyncio.Event()

    async def receive() -> Any:
        if incoming:
            return incoming.pop(0)
        if leaves is None:
            await asyncio.Event().wait()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if leaves is not None and len(sent) >= leaves:
            if request.get("refuses"):
                raise OSError("the client is gone")
            return
        sent.append({name: value for name, value in message.items() if name != "info"})
        if leaves is not None and len(sent) >= leaves:
            gone.set()
        await asyncio.sleep(0)

    if leaves == 0:
        gone.set()
    scope = scope_of(request)
    log: list[Any] = []
    current.set(log)  # in a context of its own: wait_for() and gather() make tasks
    failure = "returned"
    frames: list[str] = []
    try:
        await asyncio.wait_for(space["app"](scope, receive, send), LONGEST)
    except BaseException as exc:
        failure = describe(exc)
        frames = [
            one.name for one in traceback.extract_tb(exc.__traceback__) if one.filename == FILE
        ]
    seen = [sent, failure, frames, log, state_of(scope)]
    return ADDRESS.sub("0x", repr(seen))


def describe(exc: BaseException) -> str:
    parts = [f"{type(exc).__name__}: {exc}"]
    if isinstance(exc, BaseExceptionGroup):
        parts += map(describe, exc.exceptions)
    if exc.__cause__ is not None:
        parts.append(f"from {describe(exc.__cause__)}")
    return "; ".join(parts)


def messages_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    if "messages" in request:
        texts = [{"type": "websocket.receive", "text": text} for text in request["messages"]]
        end = {"type": "websocket.disconnect", "code": 1001, "reason": ""}
        return [{"type": "websocket.connect"}, *texts, end]
    body = request.get("body", "").encode("latin-1")
    pieces = request.get("pieces", 1)
    size = max(1, -(-len(body) // pieces))
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    messages[-1]["more_body"] = False
    return messages


def scope_of(request: dict[str, Any]) -> dict[str, Any]:
    headers = [["host", "example.org"], *request.get("headers", [])]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.get("method", "GET"),
        "scheme": "http",
        "path": request["path"],
        "raw_path": request["path"].encode(),
        "query_string": request.get("query", "").encode("latin-1"),
        "root_path": request.get("root_path", ""),
        "headers": [(a.encode("latin-1"), b.encode("latin-1")) for a, b in headers],
        "client": ("192.0.2.1", 5),
        "server": ("example.org", 80),
        "state": {},
    }
    if "messages" in request:
        scope |= {"type": "websocket", "scheme": "ws", "subprotocols": []}
        del scope["method"]
    return scope


def state_of(scope: dict[str, Any]) -> list[str]:
    """What the application has left in the scope."""
    route = scope.get("route")
    endpoint = scope.get("endpoint")
    own = scope.get("fastapi", {})
    return [
        *sorted(scope),
        repr(scope.get("path_params")),
        scope["path"],
        scope["root_path"],
        repr(scope["headers"]),
        f"{type(route).__name__} {getattr(route, 'path', '')}",
        getattr(endpoint, "__qualname__", repr(endpoint)),
        *(f"{name}: {type(value).__name__}" for name, value in sorted(own.items())),
    ]


if __name__ == "__main__":
    main()

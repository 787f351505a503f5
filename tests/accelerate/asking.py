"""Asks the same of an application with and without groups, each in an interpreter of its own."""

from __future__ import annotations

import json
import textwrap

import child

BEFORE = """
import asyncio, contextvars, json, logging, re, sys, traceback

if sys.argv[1]:
    import thestral.accelerate
    thestral.accelerate.fastapi(sys.argv[1].split(","), require=True)

lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(self.format(record))
logging.getLogger().addHandler(Lines())
answers = []


def text_of(exc):
    try:
        return str(exc)
    except RecursionError:  # of a value that is too deep for repr()
        return "too deep"


def told(exc):
    # What an exception is, by which functions of this program it came, and of what.
    if exc is None:
        return None
    frames = traceback.extract_tb(exc.__traceback__)
    names = [frame.name for frame in frames if frame.filename == "<string>"]
    below = (exc.__cause__, exc.__context__ if exc.__context__ is not exc.__cause__ else None)
    return [type(exc).__qualname__, text_of(exc), names, *map(told, below)]


async def ask(app, method, path, headers=(), body=b"", *, cut=0, breaks=None, typed=list, **more):
    # Sends a request; `breaks`: the message at which the client is gone.
    path, _, query = path.partition("?")
    chunks = [body[:cut], body[cut:]] if cut else [body]
    received = [
        {"type": "http.request", "body": chunk, "more_body": chunk is not chunks[-1]}
        for chunk in chunks
    ]
    sent = []

    async def receive():
        return received.pop(0) if received else {"type": "http.disconnect"}

    async def send(message):
        if len(sent) == breaks:
            raise OSError("gone")
        sent.append(dict(message))

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.2", 5), "scheme": "http",
        "root_path": "", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query.encode("latin-1"), "state": {},
        "headers": typed((name.encode(), value.encode("latin-1")) for name, value in headers),
    } | more
    error = None
    try:
        await app(scope, receive, send)
    except BaseException as exc:
        error = told(exc)
    after = {
        name: scope.get(name) for name in ("path_params", "endpoint", "route", "state", "headers")
    }
    found = repr((sent, error, sorted(scope), after, lines, len(received)))
    lines.clear()
    asked = f"{method} {path} {query} {headers} {body[:80]} {more}"
    answers.append([re.sub("0x[0-9a-f]+", "0x", text) for text in (asked, found)])


def finish(coroutine):
    asyncio.run(coroutine)
    print(json.dumps(answers))
"""


def both(program: str, groups: str) -> list[list[str]]:
    """Run a program with and without groups, which asks and ends with finish(); return what was
    asked and answered, and fail where that differs.
    """
    program = BEFORE + textwrap.dedent(program)
    without, found = (json.loads(child.run(program, option)) for option in ("", groups))
    for expected, answer in zip(without, found, strict=True):
        assert answer == expected, f"{groups}:\n{expected}\n{answer}"
    return found

"""Makes responses of what an endpoint returns, as the handler of FastAPI and Response do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

RELIES_ON = (
    "fastapi.encoders:jsonable_encoder",
    "fastapi.routing:_build_response_args",
    "fastapi.utils:is_body_allowed_for_status_code",
    "starlette.datastructures:MutableHeaders.raw",
    "starlette.responses:JSONResponse",
    "starlette.responses:Response.__init__",
    "starlette.responses:Response.init_headers",
    "starlette.responses:Response.render",
)

MEDIA_TYPE = "application/json"
CONTENT_TYPE = (b"content-type", b"application/json")
LENGTHS_KEPT = 1024  # short contents whose field is not made anew
DEEPEST = 20  # levels of JSON that are looked through; deeper, and circular, is left to FastAPI
SCALARS = frozenset((str, int, bool, type(None), float))

USUAL = frozenset(range(200, 600)) - {204, 205, 304}  # statuses of responses with a body

# A response of JSON before it is made one: status, fields, content, background tasks.
Answer = tuple[int, list[tuple[bytes, bytes]], bytes, Any]
Responder = Callable[[Request], Awaitable[Response | Answer]]
# What is behind the handlers made here: it gives an Answer where it can.
responders: WeakKeyDictionary[Any, Responder] = WeakKeyDictionary()

LENGTHS = [(b"content-length", b"%d" % size) for size in range(LENGTHS_KEPT)]

original_dumps, original_render = json.dumps, JSONResponse.render
# As JSONEncoder.encode() makes it for each text with the options of JSONResponse.render(), but that
# it does not look for what contains itself.
encoder: Any = json.encoder
chunks_of = encoder.c_make_encoder(
    *(None, json.JSONEncoder().default, encoder.encode_basestring, None),
    *(":", ",", False, False, False),
)


def fields_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a response of JSON."""
    size = len(content)
    length = LENGTHS[size] if size < LENGTHS_KEPT else (b"content-length", b"%d" % size)
    return [length, CONTENT_TYPE]


def status_of(status_code: Any, response: Response | None) -> Any:
    """Return the status as _build_response_args() does, or the one of JSON.

    Args:
        status_code: the route's.
        response: what dependencies or the endpoint have taken, with the status they set.
    """
    status = status_code
    if response is not None:
        status = response.status_code or status_code or response.status_code
    return 200 if status is None else status


def json_response(made: type[Response], answer: Answer) -> Response:
    """Return what Response(content=content, media_type="application/json", ...) makes, or
    JSONResponse(...) of something that is `content` as JSON.

    Args:
        made: Response or JSONResponse.
    """
    response = made.__new__(made)
    status, headers, content, response.background = answer
    response.status_code = status
    if made is Response:
        response.media_type = MEDIA_TYPE
    response.body = content
    response.raw_headers = headers
    return response


def is_plain(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether jsonable_encoder() would only copy a value."""
    kind = type(value)
    if kind in SCALARS:
        return True
    if not deepest:
        return False
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or key.startswith("_sa"):
                return False
            if type(inner) not in SCALARS and not is_plain(inner, deepest - 1):
                return False
        return True
    if kind is list:
        for inner in value:
            if type(inner) not in SCALARS and not is_plain(inner, deepest - 1):
                return False
        return True
    return False


def plain_json(value: Any) -> bytes | None:
    """Return a value as JSONResponse.render() writes it, None if it is not plain."""
    if json.dumps is original_dumps and JSONResponse.render is original_render and is_plain(value):
        return "".join(chunks_of(value, 0)).encode("utf-8")
    return None

"""Reads the body of a request as the handler of fastapi.routing.get_request_handler() does."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

from fastapi._compat import Undefined
from starlette.requests import ClientDisconnect, Request

TYPES_KEPT = 256  # clients may send any number of content types

_is_json: dict[str, bool] = {}


async def read(request: Request, strict: bool) -> Any:
    """Return a body that is not a form: what its JSON says, its bytes if it is something else, and
    Undefined if it is empty.

    Args:
        request: of the class Request itself.
        strict: whether a body without Content-Type is no JSON.

    Raises:
        ClientDisconnect, json.JSONDecodeError, UnicodeDecodeError, RecursionError: as in
            Request.json().
    """
    if hasattr(request, "_body") or request._stream_consumed:
        content = await request.body()
    else:  # what that does, without two generators
        chunks = []
        while not request._stream_consumed:
            message = await request._receive()
            if message["type"] == "http.request":
                chunk = message.get("body", b"")
                if not message.get("more_body", False):
                    request._stream_consumed = True
                if chunk:
                    chunks.append(chunk)
            elif message["type"] == "http.disconnect":
                request._is_disconnected = True
                raise ClientDisconnect
        content = request._body = b"".join(chunks)
    if not content:
        return Undefined
    content_type = request.headers.get("content-type")
    if not (is_json(content_type) if content_type else not strict):
        return content
    if not hasattr(request, "_json"):
        request._json = json.loads(content)
    return request._json


def is_json(content_type: str) -> bool:
    """Whether a media type is that of JSON (RFC 6839 section 3.1), in FastAPI's reading."""
    found = _is_json.get(content_type)
    if found is None:
        message = Message()
        message["content-type"] = content_type
        subtype = message.get_content_subtype()
        found = message.get_content_maintype() == "application" and (
            subtype == "json" or subtype.endswith("+json")
        )
        if len(_is_json) < TYPES_KEPT:
            _is_json[content_type] = found
    return found

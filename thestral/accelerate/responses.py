"""Makes the response from what an endpoint returns, as fastapi.routing's serialize_response() and
_build_response_args() and Starlette's JSONResponse do.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi.datastructures import DefaultPlaceholder
from fastapi.encoders import jsonable_encoder
from fastapi.utils import is_body_allowed_for_status_code
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/json"
CONTENT_TYPE = (b"content-type", b"application/json")
# The same as JSONResponse's json.dumps(), whose encoder is made anew for each call.
ENCODE = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, indent=None, separators=(",", ":")
).encode
SCALARS = (str, int, bool, type(None), float)


class Answers:
    """Makes the responses of a route.

    Args:
        status: of the route; None for that of the response's class.
        response_class: class of responses; a placeholder if the route names none.
        field: of the response; None if it has no model.
        options: those of ModelField.serialize().
    """

    def __init__(
        self,
        status: int | None,
        response_class: type[Response] | DefaultPlaceholder,
        field: Any,
        options: dict[str, Any],
    ) -> None:
        self._status = status
        self._class: Any = response_class
        if isinstance(response_class, DefaultPlaceholder):
            self._class = response_class.value
        self._field = field
        self._adapter: Any = None if field is None else field._type_adapter
        self._options = options
        self._dumps = self._class is not response_class and field is not None
        self._is_plain = self._class is JSONResponse and field is None

    def make(self, content: Any, background: Any, own: Response | None) -> Response:
        """Make a response.

        Args:
            content: what the endpoint has returned, validated if the response has a field.
            background: tasks to run after it.
            own: the response whose status and headers dependencies may have set.
        """
        status = self._status
        if own is not None:
            status = own.status_code or status or None
        if self._dumps:
            body = self._adapter.serializer.to_json(content, **self._options)
            response = json_response(Response, body, status, background)
        elif self._is_plain and is_plain(content):
            response = json_response(JSONResponse, ENCODE(content).encode(), status, background)
        else:
            arguments = {} if status is None else {"status_code": status}
            if self._field is None:
                content = jsonable_encoder(content)
            else:
                content = self._field.serialize(content, **self._options)
            response = self._class(content, background=background, **arguments)
        if not is_body_allowed_for_status_code(response.status_code):
            response.body = b""
        if own is not None:
            response.headers.raw.extend(own.headers.raw)
        return response


def json_response(
    made: type[Response], body: bytes, status: int | None, background: Any
) -> Response:
    """Do what Response(body, media_type="application/json", ...) does, or JSONResponse.

    Args:
        status: None for 200.
    """
    response = made.__new__(made)
    response.status_code = status = 200 if status is None else status
    if made is Response:
        response.media_type = MEDIA_TYPE
    response.background = background
    response.body = body
    if status < 200 or status == 204 or status == 304:
        response.raw_headers = [CONTENT_TYPE]
    else:
        response.raw_headers = [(b"content-length", b"%d" % len(body)), CONTENT_TYPE]
    return response


def is_plain(value: Any) -> bool:
    """Whether jsonable_encoder() would only copy a value."""
    try:
        return has_plain_parts(value)
    except RecursionError:
        return False


def has_plain_parts(value: Any) -> bool:
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is dict:
        for name, part in value.items():
            if type(name) is not str or name.startswith("_sa"):
                return False
            if type(part) not in SCALARS and not has_plain_parts(part):
                return False
        return True
    if kind is list:
        return all(type(part) in SCALARS or has_plain_parts(part) for part in value)
    return False

"""The handlers of path operations: what FastAPI works out for each request is worked out at the
first one, and kept in a Handler. Forms and streams are left to FastAPI.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from fastapi import params, routing
from fastapi._compat import lenient_issubclass
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies import models
from fastapi.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from thestral.accelerate import bodies, handler, plan, responses, solving
from thestral.accelerate.handler import Handler
from thestral.accelerate.responses import responders

REPLACES = ("fastapi.routing:get_request_handler",)
RELIES_ON = tuple(
    dict.fromkeys(
        name for module in (bodies, handler, plan, responses, solving) for name in module.RELIES_ON
    )
)

original_get_request_handler = routing.get_request_handler
SIGNATURE = inspect.signature(original_get_request_handler)

_accelerated: set[int] = set()  # ids of the dependants whose handlers are made here


def install() -> None:
    routing.get_request_handler = get_request_handler  # type: ignore[assignment]


def why_not(route: Any) -> str | None:
    found = getattr(route, "original_route", route)  # of an included router
    if not isinstance(found, routing.APIRoute):
        return f"of class {type(found).__name__}"
    dependant: Any = route.dependant
    reason = unfit(dependant, route.body_field, route.response_class, route.is_json_stream)
    if reason is None and id(dependant) not in _accelerated:
        return "made before the acceleration, or by a class of its own"
    return reason


def unfit(
    dependant: models.Dependant, body_field: Any, response_class: Any, is_json_stream: bool
) -> str | None:
    """Say why a path operation is left to FastAPI's handler; None if it is not."""
    if body_field and isinstance(body_field.field_info, params.Form):
        return "a form"
    if isinstance(response_class, DefaultPlaceholder):
        response_class = response_class.value
    if (
        is_json_stream
        or lenient_issubclass(response_class, EventSourceResponse)
        or models._is_gen_callable(dependant.call)
        or models._is_async_gen_callable(dependant.call)
    ):
        return "a stream"
    return None


@wraps(original_get_request_handler)
def get_request_handler(*args: Any, **kwargs: Any) -> Callable[[Request], Awaitable[Response]]:
    original = original_get_request_handler(*args, **kwargs)
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    asked = ("dependant", "body_field", "response_class", "is_json_stream")
    if unfit(*(given[name] for name in asked)) is not None:
        return original
    made = Handler(original, given)
    _accelerated.add(id(made.dependant))

    async def app(request: Request) -> Response:
        return made.response_of(await made.respond(request))

    responders[app] = made.respond
    return app

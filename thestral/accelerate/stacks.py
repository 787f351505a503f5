"""The two exit stacks of each request are left only where something was pushed onto them; stands
for fastapi.routing.request_response().
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import routing
from fastapi.exceptions import FastAPIError
from starlette import _exception_handler
from starlette._utils import is_async_callable
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from thestral.accelerate import failures
from thestral.accelerate.failures import Sender

REPLACES = ("fastapi.routing:request_response",)
RELIES_ON = (
    *failures.RELIES_ON,
    "contextlib:AsyncExitStack",
    "contextlib:_BaseExitStack",
    "starlette.requests:HTTPConnection",
    "starlette.requests:Request",
)

original_request_response = routing.request_response
original_wrap = _exception_handler.wrap_app_handling_exceptions
OF_ROUTING = vars(routing)
# What FastAPI raises if a dependency has swallowed an exception; the sentence is FastAPI's.
NOT_AWAITED = next(
    constant
    for code in original_request_response.__code__.co_consts
    if hasattr(code, "co_consts")
    for inner in code.co_consts
    if hasattr(inner, "co_consts")
    for constant in inner.co_consts
    if isinstance(constant, str) and constant.startswith("Response not awaited.")
)


def install() -> None:
    setattr(routing, "request_response", request_response)  # noqa: B010  (typed as constant)


def why_not(route: Any) -> str | None:
    if not isinstance(route, (routing.APIRoute, routing._EffectiveRouteContext)):
        return "not an HTTP route of FastAPI"
    return None


def request_response(func: Callable[[Request], Any]) -> ASGIApp:
    original = original_request_response(func)
    if not is_async_callable(func):
        return original

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if OF_ROUTING["wrap_app_handling_exceptions"] is not original_wrap:
            await original(scope, receive, send)
            return
        request = Request(scope, receive, send)
        sender = Sender(send)
        try:
            await respond(func, request, scope, receive, sender)
        except Exception as exc:
            await failures.handle(exc, request, scope, receive, sender)

    return app


async def respond(
    func: Callable[[Request], Any],
    request: Request,
    scope: Scope,
    receive: Receive,
    sender: Sender,
) -> None:
    """Make a response and send it. The inner stack is left before it is sent, the outer one
    afterwards; a stack that has swallowed an exception ends there as `async with` does.
    """
    request_stack = AsyncExitStack()
    scope["fastapi_inner_astack"] = request_stack
    sent = False
    try:
        function_stack = AsyncExitStack()
        scope["fastapi_function_astack"] = function_stack
        try:
            response = await func(request)
        except BaseException as exc:
            if not function_stack._exit_callbacks or not await function_stack.__aexit__(  # type: ignore[attr-defined]
                type(exc), exc, exc.__traceback__
            ):
                raise
        else:
            if function_stack._exit_callbacks:  # type: ignore[attr-defined]
                await function_stack.__aexit__(None, None, None)
        await response(scope, receive, sender)
        sent = True
    except BaseException as exc:
        if not request_stack._exit_callbacks or not await request_stack.__aexit__(  # type: ignore[attr-defined]
            type(exc), exc, exc.__traceback__
        ):
            raise
    else:
        if request_stack._exit_callbacks:  # type: ignore[attr-defined]
            await request_stack.__aexit__(None, None, None)
    if not sent:
        raise FastAPIError(NOT_AWAITED)

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
            # Each of the two `try` below does what `async with` a stack does. The inner stack is
            # left before the response is sent, the outer one afterwards.
            request_stack: Any = AsyncExitStack()
            scope["fastapi_inner_astack"] = request_stack
            sent = False
            try:
                function_stack: Any = AsyncExitStack()
                scope["fastapi_function_astack"] = function_stack
                try:
                    response = await func(request)
                except BaseException as exc:
                    if not function_stack._exit_callbacks or not await function_stack.__aexit__(
                        type(exc), exc, exc.__traceback__
                    ):
                        raise
                else:
                    if function_stack._exit_callbacks:
                        await function_stack.__aexit__(None, None, None)
                await response(scope, receive, sender)
                sent = True
            except BaseException as exc:
                if not request_stack._exit_callbacks or not await request_stack.__aexit__(
                    type(exc), exc, exc.__traceback__
                ):
                    raise
            else:
                if request_stack._exit_callbacks:
                    await request_stack.__aexit__(None, None, None)
            if not sent:  # a dependency has swallowed an exception
                raise FastAPIError(NOT_AWAITED)
        except Exception as exc:
            await failures.handle(exc, request, scope, receive, sender)

    return app

"""The application of a route, which request_response() makes: its exit stacks are run only if
something was pushed on them, a plain response is sent without Response.__call__(), and nothing is
wrapped until there is an exception.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import routing
from fastapi.exceptions import FastAPIError
from starlette._utils import is_async_callable
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from thestral.accelerate import failures
from thestral.accelerate.failures import handle, watched
from thestral.accelerate.responses import responders

REPLACES = ("fastapi.routing:request_response",)
RELIES_ON = (
    *failures.RELIES_ON,
    "contextlib:AsyncExitStack",
    "contextlib:_BaseExitStack",
    "starlette.requests:HTTPConnection.__init__",
    "starlette.requests:Request.__init__",
    "starlette.responses:Response.__call__",
)

original_request_response = routing.request_response
original_wrap = routing.wrap_app_handling_exceptions
original_call = Response.__call__
REQUEST_STACK, FUNCTION_STACK = "fastapi_inner_astack", "fastapi_function_astack"  # of a scope
new = object.__new__
START, BODY = "http.response.start", "http.response.body"
HANDLERS = "starlette.exception_handlers"
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
    routing.request_response = request_response


def why_not(route: Any) -> str | None:
    found = getattr(route, "original_route", route)  # of an included router
    if not isinstance(found, routing.APIRoute):
        return f"of class {type(found).__name__}"
    return None


def request_response(func: Callable[[Request], Awaitable[Response] | Response]) -> ASGIApp:
    original = original_request_response(func)
    if not is_async_callable(func):
        return original
    answer: Callable[[Request], Awaitable[Any]] = responders.get(func, func)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            routing.wrap_app_handling_exceptions is not original_wrap
            or routing.AsyncExitStack is not AsyncExitStack
            or routing.Request is not Request
            or scope["type"] != "http"
        ):
            await original(scope, receive, send)
            return
        # As Request(scope, receive, send) makes it, and AsyncExitStack() below.
        request = new(Request)
        request.scope = scope
        request._receive = receive
        request._send = send
        request._stream_consumed = request._is_disconnected = False
        request._form = None
        handlers = scope.get(HANDLERS)
        started: list[bool] = []
        awaited = False
        try:
            request_stack: Any = new(AsyncExitStack)
            request_stack._exit_callbacks = deque()
            scope[REQUEST_STACK] = request_stack
            try:
                function_stack: Any = new(AsyncExitStack)
                function_stack._exit_callbacks = deque()
                scope[FUNCTION_STACK] = function_stack
                try:
                    is_known = Response.__call__ is original_call
                    response = await (answer if is_known else func)(request)
                except BaseException as exc:
                    if not (
                        function_stack._exit_callbacks
                        and await function_stack.__aexit__(type(exc), exc, exc.__traceback__)
                    ):
                        raise
                else:
                    if function_stack._exit_callbacks:
                        await function_stack.__aexit__(None, None, None)
                kind = type(response)
                if kind is tuple and answer is not func:
                    status, headers, body, background = response
                    start = {"type": START, "status": status, "headers": headers}
                    started.append(True)
                    await send(start)
                    await send({"type": BODY, "body": body})
                    if background is not None:
                        await background()
                elif kind.__call__ is original_call:
                    status, headers = response.status_code, response.raw_headers
                    start = {"type": START, "status": status, "headers": headers}
                    started.append(True)
                    await send(start)
                    await send({"type": BODY, "body": response.body})
                    if response.background is not None:
                        await response.background()
                else:
                    await response(scope, receive, watched(send, started))
                awaited = True
            except BaseException as exc:
                if not (
                    request_stack._exit_callbacks
                    and await request_stack.__aexit__(type(exc), exc, exc.__traceback__)
                ):
                    raise
            else:
                if request_stack._exit_callbacks:
                    await request_stack.__aexit__(None, None, None)
            if not awaited:
                raise FastAPIError(NOT_AWAITED)
        except Exception as exc:
            await handle(exc, request, handlers, bool(started), receive, send)

    return app

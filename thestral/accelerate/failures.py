"""Handles an exception as starlette._exception_handler.wrap_app_handling_exceptions() does, without
the two functions that it makes for each request.
"""

from __future__ import annotations

from typing import Any

from starlette import _exception_handler
from starlette._utils import is_async_callable
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Send

RELIES_ON = (
    "starlette._exception_handler:_lookup_exception_handler",
    "starlette._exception_handler:wrap_app_handling_exceptions",
    "starlette._utils:is_async_callable",
    "starlette.concurrency:run_in_threadpool",
)


def watched(send: Send, started: list[bool]) -> Send:
    """Return a send() that adds to a list when the response starts."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(True)
        await send(message)

    return sender


async def handle(
    exc: Exception, request: Request, handlers: Any, started: bool, receive: Receive, send: Send
) -> None:
    """Send what the application's handler makes of an exception. Call it where the exception is
    being handled.

    Args:
        handlers: "starlette.exception_handlers" of the scope when the request came; None if it had
            none.
        started: whether the response has started.

    Raises:
        Exception: the exception, if nothing handles it.
        RuntimeError: the response has already started.
    """
    try:
        exception_handlers, status_handlers = ({}, {}) if handlers is None else handlers
        handler: Any = None
        if isinstance(exc, HTTPException):
            handler = status_handlers.get(exc.status_code)
        if handler is None:
            handler = _exception_handler._lookup_exception_handler(exception_handlers, exc)
        if handler is None:
            raise exc
        if started:
            message = "Caught handled exception, but response already started."
            raise RuntimeError(message) from exc
        if is_async_callable(handler):
            response = await handler(request, exc)
        else:
            response = await run_in_threadpool(handler, request, exc)
        if response is not None:
            await response(request.scope, receive, send)
        exc.__traceback__ = None  # one that is raised again would add to it for each request
    finally:
        del exc  # its traceback has this frame

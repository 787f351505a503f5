"""FastAPI's own middlewares, five coroutines for each request, in one or two. Those that the
application has added stay between them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI
from fastapi._body_limit import AppBodyLimitMiddleware
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.telemetry._asgi import ExceptionTelemetryMiddleware
from starlette import _exception_handler
from starlette._utils import is_async_callable
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import exceptions
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from thestral.accelerate import failures, telemetry
from thestral.accelerate.failures import watched

REPLACES = (
    "fastapi.applications:FastAPI.__call__",
    "fastapi.applications:FastAPI.build_middleware_stack",
)
RELIES_ON = (
    *failures.RELIES_ON,
    *telemetry.REPLACES,
    *telemetry.RELIES_ON,
    "contextlib:AsyncExitStack",
    "contextlib:_BaseExitStack",
    "fastapi._body_limit:AppBodyLimitMiddleware",
    "fastapi._body_limit:wrap_app_with_body_limit",
    "fastapi.middleware.asyncexitstack:AsyncExitStackMiddleware",
    "fastapi.telemetry._asgi:ExceptionTelemetryMiddleware",
    "fastapi.telemetry._asgi:_exception",
    "starlette.applications:Starlette.__call__",
    "starlette.middleware.errors:ServerErrorMiddleware.__call__",
    "starlette.middleware.errors:ServerErrorMiddleware.__init__",
    "starlette.middleware.exceptions:ExceptionMiddleware.__call__",
    "starlette.middleware.exceptions:ExceptionMiddleware.__init__",
    "starlette.requests:HTTPConnection",
    "starlette.requests:Request",
)

original_call = FastAPI.__call__
original_build = FastAPI.build_middleware_stack
original_starlette_call = Starlette.__call__
original_errors_call = ServerErrorMiddleware.__call__
original_telemetry_call = ExceptionTelemetryMiddleware.__call__
original_limit_call = AppBodyLimitMiddleware.__call__
original_exceptions_call = ExceptionMiddleware.__call__
original_stack_call = AsyncExitStackMiddleware.__call__
original_wrap = _exception_handler.wrap_app_handling_exceptions
OF_EXCEPTIONS = vars(exceptions)
STACK_NAME = "fastapi_middleware_astack"
LONGEST = 1000  # middlewares that are looked through
OUTERMOST = (ServerErrorMiddleware, ExceptionTelemetryMiddleware, AppBodyLimitMiddleware)
INNERMOST = (ExceptionMiddleware, AsyncExitStackMiddleware)
BASES = FastAPI.__mro__


def install() -> None:
    FastAPI.__call__ = call  # type: ignore[method-assign]
    FastAPI.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]


def why_not(route: Any) -> str | None:
    return None


async def call(self: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for FastAPI.__call__() and, in it, Starlette.__call__()."""
    if (
        scope["type"] != "http"
        or "fastapi.telemetry" in scope
        or not telemetry.nothing_is_configured(self._telemetry)
        or Starlette.__call__ is not original_starlette_call
        or (type(self) is not FastAPI and type(self).__mro__[-len(BASES) :] != BASES)
    ):
        await original_call(self, scope, receive, send)
        return
    if self.root_path:
        scope["root_path"] = self.root_path
    scope["app"] = self
    if self.middleware_stack is None:
        self.middleware_stack = self.build_middleware_stack()
    await self.middleware_stack(scope, receive, send)


def build_middleware_stack(self: FastAPI) -> ASGIApp:
    """Have the middlewares that FastAPI puts outermost and innermost do the work of those around
    which they are. They are the same objects, of classes derived from theirs.
    """
    built: Any = original_build(self)
    if are_known(built, OUTERMOST):
        built.__class__ = Outermost
        built.between = (built.app, built.app.app)
    found: Any = built
    for _ in range(LONGEST):
        if are_known(found, INNERMOST):
            if found.app.context_name == STACK_NAME:
                found.__class__ = Innermost
                found.between = found.app
            break
        found = getattr(found, "app", None)
        if found is None or found is self.router:
            break
    return built  # type: ignore[no-any-return]


def are_known(outer: Any, kinds: Sequence[type]) -> bool:
    """Whether a middleware and those in it are of these classes."""
    found = outer
    for kind in kinds:
        if type(found) is not kind:
            return False
        found = getattr(found, "app", None)
    return True


class Outermost(ServerErrorMiddleware):
    """ServerErrorMiddleware, with the work of ExceptionTelemetryMiddleware, which does nothing
    without telemetry, and of AppBodyLimitMiddleware, which does nothing outside a limit.

    Attributes:
        between: those two.
    """

    app: Any
    between: tuple[Any, Any]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching, limiting = self.between
        if (
            scope["type"] != "http"
            or MAX_BODY_SIZE_SCOPE_KEY in scope
            or "fastapi.telemetry" in scope
            or self.app is not watching
            or watching.app is not limiting
            or ServerErrorMiddleware.__call__ is not original_errors_call
            or ExceptionTelemetryMiddleware.__call__ is not original_telemetry_call
            or AppBodyLimitMiddleware.__call__ is not original_limit_call
        ):
            await ServerErrorMiddleware.__call__(self, scope, receive, send)  # perhaps a tracer's
            return
        started: list[bool] = []
        sender = watched(send, started)
        app = limiting.app
        try:
            if type(app) is Innermost and app.fits():
                await app.run(scope, receive, sender, started)
            else:
                await app(scope, receive, sender)
        except Exception as exc:
            request = Request(scope)
            handler: Any = self.handler
            if self.debug:
                response = await run_in_threadpool(self.debug_response, request, exc)
            elif handler is None:
                response = self.error_response(request, exc)
            elif is_async_callable(handler):
                response = await handler(request, exc)
            else:
                response = await run_in_threadpool(handler, request, exc)
            if not started:
                await response(scope, receive, send)
            raise exc


class Innermost(ExceptionMiddleware):
    """ExceptionMiddleware, with the work of AsyncExitStackMiddleware.

    Attributes:
        between: that one.
    """

    between: Any

    def fits(self) -> bool:
        """Whether nobody has changed what run() goes around."""
        return (
            self.app is self.between
            and ExceptionMiddleware.__call__ is original_exceptions_call
            and AsyncExitStackMiddleware.__call__ is original_stack_call
            and OF_EXCEPTIONS["wrap_app_handling_exceptions"] is original_wrap
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.fits():
            started: list[bool] = []
            await self.run(scope, receive, watched(send, started), started)
        else:
            await ExceptionMiddleware.__call__(self, scope, receive, send)

    async def run(self, scope: Scope, receive: Receive, send: Send, started: list[bool]) -> None:
        """Run the router.

        Args:
            send: made by watched().
            started: empty; filled by `send`.
        """
        handlers = self._exception_handlers, self._status_handlers
        scope["starlette.exception_handlers"] = handlers
        stack = AsyncExitStack()
        scope[STACK_NAME] = stack
        try:
            try:
                await self.between.app(scope, receive, send)
            except BaseException as exc:
                if not stack._exit_callbacks or not await stack.__aexit__(  # type: ignore[attr-defined]
                    type(exc), exc, exc.__traceback__
                ):
                    raise
            else:
                if stack._exit_callbacks:  # type: ignore[attr-defined]
                    await stack.__aexit__(None, None, None)
        except Exception as exc:
            request = Request(scope, receive, send)
            await failures.handle(exc, request, handlers, bool(started), receive, send)

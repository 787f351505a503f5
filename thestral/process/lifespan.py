"""The lifespan protocol (ASGI lifespan 2.0): one scope that opens before the first request and
closes after the last.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Mapping
from typing import Any

from thestral.errors import LifespanError, LocalProtocolError
from thestral.logging.loggers import error_logger
from thestral.types import ASGIApplication

# The lifespan and the requests see it: requests run in copies of the lifespan's context.
SHUTDOWN: contextvars.ContextVar[asyncio.Event] = contextvars.ContextVar("thestral.shutdown")
# Exceptions of applications without lifespan support when they see the scope's type.
UNSUPPORTED = (AssertionError, KeyError, LookupError, NotImplementedError, TypeError, ValueError)
# Time for the lifespan's task to clean up after its cancellation; it may also never end.
FINISH_GRACE = 5.0  # seconds


class Lifespan:
    """Runs the application's lifespan in a task of its own.

    Args:
        app: the application.
        mode: "on": an application that does not answer is not served; "auto": one that raises
            instead of answering is served without lifespan (ASGI lifespan, "Scope"); "off": the
            lifespan is not run.

    Attributes:
        state: the scope's state as the application has filled it, even if it raised afterwards;
            requests get shallow copies.
        context: the context variables as the lifespan's task leaves them.
        shutdown_event: the event that shutdown_event() returns in that context; the server sets it.
    """

    def __init__(self, app: ASGIApplication, mode: str) -> None:
        self.state: dict[str, Any] = {}
        self.context = contextvars.copy_context()
        self.shutdown_event = asyncio.Event()
        self.context.run(SHUTDOWN.set, self.shutdown_event)
        self._app = app
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._received = False
        self._sent_response = False  # the application sent messages of HTTP or WebSocket
        self._exited = False  # the application raised SystemExit or KeyboardInterrupt
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._expected = "startup"

    async def startup(self) -> None:
        """Send lifespan.startup and wait for the answer.

        Raises:
            LifespanError: the application answered startup.failed, or raised SystemExit or
                KeyboardInterrupt; or, in mode "on", it raised or returned without an answer.
        """
        if self._mode == "off":
            return
        error_logger.info("Waiting for application startup.")
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), context=self.context)
        answer = await self._ask("lifespan.startup")
        if answer is None:
            self._examine_end()
        elif answer["type"] == "lifespan.startup.failed":
            await self._finish()
            message = answer.get("message") or "Application startup failed"
            raise LifespanError(str(message))
        error_logger.info("Application startup complete.")

    async def shutdown(self) -> None:
        """Send lifespan.shutdown and wait for the answer. An exception is logged.

        Raises:
            LifespanError: the application failed while it shut down.
        """
        if self._task is None:
            return
        if self._task.done():
            # The lifespan ended while the server was running: nothing else reports its exception.
            exc = self._raised()
            if exc is not None:
                error_logger.error("Lifespan ended early", exc_info=exc)
            return
        error_logger.info("Waiting for application shutdown.")
        self._expected = "shutdown"
        answer = await self._ask("lifespan.shutdown")
        raised = self._raised() if self._task.done() else None
        await self._finish()
        if answer is None and raised is not None:
            error_logger.error("Exception in lifespan", exc_info=raised)
            raise LifespanError("Application shutdown failed")
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            raise LifespanError(str(answer.get("message") or "Application shutdown failed"))
        error_logger.info("Application shutdown complete.")

    async def cancel(self) -> None:
        """Cancel the lifespan's task without lifespan.shutdown."""
        if self._task is not None:
            await self._finish()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except (SystemExit, KeyboardInterrupt) as exc:
            self._exited = True
            raise RuntimeError(f"{type(exc).__name__} in lifespan") from exc

    async def _receive(self) -> dict[str, Any]:
        self._received = True
        return await self._messages.get()

    async def _send(self, message: Any) -> None:
        if not isinstance(message, Mapping):
            raise LocalProtocolError(f"expected a dict as a message, got {type(message).__name__}")
        kind = message.get("type")
        expected = (f"lifespan.{self._expected}.complete", f"lifespan.{self._expected}.failed")
        if isinstance(kind, str) and kind.startswith(("http.", "websocket.")):
            self._sent_response = True
        if kind not in expected or self._answer is None or self._answer.done():
            raise LocalProtocolError(f"expected {expected[0]!r} or {expected[1]!r}, got {kind!r}")
        self._answer.set_result(dict(message))

    async def _ask(self, kind: str) -> dict[str, Any] | None:
        """Send a message; return the application's answer, or None if its task ended first."""
        assert self._task is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._messages.put_nowait({"type": kind})
        both: set[asyncio.Future[Any]] = {self._answer, self._task}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._answer.done():
            return self._answer.result()
        return None

    def _examine_end(self) -> None:
        """Decide, when the task has ended without an answer to startup, whether to serve without
        lifespan.

        Raises:
            LifespanError: the server must not start.
        """
        exc = self._raised()
        fatal = self._mode == "on" or self._exited
        # An application that raises before it has received lifespan.startup has no lifespan; one
        # that raises afterwards has failed to start.
        unsupported = self._sent_response or (not self._received and isinstance(exc, UNSUPPORTED))
        if exc is None:
            if fatal:
                raise LifespanError(
                    "Application startup failed: its lifespan ended without an answer"
                )
            error_logger.info("The application has no lifespan.")
        elif unsupported and not fatal:
            said = traceback.format_exception_only(exc)[-1].strip().partition("\n")[0]
            error_logger.info("The application has no lifespan: it raised %.100s", said)
        else:
            error_logger.error("Exception in lifespan", exc_info=exc)
            if fatal:
                raise LifespanError("Application startup failed")
            error_logger.warning("Serving without lifespan; --lifespan on makes this fatal.")
        self._task = None

    def _raised(self) -> BaseException | None:
        """The exception of the ended task; None if it returned."""
        assert self._task is not None
        if self._task.cancelled():
            return asyncio.CancelledError("the lifespan cancelled itself")
        return self._task.exception()

    async def _finish(self) -> None:
        """Cancel the task and wait for its end, at most FINISH_GRACE. It has answered, or no one
        waits for its answer, so its exception does not matter.
        """
        assert self._task is not None
        if not self._task.done():
            self._task.cancel()
        _, pending = await asyncio.wait({self._task}, timeout=FINISH_GRACE)
        if pending:
            error_logger.warning("The application's lifespan has not ended although cancelled")
        else:
            self._raised()  # else asyncio logs that the exception was never retrieved


def shutdown_event() -> asyncio.Event:
    """The event that is set as soon as the server begins to stop, before anything else happens.

    For the application: in its lifespan, requests and WebSockets, and in the tasks that they start.
    `is_set()` works in any thread, `await wait()` in the server's loop. Under another server the
    event is never set.
    """
    return SHUTDOWN.get(None) or asyncio.Event()

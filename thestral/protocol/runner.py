"""Runs the application for a cycle, in a task and a context of its own. Only this module catches
exceptions of the application.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from thestral._core.coroutine import Finished, advance, is_native, task_of
from thestral._core.log import monotonic
from thestral.logging.running import running
from thestral.protocol.connection import MARKS_SEND

if TYPE_CHECKING:
    import asyncio

    from thestral.protocol.connection import Cycle

# MARKS_SEND as a C variable.
MARKED = MARKS_SEND


class Run:
    """The application's run for a cycle. Behaves like a coroutine, so that a Task can run it.

    A real coroutine around the application's would cost another object, and time at each step.

    A SystemExit, KeyboardInterrupt or CancelledError was raised by the application, because the
    server's signal handlers raise nothing here. So it ends the request like any other exception,
    and not the worker.
    """

    def __init__(self) -> None:
        self.cycle: Cycle | None = None  # None once the application has ended
        self._steps: Any = None  # the application's coroutine; None before the first step

    def __await__(self) -> Run:
        return self

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Any:
        """Run a step, and return what the application waits for. Stop when the application has
        returned or raised.
        """
        waits = self._step(None)
        if self.cycle is None:
            raise StopIteration  # raised in another function, it would get a traceback
        return waits

    def _step(self, error: tuple[Any, ...] | None) -> Any:
        """Run the application to its next wait, after raising `error`, if given, where it waits."""
        cycle = self.cycle
        assert cycle is not None
        turn = cycle.context.turn
        turn.steps += 1
        waits = None
        try:
            try:
                if error is not None:
                    waits = throw_into(self._steps, error)
                else:
                    if self._steps is None:
                        self._begin(cycle)
                    waits = advance(self._steps)
            except BaseException as exc:
                self._end(exc)
            else:
                if waits is Finished:
                    self._end(None)
        finally:
            turn.steps -= 1
            if turn.waiting:
                turn.end()
        return waits

    def send(self, value: None) -> Any:
        return next(self)

    def throw(self, *error: Any) -> Any:
        """Raise an exception, such as a cancellation, where the application waits."""
        waits = self._step(error)
        if self.cycle is None:
            raise StopIteration
        return waits

    def close(self) -> None:
        """End the application without a response: the loop is gone."""
        self.cycle = None
        if self._steps is not None:
            self._steps.close()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the application's coroutine, such as cr_frame for a debugger."""
        return getattr(self._steps, name)

    def _begin(self, cycle: Cycle) -> None:
        if cycle.context.tracer is not None:
            trace = cycle.stream.trace
            if trace is not None:
                trace.started = monotonic()
        send = cycle.send if MARKED else cycle.send_as_coroutine
        steps = cycle.context.app(cycle.scope, cycle.receive, send)
        self._steps = steps if is_native(steps) else awaiting(steps)

    def _end(self, exc: BaseException | None) -> None:
        cycle = self.cycle
        assert cycle is not None
        self.cycle = None
        self._steps = None
        if cycle.task is not None:
            cycle.context.discard_cycle(cycle)
            cycle.task = None
        if cycle.counted:
            cycle.context.running -= 1
        cycle.on_return(exc)


def throw_into(steps: Any, error: tuple[Any, ...]) -> Any:
    """Raise `error` where the coroutine waits, and run it like advance(). If it has not started,
    raise `error` here.
    """
    if steps is None:
        raise error[0]
    try:
        return steps.throw(*error)
    except StopIteration:
        return Finished


async def awaiting(awaitable: Awaitable[None]) -> None:
    """Turn the awaitable that an application returned into a coroutine."""
    await awaitable


def scope_of(task: asyncio.Task[Any]) -> dict[str, Any] | None:
    """Return the scope of the request whose application a task runs; None for another task."""
    steps = task.get_coro()
    if not isinstance(steps, Run):
        return None
    run: Run = steps
    return None if run.cycle is None else run.cycle.scope


def start(cycle: Cycle) -> None:
    """Start the application's task. From Python 3.12 on, its first step runs at once.

    The task's context is a copy of the one that the lifespan left, so no request sees variables of
    another, even if the caller runs in a step of another application.
    """
    context = cycle.context
    if cycle.counted:
        context.running += 1
        if context.timeouts.request:
            cycle.deadline = context.clock.after(context.timeouts.request)
    own = context.base_context.copy()
    if context.tracer is not None and context.tracer.marks:
        own.run(running.set, cycle.stream.trace)
    run: Run = Run.__new__(Run)
    run.cycle = cycle
    if context.eager:
        arguments = context.task_arguments
        arguments["context"] = own
        task = task_of(run, arguments)
        arguments["context"] = None
    else:
        task = context.loop.create_task(run, context=own)
    if run.cycle is None:  # it ran to its end at once; a task factory may start eagerly, too
        return
    cycle.task = task
    context.cycles.add(cycle)

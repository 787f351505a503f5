"""Runs the application for a cycle: one task, in a context of its own. The only place that catches
what it raises.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from thestral._core.coroutine import Finished, advance, is_native, task_of
from thestral.protocol.connection import MARKS_SEND

if TYPE_CHECKING:
    from thestral.protocol.connection import Cycle

# The same as a C integer.
MARKED = MARKS_SEND


class Run:
    """The application at work for a cycle: a coroutine by behaviour, of which a Task is made.

    A coroutine around the application's own would cost another object, and each of its steps more.

    SystemExit, KeyboardInterrupt and cancellation out of a request are the application's doing (the
    server's own signals do not come this way), so they end the request like any other exception and
    not the worker.
    """

    def __init__(self) -> None:
        self.cycle: Cycle | None = None  # until it has ended
        self._steps: Any = None  # the application's coroutine, once it has begun

    def __await__(self) -> Run:
        return self

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Any:
        """What the application waits for; ends when it has returned, or raised."""
        waits = self._step(None)
        if self.cycle is None:
            raise StopIteration  # from here: out of another function it would have a traceback
        return waits

    def _step(self, error: tuple[Any, ...] | None) -> Any:
        """Run the application to its next wait, from an error raised where it waits if one is."""
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
        """Raise where the application waits, as a coroutine does: a cancellation."""
        waits = self._step(error)
        if self.cycle is None:
            raise StopIteration
        return waits

    def close(self) -> None:
        """The loop is gone, and nobody is left to answer."""
        self.cycle = None
        if self._steps is not None:
            self._steps.close()

    def __getattr__(self, name: str) -> Any:
        """What a debugger asks a coroutine, the application's answers: cr_frame, __qualname__."""
        return getattr(self._steps, name)

    def _begin(self, cycle: Cycle) -> None:
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
    """As advance(), from an error on; in place of a first step it is what the step raises."""
    if steps is None:
        raise error[0]
    try:
        return steps.throw(*error)
    except StopIteration:
        return Finished


async def awaiting(awaitable: Awaitable[None]) -> None:
    """A coroutine of whatever an application may return."""
    await awaitable


def start(cycle: Cycle) -> None:
    """Start the application's task; from 3.12 on its first step runs at once.

    The context is a copy of what the lifespan left, so that nothing set in one request is seen in
    another, whoever's step this is called from.
    """
    context = cycle.context
    if cycle.counted:
        context.running += 1
        if context.timeouts.request:
            cycle.deadline = context.clock.after(context.timeouts.request)
    own = context.base_context.copy()
    run: Run = Run.__new__(Run)
    run.cycle = cycle
    if context.eager:
        arguments = context.task_arguments
        arguments["context"] = own
        task = task_of(run, arguments)
        arguments["context"] = None
    else:
        task = context.loop.create_task(run, context=own)
    if run.cycle is None:  # also where a task factory of the application's starts eagerly
        return
    cycle.task = task
    context.cycles.add(cycle)

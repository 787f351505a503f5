"""Runs the application for a cycle: one task, in a context of its own. The only place that catches
what it raises.
"""

from __future__ import annotations

from asyncio import Task
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from thestral.protocol.connection import MARKS_SEND

if TYPE_CHECKING:
    from thestral.protocol.connection import Cycle


async def run(cycle: Cycle) -> None:
    """Await the application and tell the cycle how it ended.

    SystemExit, KeyboardInterrupt and cancellation out of a request are the application's doing (the
    server's own signals do not come this way), so they end the request like any other exception and
    not the worker.
    """
    try:
        await call(cycle)
    except GeneratorExit:  # the loop is gone, and nobody is left to answer
        raise
    except BaseException as exc:
        ended(cycle, exc)
    else:
        ended(cycle, None)


def call(cycle: Cycle) -> Awaitable[None]:
    send = cycle.send if MARKS_SEND else cycle.send_as_coroutine
    return cycle.context.app(cycle.scope, cycle.receive, send)


def ended(cycle: Cycle, exc: BaseException | None) -> None:
    if cycle.task is not None:
        cycle.context.cycles.discard(cycle)
        cycle.task = None
    if cycle.counted:
        cycle.context.running -= 1
    cycle.on_return(exc)


def start(cycle: Cycle) -> None:
    """Start the application's task; from 3.12 on its first step runs at once.

    The context is a copy of what the lifespan left, so that nothing set in one request is seen in
    another, whoever's step this is called from.
    """
    context = cycle.context
    if cycle.counted:
        context.running += 1
        if context.timeout_request:
            cycle.deadline = context.now + context.timeout_request + context.interval
    own = context.base_context.copy()
    coroutine = run(cycle)
    if context.eager:
        task = Task(coroutine, loop=context.loop, context=own, eager_start=True)  # type: ignore[call-arg,unused-ignore]
        if task.done():
            return
    else:
        task = context.loop.create_task(coroutine, context=own)
    cycle.task = task
    context.cycles.add(cycle)

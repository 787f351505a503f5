"""The choice of an event loop, uvloop if it is installed and else asyncio's; and its end."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

from thestral.errors import ConfigError

# Time for cancelled tasks to end.
CANCEL_GRACE = 1.0  # seconds


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that returns a new event loop.

    Args:
        name: "auto", "uvloop", "asyncio", "none", or "module:function".

    Raises:
        ConfigError: `name` is "uvloop", which is not installed; or the function cannot be imported
            or called.
    """
    module, colon, function = name.partition(":")
    if colon:
        try:
            factory = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigError("loop", f"{name!r} cannot be imported: {exc}") from exc
        if not callable(factory):
            raise ConfigError("loop", f"{name!r} is not callable")
        return factory  # type: ignore[no-any-return]
    if name not in ("asyncio", "none"):
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigError("loop", "'uvloop' given, but it is not installed") from None
        else:
            return uvloop.new_event_loop  # type: ignore[no-any-return,unused-ignore]
    return asyncio.new_event_loop


def finish_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel the tasks that are left in a loop, and close it.

    asyncio.Runner would wait for ever for a task that ignores its cancellation, and would replace
    the server's handler of SIGINT.

    Returns:
        False if a task has not ended within CANCEL_GRACE.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        pending: set[asyncio.Task[Any]] = set()
        if tasks:
            _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_GRACE))
        if not pending:
            loop.run_until_complete(loop.shutdown_asyncgens())
        return not pending
    finally:
        loop.close()

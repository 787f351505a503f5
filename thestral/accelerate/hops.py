"""Calls a function in a worker thread, for the groups whose own work leads there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio.to_thread

original_run_sync = anyio.to_thread.run_sync
# AsyncIOBackend.run_sync_in_worker_thread() of the group `threads`, once that is on.
shortcut: Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]] | None = None


def call_in_thread(func: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Do what starlette.concurrency.run_in_threadpool() does, without the way through anyio where
    it leads to the group `threads`.
    """
    if (
        shortcut is not None
        and anyio.to_thread.run_sync is original_run_sync
        and asyncio._get_running_loop() is not None  # else it is trio that runs
    ):
        return shortcut(func, args)
    return anyio.to_thread.run_sync(partial(func, *args))

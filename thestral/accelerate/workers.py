"""Hands functions over to worker threads with less work than anyio.to_thread.run_sync() on asyncio:
all workers of an event loop take them from one queue, so that one which is awake takes the next
without being woken.

Limiter, contexts, anyio.from_thread, shields and the end of the threads are anyio's. What is
unusual goes to anyio's own code: a limiter of the caller's, abandon_on_cancel, a cancellation that
is under way.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

import anyio.to_thread
from anyio import CancelScope, WouldBlock
from anyio._backends import _asyncio as backend
from anyio._core._eventloop import claim_worker_thread, set_current_async_library, threadlocals

from thestral.accelerate import hops

REPLACES = ("anyio._backends._asyncio:AsyncIOBackend.run_sync_in_worker_thread",)
RELIES_ON = (
    "anyio._backends._asyncio:AsyncIOBackend.check_cancelled",
    "anyio._backends._asyncio:AsyncIOBackend.checkpoint",
    "anyio._backends._asyncio:AsyncIOBackend.current_default_thread_limiter",
    "anyio._backends._asyncio:AsyncIOBackend.run_async_from_thread",
    "anyio._backends._asyncio:AsyncIOBackend.run_sync_from_thread",
    "anyio._backends._asyncio:CancelScope",
    "anyio._backends._asyncio:CapacityLimiter",
    "anyio._backends._asyncio:TaskState",
    "anyio._backends._asyncio:WorkerThread",
    "anyio._backends._asyncio:find_root_task",
    "anyio._core._eventloop:claim_worker_thread",
    "anyio._core._eventloop:set_current_async_library",
    "anyio.to_thread:run_sync",
)

NAME = "AnyIO worker thread"  # as anyio names its own
IDLE = backend.WorkerThread.MAX_IDLE_TIME  # seconds for which more threads than needed are kept
original_run = vars(backend.AsyncIOBackend)["run_sync_in_worker_thread"].__func__
# A function to call: its context, the function, its arguments, the scope that from_thread looks
# at, and who waits for the result. None ends a thread.
Job = tuple[Context, Callable[..., Any], tuple[Any, ...], CancelScope | None, "asyncio.Future[Any]"]
_pools: dict[asyncio.AbstractEventLoop, Pool] = {}
_states: Any = backend._task_states


def install() -> None:
    setattr(backend.AsyncIOBackend, "run_sync_in_worker_thread", classmethod(run))  # noqa: B010
    hops.shortcut = partial(run, backend.AsyncIOBackend)


def why_not(route: Any) -> str | None:
    return None


async def run(
    cls: type[Any],
    func: Callable[..., Any],
    args: tuple[Any, ...],
    abandon_on_cancel: bool = False,
    limiter: Any = None,
) -> Any:
    """Stands for AsyncIOBackend.run_sync_in_worker_thread()."""
    task: Any = asyncio.current_task()
    if abandon_on_cancel or limiter is not None or getattr(task, "_must_cancel", True):
        return await original_run(cls, func, args, abandon_on_cancel, limiter)
    state = _states.get(task)
    scope = None if state is None else state.cancel_scope
    if scope is not None and scope._effectively_cancelled:
        return await original_run(cls, func, args)
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop) or Pool(loop)
    tokens = pool.limiter
    try:
        tokens.acquire_on_behalf_of_nowait(task)
    except WouldBlock:  # none is left, or others wait for one
        await tokens.acquire_on_behalf_of(task)
        pool = _pools.get(loop) or Pool(loop)  # the former may have ended with its root task
    try:
        future = pool.submit(func, args, scope)
        if scope is None:
            return await future
        with CancelScope(shield=True):
            return await future
    finally:
        tokens.release_on_behalf_of(task)


class Pool:
    """The worker threads of an event loop. They end when anyio's own would: when its root task is
    done, and when fewer were needed for a time.

    Attributes:
        limiter: the default one.
        workers: number of threads.
        running: number of functions that have been handed over and not come back.
        most: the most of them since `since`, a time of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.limiter = anyio.to_thread.current_default_thread_limiter()
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        self.workers = 0
        self.running = 0
        self.most = 0
        self.since = loop.time()
        backend.find_root_task().add_done_callback(self.stop, context=Context())
        _pools[loop] = self

    def submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], scope: CancelScope | None
    ) -> asyncio.Future[Any]:
        """Have a worker call a function; return the future of its result."""
        needed = self.running + 1
        if needed > self.workers:
            PoolThread(self).start()  # may fail: count it only then
            self.workers += 1
        self.running = needed
        self.most = max(self.most, needed)
        if self.loop.time() - self.since > IDLE:
            self.shrink()
        context = copy_context()
        context.run(set_current_async_library, None)
        future = self.loop.create_future()
        self.queue.put((context, func, args, scope, future))
        return future

    def shrink(self) -> None:
        """End the threads beyond the most that were needed at once."""
        for _ in range(self.workers - self.most):
            self.queue.put(None)
        self.workers = min(self.workers, self.most)
        self.most = self.running
        self.since = self.loop.time()

    def on_done(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        self.running -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):  # which a future refuses
            replaced = RuntimeError("coroutine raised StopIteration")
            replaced.__cause__ = error
            future.set_exception(replaced)
        else:
            future.set_exception(error)

    def stop(self, root: asyncio.Task[Any]) -> None:
        """End all threads, each after the function that it is in."""
        if _pools.get(self.loop) is self:
            del _pools[self.loop]
        for _ in range(self.workers):
            self.queue.put(None)


class PoolThread(threading.Thread):
    """A thread of a pool."""

    def __init__(self, pool: Pool) -> None:
        # From Python 3.14 on a thread may inherit the context of the one that starts it.
        options: Any = {"context": Context()} if sys.version_info >= (3, 14) else {}
        super().__init__(name=NAME, **options)
        self._pool = pool

    def run(self) -> None:
        pool = self._pool
        with claim_worker_thread(backend.AsyncIOBackend, pool.loop):
            while True:
                job = pool.queue.get()
                if job is None:
                    return
                self._call(*job)
                del job

    def _call(
        self,
        context: Context,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        scope: CancelScope | None,
        future: asyncio.Future[Any],
    ) -> None:
        """Call a function, unless nobody waits for it any more, and report what comes of it."""
        pool = self._pool
        result: Any = None
        error: BaseException | None = None
        if not future.cancelled():
            threadlocals.current_cancel_scope = scope  # type: ignore[assignment,unused-ignore]
            try:
                result = context.run(func, *args)
            except BaseException as exc:
                error = exc
            finally:
                del threadlocals.current_cancel_scope
        try:
            pool.loop.call_soon_threadsafe(pool.on_done, future, result, error)
        except RuntimeError:
            if not pool.loop.is_closed():
                raise
        # The error's traceback holds this frame, which must not hold the error.
        del context, func, args, scope, future, result, error

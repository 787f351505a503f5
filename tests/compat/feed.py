"""Lets a test decide, item by item, what a generator of its application yields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from anyio import from_thread
from support import Running


class Feed:
    """An asynchronous iterator whose items come from the test."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self.waits = 0  # how often the application has begun to wait for an item

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Any:
        item = await self._next()
        if item is None:
            raise StopAsyncIteration
        return item

    async def _next(self) -> Any:
        self.waits += 1
        return await self._items.get()

    def put(self, running: Running, item: Any) -> None:
        """Give the next item; None is the end."""
        running.loop.call_soon_threadsafe(self._items.put_nowait, item)

    def in_thread(self) -> Iterator[Any]:
        """The same for a generator that Starlette runs in threads."""
        while (item := from_thread.run(self._next)) is not None:
            yield item

"""Whether objects of a client that is gone are freed without the garbage collector."""

import gc

import pytest
from apps import (
    http_only,
)
from support import wait_until

from thestral._core.websocket import FrameParser
from thestral.protocol.connection import Connection, Cycle, Stream

PER_EXCHANGE = (Connection, Stream, Cycle, FrameParser)


@pytest.fixture(autouse=True)  # in each module that imports it
def only_ours():
    """Count only this test's objects, and keep the collector from freeing any of them.

    Objects made before are frozen, and stay so: thawed, the heap of all imports would be walked
    after each later test.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def alive() -> list[object]:
    """This test's connections and exchanges that still exist."""
    return [o for o in gc.get_objects() if isinstance(o, PER_EXCHANGE)]


def nothing_stays(running) -> None:
    wait_until(lambda: not running.context.connections)
    wait_until(lambda: not running.context.cycles)
    wait_until(lambda: not alive(), 3)


def waiter(seen):
    """Receive until the client is gone, and keep the types of the messages."""

    @http_only
    async def app(scope, receive, send):
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])

    return app

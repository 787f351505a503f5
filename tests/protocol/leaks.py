"""Whether a client that is gone leaves anything behind."""

import gc

import pytest
from apps import (
    http_only,
)
from support import wait_until

PER_EXCHANGE = {"HTTP1Connection", "HTTP1Stream", "HTTPCycle"}


@pytest.fixture(autouse=True)  # in each module that imports it
def only_ours():
    """What was there before does not count, and need not be walked through: it is frozen.

    And stays so: thawed, the heap of all imports would be walked after each later test.
    """
    gc.freeze()


def alive() -> list[object]:
    """What is left of this test's connections and exchanges."""
    gc.collect()
    return [o for o in gc.get_objects() if type(o).__name__ in PER_EXCHANGE]


def nothing_stays(running) -> None:
    wait_until(lambda: not running.context.connections)
    wait_until(lambda: not running.context.cycles)
    wait_until(lambda: not alive(), 3)


def waiter(seen):
    """Receives until the client is gone and keeps the types of what it got."""

    @http_only
    async def app(scope, receive, send):
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])

    return app

"""bench/: the applications that stream."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import applications
import pytest
from scenarios import SCENARIOS
from support import Running

STREAMS = [name for name in SCENARIOS if name.startswith("stream, ")]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_answered_alike(name):
    scenario = SCENARIOS[name]
    with Running(scenario.setup.app) as running:
        scenario.load.check(SimpleNamespace(port=running.port, setup=scenario.setup))


def steps(app):
    """Messages that an application has sent after each of its steps."""
    sent = []

    async def send(message):
        sent.append(message)

    async def run():
        coroutine = app({"type": "http"}, None, send)
        while True:
            try:
                coroutine.send(None)
            except StopIteration:
                break
            finally:
                found.append(len(sent))
            await asyncio.sleep(0)

    found = []
    asyncio.run(run())
    return found


def test_first_step_sends_everything():
    assert steps(applications.stream) == [1 + applications.CHUNKS + 1]


def test_after_an_await_the_first_step_sends_nothing():
    assert steps(applications.late_stream) == [0, 1 + applications.CHUNKS + 1]

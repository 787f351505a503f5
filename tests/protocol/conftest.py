"""The fixture for tests that bring their own server side."""

from __future__ import annotations

import asyncio
import gc

import pytest

from thestral.process.loop import loop_factory


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request):
    """Runs a coroutine in a new loop, and fails it after 20 seconds."""

    def run(main):
        with asyncio.Runner(loop_factory=loop_factory(request.param)) as runner:
            return runner.run(asyncio.wait_for(main, 20))

    yield run
    gc.collect()

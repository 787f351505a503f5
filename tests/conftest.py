"""The fixture that gives real servers."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator

import pytest
from support import Running


@pytest.fixture(scope="module", autouse=True)
def heap_of_imports() -> None:
    """Frameworks, also those that tests import, leave a large heap; no collection needs to walk it
    after each test.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual() -> None:
    """Under nohup SIGHUP is ignored, and in the background of a shell SIGINT and SIGQUIT, by us and
    by the servers that are started here.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Function (app, **options) that gives a server, stopped after the test; on both loops."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(
            Running(app, loop=request.param, **options)
        )
    gc.collect()  # what a test leaves behind must complain in that test

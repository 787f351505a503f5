"""Fixtures that give servers which speak HTTP/2."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import frames
import pytest
from certificate import Certificate
from h2_servers import Speaking, start


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("http2"))


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Speaking]]:
    """As the fixture of the same name for HTTP/1.1; its servers speak HTTP/2, too."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(start(app, loop=request.param, **options))
    gc.collect()  # what a test leaves behind must complain in that test


@pytest.fixture
def open_client(serve: Callable[..., Speaking]) -> Iterator[Callable[..., frames.Client]]:
    """Function (running, *settings) that gives a client, closed after the test; prefaces done."""
    with contextlib.ExitStack() as stack:
        yield lambda running, *settings: stack.enter_context(running.started(*settings))

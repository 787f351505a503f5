"""Fixtures for servers and clients that speak HTTP/2."""

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
    """The counterpart of the fixture `serve` for HTTP/1.1; its servers also speak HTTP/2."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(start(app, loop=request.param, **options))
    gc.collect()  # leaked objects must warn within the test that leaked them


@pytest.fixture
def open_client(serve: Callable[..., Speaking]) -> Iterator[Callable[..., frames.Client]]:
    """Function (running, *settings) that returns a client with the prefaces exchanged; it is closed
    after the test.
    """
    with contextlib.ExitStack() as stack:
        yield lambda running, *settings: stack.enter_context(running.started(*settings))

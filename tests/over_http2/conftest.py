"""Servers over HTTP/2 for tests that were written for HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from gateway import Gated


@pytest.fixture(scope="session")
def server_class() -> type[Gated]:
    return Gated


@pytest.fixture
def client(serve: Callable[..., Gated]) -> Iterator[Callable[..., tuple[httpx.Client, Gated]]]:
    """The counterpart of the fixture `client` for HTTP/1.1; this client speaks HTTP/2 itself."""
    clients = []

    def connect(app, **options):
        running = serve(app, **options)
        clients.append(
            httpx.Client(base_url=running.url, http1=False, http2=True, trust_env=False, timeout=10)
        )
        return clients[-1], running

    yield connect
    for each in clients:
        each.close()

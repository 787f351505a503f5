"""Servers that tests written for HTTP/1.1 use over HTTP/2."""

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
    """As the fixture of the same name for HTTP/1.1; the client speaks HTTP/2 by itself."""
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

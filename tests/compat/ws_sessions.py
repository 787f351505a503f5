"""Connections by `websockets` to a server under test, and how they end."""

import asyncio
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.sync.client
from support import PATIENCE
from websockets.exceptions import ConnectionClosed, InvalidStatus


def connect(running, path="/", **options):
    url = f"ws://127.0.0.1:{running.port}{path}"
    return websockets.sync.client.connect(url, proxy=None, **options)


def connect_async(running, path="/", **options):
    url = f"ws://127.0.0.1:{running.port}{path}"
    return websockets.asyncio.client.connect(url, proxy=None, **options)


def close_of(ws) -> tuple[int, str]:
    """Code and reason of the server's Close, which must come next."""
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(timeout=PATIENCE)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def refusal_of(running, path="/", **options) -> Any:
    """The response to a handshake that is not accepted."""
    with pytest.raises(InvalidStatus) as refused, connect(running, path, **options):
        pass
    return refused.value.response


def run(main) -> Any:
    return asyncio.run(asyncio.wait_for(main, PATIENCE))

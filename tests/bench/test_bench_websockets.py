"""bench/: the loads of WebSocket messages, on real servers."""

from __future__ import annotations

import applications
import pytest
import ws_h2_load
import ws_load
from support import Running

PAYLOAD = ws_load.sample(64)


@pytest.mark.parametrize("load", [ws_load, ws_h2_load])
def test_echoes_are_compared(load):
    with Running(applications.echo) as running:
        load.check(running.port, PAYLOAD)


async def changed(scope, receive, send):
    """Echoes, but upper-cases text."""

    async def send_changed(message):
        if message.get("text"):
            message = {**message, "text": message["text"].upper()}
        await send(message)

    await applications.echo(scope, receive, send_changed)


@pytest.mark.parametrize("load", [ws_load, ws_h2_load])
def test_wrong_echo_is_told(load):
    with Running(changed) as running, pytest.raises(ws_load.WrongAnswerError):
        load.check(running.port, PAYLOAD)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 64), (8, 64), (2, 16_000)], ids=["one", "eight", "large"]
)
def test_load_over_http2_goes_on_past_the_first_windows(count, size):
    """The server's windows for a stream hold few of the large messages."""
    with Running(applications.echo) as running:
        result = ws_h2_load.run(running.port, 2, count, ws_load.sample(size), 0.3)
    assert result["messages"] >= 2 * count


def test_server_without_websockets_over_http2_is_told():
    refused = pytest.raises(ws_load.WrongAnswerError, match="does not offer WebSockets over HTTP/2")
    with Running(applications.echo, ws="none") as running, refused:
        ws_h2_load.check(running.port, PAYLOAD)

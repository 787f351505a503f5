"""What only HTTP/2 has, as an ASGI application and its clients see it."""

from __future__ import annotations

from apps import http_only
from frames import Setting, window_update

START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def test_small_parts_that_wait_for_the_window_arrive_in_order(serve, open_client):
    parts = [b"%d," % number for number in range(2000)]

    @http_only
    async def app(scope, receive, send):
        await send(START)
        for part in parts:
            await send(body(part, True))
        await send(body())

    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    client.wait(lambda: client.on(stream).status)
    client.alive()
    client.send(window_update(stream, 100_000))
    assert client.finished(stream).body == b"".join(parts)

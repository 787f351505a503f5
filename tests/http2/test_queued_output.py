"""Parts of a response that wait for the client's window."""

from apps import http_only
from frames import Setting, window_update
from support import wait_until


def test_many_small_parts_wait_for_the_window(serve, open_client):
    """They are joined while they wait, and arrive complete and in order."""
    parts = [b"%04d " % number for number in range(2000)]
    sent = []

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})
        sent.append(True)

    client = open_client(serve(app), (Setting.INITIAL_WINDOW_SIZE, 0))
    stream = client.request()
    wait_until(lambda: sent)
    client.send(window_update(stream, 7))
    client.wait(lambda: client.on(stream).body)
    client.send(window_update(stream, 100_000))
    assert client.finished(stream).body == b"".join([*parts, b"end"])

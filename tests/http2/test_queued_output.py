"""When responses leave: parts that wait for the client's window, answers beside each other."""

import threading
import time

from apps import http_only, respond
from frames import Setting, headers, window_update
from support import PATIENCE, wait_until


def test_many_small_parts_wait_for_the_window(serve, open_client):
    """They are joined meanwhile, and arrive whole and in order."""
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


def test_answer_does_not_wait_for_applications_that_block_in_their_first_steps(serve, open_client):
    """Both requests come in one read, so both applications start in one turn of the loop."""
    answered = threading.Event()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/computes":
            time.sleep(0.02)  # http2.STARTS_TIME is 0.005
        else:
            assert answered.wait(PATIENCE)
        await respond(send, b"ok")

    client = open_client(serve(app))
    blob = b""
    for stream, path in ((1, "/computes"), (3, "/blocks")):
        blob += headers(stream, client.encoder.encode(client.fields(path=path)), end=True)
    client.send(blob)
    assert client.finished(1).body == b"ok"
    answered.set()
    assert client.finished(3).body == b"ok"

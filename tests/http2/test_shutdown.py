"""Shutdown over HTTP/2: GOAWAY in two steps (RFC 9113 section 6.8), the delay before it, and
requests that cross it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from apps import respond
from frames import PREFACE, Code, connect, headers, literals, settings
from h2_servers import start
from process import Command
from support import PATIENCE, wait_until

# Nothing here depends on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)

ANY = 2**31 - 1  # the last stream in a GOAWAY that still allows new ones
LONGER_THAN_THE_GRACE = 2.5  # seconds; phases.DRAIN_GRACE is 1


class Application:
    """Answers at once, or "/wait" when released; "/stream" sends events until told to stop."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started: list[str] = []
        self.told: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        path = scope["path"]
        self.started.append(path)
        if path == "/wait":
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        if path == "/stream":
            events = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": events})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await receive()
            self.told.append((await receive())["type"])
            await send({"type": "http.response.body", "body": b"last"})
            return
        if path == "/body":
            while (await receive())["more_body"]:
                pass
        await respond(send, b"ok")


@pytest.fixture
def app() -> Application:
    return Application()


def stop(running) -> None:
    running.server.should_exit = True
    wait_until(lambda: running.context.draining)


def first_lasts(client) -> list[int]:
    return [last for last, code, _ in client.goaways if code == Code.NO_ERROR]


def says_goaway(client, count: int = 1) -> None:
    client.wait(lambda: len(client.goaways) >= count)


def test_two_steps(serve, open_client, app):
    """The second GOAWAY comes once the client has read the first, and names the last stream."""
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    client.answers = False  # do not acknowledge the PING yet
    waits = client.request(path="/wait")
    wait_until(lambda: app.started == ["/wait"])
    stop(running)
    says_goaway(client)
    crossing = client.request()
    assert client.finished(crossing).body == b"ok"
    assert client.goaways[0] == (ANY, Code.NO_ERROR, b"")
    says_goaway(client, 2)  # comes a second later, without the acknowledgement
    assert client.goaways[1] == (crossing, Code.NO_ERROR, b"")
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()
    assert len(client.goaways) == 2


def test_acknowledged_ping_names_the_last_stream_at_once(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    stop(running)
    says_goaway(client, 2)
    assert first_lasts(client) == [ANY, waits]
    late = client.request()
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()
    # Its number is higher, so the client may repeat it elsewhere.
    assert client.on(late).status is None
    assert app.started == ["/wait"]


@pytest.mark.parametrize("acknowledged", [True, False])
def test_stream_that_has_begun_finishes_however_long_it_takes(
    serve, open_client, app, acknowledged
):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    client.answers = acknowledged
    stop(running)
    says_goaway(client, 2)
    with pytest.raises(TimeoutError):
        client.read(LONGER_THAN_THE_GRACE)
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()


def test_half_a_head_does_not_cost_the_streams_beside_it(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    client.answers = False
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    fields = [(name.encode(), value.encode()) for name, value in client.fields()]
    half = headers(3, literals(fields), end=True)
    client.send(half[:20])
    stop(running)
    says_goaway(client, 2)
    assert first_lasts(client) == [ANY, waits]
    with pytest.raises(TimeoutError):
        client.read(LONGER_THAN_THE_GRACE)
    client.send(half[20:])
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()
    assert app.started == ["/wait"]


def test_upload_goes_on(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    stream = client.request("POST", "/body", end=False)
    wait_until(lambda: app.started)
    stop(running)
    says_goaway(client, 2)
    client.upload(stream, bytes(3_000_000))
    assert client.finished(stream).body == b"ok"
    client.end()


def test_event_stream_is_told(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    stream = client.request(path="/stream")
    client.wait(lambda: client.on(stream).body == b"first")
    stop(running)
    assert client.finished(stream).body == b"firstlast"
    assert app.told == ["http.disconnect"]
    client.end()


def test_idle_connection_is_told_and_closed(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    last = client.request()
    client.finished(last)
    stop(running)
    client.end()
    assert first_lasts(client) == [ANY, last]


def test_requests_refused_at_the_end_are_told_apart(serve, open_client, app):
    """Streams after the last one get no RST_STREAM and cost nothing: their content is dropped, and
    their heads are decoded only for the table's sake.
    """
    running = serve(app, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    stop(running)
    says_goaway(client, 2)
    for _ in range(40):
        client.request("POST", "/", ("x-repeated", "a"), body=bytes(1000))
    client.wait(lambda: client.frames)
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()
    assert app.started == ["/wait"]
    assert first_lasts(client) == [ANY, waits]


# --- Connections without a request yet ------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("begun", [b"", PREFACE[:10], PREFACE, PREFACE + settings()])
def test_connection_without_a_request_does_not_delay_the_end(
    serve, app, certificate, secure, begun
):
    running = start(app, certificate if secure else None, timeout_graceful_shutdown=10.0)
    with running, running.client() as client:
        client.answers = False  # acknowledge nothing
        client.send(begun)
        wait_until(lambda: len(running.context.connections) == 1)
        running.call(lambda: None)
        stop(running)
        assert client.end() in (None, Code.NO_ERROR)
        wait_until(lambda: not running.context.connections, 5.0)


@pytest.mark.parametrize("begun", [0, 10, len(PREFACE), len(PREFACE + settings())])
def test_connection_that_begins_after_the_drain_has_begun_may_ask(serve, open_client, app, begun):
    """It was accepted before; until then a connection may speak either version."""
    running = serve(app, timeout_graceful_shutdown=10.0)
    blob = PREFACE + settings()
    with running.client() as client:
        client.send(blob[:begun])
        wait_until(lambda: len(running.context.connections) == 1)
        stop(running)
        running.call(lambda: [each.drain() for each in list(running.context.connections)])
        client.send(blob[begun:])
        stream = client.request()
        assert client.finished(stream).body == b"ok"
        client.end()


@pytest.mark.parametrize("early", [False, True], ids=["during", "before"])
@pytest.mark.parametrize("secure", [False, True])
def test_connection_without_a_request_may_ask_during_the_delay(
    serve, app, certificate, secure, early
):
    """A client that read GOAWAY before its first request could never send one."""
    options = {"shutdown_delay": 60.0, "timeout_graceful_shutdown": 30.0}
    with start(app, certificate if secure else None, **options) as running:
        if not early:
            stop(running)
        with running.client() as client:
            client.start()
            if early:
                stop(running)
            client.alive()  # checks that no GOAWAY has come
            stream = client.request()
            assert client.finished(stream).body == b"ok"
            client.end()
            assert first_lasts(client) == [ANY, stream]
        running.server.force_exit = True


def test_delay_begins_with_goaway_and_serves_on(serve, open_client, app):
    running = serve(app, shutdown_delay=60.0, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    stop(running)
    says_goaway(client)
    with pytest.raises(TimeoutError):
        client.read(LONGER_THAN_THE_GRACE)
    again = client.request()
    assert client.finished(again).body == b"ok"
    assert first_lasts(client) == [ANY]
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()
    assert first_lasts(client) == [ANY, again]
    running.server.force_exit = True


def test_delay_leaves_to_the_drain_what_is_still_open(serve, open_client, app):
    running = serve(app, shutdown_delay=0.3, timeout_graceful_shutdown=30.0)
    client = open_client(running)
    waits = client.request(path="/wait")
    wait_until(lambda: app.started)
    stop(running)
    says_goaway(client, 2)
    assert first_lasts(client) == [ANY, waits]
    app.release.set()
    assert client.finished(waits).body == b"ok"
    client.end()


def test_limit_of_requests_ends_the_connection(serve, open_client, app):
    running = serve(app, limit_max_requests=5, limit_max_requests_jitter=0)
    client = open_client(running)
    streams = [client.request() for _ in range(5)]
    for stream in streams:
        assert client.finished(stream).body == b"ok"
    client.end()
    assert first_lasts(client) == [ANY, streams[-1]]


def test_second_signal_cuts_streams(serve, open_client, app):
    running = serve(app, timeout_graceful_shutdown=0.2)
    client = open_client(running)
    client.request(path="/wait")
    wait_until(lambda: app.started)
    stop(running)
    client.wait(lambda: client.closed)
    assert first_lasts(client)[0] == ANY


# --- Requests without a pause ---------------------------------------------------------------------


def test_requests_that_cross_the_end_are_answered_or_may_be_repeated(serve, app, certificate):
    """A client that sends requests until it reads GOAWAY loses none."""
    with start(app, certificate, timeout_graceful_shutdown=30.0) as running:
        client = connect("127.0.0.1", running.port, running.tls)
        with client:
            client.start()
            asked = []

            def ask() -> None:
                while not client.goaways:
                    asked.append(client.request())
                    client.wait(lambda: client.on(asked[-1]).ended or client.goaways)

            for _ in range(50):
                asked.append(client.request())
            running.server.should_exit = True
            ask()
            asked += [client.request() for _ in range(20)]  # sent before it read GOAWAY
            client.end()
            last = first_lasts(client)[-1]
            for stream in asked:
                exchange = client.on(stream)
                assert (exchange.body == b"ok" and exchange.ended) == (stream <= last), stream


COMMAND = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def asked_until_goaway(port: int, all_ask: threading.Barrier) -> int:
    """Send requests without a pause on one connection; return how many were answered, which must be
    all up to the last stream that GOAWAY names.
    """
    with connect("127.0.0.1", port) as client:
        client.start()
        asked = [client.request()]
        client.finished(asked[0])
        all_ask.wait()
        while not client.goaways:
            asked += [client.request() for _ in range(3)]
            newest = client.on(asked[-1])
            client.wait(lambda newest=newest: newest.ended or client.goaways)
        client.end()
        last = first_lasts(client)[-1]
        for stream in asked:
            exchange = client.on(stream)
            assert (exchange.body == b"ok" and exchange.ended) == (stream <= last), stream
        return len([stream for stream in asked if stream <= last])


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((), signal.SIGTERM),
        (("--workers", "2"), signal.SIGTERM),
        (("--workers", "2"), signal.SIGHUP),
        (("--workers", "2", "--limit-max-requests", "300"), None),
    ],
    ids=["SIGTERM", "SIGTERM, workers", "SIGHUP, workers", "max requests, workers"],
)
def test_command_loses_no_request(serve, tmp_path, arguments, number):
    (tmp_path / "main.py").write_text(COMMAND)
    options = ["main:app", "--port", "0", "--no-access-log", *arguments]
    with Command(*options, cwd=tmp_path) as command, ThreadPoolExecutor(4) as pool:
        port = int(command.url().rpartition(":")[2])
        with connect("127.0.0.1", port) as client:
            client.start()
            client.finished(client.request())
        all_ask = threading.Barrier(5, timeout=PATIENCE)
        asking = [pool.submit(asked_until_goaway, port, all_ask) for _ in range(4)]
        all_ask.wait()
        if number is not None:
            command.signal(number)
        assert sum(one.result() for one in asking) > 0
        if number != signal.SIGTERM:
            command.signal(signal.SIGTERM)
        assert command.wait() == 0

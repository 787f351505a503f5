"""Every wait of an HTTP/2 connection for its client: how it begins, what limits it, and what a late
client gets. The test drives the server's clock, as in tests/protocol/test_phases.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from apps import Gate, http_only, respond
from driven import DrivenLoop
from frames import (
    PREFACE,
    Client,
    Code,
    Setting,
    Type,
    continuation,
    data,
    headers,
    ping,
    settings,
    window_update,
)
from support import wait_until
from test_websocket_over_http2 import open_websocket
from ws_apps import accept as ws_accept
from ws_apps import ws_only

from thestral.protocol import phases
from thestral.protocol.clock import SLOWEST_TICK as TICK
from thestral.protocol.websocket import DRAIN_CLOSE_TIMEOUT

pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)

# Each differs from the others by more than the tests' tolerance.
SECONDS = {
    "timeout_head": 12.0,
    "timeout_body": 17.0,
    "timeout_keep_alive": 22.0,
    "timeout_write": 27.0,
}
SETTINGS_TIME = 10.0  # seconds; from thestral.protocol.http2
EARLY = 1e-3  # seconds
FOR_EVER = 10_000.0  # seconds


class App:
    """Answers as the path of the request says."""

    def __init__(self) -> None:
        self.gate = Gate()

    async def __call__(self, scope, receive, send) -> None:
        if scope["path"] == "/held":
            await self.gate.wait()
        elif scope["path"] == "/body":
            more = True
            while more:
                message = await receive()
                more = message.get("more_body", False)
        await respond(send, bytes(1 << 20) if scope["path"] == "/large" else b"hello")


@dataclass
class Late:
    """A client that makes the server wait, and the server's clock."""

    running: Any
    client: Client
    time: DrivenLoop

    def move(self, seconds: float) -> None:
        self.settle()
        self.running.call(lambda: self.time.move(seconds))
        self.settle()

    def settle(self) -> None:
        """Let the server read all that has been sent, and the loop run all that is scheduled."""
        for _ in range(5):
            self.running.call(lambda: None)

    def started(self, stream: int) -> None:
        wait_until(lambda: self.running.context.total_requests >= (stream + 1) // 2)
        self.settle()


def nothing(late: Late) -> None:
    pass


def sends(blob: bytes) -> Callable[[Late], None]:
    def begin(late: Late) -> None:
        late.client.answers = False
        late.client.send(blob)

    return begin


def greets(late: Late) -> None:
    late.client.start()


def cuts_a_block_off(late: Late) -> None:
    greets(late)
    late.client.send(headers(1, b"\x82", end_headers=False))


def drips_a_block(late: Late) -> None:
    """Later parts do not extend the deadline."""
    cuts_a_block_off(late)
    late.move(0.0)
    for _ in range(4):
        late.client.send(continuation(1, b"\x86", end_headers=False))
        late.move(0.0)


def has_been_answered(late: Late) -> None:
    greets(late)
    assert late.client.finished(late.client.request()).body == b"hello"


def is_answered_again(late: Late) -> None:
    """The wait begins at the end of the last response, although each request was read and answered
    at once.
    """
    greets(late)
    for _ in range(4):
        late.move(SECONDS["timeout_keep_alive"] / 2)
        assert late.client.finished(late.client.request()).body == b"hello"


def has_pinged(late: Late) -> None:
    """A PING does not count as work, and does not extend the wait."""
    has_been_answered(late)
    late.client.alive()


def acknowledges_nothing(late: Late) -> None:
    late.client.answers = False
    fields = late.client.encoder.encode(late.client.fields(path="/held"))
    late.client.send(PREFACE + settings() + headers(1, fields, end=True))
    late.started(1)


def stalls_a_body(late: Late) -> None:
    greets(late)
    stream = late.client.request("POST", "/body", end=False)
    late.client.send(data(stream, b"a"))
    late.started(stream)


def begins_no_body(late: Late) -> None:
    """The application does not ask for it."""
    greets(late)
    late.started(late.client.request("POST", "/held", end=False))


def drips_a_body(late: Late) -> None:
    """Each part extends the wait, although the application does not ask for any."""
    greets(late)
    stream = late.client.request("POST", "/held", end=False)
    late.started(stream)
    for _ in range(3):
        late.move(SECONDS["timeout_body"] - 2 * TICK)
        late.client.send(data(stream, b"a"))
        late.settle()
    late.client.alive()


def waits_for_100(late: Late) -> None:
    """The application does not ask for the body, and so for the client to continue."""
    greets(late)
    stream = late.client.request("POST", "/held", ("expect", "100-continue"), end=False)
    late.started(stream)


def opens_a_websocket(late: Late) -> None:
    """The application does not answer."""
    greets(late)
    open_websocket(late.client, path="/held", accepted=None)
    late.started(1)


def fills_the_window(late: Late) -> None:
    """The client may not send more."""
    greets(late)
    stream = late.client.request("POST", "/held", end=False)
    for size in [16_384, 16_384, 16_384, 16_383]:
        late.client.send(data(stream, bytes(size)))
    late.started(stream)


def waits_for_the_application(late: Late) -> None:
    greets(late)
    late.client.request(path="/held")
    late.started(1)


def reads_nothing_of_a_stream(late: Late) -> None:
    late.client.start((Setting.INITIAL_WINDOW_SIZE, 0))
    stream = late.client.request(path="/large")
    late.client.wait(lambda: late.client.on(stream).status)


def reads_a_little(late: Late) -> None:
    """Progress extends the wait."""
    reads_nothing_of_a_stream(late)
    late.move(SECONDS["timeout_write"] - 2)
    late.client.send(window_update(1, 1000))
    late.client.wait(lambda: len(late.client.on(1).body) == 1000)


def breaks_the_rules(late: Late) -> None:
    greets(late)
    late.client.send(data(2, b"a"))
    client = late.client
    client.wait(lambda: client.closed)  # the server's side


# --- The server's reaction ------------------------------------------------------------------------


def goaway(code: int) -> Callable[[Client], None]:
    def check(client: Client) -> None:
        assert client.end() == code

    return check


def timed_out(client: Client) -> None:
    """The stream gets a 408, and the connection goes on."""
    assert client.finished(1).status == 408
    client.alive()


def cancelled(client: Client) -> None:
    client.wait(lambda: client.on(1).reset is not None)
    assert client.on(1).reset == Code.CANCEL
    client.alive()


def closed(client: Client) -> None:
    client.end()


def let_go(client: Client) -> None:
    """The server has closed, the client knows it, and can send nothing more."""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            client.sock.sendall(b"x")


@dataclass
class Case:
    begin: Callable[[Late], None]
    limit: str | float | None
    end: Callable[[Client], None] | None = None


QUIETLY = goaway(Code.NO_ERROR)
CASES = {
    "half a preface": Case(sends(PREFACE[:10]), "timeout_head", closed),
    "no SETTINGS": Case(sends(PREFACE), "timeout_head", QUIETLY),
    "half of SETTINGS": Case(sends(PREFACE + settings((4, 1))[:12]), "timeout_head", QUIETLY),
    "block cut off": Case(cuts_a_block_off, "timeout_head", QUIETLY),
    "block in drips": Case(drips_a_block, "timeout_head", QUIETLY),
    "no request": Case(greets, "timeout_keep_alive", QUIETLY),
    "no further request": Case(has_been_answered, "timeout_keep_alive", QUIETLY),
    "no request after many": Case(is_answered_again, "timeout_keep_alive", QUIETLY),
    "PING": Case(has_pinged, "timeout_keep_alive", QUIETLY),
    "no ACK": Case(acknowledges_nothing, SETTINGS_TIME, goaway(Code.SETTINGS_TIMEOUT)),
    "body": Case(stalls_a_body, "timeout_body", timed_out),
    "body not begun": Case(begins_no_body, "timeout_body", timed_out),
    "body in drips": Case(drips_a_body, "timeout_body", timed_out),
    "100 is awaited": Case(waits_for_100, None),
    "WebSocket is not accepted": Case(opens_a_websocket, None),
    "body behind a shut window": Case(fills_the_window, None),
    "application": Case(waits_for_the_application, None),
    "stream not read": Case(reads_nothing_of_a_stream, "timeout_write", cancelled),
    "stream read a little": Case(reads_a_little, "timeout_write", cancelled),
    "lingering": Case(breaks_the_rules, phases.LINGER_TIMEOUT, let_go),
}


@pytest.mark.parametrize("name", CASES)
def test_late_client(serve, name):
    """The wait does not end early, and ends at most two ticks late."""
    case = CASES[name]
    app = App()
    running = serve(app, **SECONDS, timeout_request=None, timeout_graceful_shutdown=60)
    time = DrivenLoop.drive(running)
    with running.client() as client:
        wait_until(lambda: running.context.connections)
        late = Late(running, client, time)
        case.begin(late)
        late.settle()
        if case.limit is None:
            late.move(FOR_EVER)
            client.alive()
            assert not client.exchanges.get(1) or client.on(1).status is None
            app.gate.open(running)
            return
        limit = SECONDS[case.limit] if isinstance(case.limit, str) else case.limit
        late.move(limit - EARLY)
        assert running.context.connections
        with contextlib.suppress(TimeoutError):
            while client.read(0.05) is not None:  # drop the frames from the beginning
                assert client.on(1).reset is None
                assert client.on(1).status != 408
        assert client.closed == (case.limit == phases.LINGER_TIMEOUT)
        late.move(2 * TICK + EARLY)
        assert case.end is not None
        case.end(client)
        if client.closed:
            client.close()  # otherwise the server would linger, on its own clock
            wait_until(lambda: not running.context.connections)
        app.gate.open(running)
    assert time.faults == []


def test_connection_whose_last_stream_was_reset_is_idle(serve):
    """Although its client sends nothing behind the reset."""
    running = serve(App(), **SECONDS, timeout_request=None, timeout_graceful_shutdown=60)
    time = DrivenLoop.drive(running)
    with running.client() as client:
        wait_until(lambda: running.context.connections)
        late = Late(running, client, time)
        reads_nothing_of_a_stream(late)
        late.move(SECONDS["timeout_write"] + 2 * TICK)
        client.wait(lambda: client.on(1).reset is not None)
        late.move(SECONDS["timeout_keep_alive"] + 3 * TICK)
        assert client.end() == Code.NO_ERROR


@pytest.mark.parametrize("closes", [False, True])
def test_websocket_has_two_seconds_at_a_shutdown(serve, closes):
    """Whether its Close leaves at the shutdown, or has left before with more time for an answer;
    its client sends nothing, not even the acknowledgement of a PING.
    """

    @ws_only
    async def app(scope, receive, send):
        await ws_accept(receive, send)
        if closes:
            await send({"type": "websocket.close", "code": 4000})
        await receive()

    running = serve(app, ws_close_timeout=1000.0, timeout_graceful_shutdown=600)
    time = DrivenLoop.drive(running)
    with running.started() as client:
        late = Late(running, client, time)
        stream = open_websocket(client)
        answer = client.on(stream)
        if closes:
            client.wait(lambda: answer.body)
        client.answers = False
        late.settle()
        running.call(lambda: start_draining(running.context))
        client.wait(lambda: answer.body)
        assert answer.body[2:4] == (4000 if closes else 1012).to_bytes(2)
        late.move(DRAIN_CLOSE_TIMEOUT - EARLY)
        with contextlib.suppress(TimeoutError):
            while client.read(0.05) is not None:
                assert answer.reset is None
        late.move(2 * TICK + EARLY)
        client.wait(lambda: answer.reset is not None)
        assert answer.reset == Code.CANCEL
        assert client.end() == Code.NO_ERROR


def start_draining(context: Any) -> None:
    context.draining = True
    for connection in list(context.connections):
        connection.drain()


def test_frames_do_not_put_off_the_end_of_a_connection_without_a_request(serve):
    """At a shutdown it may send one within phases.DRAIN_GRACE, whatever else it sends."""
    with driven(serve, App()) as late:
        late.running.call(lambda: start_draining(late.running.context))
        for _ in range(4):
            late.client.send(ping())
            late.move(phases.DRAIN_GRACE / 2 + EARLY)
        assert late.client.end() == Code.NO_ERROR
        assert late.client.frames.get(Type.PING) == len(late.client.pongs)  # none of the server's


def test_head_that_is_being_sent_is_waited_for_at_a_shutdown(serve):
    """However long the client has taken for it so far."""
    with driven(serve, App()) as late:
        fields = late.client.encoder.encode(late.client.fields())
        late.client.send(headers(1, fields[:5], end=True, end_headers=False))
        late.move(2 * phases.DRAIN_GRACE)
        late.running.call(lambda: start_draining(late.running.context))
        late.client.send(continuation(1, fields[5:]))
        assert late.client.finished(1).body == b"hello"


def test_time_without_a_request_before_a_shutdown_counts(serve):
    """A connection without one for half of phases.DRAIN_GRACE has the other half left."""
    with driven(serve, App(), timeout_write=0.08) as late:  # so that ticks are 10 ms apart
        late.move(phases.DRAIN_GRACE / 2)
        late.running.call(lambda: start_draining(late.running.context))
        late.move(phases.DRAIN_GRACE / 2 + 0.1)
        assert late.client.end() == Code.NO_ERROR


def test_body_that_other_streams_had_held_up_is_waited_for_again(serve):
    """While the connection's window is closed, the client owes nothing."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/first":
            await gate.wait()
        while (await receive())["more_body"]:
            pass

    with driven(serve, app, http2_connection_window=65_535) as late:
        late.client.answers = True
        first = late.client.request("POST", "/first", end=False)
        late.client.send(b"".join([data(first, bytes(16_384))] * 3 + [data(first, bytes(16_383))]))
        late.started(first)
        second = late.client.request("POST", "/second", end=False)
        late.started(second)
        late.move(SECONDS["timeout_body"] + 2 * TICK)
        late.client.alive()
        assert late.client.on(second).status is None
        gate.open(late.running)
        late.client.wait(lambda: late.client.credit)
        late.move(2 * (SECONDS["timeout_body"] + 2 * TICK))
        late.client.wait(lambda: late.client.on(second).status == 408)


def test_applications_are_told_at_once_that_a_connection_has_failed(serve):
    """Not only when the client has read why, and closes."""
    told = []

    @http_only
    async def app(scope, receive, send):
        await receive()
        told.append((await receive())["type"])

    with driven(serve, app) as late:
        late.started(late.client.request())
        late.client.send(data(2, b"a"))
        wait_until(lambda: told == ["http.disconnect"])


def test_requests_beyond_those_of_a_turn_start_in_the_next(serve):
    """No tick of the clock is needed for that."""
    with driven(serve, App()) as late:
        blocks = [late.client.encoder.encode(late.client.fields()) for _ in range(100)]
        late.client.send(
            b"".join(headers(2 * i + 1, block, end=True) for i, block in enumerate(blocks))
        )
        for i in range(100):
            assert late.client.finished(2 * i + 1).body == b"hello"


def test_keep_alive_of_0_leaves_a_new_connection_time_for_one_request(serve):
    with driven(serve, App(), timeout_keep_alive=0.0) as late:
        late.move(SECONDS["timeout_head"] - EARLY)
        late.client.alive()
        late.move(2 * TICK + EARLY)
        assert late.client.end() == Code.NO_ERROR


def test_keep_alive_of_0_closes_after_the_last_response(serve):
    running = serve(App(), timeout_keep_alive=0)
    with running.started() as client:
        stream = client.request()
        assert client.finished(stream).body == b"hello"
        assert client.end() == Code.NO_ERROR
        assert client.goaways[-1][0] == stream


# --- Waits that end, and waits that begin again ---------------------------------------------------


@contextlib.contextmanager
def driven(serve, app, *pairs: tuple[int, int], **options: Any) -> Iterator[Late]:
    """A client of an application, the prefaces exchanged, on a clock of the test's."""
    options = {**SECONDS, "timeout_request": None, "timeout_graceful_shutdown": 60, **options}
    running = serve(app, **options)
    time = DrivenLoop.drive(running)
    with running.client() as client:
        wait_until(lambda: running.context.connections)
        client.start(*pairs)
        yield Late(running, client, time)
    assert time.faults == []


def test_client_that_waited_for_100_owes_the_body_from_then_on(serve):
    with driven(serve, App()) as late:
        stream = late.client.request("POST", "/body", ("expect", "100-continue"), end=False)
        late.client.wait(lambda: late.client.on(stream).interim)
        late.move(SECONDS["timeout_body"] - EARLY)
        late.client.alive()
        assert late.client.on(stream).status is None
        late.move(2 * TICK + EARLY)
        late.client.wait(lambda: late.client.on(stream).status == 408)


def test_time_of_a_body_begins_again_when_the_application_opens_the_window(serve):
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        while (await receive())["type"] == "http.request":
            pass

    with driven(serve, app) as late:
        stream = late.client.request("POST", end=False)
        late.client.send(*[data(stream, bytes(16_383))] * 4)
        late.started(stream)
        late.move(SECONDS["timeout_body"] / 2)
        gate.open(late.running)
        late.client.wait(lambda: late.client.on(stream).credit)
        late.move(SECONDS["timeout_body"] - 2 * TICK)
        late.client.alive()
        assert late.client.on(stream).status is None
        late.move(4 * TICK)
        late.client.wait(lambda: late.client.on(stream).status == 408)


def test_client_that_has_read_all_owes_nothing(serve):
    """Output waited for it, but no longer does: now the application takes its time."""
    gate = Gate()

    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(1000), "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"end"})

    with driven(serve, app, (Setting.INITIAL_WINDOW_SIZE, 0)) as late:
        stream = late.client.request()
        late.client.wait(lambda: late.client.on(stream).status)
        late.client.send(window_update(stream, 5000))
        late.client.wait(lambda: len(late.client.on(stream).body) == 1000)
        late.move(SECONDS["timeout_write"] + 2 * TICK)
        late.client.alive()
        gate.open(late.running)
        assert late.client.finished(stream).body.endswith(b"end")

"""Each wait for a client: how it begins, which option limits it, and what a late client gets.

The server and its sockets are real. The time of its clock is the test's, so that no test waits,
and each can look at the last moment at which a time-out would be early.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme
from apps import GET, GET_CLOSE, Gate, get, post, read_to_end, respond, take_replies
from driven import DrivenLoop
from leaks import nothing_stays, only_ours  # noqa: F401
from support import PATIENCE, read_all, read_head, read_response, read_to, wait_until

from thestral.protocol import phases
from thestral.protocol.clock import SLOWEST_TICK, TIMED
from thestral.protocol.http1 import HTTP1Connection

# Each differs from the others, and from DRAIN_GRACE and LINGER_TIMEOUT, by more than a test allows.
# A ping has to be answered before the next one is sent.
SECONDS = {option: 12.0 + 5 * number for number, option in enumerate(reversed(TIMED))}
OFF = {"timeout_request": None}  # else it would end what must not end
FOR_EVER = 10_000.0  # seconds
EARLY = 1e-3  # seconds
TICK = SLOWEST_TICK

EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = get(
    "/",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
TEXT = b"\x81\x81\x00\x00\x00\x00x"
PING = b"\x89"
LARGE = bytes(8 * 2**20)  # more than the sockets between server and client hold


class App:
    """Answers by the path of the request; accepts a WebSocket, and closes it at a message."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.polls = 0

    async def poll(self, receive) -> bool:
        """Receive for a millisecond; return whether the client is still there."""
        self.polls += 1
        with contextlib.suppress(TimeoutError):
            message = await asyncio.wait_for(receive(), 0.001)
            return message["type"] == "http.request"
        return True

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.close"})
            return
        path = scope["path"]
        if path == "/held":
            await self.gate.wait()
        elif path == "/polled":
            while await self.poll(receive):
                pass
        elif path == "/body":
            while (await receive())["type"] == "http.request":
                pass
        with contextlib.suppress(OSError):  # the client is gone
            if path == "/endless":
                await send({"type": "http.response.start", "status": 200})
                while True:
                    await send({"type": "http.response.body", "body": LARGE, "more_body": True})
            close = [(b"connection", b"close")] if path == "/close" else []
            await respond(send, LARGE if path == "/large" else b"hello", headers=close)


# --- What a late client gets ----------------------------------------------------------------------


def closed(sock: socket.socket) -> None:
    """The connection closes, and nothing comes before."""
    assert read_all(sock) == b""


def was_reset(sock: socket.socket) -> None:
    """The connection is reset, so that the client sees that the response is incomplete."""
    with pytest.raises(ConnectionResetError):
        read_all(sock)


def gateway_timeout(sock: socket.socket) -> None:
    head, body = read_response(sock)
    assert head.startswith(b"HTTP/1.1 504 ")
    assert body == b"Gateway Timeout"


def refused(reason: str) -> Callable[[socket.socket], None]:
    """408 with this reason, and the connection closes (RFC 9110 section 15.5.9)."""

    def check(sock: socket.socket) -> None:
        (reply,) = take_replies(read_all(sock))
        assert (reply.status, reply.body) == (408, f"Request Timeout: {reason}\n".encode())
        assert reply.one(b"connection") == b"close"

    return check


def received(data: bytes) -> Callable[[socket.socket], None]:
    def check(sock: socket.socket) -> None:
        assert sock.recv(100).startswith(data)

    return check


def let_go(sock: socket.socket) -> None:
    """The client, which knows that the server has closed, may send no more."""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            sock.sendall(b"x")


# --- How a wait begins ----------------------------------------------------------------------------


@dataclass
class Late:
    """A client that keeps the server waiting.

    Attributes:
        sock: the client's end.
        connection: the server's.
        time: of the server's clock.
        begun: when the wait began.
        arrived: what was there to read then, as `unread` gives it.
    """

    running: Any
    sock: socket.socket
    time: DrivenLoop
    connection: Any = None
    begun: float = 0.0
    arrived: bytes | None = None

    def move(self, seconds: float) -> None:
        """Let time pass on the server's clock."""
        self.running.call(lambda: self.time.move(seconds))

    def move_to(self, when: float) -> None:
        self.move(when - self.time.now)

    def settle(self) -> None:
        """Let the loop do what it has scheduled."""
        for _ in range(3):
            self.running.call(lambda: None)

    def reached(self) -> None:
        """Wait until the connection has entered a phase at the current time."""
        wait_until(lambda: self.connection.since == self.running.context.clock.now)
        self.settle()

    def unread(self) -> bytes | None:
        """The next byte for the client; none at the end of the stream, None if nothing came."""
        ready, _, _ = select.select([self.sock], [], [], 0)
        return self.sock.recv(1, socket.MSG_PEEK) if ready else None

    def still_waits(self) -> None:
        self.settle()
        assert self.connection in self.running.context.connections
        assert self.unread() == self.arrived


def nothing(late: Late) -> None:
    pass


def sends(data: bytes) -> Callable[[Late], None]:
    return lambda late: late.sock.sendall(data)


def drips(first: bytes, then: bytes) -> Callable[[Late], None]:
    """Later bytes do not extend the deadline."""

    def begin(late: Late) -> None:
        late.sock.sendall(first)
        late.reached()
        late.begun = late.time.now
        late.move(2 * TICK)
        late.sock.sendall(then)

    return begin


def reads_response(late: Late) -> None:
    late.sock.sendall(GET)
    assert read_response(late.sock)[1] == b"hello"


def reads_response_and_sends(data: bytes) -> Callable[[Late], None]:
    def begin(late: Late) -> None:
        reads_response(late)
        late.move(2 * TICK)
        late.sock.sendall(data)

    return begin


def reads_response_and_has_sent(data: bytes) -> Callable[[Late], None]:
    """The second request's first bytes come with the first request."""

    def begin(late: Late) -> None:
        late.sock.sendall(GET + data)
        assert read_response(late.sock)[1] == b"hello"

    return begin


def reads_response_and_sends_empty_line(late: Late) -> None:
    """As old clients do (RFC 9112 section 2.2). It does not extend the deadline."""
    reads_response(late)
    late.begun = late.time.now
    late.move(2 * TICK)
    late.sock.sendall(b"\r\n")


def goes_on_with(data: bytes) -> Callable[[Late], None]:
    """Sends the first part of a body, and a while later this one."""

    def begin(late: Late) -> None:
        late.sock.sendall(post(b"x" * 100, path="/body")[:-80])
        wait_until(lambda: late.running.context.running)
        late.move(2 * TICK)
        late.sock.sendall(data)

    return begin


def is_polled_for(late: Late) -> None:
    """The application asks again and again; the client owes the same body."""
    late.sock.sendall(post(b"abc", path="/polled")[:-1])
    late.reached()
    late.begun = late.time.now
    late.move(2 * TICK)
    app = late.running.server.config.app
    polls = app.polls
    wait_until(lambda: app.polls > polls + 3)


def gets_100(late: Late) -> None:
    late.sock.sendall(EXPECTING.replace(b" / ", b" /body "))
    assert b" 100 " in read_head(late.sock)


def is_refused(late: Late) -> None:
    late.sock.sendall(b"no request\r\n\r\n")
    (reply,) = take_replies(read_all(late.sock))
    assert reply.status == 400


def gets_connection_closed(late: Late) -> None:
    """By the application, so that the client may have sent more by then (RFC 9112 section 9.6)."""
    late.sock.sendall(get("/close"))
    (reply,) = take_replies(read_all(late.sock))
    assert reply.body == b"hello"
    late.begun = late.time.now


def gets_connection_closed_then_drained(late: Late) -> None:
    gets_connection_closed(late)
    drains(late)


def reads_early_response(late: Late) -> None:
    """The response is complete, and the client is to send the rest of a body that nobody takes."""
    late.sock.sendall(post(b"x" * 100)[:-50])
    assert read_response(late.sock)[1] == b"hello"


def waits_for_application(late: Late) -> None:
    late.sock.sendall(get("/held"))
    wait_until(lambda: late.running.server.config.app.gate.reached)


def waits_until_body_is_taken(late: Late) -> None:
    """The application receives nothing, so the server stops reading the body."""
    late.sock.sendall(post(b"x" * 200_000, path="/held")[:-50_000])
    wait_until(lambda: late.connection.reading_paused)


def reads_nothing(request: bytes) -> Callable[[Late], None]:
    def begin(late: Late) -> None:
        late.sock.sendall(request)
        wait_until(lambda: late.connection.write_paused)

    return begin


def drains(late: Late) -> None:
    late.running.server.should_exit = True
    wait_until(lambda: late.running.context.draining)
    wait_until(lambda: len(late.running.context.connections) == 1)  # the bystander is closed


def is_idle_when_drained(late: Late) -> None:
    """The wait begins with the end of the last exchange, not with the shutdown."""
    reads_response(late)
    late.begun = late.time.now
    late.move(TICK)
    drains(late)


def gets_response_begun_before_drain(late: Late) -> None:
    """Its head does not say that the connection closes."""
    late.sock.sendall(post(b"x" * 100)[:-50])
    assert read_response(late.sock)[1] == b"hello"
    drains(late)
    late.move(2 * TICK)
    late.sock.sendall(b"x" * 50)


def opens_websocket(late: Late) -> None:
    late.sock.sendall(HANDSHAKE)
    assert b" 101 " in read_head(late.sock)


def is_pinged(late: Late) -> None:
    opens_websocket(late)
    while late.unread() is None:
        late.move(TICK)
    assert late.sock.recv(100)[:1] == PING
    late.begun = late.running.context.clock.now


def gets_close(late: Late) -> None:
    opens_websocket(late)
    late.move(2 * TICK)
    late.sock.sendall(TEXT)
    assert read_to(late.sock, b"\x88\x02\x03\xe8")
    late.begun = late.time.now


def begins_tls(late: Late) -> None:
    late.sock.sendall(b"\x16\x03\x01\x02\x00\x01")


def fails_tls(late: Late) -> None:
    late.sock.sendall(b"\x16\x03\x01\x00\x05hello")
    assert read_all(late.sock)[:1] == b"\x15"  # an alert


HEAD_LATE = refused("request head not received in time")
BODY_LATE = refused("body not received in time")
PROXY = {"proxy_protocol": True}
TLS = {"ssl_certfile": "server.pem"}
PINGS_OFF = {"ws_ping_interval": None}
UNREAD = {"timeout_keep_alive": 10.0}  # not for a client that has not read the response
TIMED_REQUEST = {"timeout_request": SECONDS["timeout_request"]}
WRITES = 1  # further ticks: the first one that finds output waiting begins the wait


@dataclass
class Case:
    """A wait.

    Attributes:
        begin: what a client does to get there, and the server's last step on the way.
        limit: the option, or the seconds; None if the wait has no end.
        end: what a late client gets.
        options: those that the case needs.
        more_ticks: how many ticks above two it may be late.
        first: the wait begins when the connection is made.
    """

    begin: Callable[[Late], None]
    limit: str | float | None
    end: Callable[[socket.socket], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    more_ticks: int = 0
    first: bool = False


CASES = {
    phases.FIRST_HEAD: {
        "silent": Case(nothing, "timeout_head", closed, first=True),
        "empty lines": Case(drips(b"\r\n", b"\r\n"), "timeout_head", closed, first=True),
    },
    phases.HEAD: {
        "one byte": Case(sends(b"G"), "timeout_head", HEAD_LATE),
        "drip": Case(drips(b"G", b"E"), "timeout_head", HEAD_LATE),
        "almost all": Case(sends(GET[:-1]), "timeout_head", HEAD_LATE),
        "later": Case(reads_response_and_sends(GET[:-1]), "timeout_head", HEAD_LATE),
        "behind another": Case(reads_response_and_has_sent(b"G"), "timeout_head", HEAD_LATE),
    },
    phases.BODY: {
        "none": Case(sends(post(b"abc", path="/body")[:-3]), "timeout_body", BODY_LATE),
        "goes on": Case(goes_on_with(b"x" * 79), "timeout_body", BODY_LATE),
        "chunk": Case(
            sends(CHUNKED.replace(b" / ", b" /body ") + b"3\r\nab"), "timeout_body", BODY_LATE
        ),
        "trailers": Case(
            sends(CHUNKED.replace(b" / ", b" /body ") + b"0\r\nX: "), "timeout_body", BODY_LATE
        ),
        "polled for": Case(is_polled_for, "timeout_body", BODY_LATE),
        "after 100": Case(gets_100, "timeout_body", BODY_LATE),
        "after the response": Case(reads_early_response, "timeout_body", closed),
    },
    phases.RESPONDING: {
        "application": Case(waits_for_application, None),
        "body not taken": Case(waits_until_body_is_taken, None),
        "100 not sent": Case(sends(EXPECTING.replace(b" / ", b" /held ")), None),
        "request": Case(waits_for_application, "timeout_request", gateway_timeout, TIMED_REQUEST),
        "unread": Case(
            reads_nothing(get("/endless")), "timeout_write", was_reset, more_ticks=WRITES
        ),
    },
    phases.IDLE: {
        "kept": Case(reads_response, "timeout_keep_alive", closed),
        "empty line": Case(reads_response_and_sends_empty_line, "timeout_keep_alive", closed),
        "unread": Case(
            reads_nothing(get("/large")), "timeout_write", was_reset, UNREAD, more_ticks=WRITES
        ),
    },
    phases.LAST_CHANCE: {
        "idle": Case(is_idle_when_drained, phases.DRAIN_GRACE, closed),
        "begun before": Case(gets_response_begun_before_drain, phases.DRAIN_GRACE, closed),
    },
    phases.TUNNEL: {
        "no pings": Case(opens_websocket, None, options=PINGS_OFF),
        "ping": Case(opens_websocket, "ws_ping_interval", received(PING)),
        "pong": Case(is_pinged, "ws_ping_timeout", received(b"\x88\x18\x03\xf3keepalive ping")),
        "close": Case(gets_close, "ws_close_timeout", read_to_end),
    },
    phases.LINGERING: {
        "refused": Case(is_refused, phases.LINGER_TIMEOUT, let_go),
        "closed": Case(gets_connection_closed, phases.LINGER_TIMEOUT, let_go),
        "drained": Case(gets_connection_closed_then_drained, phases.LINGER_TIMEOUT, let_go),
    },
    phases.CLOSING: {
        "unread": Case(
            reads_nothing(GET_CLOSE.replace(b" / ", b" /large ")),
            "timeout_write",
            was_reset,
            more_ticks=WRITES,
        ),
    },
    "before HTTP": {
        "PROXY head": Case(nothing, "timeout_head", was_reset, PROXY, first=True),
        "half a PROXY head": Case(sends(b"PROXY "), "timeout_head", was_reset, PROXY, first=True),
        "TLS": Case(nothing, "timeout_tls_handshake", was_reset, TLS, first=True),
        "half of TLS": Case(begins_tls, "timeout_tls_handshake", was_reset, TLS, first=True),
        "TLS failed": Case(fails_tls, phases.LINGER_TIMEOUT, let_go, TLS),
    },
}
NAMES = {
    value: name for name, value in vars(phases).items() if name.isupper() and type(value) is int
}
EACH = [
    pytest.param(case, id=f"{NAMES.get(phase, phase)}, {name}")
    for phase, cases in CASES.items()
    for name, case in cases.items()
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Path of a certificate with its key."""
    issued = trustme.CA().issue_cert("localhost")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


def test_each_phase_and_each_time_out_has_a_case():
    assert {phase for phase in CASES if phase in NAMES} == set(phases.PHASES) == set(NAMES)
    limits = {case.limit for cases in CASES.values() for case in cases.values()}
    assert {limit for limit in limits if isinstance(limit, str)} == set(TIMED)


@pytest.mark.parametrize("case", EACH)
def test_late_client(serve, certificate, case):
    """Its wait does not end early, and ends at most two ticks late."""
    options = SECONDS | OFF | case.options
    if case.options is TLS:
        options["ssl_certfile"] = certificate
    running = serve(App(), **options, timeout_graceful_shutdown=60)
    time = DrivenLoop.drive(running)
    with contextlib.ExitStack() as stack:
        wait_out(case, running, time, stack)
    assert time.faults == []
    nothing_stays(running)


def wait_out(case: Case, running: Any, time: DrivenLoop, stack: contextlib.ExitStack) -> None:
    context = running.context
    stack.enter_context(running.connect())  # a bystander: the clock ticks before the client comes
    wait_until(lambda: context.connections)
    bystanders = set(context.connections)
    sock = stack.enter_context(socket.socket())
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    late = Late(running, sock, time)
    late.move(0.3 * TICK)  # no wait begins with a tick
    sock.connect(("127.0.0.1", running.port))
    wait_until(lambda: context.connections - bystanders)
    (late.connection,) = context.connections - bystanders
    if not case.first:
        late.move(2 * TICK)
    case.begin(late)
    if not late.begun:
        late.begun = time.now
        if isinstance(late.connection, HTTP1Connection):
            late.reached()
    late.settle()
    late.arrived = late.unread()
    if case.limit is None:
        late.move(FOR_EVER)
        late.still_waits()
        running.server.config.app.gate.open(running)
        return
    limit = SECONDS[case.limit] if isinstance(case.limit, str) else case.limit
    late.move_to(late.begun + limit - EARLY)
    late.still_waits()
    late.move_to(late.begun + limit + (2 + case.more_ticks) * TICK)  # which may end the server
    case.end(sock)

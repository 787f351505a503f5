"""Ids and times of requests: --request-id, traceparent, --server-timing, --access-log-slow; and
which requests the access log leaves out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
import uuid

import pytest
from support import read_all, read_head, read_response, wait_until

from thestral import Config
from thestral._core.log import Uuids
from thestral.logging import JsonFormatter
from thestral.logging.format import whole_format
from thestral.logging.ids import read_traceparent
from thestral.logging.levels import set_level
from thestral.logging.loggers import access_logger, error_logger
from thestral.logging.setup import line_format_of
from thestral.protocol.access import Exclusion

GET = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"
WEBSOCKET = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
TRACEPARENT = b"traceparent: 00-%b-%b-01\r\n" % (TRACE, SPAN)
JSON = {"log_format": "json"}


class Lines(logging.Handler):
    """What a logger's records are as JSON, formatted where they are made."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines = []

    def emit(self, record):
        self.lines.append(json.loads(self.format(record)))

    def find(self, text):
        """Wait for a line whose message contains a text."""
        return wait_until(lambda: [each for each in self.lines if text in each["message"]])[0]


@pytest.fixture
def install(monkeypatch):
    """Function (logger) that gives its Lines."""

    def install(logger):
        lines = Lines()
        monkeypatch.setattr(logger, "handlers", [lines])
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "disabled", False)
        logger.setLevel(logging.INFO)
        return lines

    yield install
    own.setLevel(logging.NOTSET)


@pytest.fixture
def errors(install):
    return install(error_logger)


@pytest.fixture
def access(install):
    return install(access_logger)


own = logging.getLogger("application.of.test_request_ids")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["type"] == "websocket":
        await receive()
        own.info("of the WebSocket")
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["state"].get("request_id", "")})
        raise RuntimeError("meant")
    if scope["path"] == "/crash":
        raise RuntimeError("meant")
    if scope["path"] == "/records":
        own.info("in the task")
        await asyncio.create_task(say("in another task"))
        await asyncio.to_thread(own.info, "in a thread")
        error_logger.info("by the server's logger")
    headers = []
    if scope["path"] == "/own":
        headers = [(b"X-Request-Id", b"mine"), (b"server-timing", b"db;dur=1")]
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    body = json.dumps(scope["state"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def say(text):
    own.info(text)


def ask(running, path=b"/", fields=b""):
    """Return the response's fields, of those names that come twice the last, and its state."""
    with running.connect() as sock:
        sock.sendall(GET % (path, fields))
        head, body = read_response(sock)
    return fields_of(head), body


def fields_of(head):
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return {name.lower(): value.strip() for name, _, value in lines if name}


def is_new(text):
    """Whether a text is a UUID of version 7, as RFC 9562 writes it."""
    text = text.decode() if isinstance(text, bytes) else text
    found = uuid.UUID(text)
    return (found.version, found.variant, str(found)) == (7, uuid.RFC_4122, text)


# --- Ids ------------------------------------------------------------------------------------------


def test_uuid_is_of_version_7_and_sorts_by_time():
    uuids = Uuids(os.urandom)
    ids = [uuids.new(time.time()) for _ in range(1000)]  # several times the bytes it fetches
    assert all(map(is_new, ids))
    assert len(set(ids)) == 1000
    now = (0x0123_4567_89AB + 0.5) / 1000
    assert Uuids(lambda size: b"\xff" * size).new(now) == "01234567-89ab-7fff-bfff-ffffffffffff"
    assert Uuids(bytes).new(now) == "01234567-89ab-7000-8000-000000000000"


def test_random_bytes_of_uuids_are_used_once():
    fetched = []

    def source(size):
        fetched.append(size)
        return b"".join(number.to_bytes(10, "big") for number in range(size // 10))

    uuids = Uuids(source)
    ids = [uuids.new(0.0) for _ in range(257)]
    assert len(set(ids[:256])) == 256
    assert ids[256] == ids[0]
    assert fetched == [2560, 2560]


@pytest.mark.parametrize("size", [0, 2559, 2561])
def test_random_bytes_of_another_number_are_refused(size):
    with pytest.raises(ValueError, match=f"{size} random bytes, expected 2560"):
        Uuids(lambda _: bytes(size)).new(0.0)


@pytest.mark.parametrize(
    "value",
    [
        b"00-%b-%b-01",
        b"00-%b-%b-00",
        b"00-%b-%b-ff",
        b"01-%b-%b-01",
        b"cc-%b-%b-01-more",
        b"fe-%b-%b-01-",
    ],
)
def test_valid_traceparent(value):
    assert read_traceparent(value % (TRACE, SPAN)) == (TRACE.decode(), SPAN.decode())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        b"00-" + TRACE,
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-" % (TRACE, SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-011" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01." % (TRACE, SPAN),
        b"cc-%b-%b-01.more" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"0-%b-%b-01" % (TRACE, SPAN),
        b"0x-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-0X" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN.upper()),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN + b"0"),
        b"00_%b_%b_01" % (TRACE, SPAN),
        b" 00-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01\n" % (TRACE, SPAN),
        b"00-%b-%b-01,00-%b-%b-01" % (TRACE, SPAN, TRACE, SPAN),
    ],
)
def test_traceparent_that_is_invalid(value):
    assert read_traceparent(value) is None


def test_new_id_is_in_state_response_and_line(serve, access):
    running = serve(app, access_log=True, request_id=True, access_log_format="%{request_id}x")
    seen = []
    for _ in range(2):
        fields, body = ask(running)
        assert is_new(fields[b"x-request-id"])
        assert json.loads(body) == {"request_id": fields[b"x-request-id"].decode()}
        seen.append(json.loads(body)["request_id"])
    assert seen[0] != seen[1]
    wait_until(lambda: len(access.lines) == 2)
    assert [line["message"] for line in access.lines] == seen


def test_id_of_a_trusted_proxy_is_kept(serve, errors):
    running = serve(app, request_id=True)
    for given in (b"abc", b"x" * 128, b'!"#~'):
        fields, body = ask(running, fields=b"X-Request-ID: %b\r\n" % given)
        assert fields[b"x-request-id"] == given
        assert json.loads(body) == {"request_id": given.decode()}


@pytest.mark.parametrize(
    "given", [b"x" * 129, b"a b", b"a\tb", b"\xff", b"", b"a\r\nX-Request-ID: b"]
)
def test_id_that_is_not_sane_is_replaced(serve, given):
    running = serve(app, request_id=True)
    assert is_new(ask(running, fields=b"X-Request-ID: %b\r\n" % given)[0][b"x-request-id"])


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8"])
def test_id_of_anybody_else_is_replaced(serve, trusted):
    running = serve(app, request_id=True, forwarded_allow_ips=trusted)
    assert is_new(ask(running, fields=b"X-Request-ID: abc\r\n")[0][b"x-request-id"])


def test_what_the_application_or_header_sets_is_sent_once(serve):
    running = serve(app, request_id=True)
    with running.connect() as sock:
        sock.sendall(GET % (b"/own", b""))
        head, body = read_response(sock)
    assert head.lower().count(b"x-request-id") == 1
    assert fields_of(head)[b"x-request-id"] == b"mine"
    assert is_new(json.loads(body)["request_id"])
    running = serve(app, request_id=True, headers=["X-Request-ID: fixed"])
    with running.connect() as sock:
        sock.sendall(GET % (b"/", b""))
        head, _ = read_response(sock)
    assert head.lower().count(b"x-request-id") == 1


def test_without_options_nothing_is_added(serve):
    running = serve(app)
    fields, body = ask(running, fields=b"X-Request-ID: abc\r\n" + TRACEPARENT)
    assert not {b"x-request-id", b"server-timing"} & fields.keys()
    assert body == b"{}"


@pytest.mark.parametrize("options", [{"request_id": True}, JSON])
def test_error_names_the_request(serve, errors, options):
    running = serve(app, **options)
    ask(running, b"/crash", b"X-Request-ID: abc\r\n" + TRACEPARENT)
    line = errors.find("Exception in ASGI application")
    assert line["message"] == "Exception in ASGI application (GET /crash, request id abc)"
    assert (line["request_id"], line["trace_id"]) == ("abc", TRACE.decode())
    assert line["span_id"] == SPAN.decode()
    assert line["exception"].endswith("RuntimeError: meant")


def test_refusal_of_a_body_names_the_request(serve, errors):
    running = serve(app, request_id=True, limit_request_body=5)
    with running.connect() as sock:
        sock.sendall(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789")
        head = read_head(sock)
    assert head.split()[1] == b"413"
    assert is_new(fields_of(head)[b"x-request-id"])
    line = errors.find(" with 413: ")
    assert line["request_id"] == fields_of(head)[b"x-request-id"].decode()
    assert line["message"].endswith(f", request id {line['request_id']}")


def test_refusal_of_a_head_has_an_id(serve, errors, access):
    running = serve(app, request_id=True, access_log=True, access_log_format="%s %{request_id}x")
    with running.connect() as sock:
        sock.sendall(b"bad\r\n\r\n")
        fields = fields_of(read_all(sock).partition(b"\r\n\r\n")[0])
    identity = fields[b"x-request-id"].decode()
    assert is_new(identity)
    assert errors.find(" with 400: ")["request_id"] == identity
    assert access.find("400")["message"] == f"400 {identity}"


@pytest.mark.parametrize("options", [{"request_id": True}, JSON])
def test_records_of_the_application_name_the_request(serve, install, errors, options):
    lines = install(own)
    running = serve(app, **options)
    ask(running, b"/records", b"X-Request-ID: abc\r\n" + TRACEPARENT)
    own.info("outside")
    for text in ("in the task", "in another task", "in a thread"):
        line = lines.find(text)
        assert (line["request_id"], line["trace_id"]) == ("abc", TRACE.decode())
        assert line["span_id"] == SPAN.decode()
    assert errors.find("by the server's logger")["request_id"] == "abc"
    assert "request_id" not in lines.find("outside")


def test_two_traceparents_are_none(serve, errors):
    running = serve(app, **JSON)
    ask(running, b"/crash", TRACEPARENT * 2)
    assert "trace_id" not in errors.find("Exception in")


def test_websocket_has_an_id(serve, install, errors, access):
    lines = install(own)
    running = serve(app, request_id=True, access_log=True, access_log_format="%s %{request_id}x")
    with running.connect() as sock:
        sock.sendall(GET % (b"/", WEBSOCKET))
        fields = fields_of(read_head(sock))
        text = sock.recv(2 + 36)
    identity = fields[b"x-request-id"].decode()
    assert is_new(identity)
    assert text[2:].decode() == identity
    assert lines.find("of the WebSocket")["request_id"] == identity
    assert errors.find("Exception in ASGI")["request_id"] == identity
    assert access.find(identity)["message"].split()[0] in ("101", "200")


def test_line_of_json_has_every_id(serve, install):
    logged = install(access_logger)
    running = serve(app, access_log=True, **JSON)
    ask(running, b"/a", b"X-Request-ID: abc\r\n" + TRACEPARENT)
    ask(running, b"/b")
    wait_until(lambda: len(logged.lines) == 2)
    first, second = logged.lines  # JsonFormatter has passed on the line
    assert (first["request_id"], first["path"]) == ("abc", "/a")
    assert (first["trace_id"], first["span_id"]) == (TRACE.decode(), SPAN.decode())
    assert not {"request_id", "trace_id", "span_id"} & second.keys()
    assert list(first)[:4] == list(second)[:4] == ["time", "level", "logger", "message"]


def test_default_line_ends_with_the_id():
    assert whole_format("uvicorn", "text", False, True).endswith("%{status}x %{request_id}x")
    assert line_format_of(True, True, True).endswith("%(status_code)s %(request_id)s")
    assert whole_format("combined", "text", True, True) == "combined"


# --- Server-Timing --------------------------------------------------------------------------------

TIMING = rb"queue;dur=\d+\.\d{3}, app;dur=\d+\.\d{3}"


def test_server_timing(serve):
    running = serve(app, server_timing=True)
    assert re.fullmatch(TIMING, ask(running)[0][b"server-timing"])
    assert re.fullmatch(TIMING, ask(running, b"/crash")[0][b"server-timing"])
    with running.connect() as sock:
        sock.sendall(GET % (b"/own", b""))
        head = read_response(sock)[0]
    assert head.lower().count(b"server-timing: ") == 2  # the application's, and ours


def test_server_timing_of_a_refusal(serve):
    running = serve(app, server_timing=True, limit_request_body=5)
    with running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789")
        head = read_head(sock)
    assert re.fullmatch(rb"queue;dur=\d+\.\d{3}", fields_of(head)[b"server-timing"])


def test_server_timing_counts_the_applications_time(serve):
    async def waits(scope, receive, send):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b""})

    value = ask(serve(waits, server_timing=True, lifespan="off"))[0][b"server-timing"]
    assert float(value.rpartition(b"=")[2]) >= 40  # timers of uvloop may be early


# --- Slow requests, and excluded ones -------------------------------------------------------------

ALWAYS = 1e-9  # seconds: slower than that is every request


@pytest.mark.parametrize("options", [{}, {"access_log": True, "access_log_exclude": ["/a"]}])
def test_slow_request_is_a_warning_with_the_log_off_or_excluded(serve, errors, access, options):
    running = serve(app, access_log_slow=ALWAYS, request_id=True, **options)
    _, body = ask(running, b"/a?b")
    line = errors.find("Slow request: ")
    number = r"\d+\.\d{3} s"
    assert re.fullmatch(
        rf"Slow request: GET /a, request id \S+: {number}, first byte after {number},"
        rf" status 200, {len(body)} bytes, client 127\.0\.0\.1:\d+",
        line["message"],
    )
    assert line["level"] == "WARNING"
    assert 0 < line["first_byte"] <= line["duration"] < 15
    assert (line["method"], line["path"], line["status"]) == ("GET", "/a", 200)
    assert (line["bytes"], line["client"], line["aborted"]) == (len(body), "127.0.0.1", False)
    assert line["request_id"] == json.loads(body)["request_id"]
    assert access.lines == []


def test_request_that_is_not_slow(serve, errors, access):
    running = serve(app, access_log_slow=3600.0, access_log=True)
    ask(running, b"/a")
    access.find("GET /a")
    assert not any("Slow" in line["message"] for line in errors.lines)


def test_slow_request_whose_client_has_left(serve, errors):
    async def waits(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    running = serve(waits, access_log_slow=ALWAYS, lifespan="off")
    with running.connect() as sock:
        sock.sendall(GET % (b"/", b""))
        wait_until(lambda: running.context.running)
    line = errors.find("Slow request: ")
    assert (line["status"], line["first_byte"], line["aborted"]) == (499, None, True)


def test_excluded_paths_are_not_logged(serve, access):
    patterns = ["/healthz", "/static/*", "/v?/[ab]", "/é"]
    running = serve(app, access_log=True, access_log_exclude=patterns)
    for path in (b"/healthz?x=1", b"/static/a/b.css", b"/v1/a", b"/healthz/", b"/v1/c", b"/last"):
        ask(running, path)
    access.find("/last")
    shown = [re.search(r"GET (\S+)", line["message"])[1] for line in access.lines]
    assert shown == ["/healthz/", "/v1/c", "/last"]


def test_exclusion():
    names = Exclusion(["/a", "/b"])
    assert [names.matches(path) for path in (b"/a", b"/b", b"/ab", b"/", None)] == [
        *(True, True, False, False, False),
    ]
    globs = Exclusion(["/a*", "/[!x]", "/?/*/z*"])
    paths = (b"/a/b\n", b"/y", b"/x", b"x/a", b"/x/y/y/z1", b"/xx/y/z")
    assert [globs.matches(path) for path in paths] == [*(True, True, False, False), True, False]
    assert Exclusion(["*"]).matches(b"/")


def test_excluded_refusal_without_a_path_is_logged(serve, access, errors):
    running = serve(app, access_log=True, access_log_exclude=["*"])
    running.raw(b"bad\r\n\r\n")
    assert "400" in access.find("400")["message"]


# --- Changes at run time --------------------------------------------------------------------------


def test_handler_that_is_added_begins_a_log_that_was_off(serve, install, monkeypatch):
    monkeypatch.setattr(access_logger, "handlers", [])
    monkeypatch.setattr(access_logger, "propagate", False)
    running = serve(app, access_log=False, access_log_format="%U")
    ask(running, b"/before")
    lines = install(access_logger)

    def logged():
        ask(running, b"/after")
        return lines.lines

    wait_until(logged)
    assert {line["message"] for line in lines.lines} == {"/after"}
    access_logger.handlers.clear()
    wait_until(lambda: ask(running) and not running.context.access_log.enabled)


def test_log_that_begins_within_a_request_shows_it(serve, install, monkeypatch):
    monkeypatch.setattr(access_logger, "handlers", [])
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def waits(scope, receive, send):
        begun.set()
        await go_on.wait()
        await app(scope, receive, send)

    running = serve(waits, access_log=False, lifespan="off")
    with running.connect() as sock:
        sock.sendall(GET % (b"/late?q", b""))
        wait_until(begun.is_set)
        lines = install(access_logger)
        running.call(running.context.access_log.refresh)
        running.call(go_on.set)
        read_response(sock)
    assert '"GET /late?q HTTP/' in lines.find("/late")["message"]


@pytest.mark.parametrize("name", ["uvicorn.access", "thestral.access", "thestral", "uvicorn"])
def test_level_is_set_by_either_name(serve, access, errors, name):
    running = serve(app, access_log=True)
    running.call(lambda: set_level(name, "WARNING"))
    ask(running, b"/1")
    running.call(lambda: set_level(name, logging.INFO))
    ask(running, b"/2")
    access.find("/2")
    assert len(access.lines) == 1
    assert error_logger.level == logging.INFO


def test_level_that_there_is_not():
    with pytest.raises(ValueError, match="'loud' given, expected one of critical, error"):
        set_level("thestral", "loud")


def test_options_are_checked():
    assert Config("a:b", access_log_exclude="/a").access_log_exclude == ["/a"]


def test_client_that_the_application_has_spoilt_does_not_end_the_connection(serve, errors, access):
    async def spoils(scope, receive, send):
        scope["client"] = 5
        await app(scope, receive, send)

    running = serve(spoils, access_log_slow=ALWAYS, access_log=True, lifespan="off")
    assert ask(running)[1] == b"{}"
    assert "exception" in errors.find("A slow request could not be logged")

"""The access log of a server: the contents of a line, when it is written, and that both ways of
writing it agree.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import struct

import pytest
from support import read_all, read_response, wait_until

from thestral.logging.formatters import AccessFormatter
from thestral.logging.loggers import access_logger
from thestral.logging.setup import LINE_FORMATS
from thestral.protocol.access import AccessLog

HOST = b"Host: a\r\n"
CLOSE = HOST + b"Connection: close\r\n"
CHUNKED = b"POST /p HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


class Stream(io.StringIO):
    """A stream that keeps its text, one item for each write."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


class Log:
    """The access logger with one plain handler, as thestral.logging.configure() leaves it."""

    def __init__(self, line_format):
        self.stream = Stream()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(AccessFormatter(line_format, use_colors=False))

    @property
    def lines(self):
        return self.stream.getvalue().splitlines()

    def has(self, count):
        """Wait for a number of lines, and return them."""
        wait_until(lambda: len(self.lines) >= count)
        assert len(self.lines) == count
        return self.lines


@pytest.fixture
def log(monkeypatch):
    """Function (line_format) that puts a Log in place."""

    def install(line_format=LINE_FORMATS[True]):
        made = Log(line_format)
        monkeypatch.setattr(access_logger, "handlers", [made.handler])
        return made

    monkeypatch.setattr(access_logger, "filters", [])
    monkeypatch.setattr(access_logger, "propagate", False)
    level = access_logger.level
    access_logger.setLevel(logging.INFO)
    yield install
    access_logger.setLevel(level)


@pytest.fixture
def serve(serve):
    """Servers whose clock ticks every 50 ms, so that waiting lines are written soon."""
    return lambda app, **options: serve(app, **{"timeout_tls_handshake": 0.4, **options})


class Recorder(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


def start(status=200, headers=()):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


async def app(scope, receive, send):
    path = scope["path"]
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if path == "/crash":
        raise RuntimeError("meant")
    if path == "/cut":
        await send(start(headers=[(b"content-length", b"10")]))
        await send(body(b"1234", more=True))
        raise RuntimeError("meant")
    if path == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if path == "/big":
        await send(start())
        for _ in range(5):
            await send(body(b"x" * 50_000, more=True))
        await send(body())
        return
    await send(start(headers=[(b"X-Made-By", b'the "app"'), (b"content-type", b"a/b")]))
    await send(body(b"hello"))


def ask(running, *requests):
    """Requests on one connection, each answered before the next; returns the client's port."""
    with running.connect() as sock:
        for request in requests:
            sock.sendall(request + b"\r\n")
            read_response(sock)
        return sock.getsockname()[1]


# --- What a line says -----------------------------------------------------------------------------


def test_default_line_is_uvicorns(serve, log):
    made = log()
    running = serve(app, access_log=True)
    port = ask(running, b"GET /a%0Ab?q=1 HTTP/1.1\r\n" + HOST, b"POST / HTTP/1.0\r\n")
    assert made.has(2) == [
        f'INFO:     127.0.0.1:{port} - "GET /a%0Ab?q=1 HTTP/1.1" 200 OK',
        f'INFO:     127.0.0.1:{port} - "POST / HTTP/1.0" 200 OK',
    ]


def test_combined_line(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="combined")
    fields = b"Authorization: Basic Ym9iOnNlY3JldA==\r\nReferer: http://r/\r\nUser-Agent: a b\r\n"
    ask(running, b"GET /x?y HTTP/1.1\r\n" + HOST + fields, b"GET / HTTP/1.1\r\n" + HOST)
    first, second = made.has(2)
    time = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    assert re.fullmatch(
        rf'127\.0\.0\.1 - bob {time} "GET /x\?y HTTP/1\.1" 200 5 "http://r/" "a b"', first
    )
    assert re.fullmatch(rf'127\.0\.0\.1 - - {time} "GET / HTTP/1\.1" 200 5 "-" "-"', second)


def test_json_line(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="json")
    fields = b'User-Agent: \xff"\\\tA\r\nReferer: \xc3\xa9\r\nX-Request-ID: id/1=\r\n'
    ask(running, b'GET /x"?y"=\\ HTTP/1.1\r\n' + HOST + fields, b"GET / HTTP/1.1\r\n" + HOST)
    first, second = map(json.loads, made.has(2))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert 0 <= first.pop("duration") < 15
    assert re.fullmatch(
        r'127\.0\.0\.1:\d+ - "GET /x"\?y"=\\ HTTP/1.1" 200 OK', first.pop("message")
    )
    assert first == {
        "level": "INFO",
        "logger": "uvicorn.access",
        "worker": None,
        "client": "127.0.0.1",
        "method": "GET",
        "path": '/x"',
        "query": 'y"=\\',
        "version": "1.1",
        "status": 200,
        "bytes": 5,
        "aborted": False,
        "referer": "é",
        "user_agent": '\xff"\\\tA',
        "request_id": "id/1=",
        "pid": os.getpid(),
    }
    assert (second["query"], second["referer"]) == ("", "")
    assert "request_id" not in second


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%h %l %u", "127.0.0.1 - -"),
        ("%m %U %q %H", "GET /p q=1 HTTP/1.1"),
        ("%r", "GET /p?q=1 HTTP/1.1"),
        ("%s %>s %b %B", "200 200 5 5"),
        ("%f %a", "http://r/ agent"),
        ("%p", "PID"),
        ("%T %M", "0 0"),
        ("%{x-field}i %{X-FIELD}i %{absent}i", r"v\"1 v\"1 -"),
        ("%{x-made-by}o %{Content-Length}o %{absent}o", r"the \"app\" 5 -"),
        ("%{THESTRAL_TEST}e %{THESTRAL_ABSENT}e", r"a\x0ab -"),
        ("%{status}x %{aborted}x %{request_id}x", "200 OK false -"),
        ("%{version}x %{worker}x %{trace_id}x %{span_id}x", "1.1 null - -"),
        ("%(h)s %({X-Field}i)s 100%%é", r"127.0.0.1 v\"1 100%é"),
        ('{"m":"%m","f":"%{X-Field}i","n":"%f%u"}', '{"m":"GET","f":"v\\"1","n":"http://r/"}'),
    ],
)  # fmt: skip
def test_atoms(serve, log, monkeypatch, text, expected):
    expected = expected.replace("PID", str(os.getpid()))
    monkeypatch.setenv("THESTRAL_TEST", "a\nb")
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format=text)
    fields = b'X-Field: v"1\r\nUser-Agent: agent\r\nReferer: http://r/\r\n'
    ask(running, b"GET /p?q=1 HTTP/1.1\r\n" + HOST + fields)
    line = made.has(1)[0]
    assert line == expected or (text == "%T %M" and re.fullmatch(r"\d+ \d+", line))


def test_durations_agree(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%T %M %D %L")
    ask(running, b"GET / HTTP/1.1\r\n" + HOST)
    seconds, milliseconds, microseconds, decimal = made.has(1)[0].split()
    assert int(microseconds) > 0
    assert int(milliseconds) == int(microseconds) // 1000
    assert int(seconds) == int(microseconds) // 1_000_000
    assert float(decimal) == int(microseconds) / 1_000_000
    assert re.fullmatch(r"\d+\.\d{6}", decimal)


def test_bytes_are_those_of_the_content(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%m %U %b %B")
    running.raw(b"GET /big HTTP/1.1\r\n" + CLOSE + b"\r\n")  # chunked
    running.raw(b"HEAD / HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert made.has(2) == ["GET /big 250000 250000", "HEAD / - 0"]


# --- Responses that do not end as they should -----------------------------------------------------


def test_response_cut_by_a_crash(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%U %s %B %{aborted}x")
    running.raw(b"GET /crash HTTP/1.1\r\n" + CLOSE + b"\r\n")
    with running.connect() as sock:
        sock.sendall(b"GET /cut HTTP/1.1\r\n" + HOST + b"\r\n")
        read_all(sock)
    assert made.has(2) == ["/crash 500 21 false", "/cut 200 4 true"]


def test_client_that_goes_before_the_response_is_499_as_in_nginx(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%U %s %B %{aborted}x")
    with running.connect() as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_until(lambda: running.context.cycles)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets
    assert made.has(1) == ["/wait 499 0 true"]


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "- - HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03", "- - HTTP/1.1 400"),
        (CHUNKED + b"x\r\n", "POST /p HTTP/1.1 400"),
        (CHUNKED + b"b\r\n" + b"x" * 11 + b"\r\n", "POST /p HTTP/1.1 413"),
    ],
)  # fmt: skip
def test_refused_request_has_its_line_as_in_nginx(serve, log, request_bytes, expected):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%r %s %B", limit_request_body=10)
    reply = running.raw(request_bytes)
    content = reply.partition(b"\r\n\r\n")[2]
    assert made.has(1) == [f"{expected} {len(content)}"]


def test_request_refused_for_too_many_is_named(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(app, access_log=True, access_log_format="%U %s", limit_concurrency=1)
    with running.connect() as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_until(lambda: running.context.cycles)
        running.raw(b"GET /other HTTP/1.1\r\n" + HOST + b"\r\n")
    assert made.has(2)[0] == "/other 503"


# --- What the application writes into its scope ---------------------------------------------------


def writing(**entries):
    """An application that puts entries into its scope before it responds."""

    async def app(scope, receive, send):
        scope.update(entries)
        await send(start())
        await send(body(b"hello"))

    return app


async def forgetting(scope, receive, send):
    scope["headers"].clear()
    scope.clear()
    await send(start())
    await send(body(b"hello"))


@pytest.mark.parametrize("through_logging", [False, True])
@pytest.mark.parametrize(
    "app",
    [
        writing(method="PUT", path="/y", raw_path=b"/y", query_string=b"b"),
        writing(headers=[(b"x-field", b"2")], http_version="3", root_path="/r"),
        writing(method=None, raw_path=None, query_string=None, headers=None),
        forgetting,
    ],
    ids=["target", "fields", "None", "cleared"],
)
def test_line_shows_the_request_as_it_came(serve, log, app, through_logging):
    made = log(LINE_FORMATS[False])
    if through_logging:
        made.handler.addFilter(lambda record: True)
    text = "%h %r %m %U %q %H %{x-field}i %u %{request_id}x"
    running = serve(app, access_log=True, access_log_format=text)
    fields = b"X-Field: 1\r\nAuthorization: Basic Ym9iOnNlY3JldA==\r\nX-Request-ID: id\r\n"
    ask(running, b"GET /x?a HTTP/1.1\r\n" + HOST + fields)
    assert made.has(1) == ["127.0.0.1 GET /x?a HTTP/1.1 GET /x a HTTP/1.1 1 bob id"]


def test_record_has_the_request_as_it_came(serve, log, monkeypatch):
    made = Recorder()
    log()
    monkeypatch.setattr(access_logger, "handlers", [made])
    app = writing(method="PUT", raw_path=b"/y", client=("10.0.0.1", 5))
    ask(serve(app, access_log=True), b"GET /x?a HTTP/1.1\r\n" + HOST)
    wait_until(lambda: made.records)
    assert made.records[0].args == ("10.0.0.1:5", "GET", "/x?a", "1.1", 200)


def test_line_has_root_path_in_front(serve, log):
    made = log(LINE_FORMATS[False])
    running = serve(writing(), access_log=True, access_log_format="%r", root_path="/api")
    ask(running, b"GET /x HTTP/1.1\r\n" + HOST)
    assert made.has(1) == ["GET /api/x HTTP/1.1"]


def test_client_is_the_one_that_a_middleware_has_found(serve, log):
    made = log(LINE_FORMATS[False])
    app = writing(client=("10.0.0.1", 5))
    running = serve(app, access_log=True, access_log_format="%h %{client}x")
    ask(running, b"GET / HTTP/1.1\r\n" + HOST)
    assert made.has(1) == ["10.0.0.1 10.0.0.1:5"]


def test_client_that_is_none_costs_only_the_line(serve, log):
    made = log()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        client = 5 if scope["path"] == "/five" else scope["client"]
        await writing(client=client)(scope, receive, send)

    running = serve(app, access_log=True)
    ask(running, b"GET /five HTTP/1.1\r\n" + HOST, b"GET /next HTTP/1.1\r\n" + HOST)
    assert "/next" in made.has(1)[0]


# --- Each exchange ends once ----------------------------------------------------------------------


class Ends(AccessLog):
    """Keeps the ends of exchanges, and writes nothing."""

    def __init__(self):
        super().__init__("%r", True)
        self.told = []

    def record(self, exchange, aborted):
        self.told.append((exchange.status, aborted))


UPLOAD = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"
TOO_LARGE = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"


async def any_app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept" if scope["path"] == "/ws" else "websocket.close"})
        return
    await app(scope, receive, send)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n", [(200, False)]),
        (2 * (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"), 2 * [(200, False)]),
        (b"GET /crash HTTP/1.1\r\n" + CLOSE + b"\r\n", [(500, False)]),
        (b"GET /cut HTTP/1.1\r\n" + CLOSE + b"\r\n", [(200, True)]),
        (UPLOAD + b"1234567890", [(200, False)]),
        (UPLOAD + b"12", [(200, False)]),  # the response is complete before the request
        (CHUNKED + b"1\r\n1\r\n-\r\n", [(400, False)]),
        (CHUNKED.replace(b"/p", b"/wait") + b"1\r\n1\r\n", [(400, False)]),
        (TOO_LARGE, [(413, False)]),
        (b"GET / HTTP/1.1\r\n\r\n", [(400, False)]),
        (b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + KEY, [(101, False)]),
        (b"GET /no HTTP/1.1\r\n" + HOST + UPGRADE + KEY, [(403, False)]),
        (b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n", [(400, False)]),
    ],
)
def test_each_exchange_ends_once(serve, data, expected):
    running = serve(any_app, limit_request_body=10)
    running.context.access_log = ends = Ends()
    with running.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    wait_until(lambda: not running.context.connections)
    assert ends.told == expected


# --- Through logging, or not ----------------------------------------------------------------------

REQUESTS = [
    b"GET / HTTP/1.1\r\n" + HOST,
    b'GET /"\\%0A?"%s%% HTTP/1.1\r\n' + HOST + b"User-Agent: %d \xff\r\n",
    b"DELETE /crash HTTP/1.0\r\nConnection: keep-alive\r\n",
]


@pytest.mark.parametrize("text", ["uvicorn", "combined", "json", "%r %s %{content-type}o 5%%"])
def test_both_ways_give_the_same_bytes(serve, log, text):
    """A filter on the logger makes records necessary; each line stays the same."""
    made = log(LINE_FORMATS[text == "uvicorn"])
    running = serve(app, access_log=True, access_log_format=text)
    records = []

    def bare(lines):
        varying = r"\[.*?\]|\d{4}-.*?[+Z]|:\d+ -|duration\":[\d.]+"
        return [re.sub(varying, "", line) for line in lines]

    ask(running, *REQUESTS)
    direct = made.has(3)
    running.call(lambda: access_logger.addFilter(lambda record: records.append(record) or True))
    ask(running, *REQUESTS)
    through = made.has(6)[3:]
    assert len(records) == 3
    assert bare(direct) == bare(through)
    if text != "uvicorn":
        assert [record.getMessage() for record in records] == through


def test_record_has_uvicorns_arguments_whatever_the_format(serve, log, monkeypatch):
    log()
    recorder = Recorder()
    running = serve(app, access_log=True, access_log_format="json")
    monkeypatch.setattr(access_logger, "handlers", [recorder])
    port = ask(running, b"GET /health?x HTTP/1.1\r\n" + HOST)
    wait_until(lambda: recorder.records)
    (record,) = recorder.records
    assert record.args == (f"127.0.0.1:{port}", "GET", "/health?x", "1.1", 200)
    assert json.loads(record.getMessage())["path"] == "/health"


@pytest.mark.parametrize("where", ["logger", "handler", "propagate", "level", "added", "disabled"])
def test_what_somebody_sets_up_later_holds_from_the_next_line_on(serve, log, monkeypatch, where):
    made = log()
    running = serve(app, access_log=True)
    ask(running, b"GET /before HTTP/1.1\r\n" + HOST)

    def unhealthy(record):
        return record.args[2] != "/health"

    recorder = Recorder()

    def change():
        if where == "logger":
            access_logger.addFilter(unhealthy)
        elif where == "handler":
            made.handler.addFilter(unhealthy)
        elif where == "level":
            access_logger.setLevel(logging.WARNING)
        elif where == "disabled":
            monkeypatch.setattr(access_logger, "disabled", True)
        elif where == "added":
            access_logger.addHandler(recorder)
        else:
            access_logger.propagate = True
            monkeypatch.setattr(access_logger.parent, "handlers", [recorder])

    running.call(change)
    ask(running, b"GET /health HTTP/1.1\r\n" + HOST, b"GET /last HTTP/1.1\r\n" + HOST)
    paths = [
        line.split()[4]
        for line in made.has({"level": 1, "disabled": 1}.get(where, 3 if recorder.records else 2))
    ]
    if recorder.records:
        assert [record.args[2] for record in recorder.records] == ["/health", "/last"]
        assert paths == ["/before", "/health", "/last"]  # in order: the waiting lines came first
    elif where in ("level", "disabled"):
        assert paths == ["/before"]
    else:
        assert paths == ["/before", "/last"]


@pytest.mark.parametrize("where", ["callHandlers", "makeRecord"])
def test_agent_that_forwards_logs_gets_records(serve, log, monkeypatch, where):
    """Sentry, New Relic and others patch the classes of the logging module."""
    log()
    names = []
    function = getattr(logging.Logger, where)

    def agents(self, *args, **kwargs):
        names.append(self.name)
        return function(self, *args, **kwargs)

    monkeypatch.setattr(logging.Logger, where, agents)
    running = serve(app, access_log=True)
    ask(running, b"GET / HTTP/1.1\r\n" + HOST)
    wait_until(lambda: "uvicorn.access" in names)


@pytest.mark.parametrize("line_format", [LINE_FORMATS[True], "%(message)s"])
def test_level_changes_while_the_server_runs(serve, log, line_format):
    made = log(line_format)
    access_logger.setLevel(logging.WARNING)
    running = serve(app, access_log=True)
    ask(running, b"GET /1 HTTP/1.1\r\n" + HOST)
    access_logger.setLevel(logging.INFO)
    ask(running, b"GET /2 HTTP/1.1\r\n" + HOST)
    access_logger.setLevel(logging.WARNING)
    ask(running, b"GET /3 HTTP/1.1\r\n" + HOST)
    access_logger.setLevel(logging.INFO)
    ask(running, b"GET /4 HTTP/1.1\r\n" + HOST)
    assert [line.split("GET ")[1][:2] for line in made.has(2)] == ["/2", "/4"]


# --- When it is written ---------------------------------------------------------------------------


def test_lines_are_written_in_batches_that_a_pipe_takes_in_one_piece(serve, log):
    made = log()
    running = serve(app, access_log=True)
    request = b"GET /%03d HTTP/1.1\r\n" + HOST
    ask(running, *[request % number for number in range(300)])
    lines = made.has(300)
    assert [line.split()[4] for line in lines] == [f"/{number:03}" for number in range(300)]
    writes = [text for text in made.stream.writes if text]
    assert all(len(text) <= 4096 and text.endswith("\n") for text in writes)
    assert len(writes) < 100


def test_line_longer_than_a_batch_comes_whole_and_in_order(serve, log):
    made = log()
    running = serve(app, access_log=True)
    long = b"GET /" + b'"' * 20_000 + b" HTTP/1.1\r\n" + HOST
    ask(running, b"GET /1 HTTP/1.1\r\n" + HOST, long, b"GET /2 HTTP/1.1\r\n" + HOST)
    first, middle, last = made.has(3)
    assert "/1 " in first
    assert middle.count('\\"') == 20_000
    assert "/2 " in last


def test_nothing_waits_when_the_server_has_stopped(serve, log):
    made = log()
    running = serve(app, access_log=True, timeout_keep_alive=60.0)
    with running.connect() as sock:
        sock.sendall(b"GET /last HTTP/1.1\r\n" + CLOSE + b"\r\n")
        read_all(sock)
        running.__exit__()
        assert len(made.lines) == 1


def test_lines_that_wait_at_a_fork_are_written_once(serve, log, tmp_path):
    made = log()
    path = tmp_path / "log"
    with path.open("w") as file:
        made.handler.setStream(file)
        running = serve(app, access_log=True, timeout_tls_handshake=10.0)  # a slow clock
        with running.connect() as sock:
            sock.sendall(b"GET /one HTTP/1.1\r\n" + HOST + b"\r\n")
            read_response(sock)

            def fork():
                child = os.fork()
                if child == 0:
                    running.context.access_log.flush()
                    os._exit(0)
                os.waitpid(child, 0)

            running.call(fork)
            assert "/one" not in path.read_text()  # it waits
            running.call(running.context.access_log.flush)
            assert path.read_text().count("/one") == 1


def test_stream_that_fails_costs_lines_and_one_complaint(serve, log, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    made = log()

    def fail(text):
        made.stream.writes.append("")
        raise OSError(28, "No space left on device")

    running = serve(app, access_log=True)
    monkeypatch.setattr(made.stream, "write", fail)
    ask(running, *[b"GET / HTTP/1.1\r\n" + HOST] * 300)
    wait_until(lambda: len(made.stream.writes) > 2)
    complaints = [r.getMessage() for r in caplog.records if "access log" in r.getMessage()]
    assert complaints == ["The access log cannot be written: [Errno 28] No space left on device"]


def test_unix_client_has_no_address(log, tmp_path):
    from support import Running

    made = log()
    path = tmp_path / "s"
    with (
        Running(app, access_log=True, uds=str(path)) as running,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        del running
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n")
        read_all(sock)
    assert made.has(1) == ['INFO:      - "GET / HTTP/1.1" 200 OK']

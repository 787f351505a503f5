"""The status line and the fields of a response, as a client sees them (RFC 9110, RFC 9112)."""

import calendar
import email.utils
import http
import time

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Recorder,
    Reply,
    fixed,
    get,
    hello,
    http_only,
    respond,
    take_replies,
)
from support import read_response, wait_until

from thestral.errors import LocalProtocolError


def only(raw: bytes, *methods: bytes) -> Reply:
    """The only response in `raw`."""
    (reply,) = take_replies(raw, *methods)
    return reply


# --- Fields of the response -----------------------------------------------------------------------


def test_order_and_duplicates_of_fields_are_kept(serve):
    headers = [
        (b"x-b", b"1"),
        (b"set-cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"set-cookie", b"b=2"),
        (b"X-Case", b"Kept \xe4\tas is"),
        (b"x-empty", b""),
    ]
    fields = only(serve(fixed(headers=headers)).raw(GET_CLOSE)).fields
    assert [field for field in fields if field in headers] == headers


@pytest.mark.parametrize("kind", [tuple, list, iter])
def test_header_pairs_may_be_any_iterable(serve, kind):
    @http_only
    async def app(scope, receive, send):
        headers = kind([[b"x-a", b"1"], (b"x-b", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    reply = only(serve(app).raw(GET_CLOSE))
    assert (reply.one(b"x-a"), reply.one(b"x-b")) == (b"1", b"2")


def test_headers_and_body_may_be_left_out(serve):
    @http_only
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 201})
        await send({"type": "http.response.body"})

    reply = only(serve(app).raw(GET_CLOSE))
    assert (reply.status, reply.one(b"content-length")) == (201, b"0")


def test_date_and_server_stand_once(serve):
    before = int(time.time())
    reply = only(serve(hello).raw(GET_CLOSE))
    assert reply.one(b"server") == b"thestral"
    date = reply.one(b"date").decode()
    assert date.endswith(" GMT")  # RFC 9110 section 5.6.7: IMF-fixdate
    stamp = calendar.timegm(email.utils.parsedate(date))
    assert email.utils.formatdate(stamp, usegmt=True) == date
    assert before - 1 <= stamp <= time.time()


def test_date_goes_on(serve):
    """The field is renewed once per second, also on a connection that stays open."""
    running = serve(hello)
    with running.connect() as sock:

        def date():
            sock.sendall(GET)
            head, _ = read_response(sock)
            return head.partition(b"date: ")[2].partition(b"\r\n")[0]

        first = date()
        wait_until(lambda: date() != first, 5)


@pytest.mark.parametrize("name", [b"date", b"Date", b"DATE"])
def test_date_of_the_application_stands_alone(serve, name):
    reply = only(serve(fixed(headers=[(name, b"then")])).raw(GET_CLOSE))
    assert reply.one(b"date") == b"then"
    assert reply.one(b"server") == b"thestral"


@pytest.mark.parametrize("name", [b"server", b"Server"])
def test_server_of_the_application_stands_alone(serve, name):
    reply = only(serve(fixed(headers=[(name, b"mine")])).raw(GET_CLOSE))
    assert reply.one(b"server") == b"mine"
    reply.one(b"date")


def test_date_and_server_can_be_left_out(serve):
    running = serve(hello, server_header=False, date_header=False)
    assert only(running.raw(GET_CLOSE)).fields == [
        (b"content-length", b"5"),
        (b"connection", b"close"),
    ]
    refusal = only(running.raw(b"nonsense\r\n\r\n"))
    assert not refusal.all(b"date")
    assert not refusal.all(b"server")


@pytest.mark.parametrize("own", [[], [(b"server", b"mine")], [(b"date", b"then")]])
def test_default_fields_stand_in_every_response(serve, own):
    running = serve(fixed(headers=own), headers=["X-One: 1", "x-two: a: b", "X-One: 2"])
    for raw in (running.raw(GET_CLOSE), running.raw(b"nonsense\r\n\r\n")):
        reply = only(raw)
        assert reply.all(b"x-one") == [b"1", b"2"]
        assert reply.one(b"x-two") == b"a: b"


BAD_FIELDS = [
    (b"x-a\r\nx-b", b"1"),
    (b"x-a\n", b"1"),
    (b"x-a\0", b"1"),
    (b"x a", b"1"),
    (b"x:", b"1"),
    (b"", b"1"),
    (b"x-\xe4", b"1"),
    (b"x-a", b"1\r\nset-cookie: stolen"),
    (b"x-a", b"1\r"),
    (b"x-a", b"1\n2"),
    (b"x-a", b"\0"),
    (b"x-a", b"\x1f"),
    (b"x-a", b"\x7f"),
    ("x-a", b"1"),
    (b"x-a", "1"),
    (b"x-a", 1),
    (b"x-a",),
    (b"x-a", b"1", b"2"),
    (b"transfer-encoding\r\nx-b", b"1"),
    (b"content-length", b"abc"),
    (b"content-length", b""),
    (b"content-length", b"-5"),
    (b"content-length", b"+5"),
    (b"content-length", b"5, 6"),
    (b"content-length", b"99999999999999999999"),
    (b"content-length", b"4"),  # contradicts the other
    (b"Content-Length", b"6"),
]


def test_field_that_cannot_be_sent_is_500_for_the_client(serve):
    @Recorder
    async def app(scope, receive, send):
        field = BAD_FIELDS[int(scope["path"][1:])]
        headers = [(b"x-first", b"never seen"), (b"content-length", b"5"), field]
        await respond(send, b"hello", 200, headers)

    with serve(app).connect() as sock:
        for number, field in enumerate(BAD_FIELDS):
            sock.sendall(get(f"/{number}"))
            head, body = read_response(sock)
            assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n"), field
            assert body == b"Internal Server Error"
            assert b"x-first" not in head
            assert b"set-cookie" not in head
            assert type(app.raised[-1]) is LocalProtocolError, field
    assert len(app.raised) == len(BAD_FIELDS)


def test_application_may_recover_from_a_field_that_cannot_be_sent(serve):
    """Nothing was sent, so a valid response is still possible; not the other way round."""

    @http_only
    async def app(scope, receive, send):
        try:
            await respond(send, b"", 200, [(b"bad name", b"")])
        except LocalProtocolError as exc:
            await send({"type": "http.response.body", "body": str(exc).encode()})

    assert only(serve(app).raw(GET_CLOSE)).status == 500


BAD_STATUSES = [99, 100, 101, 103, 199, 1000, -200, 0, "200", None, 200.0, b"200", True]


def test_status_that_cannot_be_sent_is_500_for_the_client(serve):
    @Recorder
    async def app(scope, receive, send):
        await respond(send, b"", BAD_STATUSES[int(scope["path"][1:])])

    with serve(app).connect() as sock:
        for number, status in enumerate(BAD_STATUSES):
            sock.sendall(get(f"/{number}"))
            head, _ = read_response(sock)
            assert head.startswith(b"HTTP/1.1 500 "), status
            assert type(app.raised[-1]) is LocalProtocolError
            assert repr(status) in str(app.raised[-1])
    assert len(app.raised) == len(BAD_STATUSES)


STATUS_LINES = [
    (200, b"HTTP/1.1 200 OK\r\n"),
    (http.HTTPStatus.NOT_FOUND, b"HTTP/1.1 404 Not Found\r\n"),
    (299, b"HTTP/1.1 299 \r\n"),  # RFC 9112 section 4: the blank stays without a phrase
    (599, b"HTTP/1.1 599 \r\n"),
    (999, b"HTTP/1.1 999 \r\n"),
]


def test_status_line_has_the_usual_reason(serve):
    @http_only
    async def app(scope, receive, send):
        await respond(send, b"", STATUS_LINES[int(scope["path"][1:])][0])

    with serve(app).connect() as sock:
        for number, (_status, line) in enumerate(STATUS_LINES):
            sock.sendall(get(f"/{number}"))
            assert read_response(sock)[0].startswith(line)

"""Messages of a careless application: wrong values, types and orders in ASGI's http scope.

Each has the same outcome: `await send()` raises an error that names the fault, the client gets a
500 or a cut response, the connection is kept where framing allows, and the log gets one line.
"""

from __future__ import annotations

import array
import collections
import enum
import http
import socket

import pytest
from apps import get, take_replies
from support import read_all, read_response, wait_until

from thestral.errors import LocalProtocolError

HEAD_TYPE = "http.response.start"
START = {"type": HEAD_TYPE, "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"done"}
MORE = {"type": "http.response.body", "body": b"part", "more_body": True}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-a", b"1")]}
HINT = {"type": "http.response.early_hint", "links": [b"</a>"]}
FILE = {"type": "http.response.pathsend", "path": __file__}


def start(**fields):
    return START | fields


def field(name, value=b"v"):
    return start(headers=[(name, value)])


def length(value):
    return field(b"content-length", value)


def body(data):
    return {"type": "http.response.body", "body": data}


class Status(enum.IntEnum):
    FINE = 200


class Text(str):
    pass


class Bytes(bytes):
    pass


# --- What is refused: messages, and what the error says of the last of them -----------------------

REFUSED = {
    # not a message
    "message None": ([None], "NoneType"),
    "message text": (["http.response.start"], "str"),
    "message bytes": ([b"x"], "bytes"),
    "message number": ([5], "int"),
    "message list": ([[1]], "list"),
    "message pairs": ([[("type", HEAD_TYPE), ("status", 200)]], "list"),
    "message empty": ([{}], "None"),
    "message None later": ([START, None], "NoneType"),
    "message number later": ([START, 5], "int"),
    "type None": ([{"type": None}], "None"),
    "type number": ([{"type": 5}], "5"),
    "type bytes": ([{"type": HEAD_TYPE.encode()}], "b'http.response.start'"),
    "type list": ([{"type": []}], "[]"),
    "type unknown": ([{"type": "http.response.nope"}], "nope"),
    "type of another scope": ([{"type": "websocket.accept"}], "websocket.accept"),
    "type of lifespan": ([{"type": "lifespan.startup.complete"}], "lifespan"),
    # extensions that are not offered
    "push": ([{"type": "http.response.push", "path": "/", "headers": []}], "push"),
    "debug": ([{"type": "http.response.debug", "info": {}}], "debug"),
    # status
    "status missing": ([{"type": HEAD_TYPE, "headers": []}], "status None"),
    **{
        f"status {status!r}": ([start(status=status)], f"status {status!r}")
        for status in (
            *(None, "200", b"200", 200.0, True, False, [], float("nan")),
            *(-1, 0, 99, 100, 101, 103, 199, 1000, 2**31, 2**70),
        )
    },
    # headers
    "headers number": ([start(headers=5)], "headers is int"),
    "headers false": ([start(headers=False)], "headers is bool"),
    "headers text": ([start(headers="ab")], "'a'"),
    "headers bytes": ([start(headers=b"ab")], "97"),
    "headers dict": ([start(headers={b"x": b"y"})], "b'x'"),
    "pair of one": ([start(headers=[(b"x",)])], "pair"),
    "pair of three": ([start(headers=[(b"x", b"y", b"z")])], "pair"),
    "pair None": ([start(headers=[None])], "None"),
    **{
        f"name {name!r}": ([field(name)], repr(name))
        for name in (b"", b" x", b"x ", b"x y", b"x:", b"x\r\ny", b"x\0", b"\xff", "x", None, 5)
    },
    **{
        f"value {value!r}": ([field(b"x", value)], "b'x'")
        for value in ("text", 5, None, b"a\r\nb: c", b"a\nb", b"a\r", b"a\0b", b"\x7f", b"\x01")
    },
    **{
        f"length {value!r}": ([length(value)], repr(value))
        for value in (b"-4", b"+4", b"abc", b"", b"4, 4", b"0x4", b"4.0", b"1e1", b"9" * 30)
    },
    "lengths that differ": (
        [start(headers=[(b"content-length", b"4"), (b"Content-Length", b"5")])],
        "4 and 5",
    ),
    # body
    **{
        f"body {data!r}": ([START, body(data)], type(data).__name__)
        for data in ("text", 5, [1], array.array("b", [1]))
    },
    # order
    "body first": ([BODY], "http.response.body"),
    "file first": ([FILE], "http.response.pathsend"),
    "trailers first": ([TRAILERS], "http.response.trailers"),
    "start twice": ([START, START], "http.response.start"),
    "trailers at once": ([START, TRAILERS], "http.response.trailers"),
    # files and hints
    "path None": ([START, FILE | {"path": None}], "None is not a path"),
    "path number": ([START, FILE | {"path": 0}], "0 is not a path"),
    "path with a zero": ([START, FILE | {"path": "a\0b"}], "is not a path"),
    "links number": ([HINT | {"links": 5}], "links is int"),
    "links of text": ([HINT | {"links": ["</a>"]}], "'</a>'"),
    "links with a line's end": ([HINT | {"links": [b"</a>\r\nx: y"]}], "b'link'"),
    "links late": ([START, HINT | {"links": 5}], "links is int"),
}

# The same after a part of the body: the client sees that the response is cut.
WITH_TRAILERS = start(trailers=True)
REFUSED_WITHIN = {
    "message None": ([START, MORE, None], "NoneType"),
    "start": ([START, MORE, START], "http.response.start"),
    "body text": ([START, MORE, body("text")], "str"),
    "file": ([START, MORE, FILE], "http.response.pathsend"),
    "trailers unannounced": ([START, MORE, TRAILERS], "http.response.trailers"),
    "length too long": ([length(b"5"), BODY], "1 bytes shorter"),
    "length too long later": ([length(b"10"), MORE, BODY], "2 bytes shorter"),
    "body for trailers": ([WITH_TRAILERS, BODY, BODY], "http.response.body"),
    "trailers of numbers": ([WITH_TRAILERS, BODY, TRAILERS | {"headers": 5}], "headers is int"),
    # although this client does not accept trailers
    "trailers of one": ([WITH_TRAILERS, BODY, TRAILERS | {"headers": [(b"x",)]}], "pair"),
    "trailers that frame": (
        [WITH_TRAILERS, BODY, TRAILERS | {"headers": [(b"transfer-encoding", b"x")]}],
        "transfer-encoding",
    ),
}

# The same after a complete response, or one of the announced length: nothing is lost.
REFUSED_BEHIND = {
    "message None": ([START, BODY, None], b"done", "NoneType"),
    "start": ([START, BODY, START], b"done", "complete"),
    "body": ([START, BODY, BODY], b"done", "complete"),
    "more body": ([START, BODY, MORE], b"done", "complete"),
    "hint": ([START, BODY, HINT], b"done", "complete"),
    "unknown": ([START, BODY, {"type": "x"}], b"done", "complete"),
    "length too short": ([length(b"3"), BODY], b"don", "1 bytes"),
    "length of nothing": ([length(b"0"), BODY], b"", "4 bytes"),
    "length too short later": ([length(b"5"), MORE, BODY], b"partd", "3 bytes"),
}

# --- What is taken: messages, status, body --------------------------------------------------------

TAKEN = {
    "message of another mapping": (
        [collections.OrderedDict(START), collections.UserDict(BODY)],
        (200, b"done"),
    ),
    "type of a subclass": ([start(type=Text(HEAD_TYPE)), BODY], (200, b"done")),
    **{
        f"status {status!r}": ([start(status=status), BODY], (int(status), b"done"))
        for status in (200, 299, 600, 999, http.HTTPStatus.OK, Status.FINE)
    },
    "headers missing": ([{"type": HEAD_TYPE, "status": 200}, BODY], (200, b"done")),
    "headers None": ([start(headers=None), BODY], (200, b"done")),
    "headers tuple": ([start(headers=((b"x", b"y"),)), BODY], (200, b"done")),
    "headers of lists": ([start(headers=[[b"x", b"y"]]), BODY], (200, b"done")),
    "headers of an iterator": ([start(headers={b"x": b"y"}.items()), BODY], (200, b"done")),
    "name in capitals": ([field(b"X-Up"), BODY], (200, b"done")),
    **{
        f"name of {kind.__name__}": ([field(kind(b"x"), kind(b"y")), BODY], (200, b"done"))
        for kind in (Bytes, bytearray, memoryview)
    },
    **{
        f"value {value!r}": ([field(b"x", value), BODY], (200, b"done"))
        for value in (b"", b"\t", b"  a", b"a  ", b"\xff")
    },
    "value of 100 KB": ([field(b"x", b"v" * 100_000), BODY], (200, b"done")),
    "10,000 fields": (
        [start(headers=[(b"x-%d" % n, b"v") for n in range(10_000)]), BODY],
        (200, b"done"),
    ),
    "length twice": (
        [start(headers=[(b"content-length", b"4"), (b"Content-Length", b"04")]), BODY],
        (200, b"done"),
    ),
    **{
        f"transfer-encoding {value!r}": (
            [start(headers=[(b"transfer-encoding", value), (b"content-length", b"4")]), BODY],
            (200, b"done"),
        )
        for value in (b"chunked", b"gzip", b"gzip, chunked", b"identity")
    },
    **{
        f"connection {value!r}": ([field(b"connection", value), BODY], (200, b"done"))
        for value in (b"keep-alive", b"upgrade", b"x-option")
    },
    "upgrade": ([field(b"upgrade", b"h2c"), BODY], (200, b"done")),
    **{
        f"body of {kind.__name__}": ([START, body(kind(b"abc"))], (200, b"abc"))
        for kind in (Bytes, bytearray, memoryview)
    },
    "body of every second byte": ([START, body(memoryview(b"abcdef")[::2])], (200, b"ace")),
    "body missing": ([START, {"type": "http.response.body"}], (200, b"")),
    "body None": ([START, body(None)], (200, b"")),
    "body None of several": (
        [START, MORE, body(None) | {"more_body": True}, BODY],
        (200, b"partdone"),
    ),
    **{
        f"more_body {more!r}": ([START, BODY | {"more_body": more}], (200, b"done"))
        for more in (None, 0, "", [])
    },
    **{
        f"more_body {more!r}": ([START, BODY | {"more_body": more}, BODY], (200, b"donedone"))
        for more in (1, "False", [0])
    },
    "body on 204": ([start(status=204), BODY], (204, b"")),
    "body on 304": ([start(status=304), BODY], (304, b"")),
    "length on 204": ([length(b"4") | {"status": 204}, BODY], (204, b"")),
    "length on 304": ([length(b"4") | {"status": 304}, body(b"")], (304, b"")),
    "hint of nothing": (
        [HINT | {"links": None}, HINT | {"links": []}, START, BODY],
        (200, b"done"),
    ),
    "hint within the body": ([START, MORE, HINT, BODY], (200, b"partdone")),
    "trailers": ([WITH_TRAILERS, BODY, TRAILERS], (200, b"done")),
}


class Careless:
    """Sends `messages`, and keeps what send() raises."""

    def __init__(self):
        self.messages = []
        self.raised = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        if scope["path"] == "/next":
            await send(START)
            await send(body(b"next"))
            return
        for number, message in enumerate(self.messages, 1):
            try:
                await send(message)
            except BaseException as exc:
                self.raised.append((number, type(exc), str(exc)))
                raise


@pytest.fixture
def careless(serve):
    app = Careless()
    running = serve(app, pathsend=True, zerocopysend=True)
    app.running = running
    return app


def check_raised(careless, named, errors):
    wait_until(lambda: not careless.running.context.cycles)
    ((number, kind, said),) = careless.raised
    assert number == len(careless.messages)
    assert kind is LocalProtocolError
    assert named in said
    assert len(errors()) == 1
    assert isinstance(errors()[0].exc_info[1], LocalProtocolError)


def check_next(sock):
    sock.sendall(get("/next"))
    assert read_response(sock)[1] == b"next"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_the_response_is_500(careless, name, errors):
    careless.messages, named = REFUSED[name]
    with careless.running.connect() as sock:
        sock.sendall(get())
        head, answer = read_response(sock)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert answer == b"Internal Server Error"
        check_next(sock)
    check_raised(careless, named, errors)


@pytest.mark.parametrize("name", REFUSED_WITHIN)
def test_what_is_refused_within_the_body_cuts_it(careless, name, errors):
    careless.messages, named = REFUSED_WITHIN[name]
    with careless.running.connect() as sock:
        sock.sendall(get())
        raw = read_all(sock)
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert not raw.endswith(b"0\r\n\r\n")
    with careless.running.connect() as sock:
        check_next(sock)
    check_raised(careless, named, errors)


@pytest.mark.parametrize("name", REFUSED_BEHIND)
def test_what_is_refused_behind_the_response_costs_nothing(careless, name, errors):
    careless.messages, answer, named = REFUSED_BEHIND[name]
    with careless.running.connect() as sock:
        sock.sendall(get() + get("/next", "Connection: close"))
        raw = b""
        while data := sock.recv(65536):
            raw += data
    assert [reply.body for reply in take_replies(raw)] == [answer, b"next"]
    check_raised(careless, named, errors)


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(careless, name, errors):
    careless.messages, expected = TAKEN[name]
    with careless.running.connect() as sock:
        sock.sendall(get() + get("/next", "Connection: close"))
        raw = b""
        while data := sock.recv(65536):
            raw += data
    first, second = take_replies(raw)
    assert (first.status, first.body) == expected
    assert second.body == b"next"
    assert careless.raised == []
    assert errors() == []


class Refuses:
    def __iter__(self):
        yield (b"a", b"b")
        raise ValueError("mine")

    def __bool__(self):
        raise ValueError("mine")

    def __repr__(self):
        raise ValueError("mine")


@pytest.mark.parametrize(
    "messages",
    [
        [start(headers=Refuses())],
        [start(status=Refuses())],
        [START, BODY | {"more_body": Refuses()}],
        [{"type": Refuses()}],
    ],
    ids=["headers", "status", "more_body", "type"],
)
def test_what_a_value_itself_raises_comes_out_of_send(careless, messages, errors):
    careless.messages = messages
    with careless.running.connect() as sock:
        sock.sendall(get())
        assert read_response(sock)[0].startswith(b"HTTP/1.1 500 ")
        check_next(sock)
    assert careless.raised == [(len(messages), ValueError, "mine")]
    assert len(errors()) == 1


def test_names_that_may_be_repeated_keep_their_order(careless):
    """HTTP: Response Start, "Order must be preserved in the HTTP response"."""
    pairs = [(b"set-cookie", b"a=1"), (b"x", b"1"), (b"set-cookie", b"b=2"), (b"x", b"2")]
    careless.messages = [start(headers=iter(pairs)), BODY]
    with careless.running.connect() as sock:
        sock.sendall(get("/", "Connection: close"))
        (reply,) = take_replies(sock.recv(65536, socket.MSG_WAITALL))
    assert [pair for pair in reply.fields if pair in pairs] == pairs

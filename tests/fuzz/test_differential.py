"""Mutated vectors: our verdicts against those of raw llhttp, of h11, and our own for other cuts.

Half of them first get lines that are used for request smuggling (RFC 9112 section 11.2).

Each request that RequestParser takes as complete is given to the oracles: exactly the bytes that
were read for it. If an oracle refuses them, or finds more or less in them, the two disagree about
where a message ends, and that makes request smuggling possible.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import time

import h11
import pytest
from vectors import http1
from vectors.http1 import Outcome, make_parser, parse

from thestral._core.http1 import Event
from thestral._csrc import ffi, lib
from thestral.errors import RemoteProtocolError

SEED = 7230
ROUNDS = 8  # seeds
MUTATIONS = 800  # inputs of each
# Each test goes on for this time in all, after those.
SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS") or 0)
SETTINGS = ffi.new("llhttp_settings_t *")  # no callback: llhttp alone decides

CASES = [case for case in http1.load() if len(case.data) < 600]
CORPUS = [case.data for case in CASES]
GOOD = [case.data for case in CASES if case.expected.requests]
DICTIONARY = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"\x00", b"\x0b", b"\x7f", b"\x80", b"\xff"),
    *(b":", b";", b",", b"=", b'"', b"\\", b"/", b"?", b"#", b"%", b"@", b"*", b"[", b"]", b"0"),
    *(b"1", b"5", b"a", b"f", b"-", b"+", b"0x", b"5\r\n", b"0\r\n\r\n", b"ffffffffffffffff"),
    *(b"18446744073709551616", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"POST ", b"HEAD "),
    *(b"Host: a\r\n", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length:", b"chunked"),
    *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:", b"Connection: close\r\n", b"gzip"),
    *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"http://", b"a@b"),
    *(b"identity", b" chunked", b"chunked\t", b"\r\n ", b"x: y\r\n", b"hello"),
    *(b" " * 40, b"x" * 40, b"x@y: z\r\n", b"\r\nx: y\r\ny: x\r\n", b"0" * 40),
]


# Lines used for request smuggling, each kind for the place where it does harm.
FRAMING = (
    b"Content-Length: 0|Content-Length: 5|Content-Length: 05|Content-Length: +5|"
    b"Content-Length: 5, 5|Content-Length: 0x5|Content-Length:|Content-Length : 5|"
    b"Content-Length: 5_0|Content-Length: 18446744073709551621|content_length: 5|"
    b"Transfer-Encoding: chunked|Transfer-Encoding: xchunked|transfer_encoding: chunked|"
    b"Transfer-Encoding: chunked, chunked|Transfer-Encoding: gzip, chunked|"
    b"Transfer-Encoding: chunked;q=1|Transfer-Encoding:\tchunked\t|Transfer-Encoding:|"
    b"Transfer-Encoding: identity|Transfer-Encoding: ,chunked|Transfer-Encoding:\x0bchunked|"
    b"Transfer-Encoding : chunked| Transfer-Encoding: chunked|Transfer-Encoding:\r\n chunked|"
    b"Host: b|Host: a, b| x: y|\tx|: y|x|x\0: y|Trailer: Content-Length|"
    b"Connection: close, Content-Length|Connection: keep-alive|Expect: 100-continue, x|"
    b"Connection: Upgrade\r\nUpgrade: websocket|Connection: Upgrade\r\nUpgrade: h2c"
).split(b"|")
LINE_ENDS = (b"\n|\r|\n\r|\r\r\n|\r\n\r\n|\r\n | \r\n|\0\r\n|\x0b\r\n|").split(b"|")
CHUNK_LINES = (
    b'|0|00|5|+5|-5|0x5|5_0| 5|5 |5\t|5;|5;a|5 ; a = b|5;a="\r\n"|5;a="\n"|5;a\nb|5;\n|'
    b"5;a\rb|5;a\0|5;\xff|ffffffffffffffff|10000000000000005|"
    b"000000000000000000000000000000000005|5\r|0\r\nContent-Length: 5|"
    b"0\r\nTransfer-Encoding: chunked|0\r\nx: y\r\n z|0\r\n\n|0\n|5\nhello\n0\n\n"
).split(b"|")
REQUEST_LINES = (
    b"GET / HTTP/1.0|POST / HTTP/1.2|GET / HTTP/1.10|GET / HTTP/01.1|GET / http/1.1|"
    b"GET / HTTP/2.0|GET /|GET  / HTTP/1.1|GET\t/ HTTP/1.1|GET / HTTP/1.1 |get / HTTP/1.1|"
    b"GET http://b/ HTTP/1.1|GET http://u@b/ HTTP/1.1|GET http:///x HTTP/1.1|GET * HTTP/1.1|"
    b"OPTIONS * HTTP/1.1|CONNECT b:80 HTTP/1.1|GET b:80 HTTP/1.1|GET /#x HTTP/1.1|"
    b"\r\nGET / HTTP/1.1"
).split(b"|")


def smuggle(data: bytes, rng: random.Random) -> bytes:
    """Replace or add a line of the request, so that servers may read it in two ways."""
    lines = data.split(b"\r\n")
    end = lines.index(b"") if b"" in lines else len(lines)  # of the head
    kind = rng.randrange(5)
    if kind == 0 and end > 0:
        lines.insert(rng.randrange(1, end + 1), rng.choice(FRAMING))
    elif kind == 1 and end > 1:
        lines[rng.randrange(1, end)] = rng.choice(FRAMING)
    elif kind == 2 and end + 1 < len(lines):
        lines[rng.randrange(end + 1, len(lines))] = rng.choice(CHUNK_LINES)
    elif kind == 3:
        lines[0] = rng.choice(REQUEST_LINES)
    elif len(lines) > 1:
        at = rng.randrange(len(lines) - 1)
        lines[at : at + 2] = [lines[at] + rng.choice(LINE_ENDS) + lines[at + 1]]
    return b"\r\n".join(lines)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Make a few changes: bytes changed, removed, repeated, inserted; lines doubled; tails."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind <= 2:
            data = data[:at] + rng.choice(DICTIONARY) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + rng.randrange(1, 6) :]
        elif kind == 4:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 5:
            data = data[:at] + data[at : at + rng.randrange(1, 20)] * 2 + data[at:]
        elif kind == 6:
            lines = data.split(b"\r\n")
            i = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines)), lines[i])
            data = b"\r\n".join(lines)
        else:
            other = rng.choice(CORPUS)
            data = data[:at] + other[rng.randrange(len(other) + 1) :]
    return data[:2000]


def inputs(seed: int):
    rng = random.Random(SEED + seed)
    until = time.monotonic() + SECONDS / ROUNDS
    for number in itertools.count():
        if number >= MUTATIONS and time.monotonic() > until:
            return
        data = rng.choice(GOOD if rng.random() < 0.8 else CORPUS)
        if number % 2:
            for _ in range(rng.choice((1, 1, 2, 3))):
                data = smuggle(data, rng)
        if number % 4 != 1:
            data = mutate(data, rng)
        yield data[:2000], random.Random(f"{SEED} {seed} {number}")


def accepted(data: bytes) -> list[tuple[bytes, dict]]:
    """Each request that is accepted as complete, with the bytes that were read for it."""
    parser = make_parser()
    parser.feed(data)
    requests = []
    start = 0
    request: dict = {}
    with contextlib.suppress(RemoteProtocolError):
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.HEAD:
                request = {"body": b""}
                head = parser.read_head()
                head.fill(request)
                request["http_version"] = head.http_version
            elif event == Event.BODY:
                request["body"] += parser.read_body()
            else:
                end = len(data) - parser.left()
                requests.append((data[start:end], request))
                start = end
    return requests


def raw_llhttp(data: bytes) -> tuple[int, int, int]:
    """Give one request to bare llhttp: (result of execute, result of finish, bytes read)."""
    parser = ffi.new("llhttp_t *")
    lib.llhttp_init(parser, lib.HTTP_REQUEST, SETTINGS)
    memory = ffi.from_buffer(data)
    error = lib.llhttp_execute(parser, memory, len(data))
    if error != lib.HPE_OK:
        return error, error, lib.llhttp_get_error_pos(parser) - ffi.cast("char *", memory)
    return error, lib.llhttp_finish(parser), len(data)


def plainly(read: bytes) -> bytes:
    """Return a request without the things that RFCs allow and one of the oracles refuses.

    These are empty lines before it (RFC 9112 section 2.2), a higher minor version (RFC 9110 section
    2.5), empty list elements and tabs around the coding, blanks in chunk extensions (RFC 9110
    section 5.6), and more leading zeros than h11 allows digits.
    """
    head, _, rest = read.lstrip(b"\r\n").partition(b"\r\n\r\n")
    head = re.sub(rb"\A([^\r\n]* HTTP/1\.)[2-9](?=\r\n)", rb"\g<1>1", head)
    head = re.sub(rb"(?i)(\r\ncontent-length:[ \t]*)0+(?=[0-9])", rb"\1", head)
    field = rb"(?i)(\r\ntransfer-encoding:)[ \t,]*(chunked)[ \t,]*(?=\r\n|$)"
    head, chunked = re.subn(field, rb"\1\2", head)
    plain = head + b"\r\n\r\n"
    while chunked:
        line, _, rest = rest.partition(b"\r\n")
        size = int(re.match(rb"[0-9A-Fa-f]+", line)[0], 16)
        plain += b"%x\r\n" % size
        if size == 0:
            break
        plain += rest[: size + 2]
        rest = rest[size + 2 :]
    return plain + rest


def check_against_llhttp(data: bytes) -> int:
    """Return the number of requests, so that no test passes by refusing all of them."""
    requests = accepted(data)
    for read, request in requests:
        read = plainly(read)
        error, finish, position = raw_llhttp(read)
        if b"upgrade" in dict(request["headers"]) and error == lib.HPE_PAUSED_UPGRADE:
            # After such a request llhttp waits for a change of the protocol, which we do not make.
            assert position == len(read), read
        else:
            assert (error, finish) == (lib.HPE_OK, lib.HPE_OK), (read, error, finish)
            # With one byte less, llhttp must want more.
            assert raw_llhttp(read[:-1])[:2] == (lib.HPE_OK, lib.HPE_INVALID_EOF_STATE), read
    return len(requests)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_llhttp_refuses_is_not_accepted(seed):
    taken = sum(check_against_llhttp(data) for data, _ in inputs(seed))
    assert taken > MUTATIONS / 10


def test_vectors_against_llhttp():
    assert sum(check_against_llhttp(data) for data in CORPUS) > 200


def ask_h11(data: bytes) -> tuple[h11.Request, bytes] | None:
    """The one request in data as h11 reads it; None if it refuses it or wants more."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        connection.receive_data(data)
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        body = b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
    except h11.RemoteProtocolError:
        return None
    assert connection.trailing_data == (b"", False), "h11 sees the end of the request earlier"
    return request, body


def check_against_h11(data: bytes) -> int:
    requests = accepted(data)
    for read, ours in requests:
        read = plainly(read)
        theirs = ask_h11(read)
        assert theirs is not None, read
        request, body = theirs
        assert request.method.decode() == ours["method"], read
        assert request.http_version.decode() == ours["http_version"], read
        assert body == ours["body"], read
        target, authority = split_absolute(request.method, request.target)
        path, _, query = target.partition(b"?")
        assert (path, query) == (ours["raw_path"], ours["query_string"]), read
        headers = [shown(pair, authority) for pair in request.headers]
        if authority is not None and b"host" not in [name for name, _ in headers]:
            headers.insert(0, (b"host", authority))
        assert headers == [shown(pair, None) for pair in ours["headers"]], read
    return len(requests)


def split_absolute(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Path with query as RFC 9112 section 3.2.2 gives it, and the authority, None without one."""
    scheme, separator, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or not separator:
        return target, None
    end = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
    path = rest[end:]
    if not path and method == b"OPTIONS":
        return b"*", rest  # section 3.2.4
    return (path if path.startswith(b"/") else b"/" + path), rest[:end]


def shown(pair: tuple[bytes, bytes], authority: bytes | None) -> tuple[bytes, bytes]:
    """A field in a form that both share; an authority replaces the value of Host."""
    name, value = pair
    if name == b"host" and authority is not None:
        return name, authority
    if name == b"transfer-encoding":
        return name, b"chunked"  # all that there can be
    if name == b"content-length":
        return name, value.lstrip(b"0") or b"0"
    return name, value


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_is_accepted_h11_reads_the_same(seed):
    agreed = sum(check_against_h11(data) for data, _ in inputs(seed))
    assert agreed > MUTATIONS / 20


def test_vectors_against_h11():
    assert sum(check_against_h11(data) for data in CORPUS) > 200


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_outcome_does_not_depend_on_the_cut(seed):
    for data, rng in inputs(seed):
        whole = parse([data])
        for pieces in (http1.bytewise(data), *(http1.random_pieces(data, rng) for _ in range(3))):
            assert parse(pieces) == whole, (data, [len(piece) for piece in pieces])


TIGHT = {"request_line": 40, "head": 60, "fields": 3, "body": 6}


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_verdict_does_not_depend_on_the_cut_within_tight_limits(seed):
    for data, rng in inputs(seed):
        whole = verdict(parse([data], **TIGHT))
        for pieces in (http1.bytewise(data), http1.random_pieces(data, rng)):
            cut = verdict(parse(pieces, **TIGHT))
            assert cut == whole, (data, [len(piece) for piece in pieces])


def verdict(outcome: Outcome) -> tuple:
    """More or less of a body that is refused for its size may have come before."""
    unfinished = dict(outcome.unfinished or {})
    unfinished.pop("body", None)
    return outcome.requests, unfinished, outcome.refused


def test_noise_gives_a_verdict():
    rng = random.Random(SEED)
    for _ in range(3000):
        data = rng.randbytes(rng.randrange(60))
        assert accepted(data) == []

"""Mutated vectors: our verdicts against those of raw llhttp, of h11, and of ourselves when cut.

One request that RequestParser takes as complete is held against the oracles by its own bytes: what
it read from the first to the last. An oracle that refuses them, or sees more or less in them, shows
a disagreement about where a message ends, which is what request smuggling is made of.
"""

from __future__ import annotations

import contextlib
import random
import re

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


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few small changes: bytes changed, taken out, repeated, put in; lines doubled; tails."""
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
    for number in range(MUTATIONS):
        data = rng.choice(GOOD if rng.random() < 0.8 else CORPUS)
        yield mutate(data, rng), random.Random(SEED * 1000 + seed * MUTATIONS + number)


def accepted(data: bytes) -> list[tuple[bytes, dict]]:
    """Each request that is taken as complete, with the bytes that it was read from."""
    parser = make_parser()
    parser.feed(data)
    requests = []
    start = 0
    request: dict = {}
    with contextlib.suppress(RemoteProtocolError):
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.HEAD:
                request = {"body": b""}
                parser.read_head(request)
                request["http_version"] = parser.http_version
            elif event == Event.BODY:
                request["body"] += parser.read_body()
            else:
                end = len(data) - parser.left()
                requests.append((data[start:end], request))
                start = end
    return requests


def raw_llhttp(data: bytes) -> tuple[int, int, int]:
    """(what execute says, what finish says, bytes read) of bare llhttp for one request."""
    parser = ffi.new("llhttp_t *")
    lib.llhttp_init(parser, lib.HTTP_REQUEST, SETTINGS)
    memory = ffi.from_buffer(data)
    error = lib.llhttp_execute(parser, memory, len(data))
    if error != lib.HPE_OK:
        return error, error, lib.llhttp_get_error_pos(parser) - ffi.cast("char *", memory)
    return error, lib.llhttp_finish(parser), len(data)


def without_blanks(read: bytes) -> bytes:
    """A chunked request without what RFC 9110 (section 5.6) has a recipient take and llhttp not:
    empty list elements and tabs around the coding, blanks in chunk extensions.
    """
    head, _, rest = read.lstrip(b"\r\n").partition(b"\r\n\r\n")
    field = rb"(?i)(\r\ntransfer-encoding:)[ \t,]*(chunked)?[ \t,]*(?=\r\n|$)"
    plain = re.sub(field, rb"\1\2", head) + b"\r\n\r\n"
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = re.match(rb"[0-9A-Fa-f]+", line)[0]
        plain += size + b"\r\n"
        if int(size, 16) == 0:
            return plain + rest
        plain += rest[: int(size, 16) + 2]
        rest = rest[int(size, 16) + 2 :]


def check_against_llhttp(data: bytes) -> int:
    """Returns how many requests there were, so that no test passes by refusing all."""
    requests = accepted(data)
    for read, request in requests:
        if b"transfer-encoding" in dict(request["headers"]):
            read = without_blanks(read)
        error, finish, position = raw_llhttp(read)
        if b"upgrade" in dict(request["headers"]) and error == lib.HPE_PAUSED_UPGRADE:
            # Behind the request llhttp waits for us to change the protocol, which we do not.
            assert position == len(read), read
        else:
            assert (error, finish) == (lib.HPE_OK, lib.HPE_OK), (read, error, finish)
            # Complete means complete: one byte less and llhttp must want more.
            assert raw_llhttp(read[:-1])[:2] == (lib.HPE_OK, lib.HPE_INVALID_EOF_STATE), read
    return len(requests)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_llhttp_refuses_is_not_accepted(seed):
    taken = sum(check_against_llhttp(data) for data, _ in inputs(seed))
    assert taken > MUTATIONS / 10


def test_vectors_against_llhttp():
    assert sum(check_against_llhttp(data) for data in CORPUS) > 200


def ask_h11(data: bytes) -> tuple[h11.Request, bytes] | None:
    """The one request in data as h11 reads it, or None where it refuses or wants more."""
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
    agreed = 0
    for read, ours in accepted(data):
        theirs = ask_h11(read.lstrip(b"\r\n"))  # h11 refuses what we pass over before a request
        if theirs is None:
            continue
        request, body = theirs
        agreed += 1
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
    return agreed


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
    """A field as both show it: h11 lower-cases codings; an authority stands for Host."""
    name, value = pair
    if name == b"host" and authority is not None:
        return name, authority
    return name, value.lower() if name == b"transfer-encoding" else value


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_h11_accepts_too_is_read_the_same(seed):
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
    """Of a body that is refused for its size, more or less may have come before."""
    unfinished = dict(outcome.unfinished or {})
    unfinished.pop("body", None)
    return outcome.requests, unfinished, outcome.refused


def test_noise_gives_a_verdict():
    rng = random.Random(SEED)
    for _ in range(3000):
        data = rng.randbytes(rng.randrange(60))
        assert accepted(data) == []

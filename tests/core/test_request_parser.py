"""RequestParser: every vector at every split, every limit, and its methods besides the events."""

import random
import zlib

import pytest
from vectors import http1
from vectors.http1 import Outcome, bytewise, every_style, make_parser, parse, take_events

from thestral._core.http1 import Event
from thestral.errors import RemoteProtocolError

CASES = http1.load()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def agree(data: bytes, check, name: str, **limits: int) -> Outcome:
    """Check the outcome of the bytes, which must be the same for every way to cut them."""
    seed = zlib.crc32(name.encode())
    whole = parse([data], **limits)
    check(whole)
    for pieces in every_style(data, random.Random(seed)):
        outcome = parse(pieces, **limits)
        assert outcome == whole, f"seed {seed}, pieces {[len(piece) for piece in pieces]}"
    return whole


def refusal_everywhere(data: bytes, **limits: int) -> int | None:
    """The verdict, the same for every cut. More or less of a body may come before a refusal."""
    verdicts = {
        (outcome.refused, len(outcome.requests))
        for pieces in every_style(data, random.Random(len(data)))
        for outcome in [parse(pieces, **limits)]
    }
    assert len(verdicts) == 1, verdicts
    return verdicts.pop()[0]


def test_vectors_are_read():
    assert len(CASES) > 900
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_vector(case):
    def check(outcome):
        assert outcome == case.expected, case.why

    agree(case.data, check, case.name, **case.limits)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.expected.refused is not None],
    ids=lambda case: ascii(case.name),
)
def test_nothing_after_a_refusal_is_read(case):
    # However much follows, and whatever it is.
    parser = make_parser(**case.limits)
    outcome = Outcome()
    for piece in [case.data, GET, GET]:
        parser.feed(piece)
        take_events(parser, outcome)
    assert outcome == parse([case.data], **case.limits)


@pytest.mark.parametrize("before", ["", "\t", " \t", ",", "gzip,", "gzip, "])
@pytest.mark.parametrize("after", ["", "\t", " \t ", ",", " ,", ";", ";a=b", ", gzip"])
@pytest.mark.parametrize("field", ["Transfer-Encoding", "transfer-encoding"])
def test_transfer_encoding_is_judged_with_the_head(field, before, after):
    # An application must not be started for framing that is refused with the next byte.
    head = f"POST / HTTP/1.1\r\nHost: a\r\n{field}:{before}chunked{after}\r\n\r\n".encode()
    data = head + b"2\r\nhi\r\n0\r\n\r\n"
    for pieces in every_style(data, random.Random(5)):
        outcome = parse(pieces)
        if outcome.refused is None:
            assert [request["body"] for request in outcome.requests] == [b"hi"]
        else:
            assert outcome == Outcome(refused=outcome.refused)


# --- Limits, each at n-1, n and n+1 ---------------------------------------------------------------


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 414), (2, 414), (3, 414)])
@pytest.mark.parametrize("limit", [24, 100, 300])
def test_request_line_limit(limit, over, refused):
    length = limit + over  # of "GET /aaa HTTP/1.1"
    data = b"GET /" + b"a" * (length - 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert data.index(b"\r\n") == length
    assert refusal_everywhere(data, request_line=limit, head=64) == refused


def test_request_line_limit_does_not_wait_for_its_end():
    parser = make_parser(request_line=100)
    parser.feed(b"GET /" + b"a" * 98)
    with pytest.raises(RemoteProtocolError) as refusal:
        parser.next_event()
    assert refusal.value.status == 414


@pytest.mark.parametrize("where", ["GET {} / HTTP/1.1", "GET / {} HTTP/1.1"])
def test_request_line_limit_counts_blanks(where):
    # llhttp passes over any number of them: the limit must not count a line shorter than it is.
    line = where.format(" " * 200).encode()
    data = line + b"\r\nHost: a\r\n\r\n"
    assert refusal_everywhere(data, request_line=100) == 414


def test_request_line_limit_before_syntax():
    data = b"GET /" + b"a" * 200 + b"\x00 HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal_everywhere(data, request_line=100) == 414
    assert refusal_everywhere(data, request_line=1000) == 400


def test_request_line_limit_of_every_request():
    data = GET + b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal_everywhere(data, request_line=100) == 414
    assert parse([data], request_line=100).requests[0]["raw_path"] == b"/"


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 431), (2, 431), (9, 431)])
@pytest.mark.parametrize("limit", [40, 150, 320])
def test_head_limit(limit, over, refused):
    section = b"Host: a\r\nx: "
    section += b"v" * (limit + over - len(section) - 4) + b"\r\n\r\n"
    assert len(section) == limit + over
    assert refusal_everywhere(b"GET / HTTP/1.1\r\n" + section, head=limit) == refused


@pytest.mark.parametrize(("over", "refused"), [(0, None), (1, 431)])
def test_head_limit_over_many_fields(over, refused):
    section = b"Host: a\r\n" + b"x: y\r\n" * 20 + b"z: " + b"v" * over + b"\r\n\r\n"
    limit = len(section) - over
    assert refusal_everywhere(b"GET / HTTP/1.1\r\n" + section, head=limit) == refused


def test_head_limit_does_not_wait_for_its_end():
    parser = make_parser(head=100)
    parser.feed(b"GET / HTTP/1.1\r\nx: " + b"a" * 98)
    with pytest.raises(RemoteProtocolError) as refusal:
        parser.next_event()
    assert refusal.value.status == 431


def test_head_limit_does_not_count_the_request_line():
    data = b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal_everywhere(data, head=11) is None
    assert refusal_everywhere(data, head=10) == 431


def test_head_limit_does_not_count_empty_lines_before():
    assert refusal_everywhere(b"\r\n" * 50 + GET, head=11, request_line=14) is None


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 431), (5, 431)])
@pytest.mark.parametrize("limit", [2, 7, 40])
def test_field_count_limit(limit, over, refused):
    fields = b"".join(b"x%d: y\r\n" % i for i in range(limit + over - 1))
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    assert refusal_everywhere(data, fields=limit) == refused


def test_field_count_limit_before_syntax():
    # The third field is over the count wherever its fault is: the verdict is one or the other,
    # but the same for every cut.
    data = b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\nab@cd: z\r\n\r\n"
    refusal_everywhere(data, fields=2)
    assert refusal_everywhere(data, fields=3) == 400


def test_trailer_count_limit_before_syntax():
    data = CHUNKED + b"0\r\na: b\r\nc: d\r\ne: f\r\nab@cd: z\r\n\r\n"
    refusal_everywhere(data, fields=3)
    assert refusal_everywhere(data, fields=4) == 400


def test_field_count_limit_of_zero_fields_in_trailers_is_not_the_heads():
    # Fields of the head do not count among the trailers.
    data = CHUNKED + b"0\r\nx: y\r\ny: z\r\n\r\n"
    assert refusal_everywhere(data, fields=2) is None


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 413)])
@pytest.mark.parametrize("limit", [1, 5, 100])
def test_body_limit_by_content_length(limit, over, refused):
    length = limit + over
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
    assert refusal_everywhere(head + b"x" * length, body=limit) == refused
    if refused:  # with the head, before a byte of it
        parser = make_parser(body=limit)
        parser.feed(head)
        with pytest.raises(RemoteProtocolError) as refusal:
            parser.next_event()
        assert refusal.value.status == 413


@pytest.mark.parametrize("length", ["18446744073709551615", "9223372036854775808", "4294967297"])
def test_body_limit_by_a_huge_content_length(length):
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()
    assert refusal_everywhere(head, body=1) == 413


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 413)])
@pytest.mark.parametrize("limit", [1, 5, 100])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_body_limit_of_chunks(limit, over, chunk, refused):
    left = limit + over
    data = CHUNKED
    while left > 0:
        size = min(chunk, left)
        data += b"%x\r\n" % size + b"x" * size + b"\r\n"
        left -= size
    data += b"0\r\n\r\n"
    assert refusal_everywhere(data, body=limit) == refused
    for pieces in every_style(data, random.Random(1)):
        outcome = parse(pieces, body=limit)
        message = outcome.unfinished or outcome.requests[0]
        assert len(message["body"]) <= limit


def test_body_limit_of_chunks_at_the_byte_that_exceeds_it():
    parser = make_parser(body=5)
    outcome = Outcome()
    parser.feed(CHUNKED + b"3\r\nabc\r\nffff\r\nde")
    take_events(parser, outcome)
    assert outcome.refused is None
    assert outcome.unfinished["body"] == b"abcde"
    parser.feed(b"f")
    take_events(parser, outcome)
    assert outcome.refused == 413


def test_body_limit_starts_anew_with_each_request():
    one = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    two = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    assert refusal_everywhere(one + two + one + two, body=5) is None


def test_no_body_limit():
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000
    assert len(parse([data], body=0).requests[0]["body"]) == 100000


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 431), (2, 431)])
@pytest.mark.parametrize("limit", [60, 200])
def test_trailer_size_limit(limit, over, refused):
    section = b"x: "
    section += b"y" * (limit + over - len(section) - 4) + b"\r\n\r\n"
    data = CHUNKED + b"2\r\nhi\r\n0\r\n" + section
    assert refusal_everywhere(data, head=limit) == refused


@pytest.mark.parametrize(("over", "refused"), [(-1, None), (0, None), (1, 431)])
@pytest.mark.parametrize("limit", [2, 10])
def test_trailer_count_limit(limit, over, refused):
    data = CHUNKED + b"2\r\nhi\r\n0\r\n" + b"x: y\r\n" * (limit + over) + b"\r\n"
    assert refusal_everywhere(data, fields=limit) == refused


def test_trailer_limits_start_anew_with_each_request():
    data = CHUNKED + b"0\r\n" + b"x: y\r\n" * 5 + b"\r\n"
    assert refusal_everywhere(data * 3, fields=5, head=60) is None


# --- Floods of chunked framing: RFC 9112 section 7.1.1 --------------------------------------------

MODEST = b";a=0123456789"  # an extension of a sender that means well


def test_modest_extensions_are_never_refused():
    data = CHUNKED + (b"1" + MODEST + b"\r\nx\r\n") * 20_000 + b"0\r\n\r\n"
    assert parse([data]).requests[0]["body"] == b"x" * 20_000


@pytest.mark.parametrize("size", [1, 100])
def test_extension_flood_over_many_chunks(size):
    chunk = b"%x;" % size + b"a" * 1000 + b"\r\n" + b"x" * size + b"\r\n"
    data = CHUNKED + chunk * 200 + b"0\r\n\r\n"
    rng = random.Random(2)
    for pieces in [[data], *(http1.random_pieces(data, rng) for _ in range(20))]:
        assert parse(pieces).refused == 400


def test_extension_flood_is_refused_at_one_byte():
    # At the same byte, however the bytes are cut.
    head = CHUNKED + b"1;"
    parser = make_parser()
    parser.feed(head)
    take_events(parser, Outcome())
    read = 0
    outcome = Outcome(unfinished={})
    while outcome.refused is None:
        parser.feed(b"a")
        take_events(parser, outcome)
        read += 1
        assert read < 70_000
    assert outcome.refused == 400
    assert parse([head + b"a" * (read - 1)]).refused is None
    assert parse([head + b"a" * read]).refused == 400


def test_size_flood_over_many_chunks():
    data = CHUNKED + (b"0" * 1000 + b"1\r\nx\r\n") * 200 + b"0\r\n\r\n"
    assert parse([data]).refused == 400
    assert parse(bytewise(data[:40_000])).refused == 400


def test_body_before_a_flood_does_not_depend_on_the_cut():
    data = CHUNKED + b"5\r\nhello\r\n1;" + b"a" * 20_000
    rng = random.Random(3)
    for pieces in [[data], bytewise(data), *(http1.random_pieces(data, rng) for _ in range(20))]:
        outcome = parse(pieces)
        assert outcome.refused == 400
        assert outcome.unfinished["body"] == b"hello"


# --- Cost -----------------------------------------------------------------------------------------


def test_long_head_byte_by_byte():
    # 60 KB in as many feeds: parsing it anew each time would take minutes and hit the timeout.
    fields = b"".join(b"x%d: " % i + b"v" * 600 + b"\r\n" for i in range(97))
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    assert len(data) > 58_000
    outcome = parse(bytewise(data))
    assert outcome == parse([data])
    assert len(outcome.requests[0]["headers"]) == 98


def test_many_small_chunks_are_few_events():
    parser = make_parser()
    parser.feed(CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    events = []
    body = 0
    while (event := parser.next_event()) != Event.NEED_DATA:
        events.append(event)
        if event == Event.BODY:
            body += len(parser.read_body())
    assert body == 100_000
    assert events[0] == Event.HEAD
    assert events[-1] == Event.END
    assert 1 <= len(events) - 2 <= 8


def test_body_in_one_piece_is_one_event():
    parser = make_parser()
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    assert parser.next_event() == Event.HEAD
    assert parser.next_event() == Event.NEED_DATA
    part = b"x" * 1_000_000
    parser.feed(part)
    assert parser.next_event() == Event.BODY
    assert parser.read_body() == part
    assert parser.next_event() == Event.END
    assert parser.next_event() == Event.NEED_DATA


# --- Besides the events ---------------------------------------------------------------------------


def test_left_counts_what_is_fed_and_not_read():
    parser = make_parser()
    assert parser.left() == 0
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    parser.feed(request + b"hello" + GET)
    assert parser.left() == len(request) + 5 + len(GET)
    assert parser.next_event() == Event.HEAD
    assert parser.left() == 5 + len(GET)
    assert parser.next_event() == Event.BODY
    assert parser.left() == len(GET)
    assert parser.next_event() == Event.END
    assert parser.left() == len(GET)
    assert parser.next_event() == Event.HEAD
    assert parser.left() == 0


def test_left_after_the_end_of_chunks():
    parser = make_parser()
    parser.feed(CHUNKED + b"2\r\nhi\r\n0\r\nx: y\r\n\r\n" + b"next")
    while parser.next_event() != Event.END:
        pass
    assert parser.left() == 4


def test_is_idle_between_requests_only():
    parser = make_parser()
    data = CHUNKED + b"1\r\nx\r\n0\r\n\r\n"
    assert parser.is_idle()
    for byte in bytewise(data)[:-1]:
        parser.feed(byte)
        take_events(parser, Outcome(unfinished={"body": b""}) if byte == b"x" else Outcome())
        assert not parser.is_idle()
    parser.feed(data[-1:])
    assert parser.next_event() == Event.END
    assert parser.is_idle()


def test_is_idle_while_waiting_for_more_of_a_strange_method():
    parser = make_parser()
    parser.feed(b"FO")
    assert parser.next_event() == Event.NEED_DATA
    assert not parser.is_idle()


def test_is_not_idle_after_a_refusal():
    parser = make_parser()
    parser.feed(b"\n")
    take_events(parser, Outcome())
    assert not parser.is_idle()


def test_feed_before_the_last_bytes_are_used_up():
    # Pipelined requests wait while a response is open; bytes that come meanwhile are queued.
    parser = make_parser()
    outcome = Outcome()
    parser.feed(GET + GET)
    parser.next_event()
    parser.next_event()
    parser.feed(GET[:5])
    parser.feed(GET[5:] + GET)
    take_events(parser, outcome)
    assert len(outcome.requests) == 3
    assert outcome.unfinished is None


def test_feed_of_nothing():
    parser = make_parser()
    parser.feed(b"")
    assert parser.next_event() == Event.NEED_DATA
    assert parser.is_idle()
    assert parse([b"", GET[:7], b"", GET[7:], b""]) == parse([GET])


def test_attributes_of_a_head():
    parser = make_parser()
    parser.feed(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert parser.next_event() == Event.HEAD
    head = parser.read_head()
    assert head.version == 11
    assert head.content_length == 2**63 - 1
    assert not head.chunked
    assert head.expect_continue
    assert not head.upgrade
    assert not head.websocket
    parser = make_parser()
    parser.feed(CHUNKED)
    assert parser.next_event() == Event.HEAD
    head = parser.read_head()
    assert head.chunked
    assert head.content_length == 0


@pytest.mark.parametrize(("minor", "version"), [(0, 10), (1, 11), (2, 11)])
def test_version_of_a_head(minor, version):
    parser = make_parser()
    parser.feed(b"HEAD /a?b HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
    assert parser.next_event() == Event.HEAD
    head = parser.read_head()
    assert head.version == version
    assert head.http_version == f"1.{version - 10}"
    assert head.head_only
    assert (head.path, head.raw_path, head.query) == ("/a", b"/a", b"b")


def test_head_outlives_its_parser():
    parser = make_parser()
    parser.feed(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert parser.next_event() == Event.HEAD
    head = parser.read_head()
    assert parser.next_event() == Event.END
    parser.feed(b"PUT /b HTTP/1.0\r\n\r\n")
    assert parser.next_event() == Event.HEAD
    other = parser.read_head()
    del parser
    assert (head.method, head.raw_path, head.headers) == ("GET", b"/a", [(b"host", b"a")])
    assert (other.method, other.raw_path, other.headers) == ("PUT", b"/b", [])


def test_headers_are_a_list_of_pairs_of_bytes():
    parser = make_parser()
    parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX-Unknown: b\r\n\r\n")
    assert parser.next_event() == Event.HEAD
    scope = {"kept": 1}
    parser.read_head().fill(scope)
    assert type(scope["headers"]) is list
    assert all(type(pair) is tuple for pair in scope["headers"])
    assert all(type(part) is bytes for pair in scope["headers"] for part in pair)
    assert type(scope["method"]) is str
    assert type(scope["path"]) is str
    assert set(scope) == {"kept", "method", "path", "raw_path", "query_string", "headers"}


# --- What a refusal shows -------------------------------------------------------------------------

SECRET = b"Authorization: Bearer s3cret"


def excerpt_of(pieces: list[bytes], **limits: int) -> RemoteProtocolError:
    parser = make_parser(**limits)
    with pytest.raises(RemoteProtocolError) as refusal:
        for piece in pieces:
            parser.feed(piece)
            while parser.next_event() != Event.NEED_DATA:
                pass
    return refusal.value


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\n" + SECRET + b"\r\nHost: u@a\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + SECRET + b"\x00\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\n" + SECRET + b"\n\r\n",
        b"GET /x HTTP/1.1\n" + SECRET + b"\nHost: a\n\n",
        b"GET /x HTTP/1.1\r" + SECRET + b"\rHost: a\r\r",
        b"GET /x\n" + SECRET + b"\n\n",
        b"noise\n" + SECRET + b"\n\n",
        b"B@D\r\n" + SECRET + b"\r\n\r\n",
        b"GET /x HTTP/9.9\r\n" + SECRET + b"\r\n\r\n",
        b"FOO /x HTTP/1.1\r\n" + SECRET + b"\r\n\r\n",
        b"FOO\n" + SECRET + b"\n\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + SECRET + b"\r\n\r\n123456789",
    ],
)
def test_excerpt_is_of_the_first_line_only(data):
    line = data.replace(b"\n", b"\r").split(b"\r")[0]
    for pieces in every_style(data, random.Random(4)):
        exc = excerpt_of(pieces, body=1)
        assert len(exc.excerpt) <= 64
        assert line.startswith(exc.excerpt), exc.excerpt


def test_excerpt_is_bounded():
    exc = excerpt_of([b"GET /" + b"a" * 500 + b"\x00"])
    assert exc.excerpt == b"GET /" + b"a" * 59
    assert exc.status == 400


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (b"zz\r\n" + SECRET, {}),
        (b"5\r\nhello0\r\n", {}),
        (b"1c\r\n" + SECRET + b"\r\n0\r\n\r\n", {"body": 10}),
        (b"0\r\nx: " + b"y" * 90 + b"\r\n\r\n", {"head": 60}),
        (b"0\r\n" + b"x: y\r\n" * 9 + b"\r\n", {"fields": 4}),
        (b"1;" + SECRET * 1000 + b"\r\n", {}),
    ],
)
@pytest.mark.parametrize("cut", [20, len(CHUNKED) - 1, len(CHUNKED), len(CHUNKED) + 1])
def test_excerpt_of_a_refused_body_is_not_the_body(body, limits, cut):
    # The head may be long gone: an excerpt of it must be a copy, or empty. The feeds in between
    # reuse the memory of the head.
    data = CHUNKED + body
    parser = make_parser(**limits)
    parser.feed(bytes(bytearray(data[:cut])))
    take_events(parser, Outcome())
    others = [b"\xee" * size for size in range(1, len(data))]
    with pytest.raises(RemoteProtocolError) as refusal:
        for byte in bytewise(data[cut:]):
            parser.feed(byte)
            while parser.next_event() != Event.NEED_DATA:
                pass
    assert b"POST / HTTP/1.1".startswith(refusal.value.excerpt), refusal.value.excerpt
    del others


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"),
        (b"GET / HTTP/1.1\r\n\r\n", "Host"),
        (b"GET /a b HTTP/1.1\r\n", "Expected HTTP/ after the request target"),
    ],
)
def test_reason_names_the_cause(data, word):
    for pieces in ([data], bytewise(data)):
        assert word in excerpt_of(pieces).reason


def test_reasons_are_sentences_without_full_stop():
    for case in CASES:
        if case.expected.refused is not None:
            reason = excerpt_of([case.data], **case.limits).reason
            assert reason
            assert not reason.endswith(".")
            assert reason.isprintable()


def test_excerpt_given_to_the_error_is_cut_to_its_first_line():
    given = b"GET / HTTP/1.1\r\nCookie: secret\r\n\r\n"
    assert RemoteProtocolError(400, "plain HTTP", given).excerpt == b"GET / HTTP/1.1"
    bare = given.replace(b"\r", b"")
    assert RemoteProtocolError(400, "plain HTTP", bare).excerpt == b"GET / HTTP/1.1"

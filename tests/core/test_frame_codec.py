"""FrameCodec: every event at every cut, every limit, budgets on the test's clock, written frames.

It is one file because all of these share one state machine and the same few helpers: a rule for a
frame that is read usually decides a frame that is written, and both are checked together.
"""

import frames
import pytest
from frames import (
    ACK,
    END_HEADERS,
    INCREMENTAL,
    PADDED,
    PREFACE,
    Code,
    Frame,
    Setting,
    Type,
    continuation,
    data,
    goaway,
    headers,
    integer,
    literal,
    literals,
    ping,
    priority,
    priority_update,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from vectors.http2 import (
    GET,
    GREETING,
    POST,
    USUAL,
    WEBSOCKET,
    Limits,
    Outcome,
    agree,
    conversations,
    output,
    read_frames,
    request,
    run,
    take_events,
    text,
)

from thestral._core.http1 import ResponseWriter
from thestral._core.http2 import check_fields
from thestral.errors import LocalProtocolError

HOST = [(b"host", b"a")]
WINDOW = 65_535


def head(stream, method="GET", fields=HOST, ended=True):
    return ("head", stream, method, b"/", fields, ended)


def opened(*pieces, limits=USUAL, now=0.0):
    """Return a codec that has read the greeting and these pieces; its output has been dropped."""
    codec = limits.codec(now)
    outcome = Outcome()
    codec.feed(GREETING + b"".join(pieces), now)
    take_events(codec, outcome)
    assert outcome.failed is None, outcome
    output(codec)
    return codec


def feed(codec, piece, now=0.0):
    """Feed a piece; return its outcome: events, failure and output."""
    outcome = Outcome()
    codec.feed(piece, now)
    take_events(codec, outcome)
    outcome.sent = [text(frame) for frame in output(codec)]
    return outcome


def reset(stream, code):
    return f"RST_STREAM 0x0 {stream} {code:08x}"


def written(write):
    """Return the frames that a function (writer) writes."""
    writer = ResponseWriter()
    write(writer)
    return read_frames(writer.take(0))


# --- Events, at every cut -------------------------------------------------------------------------


def test_every_case_at_every_cut():
    for sent in conversations():
        if len(sent) > 1_000:
            continue
        whole = run([sent])
        assert run(frames.bytewise(sent)) == whole
        for cut in range(len(sent)):
            assert run([sent[:cut], sent[cut:]]) == whole, (sent, cut)


def test_request_without_content():
    outcome = agree(request(1))
    assert outcome.events == [head(1)]
    assert outcome.sent == ["SETTINGS 0x1 0"]


def test_request_with_content():
    sent = request(1, POST, end=False) + data(1, b"hel", pad=3) + data(1, b"lo", end=True)
    assert agree(sent).events == [
        head(1, "POST", ended=False),
        ("body", 1, b"hello"),
        ("end", 1),
    ]


def test_requests_that_interleave():
    sent = (
        request(1, POST, end=False)
        + request(3, POST, end=False)
        + data(3, b"3", end=True)
        + data(1, b"1", end=True)
    )
    assert agree(sent).events[2:] == [("body", 3, b"3"), ("end", 3), ("body", 1, b"1"), ("end", 1)]


def test_trailers_end_the_request():
    sent = request(1, POST, end=False) + headers(1, literals([(b"x", b"y")]), end=True)
    assert agree(sent).events == [head(1, "POST", ended=False), ("end", 1)]


def test_reset_by_the_peer():
    outcome = agree(request(1) + rst_stream(1, Code.CANCEL))
    assert outcome.events == [head(1), ("reset", 1, None)]
    assert outcome.sent == ["SETTINGS 0x1 0"]


def test_malformed_request_is_reset():
    outcome = agree(request(1, GET[1:]) + request(3))
    assert outcome.events == [("reset", 1, (1, "invalid pseudo-header fields")), head(3)]
    assert outcome.sent == ["SETTINGS 0x1 0", reset(1, Code.PROTOCOL_ERROR)]


def test_refused_request():
    outcome = agree(request(1, [(b":method", b"BREW"), *GET[1:]]) + request(3, POST, end=False))
    assert outcome.events == [("refused", 1, 501, True), head(3, "POST", ended=False)]


def test_pong():
    codec = opened()
    assert [str(frame) for frame in written(codec.write_ping)] == [
        "PING flags 0x0 stream 0 length 8"
    ]
    assert feed(codec, ping(b"Thestral", ack=True)).events == []
    assert feed(codec, ping(b"thestral", ack=True)).events == [("pong",)]
    assert feed(codec, ping(b"thestral", ack=True)).events == []


@pytest.mark.parametrize("after", [0, 1, 23])
def test_invalid_preface(after):
    broken = PREFACE[:after] + b"\x00" + PREFACE[after + 1 :]
    for pieces in ([broken], frames.bytewise(broken)):
        assert run(pieces).failed == (1, "not the HTTP/2 connection preface")


def test_connection_error_is_raised_again():
    codec = opened()
    failed = (Code.PROTOCOL_ERROR, "push from a client")
    assert feed(codec, bytes(Frame(Type.PUSH_PROMISE, 0, 1, bytes(4)))).failed == failed
    assert feed(codec, request(1)) == Outcome(failed=failed)


def test_is_reading_head():
    codec = USUAL.codec()
    sent = GREETING + headers(1, literals(GET), end=True)
    for at in range(len(sent)):
        feed(codec, sent[at : at + 1])
        greeted = at >= len(PREFACE) + 8
        within = len(GREETING) + 8 <= at < len(sent) - 1
        assert codec.is_reading_head() == (within or not greeted), at


# --- Fields ---------------------------------------------------------------------------------------


def test_fields_of_the_dynamic_table_are_the_same_objects():
    block = literals(GET[:3]) + literal(b":authority", b"example.com", INCREMENTAL)
    block += literal(b"x-a", b"b", INCREMENTAL)
    again = literals(GET[:3]) + bytes([0x80 | 63, 0x80 | 62])
    events = run([GREETING + headers(1, block, end=True) + headers(3, again, end=True)]).events
    assert events[0][4] == events[1][4] == [(b"host", b"example.com"), (b"x-a", b"b")]
    assert [one is other for one, other in zip(events[0][4], events[1][4], strict=True)] == [
        True
    ] * 2


def test_fields_of_the_dynamic_table_come_again_after_a_rest():
    block = literals(GET[:3]) + literal(b":authority", b"a", INCREMENTAL)
    block += literal(b"x-a", b"v" * 900, INCREMENTAL) + literal(b"x-b", b"", INCREMENTAL)
    expected = [(b"host", b"a"), (b"x-a", b"v" * 900), (b"x-b", b"")]
    codec = opened(headers(1, block, end=True))
    written(lambda writer: codec.write_reset(writer, 1, Code.NO_ERROR))
    codec.rest()
    # Only some of the entries are read at first: none of the others may be taken for known.
    some = literals(GET[:3]) + bytes([0x80 | 64])
    assert feed(codec, headers(3, some, end=True)).events == [head(3, fields=expected[:1])]
    again = literals(GET[:3]) + bytes([0x80 | 64, 0x80 | 63, 0x80 | 62])
    assert feed(codec, headers(5, again, end=True)).events == [head(5, fields=expected)]


def test_facts_about_a_field_are_kept_with_its_entry():
    """An entry is checked when it is added, however many entries have been evicted before."""
    codec = opened(limits=Limits(head=1 << 16))
    for number in range(200):
        stream = 1 + 2 * number
        bad = number % 3 == 0
        value = b"%d" % number + b"v" * 500 + (b"\n" if bad else b"")
        block = literals(GET[:3]) + literal(b"x-a", value, INCREMENTAL) + b"\xbe"
        events = feed(codec, headers(stream, block, end=True), now=number).events
        if bad:
            assert events == [("reset", stream, (1, "invalid field name or value"))]
        else:
            assert events == [("refused", stream, 400, True)]  # no host
            written(lambda writer, stream=stream: codec.write_reset(writer, stream, 0))


def test_cookies_are_one_field():
    fields = [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]
    assert agree(request(1, fields)).events == [
        head(1, fields=[*HOST, (b"cookie", b"a=1; b=2"), (b"x", b"y")])
    ]


@pytest.mark.parametrize("fields", [20, 25, 51, 64, 102, 128, 204, 256])
@pytest.mark.parametrize("refused", [[(b"content-length", b"x")], [(b"expect", b"tea")]])
def test_cookies_behind_the_last_field_that_is_kept(fields, refused):
    """A head over its limit is refused for its size, whatever else is wrong with it."""
    more = [*refused, *((b"x", b"") for _ in range(fields - 1)), *((b"cookie", b"a") for _ in "ab")]
    limits = Limits(fields=fields, head=1 << 16)
    assert run([GREETING + request(1, GET + more)], limits).events == [("refused", 1, 431, True)]


def test_unknown_method_before_a_path_over_the_limit_is_431():
    fields = [(b":method", b"BREW"), (b":path", b"/" * 5_000), *GET[1:2], *GET[3:]]
    assert agree(request(1, fields)).events == [("refused", 1, 431, True)]


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_size_of_a_head(over):
    size = sum(len(name) + len(value) + 32 for name, value in GET)
    fields = [*GET, (b"x", b"y" * (USUAL.head - size - 33 + over))]
    events = agree(request(1, fields)).events
    assert events == (
        [("refused", 1, 431, True)] if over > 0 else [head(1, fields=HOST + fields[4:])]
    )


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_count_of_fields(over):
    fields = [(b"x", b"%d" % i) for i in range(USUAL.fields + over)]
    events = agree(request(1, GET + fields)).events
    assert events == ([("refused", 1, 431, True)] if over > 0 else [head(1, fields=HOST + fields)])


@pytest.mark.parametrize("count", [511, 512, 513])
def test_count_of_cookie_crumbs(count):
    limits = Limits(head=1 << 16)
    events = run([GREETING + request(1, GET + [(b"cookie", b"a")] * count)], limits).events
    kept = [*HOST, (b"cookie", b"; ".join([b"a"] * count))]
    assert events == ([("refused", 1, 431, True)] if count > 512 else [head(1, fields=kept)])


@pytest.mark.parametrize("over", [0, 1])
def test_size_of_trailers(over):
    trailers = headers(1, literals([(b"x", b"y" * (USUAL.head - 33 + over))]), end=True)
    events = agree(request(1, POST, end=False) + trailers).events
    assert events[1:] == [("refused", 1, 431, True) if over else ("end", 1)]


def test_stream_is_over_behind_a_response_to_trailers_over_the_limit():
    codec = opened(request(1, POST, end=False))
    feed(codec, headers(1, literals([(b"x", b"y" * 5_000)]), end=True))
    written(lambda writer: codec.write_head(writer, 1, 431, check_fields([], False), [], True))
    assert feed(codec, data(1)).failed == (Code.STREAM_CLOSED, "frame on a closed stream")


def test_trailers_over_the_limit_of_a_refused_request_are_passed_over():
    sent = request(1, POST, end=False) + data(1, b"12345")
    sent += headers(1, literals([(b"x", b"y" * 5_000)]), end=True)
    assert run([GREETING + sent], Limits(body=4)).events == [
        head(1, "POST", ended=False),
        ("refused", 1, 413, False),
    ]


@pytest.mark.parametrize("over", [0, 1])
def test_size_of_a_field_block(over):
    """The encoded block may be a quarter larger than the head's limit, and at least one frame."""
    limits = Limits(head=16_384)
    room = 16_384 + 4_096 - len(literals(GET))
    filler = b"\x82" * (room + over)
    block = literals(GET) + filler
    sent = headers(1, block[:16_384], end_headers=False) + continuation(1, block[16_384:])
    outcome = run([GREETING + sent], limits)
    if over:
        assert outcome.failed == (Code.ENHANCE_YOUR_CALM, "field block too large")
    else:
        assert outcome.failed is None


@pytest.mark.parametrize("count", [7, 8, 9])
def test_count_of_continuations(count):
    block = literals(GET)
    sent = headers(1, b"", end=True, end_headers=False)
    sent += b"".join(continuation(1, block[i : i + 1], end_headers=False) for i in range(count - 1))
    sent += continuation(1, block[count - 1 :])
    outcome = agree(sent)
    if count > 8:
        assert outcome.failed == (Code.ENHANCE_YOUR_CALM, "too many frames without work")
    else:
        assert outcome.events == [head(1)]


def test_empty_continuation_only_as_the_last():
    sent = headers(1, literals(GET), end=True, end_headers=False)
    assert agree(sent + continuation(1, b"")).events == [head(1)]
    failed = agree(sent + continuation(1, b"", end_headers=False)).failed
    assert failed == (Code.ENHANCE_YOUR_CALM, "too many frames without work")


# --- Frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", [*Type, 0x55])
def test_size_of_a_frame(type):
    frame = bytes(Frame(type, 0, 1, length=16_385))
    assert run([GREETING + frame]).failed == (Code.FRAME_SIZE_ERROR, "invalid frame size")
    assert run([GREETING + bytes(Frame(0x55, 0, 1, bytes(16_384))) + request(1)]).events == [
        head(1)
    ]


@pytest.mark.parametrize("stream", [2, 4, 514])
@pytest.mark.parametrize("frame", [rst_stream, lambda stream: window_update(stream, 1)])
def test_no_stream_has_an_even_identifier(stream, frame):
    failed = agree(request(1) + request(3) + request(601) + frame(stream)).failed
    assert failed == (Code.PROTOCOL_ERROR, "frame on a stream that has not begun")


def test_streams_are_remembered_for_256_identifiers():
    limits = Limits(streams=1000)
    codec = opened(*(request(1 + 2 * i) for i in range(258)), limits=limits)
    fields = check_fields([], False)
    for stream in (1, 3, 5, 513):
        written(lambda writer, s=stream: codec.write_head(writer, s, 200, fields, [], True))
    assert feed(codec, data(1)).failed is None  # too old to know
    assert feed(codec, data(3)).failed is None
    assert feed(codec, data(5)).failed == (Code.STREAM_CLOSED, "frame on a closed stream")


def test_reset_of_an_old_stream_is_not_taken_for_that_of_a_newer_one():
    limits = Limits(streams=1000)
    codec = opened(*(request(1 + 2 * i) for i in range(257)), limits=limits)  # 1 to 513
    written(lambda writer: codec.write_reset(writer, 1, 0))
    written(lambda writer: codec.write_head(writer, 513, 200, check_fields([], False), [], True))
    assert feed(codec, data(513)).failed == (Code.STREAM_CLOSED, "frame on a closed stream")


@pytest.mark.parametrize("opened_already", [0, 3, 8])
def test_priorities_for_idle_streams(opened_already):
    codec = opened(*(request(1 + 2 * i) for i in range(opened_already)))
    room = USUAL.streams - opened_already
    sent = b"".join(priority_update(101 + 2 * i, b"u=1") for i in range(room))
    assert feed(codec, sent).failed is None
    assert feed(codec, priority_update(101 + 2 * room, b"u=1")).failed == (
        Code.PROTOCOL_ERROR,
        "priorities for too many streams",
    )


def test_priority():
    codec = opened(priority_update(3, b"u=6, i"), request(1), request(3))
    assert (codec.urgency(1), codec.is_incremental(1)) == (3, False)
    assert (codec.urgency(3), codec.is_incremental(3)) == (6, True)
    feed(codec, priority_update(1, b"u=0") + priority_update(3, b""))
    assert (codec.urgency(1), codec.is_incremental(1)) == (0, False)
    assert (codec.urgency(3), codec.is_incremental(3)) == (3, False)
    feed(codec, request(5, [*GET, (b"priority", b"u=2,i")]))
    assert (codec.urgency(5), codec.is_incremental(5)) == (2, True)
    assert codec.urgency(7) == 7


@pytest.mark.parametrize("streams", [1, 8, 9])
def test_streams_over_the_limit_are_refused(streams):
    codec = opened(*(request(1 + 2 * i) for i in range(8)))
    outcome = feed(codec, request(17))
    assert outcome.events == [("reset", 17, (Code.REFUSED_STREAM, "too many streams"))]
    written(lambda writer: codec.write_head(writer, 1, 200, check_fields([], False), [], True))
    assert feed(codec, request(19)).events == [head(19)]


# --- Content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [None, 0, 5])
@pytest.mark.parametrize("size", [9, 10, 11])
def test_limit_of_a_body(size, pad):
    """A DATA frame that goes over the limit is not delivered at all, however it is cut."""
    sent = request(1, POST, end=False) + data(1, b"1234") + data(1, b"x" * (size - 4), pad=pad)
    events = agree(sent + data(1, b"", end=True), Limits(body=10)).events
    whole = [("body", 1, b"1234" + b"x" * (size - 4)), ("end", 1)]
    assert events[1:] == (
        [("body", 1, b"1234"), ("refused", 1, 413, False)] if size > 10 else whole
    )


@pytest.mark.parametrize("pad", [None, 0, 5])
@pytest.mark.parametrize("size", [9, 10, 11])
def test_content_length(size, pad):
    sent = request(1, [*POST, (b"content-length", b"10")], end=False) + data(1, b"1234")
    events = agree(sent + data(1, b"x" * (size - 4), end=True, pad=pad)).events
    fault = ("reset", 1, (1, "content does not match Content-Length"))
    if size == 11:
        assert events[1:] == [("body", 1, b"1234"), fault]
    else:
        body = ("body", 1, b"1234" + b"x" * (size - 4))
        assert events[1:] == [body, fault if size == 9 else ("end", 1)]


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1, 2**64])
def test_largest_content_length(length):
    fields = [*POST, (b"content-length", b"%d" % length)]
    (event,) = agree(request(1, fields, end=False)).events
    status = 400 if length == 2**64 else 413
    assert event[:3] == (("refused", 1, status) if length >= 2**63 else ("head", 1, "POST"))


def test_limit_of_a_body_is_not_that_of_a_tunnel():
    sent = request(1, WEBSOCKET, end=False) + data(1, b"12345")
    assert agree(sent, Limits(body=4)).events[1:] == [("body", 1, b"12345")]


def test_largest_limit_of_a_head_allows_strings_of_any_length():
    limits = Limits(head=1 << 30)
    block = literals([*GET, (b"x", b"y" * 120_000)])
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    sent = headers(1, parts[0], end=True, end_headers=False)
    sent += b"".join(continuation(1, part, end_headers=False) for part in parts[1:-1])
    outcome = run([GREETING + sent + continuation(1, parts[-1])], limits)
    assert [event[:2] for event in outcome.events] == [("head", 1)]


# --- Windows --------------------------------------------------------------------------------------


def fill(stream, size):
    """Return DATA frames with `size` bytes in all."""
    return b"".join(data(stream, b"x" * min(16_384, size - at)) for at in range(0, size, 16_384))


@pytest.mark.parametrize("over", [0, 1])
def test_window_of_a_stream(over):
    limits = Limits(connection_window=1 << 20)
    codec = opened(request(1, POST, end=False), limits=limits)
    outcome = feed(codec, fill(1, WINDOW + over))
    if over:
        assert outcome.events[-1] == (
            "reset",
            1,
            (Code.FLOW_CONTROL_ERROR, "flow-control window of the stream exceeded"),
        )
    else:
        assert outcome.events == [("body", 1, b"x" * WINDOW)]
        assert not codec.may_receive(1)


@pytest.mark.parametrize("over", [0, 1])
def test_window_of_the_connection(over):
    codec = opened(request(1, POST, end=False), request(3, POST, end=False))
    outcome = feed(codec, fill(1, 40_000) + fill(3, WINDOW - 40_000 + over))
    failed = (Code.FLOW_CONTROL_ERROR, "flow-control window exceeded")
    assert outcome.failed == (failed if over else None)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_credit_is_given_once_half_a_window_is_used(over):
    limits = Limits(connection_window=1 << 20)
    codec = opened(request(1, POST, end=False), limits=limits)
    size = WINDOW // 2 + over
    assert feed(codec, fill(1, WINDOW // 2 + 1)).sent == []
    codec.consumed(1, size, False)
    sent = [text(frame) for frame in output(codec)]
    assert sent == ([] if over < 0 else [f"WINDOW_UPDATE 0x0 1 {size:08x}"])


def test_credit_is_not_given_for_bytes_still_to_come():
    """The rest of a DATA frame counts against the window already, but is not consumed yet."""
    codec = opened(request(1, POST, end=False))
    feed(codec, fill(1, 49_152))
    frame = data(1, b"x" * 16_383)
    feed(codec, frame[: 9 + 383])
    codec.consumed(1, 49_535, False)
    assert [text(frame) for frame in output(codec)] == [
        f"WINDOW_UPDATE 0x0 0 {49_535:08x}",
        f"WINDOW_UPDATE 0x0 1 {49_535:08x}",
    ]
    outcome = feed(codec, frame[9 + 383 :] + fill(1, 49_535))
    assert outcome.failed is None
    assert not codec.may_receive(1)
    assert feed(codec, data(1, b"x")).failed == (
        Code.FLOW_CONTROL_ERROR,
        "flow-control window exceeded",
    )


def test_padding_and_dropped_content_give_their_credit_back():
    codec = opened(request(1, POST, end=False), limits=Limits(body=10))
    feed(codec, data(1, b"x" * 11))
    sent = []
    for _ in range(20):
        outcome = feed(codec, data(1, b"x" * 16_000, pad=255))
        assert outcome.failed is None
        sent += outcome.sent
    assert len(sent) > 10
    assert {line.split()[2] for line in sent} == {"0", "1"}


def test_window_grows_while_the_application_waits():
    limits = Limits(connection_window=1 << 22, stream_window_max=200_000)
    codec = opened(request(1, POST, end=False), limits=limits)
    sizes = []
    window = WINDOW
    for _ in range(4):
        feed(codec, fill(1, window))
        codec.consumed(1, window, True)
        (update,) = (frame for frame in output(codec) if frame.stream == 1)
        window = int.from_bytes(update.payload, "big")
        sizes.append(window)
    assert sizes == [131_070, 200_000, 200_000, 200_000]


def test_window_does_not_grow_unless_it_is_used_up_and_awaited():
    codec = opened(request(1, POST, end=False), limits=Limits(connection_window=1 << 20))
    feed(codec, fill(1, WINDOW // 2 - 1))
    codec.consumed(1, WINDOW // 2 - 1, True)
    assert output(codec) == []
    feed(codec, fill(1, 2))
    codec.consumed(1, 2, False)
    assert [text(frame) for frame in output(codec)] == [
        f"WINDOW_UPDATE 0x0 1 {WINDOW // 2 + 1:08x}"
    ]


def test_sendable():
    codec = opened(request(1))
    assert codec.sendable(1, WINDOW) == 16_384
    assert codec.sendable(3, WINDOW) == 0
    feed(codec, settings((Setting.MAX_FRAME_SIZE, 20_000)))
    assert codec.sendable(1, WINDOW) == 20_000
    feed(codec, settings((Setting.INITIAL_WINDOW_SIZE, 100)))
    assert codec.sendable(1, WINDOW) == 100
    (frame,) = written(lambda writer: codec.write_data(writer, 1, b"x" * 100, 0, 100, False))
    assert (frame.type, frame.payload) == (Type.DATA, b"x" * 100)
    feed(codec, settings((Setting.INITIAL_WINDOW_SIZE, 50)))
    assert codec.sendable(1, WINDOW) == 0
    feed(codec, window_update(1, 50))
    assert codec.sendable(1, WINDOW) == 0
    feed(codec, window_update(1, 1))
    assert codec.sendable(1, WINDOW) == 1


@pytest.mark.parametrize(("rest", "size", "sent"), [(63, 64, 0), (63, 63, 63), (64, 65, 64)])
def test_small_rest_of_the_connections_window_is_used_only_for_all_that_waits(rest, size, sent):
    codec = opened(request(1))
    feed(codec, window_update(1, WINDOW))
    left = WINDOW - rest
    while left > 0:
        part = min(left, 16_384)
        written(lambda writer, part=part: codec.write_data(writer, 1, b"x" * part, 0, part, False))
        left -= part
    assert min(codec.sendable(1, size), size) == sent
    feed(codec, window_update(0, 1))
    assert codec.sendable(1, size) == (0 if rest + 1 < min(size, 64) else rest + 1)


def test_small_window_of_a_stream_is_used():
    codec = opened(request(1))
    feed(codec, settings((Setting.INITIAL_WINDOW_SIZE, 1)))
    assert codec.sendable(1, 100) == 1


def test_updates_for_thousands_of_frames_that_were_under_way_are_free():
    """A client with large windows acknowledges all of them at once, two updates for each."""
    codec = opened(request(1))
    feed(codec, window_update(0, 2**30) + window_update(1, 2**30))
    for _ in range(10_000):
        written(lambda writer: codec.write_data(writer, 1, b"x" * 100, 0, 100, False))
    updates = window_update(0, 100) + window_update(1, 100)
    assert feed(codec, updates * 10_000).failed is None


@pytest.mark.parametrize("over", [0, 1])
def test_largest_window(over):
    update = window_update(1, 2**31 - 1 - WINDOW + over)
    outcome = agree(request(1) + update)
    fault = ("reset", 1, (Code.FLOW_CONTROL_ERROR, "flow-control window exceeded"))
    assert outcome.events[1:] == ([fault] if over else [])
    outcome = agree(window_update(0, 2**31 - 1 - WINDOW + over))
    assert outcome.failed == ((3, "flow-control window exceeded") if over else None)


def test_setting_that_makes_a_window_too_large():
    sent = request(1) + window_update(1, 2**31 - 1 - WINDOW)
    sent += settings((Setting.INITIAL_WINDOW_SIZE, WINDOW + 1))
    assert agree(sent).failed == (Code.FLOW_CONTROL_ERROR, "initial window too large")


# --- Budgets --------------------------------------------------------------------------------------

CALM = (Code.ENHANCE_YOUR_CALM, "too many frames without work")


def test_budget_of_resets():
    codec = opened()
    blob = b"".join(request(1 + 2 * i) + rst_stream(1 + 2 * i) for i in range(200))
    assert feed(codec, blob).failed is None
    # 33 tokens a second are refilled, and one for each response.
    more = b"".join(request(1001 + 2 * i) + rst_stream(1001 + 2 * i) for i in range(33))
    assert feed(codec, more, now=1.0).failed is None
    codec.completed()
    again = request(2001) + rst_stream(2001)
    assert feed(codec, again, now=1.0).failed is None
    again = request(2003) + rst_stream(2003)
    assert feed(codec, again, now=1.0).failed == (
        Code.ENHANCE_YOUR_CALM,
        "too many streams reset",
    )


def test_budget_of_resets_counts_those_that_the_peer_makes_the_server_send():
    codec = opened()
    blob = b"".join(request(1 + 2 * i, GET[1:]) for i in range(200))
    assert feed(codec, blob).failed is None
    assert feed(codec, request(1001, GET[1:])).failed is not None


GLITCHES = {
    "unknown frame": bytes(Frame(0x55, 0, 0)),
    "empty DATA": data(1),
    "padding alone": data(1, b"x", pad=19),
    "GOAWAY": goaway(),
    "acknowledgement of no PING": ping(ack=True),
    "RST_STREAM of a stream that is over": rst_stream(3),
    "HEADERS of a stream that was reset": headers(5, literals(GET)),
}


@pytest.mark.parametrize("frame", GLITCHES.values(), ids=GLITCHES)
def test_budget_of_glitches(frame):
    codec = opened(request(1, POST, end=False), request(3), rst_stream(3), request(5, GET[1:]))
    assert feed(codec, frame * 1000).failed is None
    assert feed(codec, frame * 100, now=1.0).failed is None
    codec.completed()
    assert feed(codec, frame, now=1.0).failed is None
    assert feed(codec, frame, now=1.0).failed == CALM


def test_requests_after_the_last_goaway_cost_a_glitch():
    codec = opened()
    written(lambda writer: codec.write_goaway(writer, True, 0, ""))
    assert feed(codec, b"".join(request(1 + 2 * i) for i in range(1000))).events == []
    assert feed(codec, request(5001)).failed == CALM


def test_budget_of_pings():
    codec = opened()
    outcome = feed(codec, ping() * 1009)  # SETTINGS of the greeting was the first of 10
    assert (outcome.failed, len(outcome.sent)) == (None, 1009)
    assert feed(codec, ping()).failed == CALM


ALLOWANCES = {
    "PRIORITY": (priority(9), 16),
    "PRIORITY_UPDATE": (priority_update(9), 16),
    "WINDOW_UPDATE": (window_update(0, 1), 10),
}


@pytest.mark.parametrize(("frame", "free"), ALLOWANCES.values(), ids=ALLOWANCES)
def test_allowances(frame, free):
    codec = opened()
    assert feed(codec, frame * (1000 + free)).failed is None
    assert feed(codec, frame).failed == CALM


def test_allowances_grow_with_work():
    codec = opened(request(1))
    feed(codec, priority(9) * 18 + window_update(0, 1) * 10 + ping() * 9)
    assert feed(codec, bytes(Frame(0x55, 0, 0)) * 1000).failed is None  # no glitch is left
    written(lambda writer: codec.write_data(writer, 1, b"x" * 100, 0, 100, False))
    assert feed(codec, window_update(1, 1) * 5).failed is None
    assert feed(codec, window_update(1, 1)).failed == CALM


def test_tiny_frames_that_a_window_asks_for_cost_glitches():
    codec = opened(request(1), settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    for _ in range(200):
        feed(codec, window_update(1, 1) * 5)
        for _ in range(5):
            written(lambda writer: codec.write_data(writer, 1, b"x", 0, 1, False))
    assert feed(codec, b"").failed is None
    feed(codec, window_update(1, 64))
    written(lambda writer: codec.write_data(writer, 1, b"x" * 64, 0, 64, False))
    assert feed(codec, b"").failed is None


@pytest.mark.parametrize("count", [31, 32, 33])
def test_count_of_settings(count):
    assert agree(settings(*[(0x99, 1)] * count)).failed == (CALM if count > 32 else None)


# --- What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_no_rfc7540_priorities_does_not_change(first):
    key = Setting.NO_RFC7540_PRIORITIES
    codec = USUAL.codec()
    assert feed(codec, PREFACE + settings((key, first)) + settings((key, first))).failed is None
    assert feed(codec, settings((key, 1 - first))).failed == (1, "invalid setting")
    assert agree(settings((key, 1))).failed == (1, "invalid setting")  # 0 by default


def own(limits):
    codec = limits.codec()
    return [text(frame) for frame in output(codec)]


def test_preface_of_the_server():
    limit = "000300000008" + "000600001000" + "000900000001"
    assert own(USUAL) == [f"SETTINGS 0x0 0 {limit}000800000001"]
    assert own(Limits(websocket=False)) == [f"SETTINGS 0x0 0 {limit}"]
    assert own(Limits(connection_window=65_536))[1:] == ["WINDOW_UPDATE 0x0 0 00000001"]
    assert own(Limits(connection_window=100))[1:] == []


def test_acknowledgements():
    outcome = agree(settings() + ping(b"12345678") + settings_ack())
    assert outcome.sent == ["SETTINGS 0x1 0"] * 2 + [f"PING 0x1 0 {b'12345678'.hex()}"]
    codec = opened()
    assert not codec.settings_acked()
    feed(codec, settings_ack())
    assert codec.settings_acked()


@pytest.mark.parametrize("count", [1, 9, 10, 11])
def test_acknowledgements_are_kept_while_the_peer_does_not_read(count):
    """Those of ten PINGs."""
    codec = opened()
    codec.set_stalled(True)
    pings = [b"%8d" % number for number in range(count)]
    assert feed(codec, settings() * 3 + b"".join(map(ping, pings))).sent == []
    codec.set_stalled(False)
    assert [text(frame) for frame in output(codec)] == [
        *["SETTINGS 0x1 0"] * 3,
        *[f"PING 0x1 0 {payload.hex()}" for payload in pings[:10]],
    ]
    codec.set_stalled(False)
    assert output(codec) == []


def test_reset_is_written_once():
    codec = opened(request(1))
    assert [text(f) for f in written(lambda writer: codec.write_reset(writer, 1, 8))] == [
        reset(1, Code.CANCEL)
    ]
    assert written(lambda writer: codec.write_reset(writer, 1, 8)) == []
    assert feed(codec, window_update(1, 1) + rst_stream(1) + data(1, b"x")) == Outcome()


def test_goaway():
    codec = opened(request(1))
    (frame,) = written(lambda writer: codec.write_goaway(writer, False, 0, ""))
    assert text(frame) == f"GOAWAY 0x0 0 7fffffff{0:08x}"
    assert feed(codec, request(3)).events == [head(3)]
    (frame,) = written(lambda writer: codec.write_goaway(writer, True, 11, "why"))
    assert text(frame) == f"GOAWAY 0x0 0 {3:08x}{11:08x}{b'why'.hex()}"
    assert feed(codec, request(5)) == Outcome()


@pytest.mark.parametrize("over", [-1, 0, 1, 16_384, 16_385, 100_000])
def test_long_heads_are_continued(over):
    codec = opened(request(1))
    overhead = 1 + len(integer(1, 7) + b"x" + integer(16_000, 7)) + 1  # and :status
    value = b"y" * (16_384 - overhead + over)
    fields = check_fields([(b"x", value)], False)
    found = written(lambda writer: codec.write_head(writer, 1, 200, fields, [], True))
    sizes = [len(frame.payload) for frame in found]
    block = b"".join(frame.payload for frame in found)
    assert block == b"\x88" + b"\x00" + integer(1, 7) + b"x" + integer(len(value), 7) + value
    assert len(found) == (len(block) + 16_383) // 16_384
    assert set(sizes[:-1]) <= {16_384}
    assert [frame.type for frame in found] == [
        Type.HEADERS,
        *[Type.CONTINUATION] * (len(found) - 1),
    ]
    ends = [0] * (len(found) - 1) + [END_HEADERS]
    ends[0] |= frames.END_STREAM
    assert [frame.flags for frame in found] == ends
    assert {frame.stream for frame in found} == {1}


def test_trailers_end_the_stream():
    codec = opened(request(1))
    fields = check_fields([(b"X", b" y ")], False)
    (frame,) = written(lambda writer: codec.write_trailers(writer, 1, fields))
    assert (frame.type, frame.flags) == (Type.HEADERS, END_HEADERS | frames.END_STREAM)
    assert codec.sendable(1, WINDOW) == 0


def test_check_fields():
    fields = check_fields(
        [
            (b"Content-Length", b"5"),
            (b"Date", b"today"),
            [b"SERVER", bytearray(b" x\t")],
            (b"Connection", b"close"),
            (b"keep-alive", b"1"),
            (b"Proxy-Connection", b"x"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
            (b"content-length", b"5"),
        ],
        False,
    )
    assert fields.pairs() == [(b"content-length", b"5"), (b"date", b"today"), (b"server", b"x")]
    assert (fields.content_length, fields.has_date, fields.has_server) == (5, True, True)
    assert check_fields([(b"content-length", b"5")], True).pairs() == []
    empty = check_fields([], False)
    assert (empty.content_length, empty.has_date, empty.has_server) == (-1, False, False)
    empty.announce(7)
    assert (empty.content_length, empty.pairs()) == (7, [(b"content-length", b"7")])


@pytest.mark.parametrize(
    "pair",
    [
        (b"", b"x"),
        (b"a b", b"x"),
        (b":status", b"200"),
        (b"x", b"a\r\nb"),
        (b"x", b"\0"),
        ("x", b"y"),
        (b"x", "y"),
        (b"x",),
        None,
        (b"content-length", b"-1"),
        (b"content-length", b"9223372036854775808"),
    ],
)
def test_field_that_cannot_be_sent(pair):
    with pytest.raises(LocalProtocolError):
        check_fields([pair], False)


def test_lengths_that_contradict_each_other():
    with pytest.raises(LocalProtocolError, match="contradict"):
        check_fields([(b"content-length", b"1"), (b"Content-Length", b"2")], False)


# --- Frames and flags that are ignored ------------------------------------------------------------


def test_undefined_flags_are_ignored():
    assert agree(bytes(Frame(Type.PING, PADDED | 2, 0, bytes(8)))).sent[1:] == [
        f"PING {ACK:#x} 0 {bytes(8).hex()}"
    ]

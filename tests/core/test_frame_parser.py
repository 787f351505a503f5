"""FrameParser: every vector at every split, every limit, and its methods besides the events."""

import itertools
import random
import zlib

import pytest
from vectors import websocket
from vectors.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Deflater,
    Outcome,
    Settings,
    agree,
    bytewise,
    fragments,
    frame,
    head,
    make_parser,
    parse,
    take_events,
)

from thestral._core.websocket import Event, FrameParser, is_close_code
from thestral.errors import RemoteProtocolError

CASES = websocket.load()
PLAIN = Settings()
COMPRESSED = Settings(bits=15)


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def params(cases):
    return [pytest.param(case, id=ascii(case.name)) for case in cases]


def test_vectors_are_read():
    assert len(CASES) > 500
    assert len({case.name for case in CASES}) == len(CASES)
    # All but those whose result depends on how much zlib reads at once.
    unmarked = {
        case.name.split(":")[0]
        for case in CASES
        if case.expected.failed is not None and case.fails_at is None
    }
    assert unmarked == {"bomb"}


@pytest.mark.parametrize("case", params(CASES))
def test_vector(case):
    outcome = agree(case.data, case.settings, seed_of(case.name))
    assert outcome == case.expected, case.why
    if case.fails_at is not None:
        assert outcome.failed_in.start == case.fails_at, case.why


def test_nothing_after_a_failure_is_read():
    # However much follows, and whatever it is.
    for case in CASES:
        if case.expected.failed is None:
            continue
        parser = make_parser(case.settings)
        outcome = Outcome()
        for piece in [case.data, frame(TEXT, b"a"), frame(CLOSE)]:
            parser.feed(piece)
            take_events(parser, outcome)
        assert outcome == case.expected, case.name


# --- Text, in all ways of sending it --------------------------------------------------------------


def sequences(name: str) -> list:
    return [
        pytest.param(
            bytes.fromhex(case.name.split(": ", 1)[1].replace("!", "")),
            case.expected,
            id=case.name,
        )
        for case in CASES
        if case.name.startswith(f"{name}: ")
    ]


SEQUENCES = sequences("text") + sequences("not text")


def stored(data: bytes) -> bytes:
    """A compressed message, each byte in a stored block, so that zlib can hold nothing back."""
    return b"".join(b"\x00\x01\x00\xfe\xff%c" % byte for byte in data) + b"\x00"


@pytest.mark.parametrize(("text", "expected"), SEQUENCES)
def test_text_in_fragments(text, expected):
    seed = zlib.crc32(text)
    singles = [text[i : i + 1] for i in range(len(text))] or [b""]
    assert agree(b"".join(fragments(TEXT, singles)), PLAIN, seed) == expected
    for cut in range(len(text) + 1):
        data = b"".join(fragments(TEXT, [text[:cut], b"", text[cut:]]))
        assert bytewise(data, PLAIN) == expected
        assert parse([data], PLAIN) == expected


@pytest.mark.parametrize(("text", "expected"), SEQUENCES)
def test_text_with_pings_between_its_fragments(text, expected):
    frames = fragments(TEXT, [text[i : i + 1] for i in range(len(text))] or [b""])
    data = frame(PING, b"\xff").join(frames)
    for outcome in (parse([data], PLAIN), bytewise(data, PLAIN)):
        assert outcome.failed == expected.failed
        assert [event for event in outcome.events if event[0] == "text"] == expected.events


@pytest.mark.parametrize(("text", "expected"), SEQUENCES)
def test_text_compressed(text, expected):
    payload = stored(text)
    halved = [payload[: len(payload) // 2], payload[len(payload) // 2 :]]
    for takeover in (True, False):
        settings = Settings(bits=15, takeover=takeover)
        outcome = agree(frame(TEXT, payload, rsv=4), settings, zlib.crc32(text), rounds=2)
        assert outcome == expected
        deflated = Deflater(15, takeover).message(text)
        assert parse([frame(TEXT, deflated, rsv=4)], settings) == expected
        assert bytewise(b"".join(fragments(TEXT, halved, rsv=4)), settings) == expected


def test_compressed_text_fails_with_its_byte():
    for before in (0, 1, 15, 16, 17, 100):
        payload = stored(b"a" * before + b"\xff" + b"a" * 20)
        data = frame(TEXT, payload, rsv=4, form=16 if len(payload) > 125 else 7)
        at = len(data) - len(payload) + before * 6 + 5
        assert bytewise(data, COMPRESSED).failed_in.start == at


# --- Close codes ----------------------------------------------------------------------------------


def sendable(code: int) -> bool:
    """RFC 6455 section 7.4 and IANA's registry."""
    return code in {1000, 1001, 1002, 1003, *range(1007, 1015)} or 3000 <= code <= 4999


def test_every_close_code():
    begin = head(CLOSE, 2, key=bytes(4))
    for code in range(1 << 16):
        parser = FrameParser(0)
        outcome = Outcome()
        parser.feed(begin + code.to_bytes(2))
        take_events(parser, outcome)
        expected = Outcome([("close", code, b"")]) if sendable(code) else Outcome(failed=1002)
        assert outcome == expected, code
        assert is_close_code(code) == sendable(code), code


@pytest.mark.parametrize(
    "code", [-1, -1000, -64536, 1 << 16, (1 << 16) + 1000, 2**31 - 1, -(2**31)]
)
def test_invalid_close_code(code):
    assert is_close_code(code) is False


# --- Every first byte -----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PLAIN, COMPRESSED], ids=["plain", "compressed"])
@pytest.mark.parametrize("within", [False, True])
def test_every_first_byte(settings, within):
    # RFC 6455 sections 5.2, 5.4, 5.5; RFC 7692 section 6.
    for first in range(256):
        opcode, fin = first & 0x0F, first & 0x80
        starts = opcode in (TEXT, BINARY)
        right = opcode == CONTINUATION if within else starts
        right |= opcode >= 0x8 and opcode <= 0xA and fin != 0
        right &= first & 0x30 == 0
        right &= first & 0x40 == 0 or (settings.bits is not None and starts)
        parser = make_parser(settings)
        outcome = Outcome()
        parser.feed((frame(TEXT, b"a", fin=False) if within else b"") + bytes([first]))
        take_events(parser, outcome)
        assert outcome == Outcome(failed=None if right else 1002), hex(first)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, 0xA, CLOSE])
def test_every_second_byte(opcode):
    for second in range(256):
        parser = FrameParser(1 << 20)
        outcome = Outcome()
        parser.feed(bytes([0x80 | opcode, second]))
        take_events(parser, outcome)
        right = second >= 0x80 and (opcode in (TEXT, BINARY) or second <= 0x80 + 125)
        assert outcome == Outcome(failed=None if right else 1002), hex(second)


REASONS = [
    (frame(TEXT, b"a", rsv=1), 1002, "reserved bit set"),
    (frame(3), 1002, "unknown opcode"),
    (frame(TEXT, b"a", key=None), 1002, "frame not masked"),
    (frame(TEXT, b"a", form=16), 1002, "invalid frame length"),
    (frame(PING, fin=False), 1002, "control frame fragmented or too long"),
    (frame(CONTINUATION), 1002, "fragments out of order"),
    (frame(CLOSE, b"a"), 1002, "invalid close code"),
    (frame(TEXT, b"\xff"), 1007, "text is not UTF-8"),
    (frame(TEXT, b"\x07", rsv=4), 1007, "invalid compressed data"),
    (head(TEXT, 1 << 21), 1009, "message too big"),
]


@pytest.mark.parametrize(("data", "status", "reason"), REASONS, ids=[r[2] for r in REASONS])
def test_reason(data, status, reason):
    parser = make_parser(COMPRESSED)
    parser.feed(data)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as failure:
            parser.next_event()
        assert failure.value.status == status
        assert failure.value.reason == str(failure.value) == reason


# --- Limits ---------------------------------------------------------------------------------------


def pieces_of(payload: bytes, parts: int) -> list[bytes]:
    step = max(-(-len(payload) // parts), 1)
    return [payload[i : i + step] for i in range(0, len(payload), step)] or [b""]


@pytest.mark.parametrize("limit", [0, 1, 124, 125, 126, 127, 200, 65534, 65535, 65536, 65537])
def test_message_limit(limit):
    settings = Settings(max_size=limit)
    for over, parts in itertools.product([-1, 0, 1], [1, 2, 5]):
        payload = bytes(max(limit + over, 0))
        data = b"".join(fragments(BINARY, pieces_of(payload, parts)))
        expected = Outcome(failed=1009) if over > 0 else Outcome([("binary", payload)])
        assert parse([data], settings) == expected
        assert parse([data[i : i + 7] for i in range(0, len(data), 7)], settings) == expected


@pytest.mark.parametrize("limit", [1, 16, 511, 512, 513, 1000, 4096, 70000])
def test_inflated_limit(limit):
    for over, bits in itertools.product([-1, 0, 1, 2], [9, 12, 15]):
        payload = (b"abcdefg%d," * 30_000)[: limit + over]
        data = frame(BINARY, Deflater(bits).message(payload), rsv=4)
        settings = Settings(max_size=limit, bits=bits)
        expected = Outcome(failed=1009) if over > 0 else Outcome([("binary", payload)])
        assert agree(data, settings, limit, rounds=4) == expected


def test_largest_limit():
    parser = FrameParser(2**63 - 1)
    parser.use_deflate(15, True)
    for first in (0x82, 0xC2):
        parser.feed(bytes([first, 0xFF]) + (3).to_bytes(8))
        with pytest.raises(RemoteProtocolError, match="length"):
            FrameParser.next_event(parser)
        parser = FrameParser(2**63 - 1)
        parser.use_deflate(15, True)
    parser.feed(b"\x82\xff" + (2**63 - 1).to_bytes(8) + bytes(4) + b"abc")
    assert parser.next_event() == Event.NEED_DATA


@pytest.mark.parametrize("size", [-1, 2**64])
def test_invalid_limit(size):
    with pytest.raises(OverflowError):
        FrameParser(size)


# --- Compression ----------------------------------------------------------------------------------


def words(rng: random.Random, size: int) -> bytes:
    """Data that compresses well, with references to far back."""
    pool = [rng.randbytes(rng.randrange(3, 40)) for _ in range(30)]
    return b"".join(rng.choice(pool) for _ in range(size // 3 + 1))[:size]


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("takeover", [True, False])
def test_session(bits, takeover):
    rng = random.Random(bits)
    deflater = Deflater(bits, takeover, level=rng.choice([1, 6, 9]))
    settings = Settings(bits=bits, takeover=takeover)
    data, events = b"", []
    for _ in range(25):
        payload = words(rng, rng.choice([0, 1, 10, 300, 5000, 40_000]))
        events.append(("binary", payload))
        if rng.random() < 0.2:
            data += frame(BINARY, payload)
            continue
        payload = deflater.message(payload)
        edges = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 1, 5])))
        pieces = [payload[a:b] for a, b in zip([0, *edges], [*edges, None], strict=True)]
        data += b"".join(fragments(BINARY, pieces, rsv=4))
    assert parse([data], settings) == Outcome(events)
    assert parse((data[i : i + 1000] for i in range(0, len(data), 1000)), settings).events == events
    step = 7
    assert parse((data[i : i + step] for i in range(0, len(data), step)), settings).events == events


def test_window_is_not_kept_without_takeover():
    deflater = Deflater(15, takeover=True)
    data = b"".join(frame(TEXT, deflater.message(b"Hello, world"), rsv=4) for _ in range(2))
    outcome = agree(data, Settings(bits=15, takeover=False), 1)
    assert outcome == Outcome([("text", "Hello, world")], failed=1007)


@pytest.mark.parametrize("bits", [9, 12])
def test_reference_beyond_the_window_is_understood_or_refused(bits):
    # A client that agreed to a smaller window and exceeds it. zlib accepts any distance within the
    # output of one call: the one verdict that depends on the cut (websocket.h).
    rng = random.Random(bits)
    once = rng.randbytes(5 << bits - 2)
    data = frame(BINARY, Deflater(15).message(once + once[:100]), rsv=4)
    settings = Settings(bits=bits)
    assert parse([data], settings) == Outcome([("binary", once + once[:100])])
    assert bytewise(data, settings) == Outcome(failed=1007)


def test_bfinal_flood():
    # Each block ends a DEFLATE stream: RFC 7692 section 7.2.3.4.
    payload = b"\x01\x00\x00\xff\xff" * 20_000 + b"\x00"
    data = frame(BINARY, payload, rsv=4)
    assert parse([data], COMPRESSED) == Outcome([("binary", b"")])
    assert bytewise(data, COMPRESSED) == Outcome([("binary", b"")])


# --- Besides the events ---------------------------------------------------------------------------


def test_message_is_read_once_and_then_gone():
    parser = FrameParser(100)
    parser.feed(frame(TEXT, "ä".encode()) + frame(BINARY, b"b"))
    assert parser.next_event() == Event.MESSAGE
    assert parser.read_message() == "ä"
    assert parser.read_message() == ""
    assert parser.next_event() == Event.MESSAGE
    assert parser.read_message() == b"b"
    assert parser.read_message() == b""


def test_message_that_is_not_read_does_not_leak_into_the_next():
    parser = FrameParser(100)
    parser.use_deflate(15, True)
    parser.feed(
        frame(TEXT, b"abc") + frame(BINARY, b"d") + frame(TEXT, Deflater().message(b"e"), rsv=4)
    )
    assert [parser.next_event() for _ in range(3)] == [Event.MESSAGE] * 3
    assert parser.read_message() == "e"


def test_left_tells_what_is_not_read():
    parser = FrameParser(100)
    first, second = frame(PING, b"a"), frame(TEXT, b"bc")
    parser.feed(first + second + b"\x81")
    assert parser.left() == len(first + second) + 1
    assert parser.next_event() == Event.PING
    assert parser.left() == len(second) + 1
    # Bytes fed meanwhile are queued after the rest.
    parser.feed(second[1:] + first)
    assert parser.left() == 2 * len(second) + len(first)
    assert parser.read_control() == b"a"
    assert [parser.next_event() for _ in range(4)] == [Event.MESSAGE, Event.MESSAGE, Event.PING, 0]
    assert parser.left() == 0


def test_nothing_is_fed():
    parser = FrameParser(100)
    assert parser.next_event() == Event.NEED_DATA
    for byte in frame(TEXT, b"a"):
        parser.feed(b"")
        assert parser.next_event() == Event.NEED_DATA
        parser.feed(bytes([byte]))
    assert parser.next_event() == Event.MESSAGE


def test_what_was_fed_is_kept_alive():
    parser = FrameParser(1 << 20)
    pings = b"".join(frame(PING, b"%05d" % i) for i in range(1000))
    parser.feed(bytes(bytearray(pings)))
    for i in range(1000):
        assert parser.next_event() == Event.PING
        assert parser.read_control() == b"%05d" % i
        bytes(len(pings))  # would be allocated in the place of the fed bytes


def test_close_ends_reading():
    parser = FrameParser(100)
    parser.feed(frame(CLOSE, b"\x03\xe8bye") + frame(TEXT, b"a"))
    assert parser.next_event() == Event.CLOSE
    assert (parser.close_code, parser.read_control()) == (1000, b"bye")
    for _ in range(2):
        assert parser.next_event() == Event.NEED_DATA
        assert parser.left() == 0
        parser.feed(b"\xff" * 100)
    assert (parser.close_code, parser.read_control()) == (1000, b"bye")


# --- Floods: every fed byte leads to a verdict or an event ----------------------------------------


def test_flood_of_one_byte_fragments():
    data = b"".join(fragments(BINARY, [b"x"] * 100_000))
    assert parse([data], PLAIN) == Outcome([("binary", b"x" * 100_000)])


def test_flood_of_empty_fragments():
    data = b"".join(fragments(TEXT, [b"a", *[b""] * 100_000, b"b"]))
    assert parse([data], Settings(max_size=2)) == Outcome([("text", "ab")])


@pytest.mark.parametrize("fin", [True, False])
def test_flood_of_pings(fin):
    data = frame(TEXT, b"a", fin=False) + frame(PING, b"p") * 50_000 + frame(CONTINUATION, fin=fin)
    outcome = parse([data], PLAIN)
    assert outcome.events == [("ping", b"p")] * 50_000 + [("text", "a")] * fin


def test_noise_gives_a_verdict():
    rng = random.Random(6455)
    for _ in range(3000):
        outcome = parse([rng.randbytes(rng.randrange(1, 60))], COMPRESSED)
        assert outcome.failed in (None, 1002, 1007, 1009)

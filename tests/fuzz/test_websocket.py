"""Mutated frame streams: FrameParser against itself when cut, against websockets and wsproto.

Both sides must accept the same messages. Where only one side accepts the input, or the messages
differ, DIFFERENCES must name something in the bytes that explains it; otherwise the test fails.

Each test goes on for THESTRAL_FUZZ_SECONDS beyond its first inputs. An input follows from its
number alone, so that a failure can be repeated.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from vectors import websocket as vectors
from vectors.http1 import random_pieces
from vectors.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TAIL,
    TEXT,
    Deflater,
    Outcome,
    Settings,
    bytewise,
    fragments,
    frame,
    mask,
    parse,
)
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from thestral._core.websocket import FrameWriter

SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS") or 0)
SEED = 6455
INPUTS = 1200  # of each test, however little time it has
QUIET = logging.getLogger("websockets.quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

CORPUS = [case.data for case in vectors.load() if len(case.data) < 300]
TEXTS = ["", "a", "Hello", "é€😀", "κόσμε" * 5, "a" * 130, "\x00\x7f\u07ff", "ab€" * 30]
STRAYS = [
    *(b"\x81", b"\x82", b"\x01", b"\x00", b"\x80", b"\x88", b"\x89", b"\x8a", b"\xc1", b"\x41"),
    *(b"\xfe\x00\x7d", b"\xfe\x00\x7e", b"\xff\x00", b"\xfd", b"\xfe", b"\xff", b"\x7f", b"\x05"),
    *(frame(PING, b"p"), frame(PONG), frame(CONTINUATION), frame(TEXT, fin=False), frame(CLOSE)),
    *(frame(CLOSE, b"\x03\xe8x"), frame(CLOSE, b"\x03\xec"), frame(TEXT, b"\xff"), TAIL),
    *(
        frame(CONTINUATION, b"x", fin=False),
        frame(BINARY, b"\xc3", fin=False),
        frame(TEXT, b"\xc3"),
    ),
    *(frame(TEXT, b"\xed\xa0\x80"), frame(BINARY, b"a", form=16), b"\xf2\x48\xcd\xc9\xc9\x07\x00"),
]


def session(rng: random.Random) -> bytes:
    """Some messages and control frames as a client may send them."""
    deflater = Deflater(15)
    frames: list[bytes] = []
    for _ in range(rng.randrange(1, 6)):
        text = rng.choice(TEXTS)
        payload, rsv = text.encode(), 0
        if rng.random() < 0.4:
            payload, rsv = deflater.message(payload), 4
        opcode = rng.choice((TEXT, BINARY))
        edges = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
        pieces = [payload[a:b] for a, b in zip([0, *edges], [*edges, None], strict=True)]
        for part in fragments(opcode, pieces, rsv):
            if rng.random() < 0.15:
                frames.append(frame(rng.choice((PING, PONG)), text.encode()[:100]))
            frames.append(part)
    if rng.random() < 0.3:
        code = rng.choice((1000, 1001, 1004, 1005, 1014, 1015, 3000, 4999, 5000))
        frames.append(frame(CLOSE, code.to_bytes(2) + rng.choice((b"", b"bye", b"\xc3"))))
    return b"".join(frames)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Make a few changes: bits and bytes changed, removed, repeated, inserted; tails."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at] + rng.choice(STRAYS) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(1, 6) :]
        elif kind == 2 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 4:
            data = data[:at] + data[at : at + rng.randrange(1, 20)] * 2 + data[at:]
        elif kind == 5:
            data = data[:at] + rng.choice(CORPUS)
        else:
            data = rng.choice(STRAYS) + data
    return data[:2000]


def inputs() -> Iterator[tuple[str, bytes, random.Random]]:
    """Name, bytes, and the random numbers to cut them by."""
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= INPUTS and time.monotonic() >= end:
            return
        rng = random.Random(f"{SEED} {number}")
        data = session(rng) if rng.random() < 0.7 else rng.choice(CORPUS)
        yield f"input {number}", mutate(data, rng), rng


# --- Against ourselves ----------------------------------------------------------------------------

SETTINGS = [
    Settings(),
    Settings(max_size=20),
    Settings(bits=15),
    Settings(bits=15, max_size=30),
    Settings(bits=15, takeover=False),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_outcome_does_not_depend_on_the_cut(settings):
    verdicts: Counter[int | None] = Counter()
    for name, data, rng in inputs():
        expected = bytewise(data, settings)
        verdicts[expected.failed] += 1
        for pieces in ([data], random_pieces(data, rng), random_pieces(data, rng)):
            outcome = parse(pieces, settings)
            context = (name, data, [len(piece) for piece in pieces])
            assert outcome == expected, context
            if expected.failed is not None:
                assert expected.failed_in.start in outcome.failed_in, context
    # The test does not pass by refusing all inputs, or none.
    assert all(verdicts[code] > INPUTS / 100 for code in (None, 1002, 1007)), verdicts


# --- Against others -------------------------------------------------------------------------------


def ask_websockets(data: bytes) -> Outcome:
    """The outcome of websockets: its frames, joined and decoded as its connections do it."""
    protocol = Protocol(SERVER, max_size=vectors.MAX_SIZE, logger=QUIET)
    protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    protocol.receive_data(data)
    outcome = Outcome()
    kind, parts = "", []
    for event in protocol.events_received():
        payload = bytes(event.data)
        if event.opcode is Opcode.PING:
            outcome.events.append(("ping", payload))
        elif event.opcode is Opcode.CLOSE:
            close = Close.parse(payload)
            outcome.events.append(("close", close.code, close.reason.encode()))
        elif event.opcode is not Opcode.PONG:
            if event.opcode is not Opcode.CONT:
                kind, parts = event.opcode.name.lower(), []
            parts.append(payload)
            if event.fin:
                try:
                    whole = b"".join(parts)
                    outcome.events.append((kind, whole.decode() if kind == "text" else whole))
                except UnicodeDecodeError:
                    return Outcome(outcome.events, 1007)
    if protocol.parser_exc is not None:
        assert not isinstance(protocol.parser_exc, (EOFError, AssertionError))
        outcome.failed = protocol.close_sent.code
    return outcome


def ask_wsproto(data: bytes) -> Outcome:
    """The outcome of wsproto."""
    extension = WsprotoDeflate()
    extension.finalize("permessage-deflate")
    connection = Connection(ConnectionType.SERVER, [extension])
    connection.receive_data(data)
    outcome = Outcome()
    parts: list = []
    for event in connection.events():
        if isinstance(event, Ping):
            outcome.events.append(("ping", bytes(event.payload)))
        elif isinstance(event, Message):
            parts.append(event.data)
            if event.message_finished and event.frame_finished:
                if isinstance(event, TextMessage):
                    outcome.events.append(("text", "".join(parts)))
                else:
                    assert isinstance(event, BytesMessage)
                    outcome.events.append(("binary", b"".join(parts)))
                parts = []
        elif isinstance(event, CloseConnection):
            if connection.state.name == "OPEN":
                return Outcome(outcome.events, int(event.code))
            outcome.events.append(("close", int(event.code), (event.reason or "").encode()))
    return outcome


# Properties of the bytes that one of the others judges differently.
NOT_MINIMAL = "a length not in its least form"
BETWEEN = "a control frame between the fragments of a compressed message"
BFINAL = "a compressed message with a block that calls itself the last"
CLOSE_WITHIN = "a Close frame in the middle of a message"
CLOSE_1014 = "the close code 1014"
BREAKS_OFF = "compressed data that ends within a block"
ABOVE = "compressed data that alone is larger than a message may be"

DIFFERENCES = {
    "websockets": {
        NOT_MINIMAL: "takes it; RFC 6455 section 5.2: the minimal number of bytes MUST be used",
        BFINAL: "inflates nothing behind it; RFC 7692 section 7.2.3.4 allows it",
        CLOSE_WITHIN: "refuses it; RFC 6455 section 5.4: control frames MAY stand there",
        BREAKS_OFF: "takes it; RFC 7692 section 7.2.2: the four bytes end the message's last block",
        ABOVE: "refuses its head; it may inflate to less",
    },
    "wsproto": {
        BETWEEN: "takes the rest as uncompressed; RFC 6455 section 5.4: they MAY be there",
        BFINAL: "inflates nothing behind it; RFC 7692 section 7.2.3.4 allows it",
        BREAKS_OFF: "takes it; RFC 7692 section 7.2.2: the four bytes end the message's last block",
        CLOSE_1014: "refuses it; IANA's registry has it as Bad Gateway",
    },
}


def oddities(data: bytes) -> set[str]:
    """The properties of the above kind that the bytes have, as far as they are frames."""
    found = set()
    inflater = zlib.decompressobj(-15)
    open_message, compressed = False, None
    while len(data) >= 6 and data[1] & 0x80:
        opcode, length, start = data[0] & 0x0F, data[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            least = 126 if length == 126 else 1 << 16
            length = int.from_bytes(data[2:start])
            found |= {NOT_MINIMAL} if length < least else set()
        payload = mask(data[start + 4 : start + 4 + length], data[start : start + 4])
        whole = len(data) >= start + 4 + length
        if opcode >= 8:
            found |= {BETWEEN} if open_message and compressed is not None else set()
            if opcode == CLOSE:
                found |= {CLOSE_WITHIN} if open_message else set()
                found |= {CLOSE_1014} if payload[:2] == (1014).to_bytes(2) else set()
        else:
            if opcode != CONTINUATION:
                compressed = b"" if data[0] & RSV1 else None
            if compressed is not None:
                found |= {ABOVE} if length > vectors.MAX_SIZE else set()
                compressed += payload
                end = TAIL if whole and data[0] & 0x80 else b""
                try:
                    ended = ends(inflater.copy(), compressed + end)
                except zlib.error:
                    ended = False
                found |= {BFINAL} if ended else set()
                if end and not ended:
                    with contextlib.suppress(zlib.error):
                        found |= set() if is_whole(inflater, compressed + end) else {BREAKS_OFF}
                        inflater.decompress(compressed + end)
            open_message = not data[0] & 0x80
        if not whole:
            break
        data = data[start + 4 + length :]
    return found


def is_whole(inflater, data: bytes) -> bool:
    """Whether the last block of the data is complete, so that an empty one may follow."""
    inflater = inflater.copy()
    try:
        inflater.decompress(data + b"\x01" + TAIL)
    except zlib.error:
        return False
    return inflater.eof and not inflater.unused_data


def ends(inflater, data: bytes) -> bool:
    """Whether a DEFLATE stream ends within the data, whatever follows."""
    for i in range(len(data)):
        inflater.decompress(data[i : i + 1])
        if inflater.eof:
            return True
    return False


def messages(events: list) -> list:
    return [event for event in events if event[0] in ("text", "binary")]


def agrees(ours: Outcome, theirs: Outcome) -> bool:
    """Whether both outcomes are possible for the same bytes.

    We fail at the invalid byte, others only at the end of the frame or message: they may still wait
    for that, and see pings before it. But they may not return a message that we did not see.
    """
    if ours.failed is None:
        return theirs.failed is None and ours.events == theirs.events
    before = theirs.events[: len(ours.events)]
    return before == ours.events and messages(theirs.events) == messages(ours.events)


PEERS: dict[str, Callable[[bytes], Outcome]] = {
    "websockets": ask_websockets,
    "wsproto": ask_wsproto,
}


@pytest.mark.parametrize("peer", PEERS)
def test_against(peer):
    seen: Counter[str] = Counter()
    for name, data, _ in inputs():
        ours, theirs = parse([data], Settings(bits=15)), PEERS[peer](data)
        if agrees(ours, theirs):
            seen["failed" if ours.failed else "taken"] += 1
            continue
        known = oddities(data) & DIFFERENCES[peer].keys()
        assert known, (name, data, ours, theirs)
        seen["different"] += 1
    # Most inputs compare something, and not only refusals.
    assert seen["taken"] > INPUTS / 5, seen
    assert seen["failed"] > INPUTS / 5, seen
    assert seen["different"] < seen.total() / 10, seen


@pytest.mark.parametrize("peer", PEERS)
def test_vectors_against(peer):
    agreed = 0
    for case in vectors.load():
        if case.settings != Settings(bits=case.settings.bits):
            continue
        ours, theirs = parse([case.data], Settings(bits=15)), PEERS[peer](case.data)
        assert agrees(ours, theirs) or oddities(case.data) & DIFFERENCES[peer].keys(), case.name
        agreed += agrees(ours, theirs)
    assert agreed > 350


# --- One side writes, the other reads -------------------------------------------------------------


def ours(bits: int, takeover: bool) -> FrameWriter:
    writer = FrameWriter()
    writer.use_deflate(bits, takeover, 6, 5, 20)
    return writer


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_what_we_write_is_read_by_others(bits, takeover):
    rng = random.Random(bits)
    writer = ours(bits, takeover)
    client = Protocol(CLIENT, logger=QUIET)
    client.extensions = [PerMessageDeflate(not takeover, not takeover, bits, bits)]
    extension = WsprotoDeflate(server_no_context_takeover=not takeover, server_max_window_bits=bits)
    extension.finalize("permessage-deflate")
    other = Connection(ConnectionType.CLIENT, [extension])
    for _ in range(60):
        text = rng.choice(TEXTS) * rng.choice((1, 2, 500))
        message = text if rng.random() < 0.5 else text.encode()
        data = writer.message(message) + writer.pong(b"p") + writer.ping()
        client.receive_data(data)
        (event, *_) = client.events_received()
        assert event.opcode is (Opcode.TEXT if message is text else Opcode.BINARY)
        assert bytes(event.data) == text.encode()
        other.receive_data(data)
        (event, *_) = other.events()
        assert event.data == message
        if rng.random() < 0.1:
            writer.forget()


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_what_others_write_is_read(bits, takeover):
    rng = random.Random(bits)
    settings = Settings(bits=bits, takeover=takeover)
    client = Protocol(CLIENT, logger=QUIET)
    client.extensions = [PerMessageDeflate(not takeover, not takeover, bits, bits)]
    extension = WsprotoDeflate(client_no_context_takeover=not takeover, client_max_window_bits=bits)
    extension.finalize("permessage-deflate")
    other = Connection(ConnectionType.CLIENT, [extension])
    expected: list = []
    theirs, data = b"", b""
    for _ in range(60):
        text = rng.choice(TEXTS) * rng.choice((1, 2, 500))
        cut = rng.randrange(len(text) + 1)
        expected.append(("text", text))
        client.send_text(text[:cut].encode(), fin=False)
        client.send_continuation(text[cut:].encode(), fin=True)
        theirs += b"".join(client.data_to_send())
        data += other.send(TextMessage(text[:cut], message_finished=False))
        data += other.send(TextMessage(text[cut:]))
    for stream in (theirs, data):
        assert parse([stream], settings) == Outcome(expected)
        assert parse(random_pieces(stream, rng), settings) == Outcome(expected)

"""th_ws through cffi: every vector with its bytes at a guard page, and the use of memory."""

import random

import pytest
from guard import Guard
from vectors import websocket as vectors
from vectors.http1 import bytewise, random_pieces
from vectors.websocket import BINARY, CONTINUATION, PING, RSV1, TEXT, Deflater, frame, head

from thestral._csrc import ffi, lib

CASES = vectors.load()
MIB = 1 << 20


class Reader:
    """A th_ws whose bytes lie at a guard page, and are overwritten once they are used up."""

    def __init__(self, settings: vectors.Settings, guard: Guard) -> None:
        self.ws = ffi.gc(ffi.new("th_ws *"), lib.th_ws_free)
        lib.th_ws_init(self.ws, settings.max_size)
        if settings.bits is not None:
            self.ws.deflates = 1
            self.ws.inflater.bits = settings.bits
            self.ws.inflater.takeover = settings.takeover
        self.guard = guard
        self.outcome = vectors.Outcome()
        self.calls = 0

    def feed(self, data: bytes) -> None:
        lib.th_ws_feed(self.ws, self.guard.place(data), len(data))
        assert lib.th_ws_left(self.ws) == len(data)
        while (event := self.next()) > lib.TH_WS_NEED_DATA:
            self.outcome.events.append(self.read(event))
        assert lib.th_ws_left(self.ws) == 0
        if event < 0:
            assert self.outcome.failed is None
            self.outcome.failed = lib.th_status_code(event)
            assert self.next() == event
        self.guard.space(len(data))

    def next(self) -> int:
        self.calls += 1
        return lib.th_ws_next(self.ws)

    def read(self, event: int) -> tuple:
        ws = self.ws
        control = ffi.buffer(ws.control, ws.control_length)[:]
        if event == lib.TH_WS_PING_EVENT:
            return "ping", control
        if event == lib.TH_WS_CLOSE_EVENT:
            return "close", ws.close_code, control
        data = ffi.buffer(ws.message.data, ws.message.length)[:] if ws.message.length else b""
        return ("text", data.decode()) if ws.opcode == lib.TH_WS_TEXT else ("binary", data)


@pytest.fixture(scope="module")
def guard():
    return Guard(MIB)


def test_vectors(guard):
    rng = random.Random(6455)
    for case in CASES:
        for pieces in ([case.data], bytewise(case.data), random_pieces(case.data, rng)):
            reader = Reader(case.settings, guard)
            for piece in pieces:
                reader.feed(piece)
                if reader.outcome.failed is not None:
                    break
            assert reader.outcome == case.expected, (case.name, [len(piece) for piece in pieces])


# --- Memory and work ------------------------------------------------------------------------------


def reader_of(guard: Guard, **settings) -> Reader:
    return Reader(vectors.Settings(**settings), guard)


@pytest.mark.parametrize("rsv", [0, 4])
def test_no_memory_is_taken_for_what_a_head_claims(guard, rsv):
    reader = reader_of(guard, max_size=1 << 40, bits=15)
    reader.feed(head(BINARY, 1 << 39, rsv=rsv))
    assert reader.ws.message.capacity == 0
    reader.feed(b"\x00")
    assert reader.ws.message.capacity <= 512


def test_message_in_one_piece_takes_its_own_size(guard):
    reader = reader_of(guard)
    reader.feed(frame(BINARY, bytes(500_000)))
    assert reader.ws.message.length == reader.ws.message.capacity == 500_000


@pytest.mark.parametrize("piece", [1, 7, 4096])
@pytest.mark.parametrize("rsv", [0, 4])
def test_message_in_pieces_is_moved_seldom(guard, piece, rsv):
    # Growth is geometric: each byte is copied a bounded number of times.
    payload = random.Random(1).randbytes(30_000)
    reader = reader_of(guard, bits=15)
    data = frame(BINARY, Deflater(15).message(payload) if rsv else payload, rsv=rsv)
    moves, before = 0, 0
    for i in range(0, len(data), piece):
        reader.feed(data[i : i + piece])
        moves += reader.ws.message.capacity != before
        before = reader.ws.message.capacity
    assert reader.outcome.events == [("binary", payload)]
    assert moves <= 7
    assert reader.ws.message.capacity <= 2 * len(payload) + piece
    assert reader.calls == -(-len(data) // piece) + 1


def test_flood_of_one_byte_fragments(guard):
    count = 100_000
    reader = reader_of(guard)
    moves, before = 0, 0
    begin, more = frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"a", fin=False) * 100
    reader.feed(begin)
    for _ in range(count // 100):
        reader.feed(more)
        moves += reader.ws.message.capacity != before
        before = reader.ws.message.capacity
    reader.feed(frame(CONTINUATION))
    assert reader.outcome.events == [("text", "a" * (count + 1))]
    assert moves <= 9
    assert reader.calls == count // 100 + 1 + 2


@pytest.mark.parametrize("opcode", [CONTINUATION, PING])
def test_flood_of_nothing_takes_no_memory(guard, opcode):
    reader = reader_of(guard)
    reader.feed(frame(TEXT, fin=False))
    for _ in range(100):
        reader.feed(frame(opcode, fin=opcode == PING) * 1000)
    assert reader.ws.message.capacity == 0


def test_memory_of_an_inflated_message_has_its_limit(guard):
    for limit in (100, 5000, 70_000):
        reader = reader_of(guard, bits=15, max_size=limit)
        data = frame(BINARY, Deflater(15).message(bytes(limit)), rsv=4)
        largest = 0
        for i in range(len(data)):
            reader.feed(data[i : i + 1])
            largest = max(largest, reader.ws.message.capacity)
        assert reader.outcome.events == [("binary", bytes(limit))]
        assert largest <= 2 * limit + 512


def test_all_memory_is_given_back_at_a_failure(guard):
    reader = reader_of(guard, bits=15)
    reader.feed(frame(TEXT, Deflater(15).message(b"a" * 5000), rsv=4))
    reader.feed(frame(TEXT, b"a" * 5000, fin=False))
    assert reader.ws.message.capacity >= 5000
    assert reader.ws.inflater.stream.data != ffi.NULL
    reader.feed(frame(TEXT))
    assert reader.outcome.failed == 1002
    assert reader.ws.message.data == ffi.NULL
    assert reader.ws.inflater.stream.data == ffi.NULL


def test_memory_of_a_message_may_be_freed_once_it_is_read(guard):
    reader = reader_of(guard)
    for size in (10, 5000, 0, 3):
        reader.feed(frame(BINARY, bytes(size)))
        lib.th_buffer_free(ffi.addressof(reader.ws, "message"))
    assert reader.outcome.events == [("binary", bytes(size)) for size in (10, 5000, 0, 3)]


# --- Heads ----------------------------------------------------------------------------------------

EDGES = [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 2**24, 2**32 - 1, 2**32, 2**48 + 5, 2**63 - 1]


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("first", [0x81, 0x82 | RSV1, 0x88, 0x8A])
def test_write_head(guard, length, first):
    size = lib.th_ws_head_size(length)
    out = guard.space(size)
    lib.th_ws_write_head(out, first, length)
    expected = head(0, length, key=None)
    assert ffi.buffer(out, size)[:] == bytes([first]) + expected[1:]

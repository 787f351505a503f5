"""FrameWriter: its output, read by an independent reader and inflated by Python's zlib."""

import random
import sys
import zlib

import pytest
from vectors.websocket import TAIL

from thestral._core.websocket import FrameWriter
from thestral.errors import LocalProtocolError

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
RSV1 = 0x40
BITS = range(9, 16)
SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 200_000]


def make_writer(bits=15, takeover=True, level=6, memory=8, min_size=0) -> FrameWriter:
    writer = FrameWriter()
    writer.use_deflate(bits, takeover, level, memory, min_size)
    return writer


def read(data: bytes) -> tuple[int, bytes]:
    """First byte and payload of data, which must be one unmasked frame: RFC 6455 section 5.2."""
    first, length = data[0], data[1]
    assert length < 0x80, "masked"
    start = 2
    if length == 126:
        start, length = 4, int.from_bytes(data[2:4])
        assert length >= 126
    elif length == 127:
        start, length = 10, int.from_bytes(data[2:10])
        assert length > 0xFFFF
    assert len(data) == start + length
    return first, data[start:]


class Inflater:
    """A client's inflater (RFC 7692 section 7.2.2), with the window that was agreed on."""

    def __init__(self, bits: int = 15, takeover: bool = True) -> None:
        self._bits = bits
        self._takeover = takeover
        self._stream = zlib.decompressobj(-bits)

    def message(self, data: bytes) -> bytes:
        # Byte by byte, so that zlib cannot look back beyond the window.
        out = b"".join(self._stream.decompress(b"%c" % byte) for byte in data + TAIL)
        assert self._stream.unused_data == b""
        if not self._takeover:
            self._stream = zlib.decompressobj(-self._bits)
        return out


def words(rng: random.Random, size: int) -> bytes:
    """Data that compresses well, with references to far back."""
    pool = [rng.randbytes(rng.randrange(3, 40)) for _ in range(30)]
    return b"".join(rng.choice(pool) for _ in range(size // 3 + 1))[:size]


# --- Frames: RFC 6455 section 5.2 -----------------------------------------------------------------


def test_frames_byte_by_byte():
    writer = FrameWriter()
    assert writer.message("Hello") == b"\x81\x05Hello"
    assert writer.message(b"Hello") == b"\x82\x05Hello"
    assert writer.message("") == b"\x81\x00"
    assert writer.message(b"") == b"\x82\x00"
    assert writer.message("é€😀\x00") == b"\x81\x0a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x00"
    assert writer.ping() == b"\x89\x00"
    assert writer.pong(b"") == b"\x8a\x00"
    assert writer.pong(b"\x00\xff") == b"\x8a\x02\x00\xff"
    assert writer.close(1000, b"") == b"\x88\x02\x03\xe8"
    assert writer.close(4999, b"bye") == b"\x88\x05\x13\x87bye"
    assert writer.close(1005, b"") == b"\x88\x00"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [str, bytes])
def test_message_of_size(size, kind):
    payload = (b"0123456789" * (size // 10 + 1))[:size]
    data = FrameWriter().message(payload.decode() if kind is str else payload)
    least = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(data) == least + size
    assert read(data) == (TEXT if kind is str else BINARY, payload)


def test_longest_control_frames():
    assert FrameWriter().pong(b"p" * 125) == b"\x8a\x7d" + b"p" * 125
    assert FrameWriter().close(1000, b"r" * 123) == b"\x88\x7d\x03\xe8" + b"r" * 123


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1007, 1009, 1011, 1012, 3000, 4000, 4999])
def test_close_code(code):
    assert read(FrameWriter().close(code, b"x")) == (CLOSE, code.to_bytes(2) + b"x")


SURROGATES = ["\ud800", "a\udfff", "\ud83d\ude00", "x" * 5000 + "\udc80", "\udcff" * 200]


@pytest.mark.parametrize("text", SURROGATES, ids=ascii)
@pytest.mark.parametrize("deflates", [False, True])
def test_text_with_a_surrogate(text, deflates):
    writer = make_writer() if deflates else FrameWriter()
    before = writer.message("before")
    with pytest.raises(LocalProtocolError, match="surrogates not allowed") as refusal:
        writer.message(text)
    assert refusal.value.__cause__ is None
    # None of it has entered the window.
    inflater = Inflater()
    first, payload = read(before)
    again, after = read(writer.message("after"))
    if deflates:
        assert first == again == TEXT | RSV1
        payload, after = inflater.message(payload), inflater.message(after)
    assert (payload, after) == (b"before", b"after")


@pytest.mark.parametrize("text", ["a", "é", "€", "😀", "a" * 200 + "€", "\U0010ffff", "\ufffe"])
def test_text_of_every_width(text):
    # However Python stores a str, it is sent as UTF-8.
    assert read(FrameWriter().message(text)) == (TEXT, text.encode())
    first, payload = read(make_writer().message(text))
    assert (first, Inflater().message(payload)) == (TEXT | RSV1, text.encode())


class Bytes(bytes):
    pass


class Str(str):
    __slots__ = ()


def test_bytes_of_a_subclass():
    assert FrameWriter().message(Bytes(b"ab")) == b"\x82\x02ab"


def test_str_of_a_subclass():
    assert FrameWriter().message(Str("ab")) == b"\x81\x02ab"


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
def test_message_that_is_neither_str_nor_bytes(value):
    with pytest.raises(TypeError):
        FrameWriter().message(value)


def test_message_is_not_changed_nor_held():
    payload = bytes(range(256)) * 40
    references = sys.getrefcount(payload)
    writer = make_writer()
    for _ in range(3):
        writer.message(payload)
    assert payload == bytes(range(256)) * 40
    assert sys.getrefcount(payload) == references


# --- Compression: RFC 7692 section 7.2.1 ----------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [str, bytes])
def test_compressed_message_of_size(size, kind):
    payload = (b"0123456789abc" * (size // 10 + 1))[:size]
    writer, inflater = make_writer(), Inflater()
    for _ in range(3):
        first, data = read(writer.message(payload.decode() if kind is str else payload))
        opcode = TEXT if kind is str else BINARY
        if size == 0:
            assert (first, data) == (opcode, b"")  # there is nothing to compress
        else:
            assert first == opcode | RSV1
            assert inflater.message(data) == payload


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("takeover", [True, False])
def test_session(bits, takeover):
    rng = random.Random(bits)
    writer, inflater = make_writer(bits, takeover), Inflater(bits, takeover)
    for _ in range(20):
        payload = words(rng, rng.choice([1, 10, 300, 1 << bits, 3 << bits]))
        first, data = read(writer.message(payload))
        assert first == BINARY | RSV1
        assert inflater.message(data) == payload


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("level", [1, 5, 9])
def test_no_reference_reaches_beyond_the_window(bits, level):
    # A block is repeated at every distance around the window's size.
    rng = random.Random(level)
    block = rng.randbytes(64)
    writer, inflater = make_writer(bits, level=level), Inflater(bits)
    for distance in range((1 << bits) - 300, (1 << bits) + 20, 9 if bits < 12 else 63):
        payload = block + rng.randbytes(distance - len(block)) + block
        assert inflater.message(read(writer.message(payload))[1]) == payload


@pytest.mark.parametrize("level", range(1, 10))
def test_window_of_nine_bits_suits_a_client_of_eight(level):
    # zlib has no raw window of 256 bytes, but with 512 it looks back 250 bytes at most: so an
    # offer of server_max_window_bits=8 (RFC 7692 section 7.1.2.1) can be kept.
    rng = random.Random(level)
    for memory in (1, 9):
        writer, inflater = make_writer(9, level=level, memory=memory), Inflater(8)
        for _ in range(15):
            payload = words(rng, rng.choice([10, 255, 256, 257, 600, 3000]))
            payload += payload[-300:]
            assert inflater.message(read(writer.message(payload))[1]) == payload


def test_window_is_used():
    # A repeated message is short if the window holds the earlier one, and not if it cannot.
    rng = random.Random(7)
    for bits in BITS:
        near, far = rng.randbytes((1 << bits) // 4), rng.randbytes(2 << bits)
        for payload, short in ((near, True), (far, False)):
            writer = make_writer(bits)
            assert len(writer.message(payload)) > len(payload)
            assert (len(writer.message(payload)) < len(payload) / 4) == short, bits
        writer = make_writer(bits, takeover=False)
        assert writer.message(near) == writer.message(near)


@pytest.mark.parametrize("level", range(1, 10))
def test_levels_and_memory_levels(level):
    for memory in range(1, 10):
        rng = random.Random(level * 10 + memory)
        writer, inflater = make_writer(12, level=level, memory=memory), Inflater(12)
        reference = zlib.compressobj(level, zlib.DEFLATED, -12, memory)
        for size in (5, 2000, 9000):
            payload = words(rng, size)
            data = read(writer.message(payload))[1]
            assert inflater.message(data) == payload
            # The settings are zlib's own and reach it.
            expected = reference.compress(payload) + reference.flush(zlib.Z_SYNC_FLUSH)
            assert data == expected.removesuffix(TAIL)


def test_what_does_not_compress():
    rng = random.Random(1)
    writer, inflater = make_writer(), Inflater()
    for size in [1, 100, 495, 500, 505, 510, 515, 1000, 4095, 4096, 4097, 100_000]:
        payload = rng.randbytes(size)
        data = read(writer.message(payload))[1]
        assert inflater.message(data) == payload
        assert len(data) <= size + size // 1000 + 16


def test_every_size_of_what_does_not_compress():
    # So that the end of zlib's output meets every edge of the memory that it is lent.
    rng = random.Random(2)
    writer, inflater = make_writer(9, takeover=False, memory=1), Inflater(9, takeover=False)
    for size in [*range(1, 600), *range(900, 1100)]:
        payload = rng.randbytes(size)
        assert inflater.message(read(writer.message(payload))[1]) == payload


@pytest.mark.parametrize("min_size", [-1, 0, 1, 2, 128, 5000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_min_size(min_size, kind):
    writer, inflater = make_writer(min_size=min_size), Inflater()
    for size in (0, 1, 2, 127, 128, 129, 4999, 5000, 5001):
        payload = b"x" * size
        first, data = read(writer.message(payload.decode() if kind is str else payload))
        compressed = size >= max(min_size, 1)
        assert first == (TEXT if kind is str else BINARY) | RSV1 * compressed
        assert (inflater.message(data) if compressed else data) == payload


def test_min_size_counts_bytes_of_text():
    writer = make_writer(min_size=6)
    assert read(writer.message("€€"))[0] == TEXT | RSV1
    assert read(writer.message("€é"))[0] == TEXT


def test_uncompressed_message_does_not_enter_the_window():
    writer, inflater = make_writer(min_size=100), Inflater()
    for payload in [b"a" * 200, b"b" * 50, b"a" * 200, b"b" * 150]:
        first, data = read(writer.message(payload))
        assert (inflater.message(data) if first & RSV1 else data) == payload


def test_control_frames_are_not_compressed():
    writer = make_writer()
    assert writer.pong(b"a" * 120) == b"\x8a\x78" + b"a" * 120
    assert writer.ping() == b"\x89\x00"
    assert writer.close(1000, b"a" * 120) == b"\x88\x7a\x03\xe8" + b"a" * 120


# --- forget() -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_forget_in_the_middle_of_a_session(bits):
    # The client keeps its window, and later messages do not refer to it, which is legal.
    rng = random.Random(bits)
    writer, inflater = make_writer(bits), Inflater(bits)
    for step in range(30):
        payload = words(rng, rng.choice([1, 100, 2000]))
        data = read(writer.message(payload))[1]
        assert inflater.message(data) == payload
        if step % 4 == 1:
            writer.forget()
    # A client that begins after forget() understands every message from there on.
    writer.forget()
    late = Inflater(bits)
    for payload in (b"abc" * 50, b"abc" * 60):
        data = read(writer.message(payload))[1]
        assert late.message(data) == inflater.message(data) == payload


def test_forget_makes_the_next_message_as_the_first():
    writer = make_writer()
    payload = random.Random(3).randbytes(300)
    first = writer.message(payload)
    assert len(writer.message(payload)) < 50
    writer.forget()
    assert writer.message(payload) == first


def test_forget_of_nothing():
    writer = FrameWriter()
    writer.forget()
    assert writer.message("a") == b"\x81\x01a"
    for takeover in (True, False):
        writer = make_writer(takeover=takeover)
        writer.forget()
        data = writer.message(b"a" * 200)
        writer.forget()
        writer.forget()
        assert writer.message(b"a" * 200) == data

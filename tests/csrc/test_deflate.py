"""Compression through cffi, against Python's zlib: limits, memory, and invalid DEFLATE data."""

import ctypes
import random
import zlib

import pytest
from guard import Guard

from thestral._core.websocket import FrameParser, FrameWriter
from thestral._csrc import ffi, lib
from thestral.errors import RemoteProtocolError

SIZE_MAX = 2 ** (8 * ffi.sizeof("size_t")) - 1
TAIL = b"\x00\x00\xff\xff"
NO_LIMIT = 1 << 30
BITS = range(9, 16)
LIMITS = [0, 1, 15, 16, 17, 100, 511, 512, 513, 1000, 4096, 65536, 70001]


class Stream:
    """A th_deflate_stream and its output."""

    def __init__(self, bits=15, takeover=True, level=6, memory=8) -> None:
        self.c = ffi.new("th_deflate_stream *")
        self.c.bits, self.c.takeover, self.c.level, self.c.memory = bits, takeover, level, memory
        self.out = ffi.new("th_buffer *")
        self.source = Guard(1 << 20)

    def inflate(self, data: bytes, limit: int = NO_LIMIT) -> int:
        """The data lies at a guard page and is overwritten afterwards."""
        pointer = self.source.place(data)
        status = lib.th_inflate(self.c, pointer, len(data), self.out, limit)
        self.source.space(len(data))
        return status

    def end(self, limit: int = NO_LIMIT) -> int:
        return lib.th_inflate_end(self.c, self.out, limit)

    def deflate(self, data: bytes) -> int:
        status = lib.th_deflate(self.c, self.source.place(data), len(data), self.out)
        self.source.space(len(data))
        return status

    def take(self) -> bytes:
        data = ffi.buffer(self.out.data, self.out.length)[:] if self.out.length else b""
        self.out.length = 0
        return data

    @property
    def holds_memory(self) -> bool:
        return self.c.stream.data != ffi.NULL

    @property
    def settings(self) -> tuple[int, ...]:
        return self.c.bits, self.c.takeover, self.c.level, self.c.memory


@pytest.fixture
def inflater():
    stream = Stream()
    yield stream
    lib.th_inflate_free(stream.c)
    lib.th_buffer_free(stream.out)


@pytest.fixture
def deflater():
    stream = Stream()
    yield stream
    lib.th_deflate_free(stream.c)
    lib.th_buffer_free(stream.out)


def compressed(data: bytes, bits: int = 15) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -bits)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


# --- Inflating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_inflate_limit(inflater, limit, over):
    size = limit + over
    if size < 0:
        return
    rng = random.Random(limit)
    for data in (bytes(size), rng.randbytes(size), (b"abcdefg" * (size // 7 + 1))[:size]):
        packed = compressed(data)
        for step in (1 if size < 5000 else 97, 3000, len(packed) + 1):
            status = lib.TH_OK
            for i in range(0, len(packed), step):
                status = inflater.inflate(packed[i : i + step], limit)
                assert inflater.out.length <= limit + 1
                if status != lib.TH_OK:
                    break
            if over <= 0:
                assert (status, inflater.end(limit)) == (lib.TH_OK, lib.TH_OK)
                assert inflater.take() == data
            else:
                assert status == lib.TH_EMESSAGE_SIZE
                # As much as the limit allows, and the byte that exceeds it.
                assert inflater.take() == data
            lib.th_inflate_free(inflater.c)


@pytest.fixture(scope="module")
def bomb():
    """64 MiB in 64 KiB."""
    packed = compressed(bytes(1 << 26))
    assert len(packed) < 1 << 17
    return packed


@pytest.mark.parametrize("limit", LIMITS)
def test_bomb(inflater, bomb, limit):
    # It is not inflated, and takes no memory.
    assert inflater.inflate(bomb, limit) == lib.TH_EMESSAGE_SIZE
    assert inflater.out.length == limit + 1
    assert inflater.out.capacity <= 2 * limit + 512


def test_inflate_of_nothing(inflater):
    assert inflater.inflate(b"") == lib.TH_OK
    assert inflater.inflate(b"\x00") == lib.TH_OK
    assert inflater.end() == lib.TH_OK
    assert inflater.take() == b""


def test_inflate_appends(inflater):
    lib.th_buffer_append(inflater.out, b"before", 6)
    assert inflater.inflate(compressed(b"Hello"), 11) == lib.TH_OK
    assert inflater.end(11) == lib.TH_OK
    assert inflater.take() == b"beforeHello"


def test_inflate_into_memory_of_every_size(inflater):
    # The free part of the buffer ends anywhere in the data, which must not show.
    rng = random.Random(3)
    for size in [*range(90), *range(480, 560)]:
        for data in (rng.randbytes(size), b"ab" * (size // 2)):
            packed = compressed(data)
            lib.th_buffer_free(inflater.out)
            lib.th_buffer_append(inflater.out, b"x" * 450, 450)
            assert inflater.inflate(packed) == lib.TH_OK
            assert inflater.end() == lib.TH_OK
            assert inflater.take() == b"x" * 450 + data


CORRUPT = {
    "block type 3": "06",
    "block type 3, the last": "07",
    "stored lengths": "00 05 00 fa fe",
    "literal code 286": "1a 03",
    "distance code 30": "02 3e",
    "too many lengths": "fc 00 00",
    "distance too far back": "f2 00 11",
}


@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("before", [b"", b"Hello" * 100])
def test_inflate_of_no_deflate_data(inflater, data, before):
    assert inflater.inflate(compressed(before) + TAIL if before else b"") == lib.TH_OK
    assert inflater.take() == before
    data = bytes.fromhex(data)
    if data == b"\xf2\x00\x11" and before:
        return  # the distance is valid after the earlier data
    for byte in data[:-1]:
        assert inflater.inflate(bytes([byte])) == lib.TH_OK
    assert inflater.inflate(data[-1:]) == lib.TH_EDEFLATE
    assert inflater.out.length <= 1


@pytest.mark.parametrize("bits", BITS)
def test_inflate_blocks_that_are_last(inflater, bits):
    # RFC 7692 section 7.2.3.4: the window is kept after a block with BFINAL.
    inflater.c.bits = bits
    rng = random.Random(bits)
    text = rng.randbytes(200)
    whole = zlib.compressobj(6, zlib.DEFLATED, -bits)
    packed = whole.compress(text) + whole.flush(zlib.Z_FINISH) + b"\x00"
    again = zlib.compressobj(6, zlib.DEFLATED, -bits, zdict=text)
    referring = (again.compress(text) + again.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    assert len(referring) < 20
    for _ in range(3):
        for message in (packed, referring):
            assert inflater.inflate(message) == lib.TH_OK
            assert inflater.end() == lib.TH_OK
            assert inflater.take() == text


# --- Deflating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("takeover", [True, False])
def test_deflate_is_what_zlib_writes(deflater, bits, takeover):
    # However much memory there is for it: the end of a message is never written twice.
    deflater.c.bits, deflater.c.takeover, deflater.c.memory = bits, takeover, 5
    rng = random.Random(bits)
    reference = zlib.compressobj(6, zlib.DEFLATED, -bits, 5)
    for size in [*range(1, 60), *range(490, 530), 1000, 5000, 70_000]:
        data = rng.randbytes(size)
        lib.th_buffer_free(deflater.out)
        assert deflater.deflate(data) == lib.TH_OK
        packed = reference.compress(data) + reference.flush(zlib.Z_SYNC_FLUSH)
        result = deflater.take()
        inflater = zlib.decompressobj(-bits)
        if not takeover:
            assert inflater.decompress(result + TAIL) == data
            reference = zlib.compressobj(6, zlib.DEFLATED, -bits, 5)
        # zlib may add an empty block where the memory was used up to the last byte.
        assert result + TAIL in (packed, packed + b"\x00" + TAIL)


def test_deflate_appends(deflater):
    lib.th_buffer_append(deflater.out, b"before", 6)
    assert deflater.deflate(b"Hello") == lib.TH_OK
    assert deflater.take() == b"before" + bytes.fromhex("f248cdc9c90700")


@pytest.mark.parametrize("room", range(20))
def test_deflate_where_memory_is_short(deflater, room):
    # Given less memory than it wants for the end of a message, zlib would write the end twice.
    for _ in range(2):
        lib.th_buffer_free(deflater.out)
        lib.th_buffer_append(deflater.out, b"x" * (512 - room), 512 - room)
        assert deflater.out.capacity - deflater.out.length == room
        assert deflater.deflate(b"Hello") == lib.TH_OK
        assert deflater.take()[512 - room :] == bytes.fromhex("f248cdc9c90700")
        lib.th_deflate_free(deflater.c)


# --- Memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("takeover", [True, False])
def test_stream_is_made_for_the_first_message(inflater, deflater, takeover):
    inflater.c.takeover = deflater.c.takeover = takeover
    settings = inflater.settings
    for _ in range(3):
        assert not inflater.holds_memory
        assert not deflater.holds_memory
        deflater.deflate(b"Hello" * 10)
        packed = deflater.take()
        inflater.inflate(packed)
        assert inflater.holds_memory  # in the middle of a message
        inflater.end()
        assert inflater.take() == b"Hello" * 10
        assert (inflater.holds_memory, deflater.holds_memory) == (takeover, takeover)
        for _ in range(2):
            lib.th_inflate_free(inflater.c)
            lib.th_deflate_free(deflater.c)
        assert inflater.settings == deflater.settings == settings


@pytest.mark.parametrize("bits", [0, 7, 16, 47, 255])
def test_stream_that_cannot_be_made(inflater, deflater, bits):
    inflater.c.bits = deflater.c.bits = bits
    for _ in range(2):
        assert deflater.deflate(b"a") == lib.TH_ENOMEM
        assert not deflater.holds_memory
        if bits:  # 0 lets zlib take the largest
            assert inflater.inflate(b"a") == lib.TH_ENOMEM
            assert not inflater.holds_memory


def test_no_memory_for_what_comes_out(inflater, deflater):
    for stream in (inflater, deflater):
        stream.out.length = stream.out.capacity = SIZE_MAX // 2
    assert inflater.inflate(b"\x00", SIZE_MAX // 2) == lib.TH_ENOMEM
    assert deflater.deflate(b"a") == lib.TH_ENOMEM
    assert not deflater.holds_memory  # its window had a message that was not sent
    for stream in (inflater, deflater):
        stream.out.length = stream.out.capacity = 0
    assert deflater.deflate(b"a") == lib.TH_OK


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def bytes_in_use() -> int:
    """Bytes that malloc() has given out and not got back."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("only glibc from 2.33 on tells what malloc has given out")
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def end_of_session() -> None:
    parser, writer = FrameParser(100_000), FrameWriter()
    parser.use_deflate(15, True)
    writer.use_deflate(15, True, 6, 8, 0)
    parser.feed(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00")
    assert parser.next_event() == 1
    writer.message(b"Hello" * 1000)


def end_without_takeover() -> None:
    parser, writer = FrameParser(100_000), FrameWriter()
    parser.use_deflate(15, False)
    writer.use_deflate(15, False, 6, 8, 0)
    parser.feed(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00" * 2)
    assert [parser.next_event() for _ in range(3)] == [1, 1, 0]
    writer.message(b"Hello" * 1000)


def end_in_the_middle_of_a_message() -> None:
    parser = FrameParser(100_000)
    parser.use_deflate(15, True)
    parser.feed(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd")
    assert parser.next_event() == 0


def end_by_a_fault() -> None:
    parser = FrameParser(100_000)
    parser.use_deflate(15, True)
    parser.feed(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        parser.next_event()


def end_after_forgetting() -> None:
    writer = FrameWriter()
    writer.use_deflate(15, True, 6, 8, 0)
    for _ in range(2):
        writer.message(b"Hello" * 1000)
        writer.forget()


@pytest.mark.parametrize(
    "life",
    [
        end_of_session,
        end_without_takeover,
        end_in_the_middle_of_a_message,
        end_by_a_fault,
        end_after_forgetting,
    ],
    ids=lambda life: life.__name__,
)
def test_memory_is_given_back(life):
    for _ in range(20):
        life()
    before = bytes_in_use()
    for _ in range(300):
        life()
    # The smallest thing that could leak is the state of an inflater, about 7 KB.
    assert bytes_in_use() - before < 300 * 1000


def test_memory_is_given_back_at_a_failure():
    # At once, and not only with the parser, which a closing connection still holds.
    parsers = [FrameParser(100_000) for _ in range(100)]
    before = bytes_in_use()
    for parser in parsers:
        parser.use_deflate(15, True)
        parser.feed(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xff\xff\xff\xff")
        with pytest.raises(RemoteProtocolError):
            parser.next_event()
    assert bytes_in_use() - before < 100 * 3000

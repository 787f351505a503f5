"""Buffers and the writing half of the C layer, through cffi."""

import pytest
from guard import Guard

from thestral._csrc import ffi, lib

SIZE_MAX = 2 ** (8 * ffi.sizeof("size_t")) - 1


@pytest.fixture
def buffer():
    buffer = ffi.new("th_buffer *")
    lib.th_buffer_init(buffer)
    yield buffer
    lib.th_buffer_free(buffer)


@pytest.fixture(scope="module")
def source():
    return Guard()


def content(buffer) -> bytes:
    return ffi.buffer(buffer.data, buffer.length)[:] if buffer.length else b""


def is_empty(buffer) -> bool:
    return buffer.data == ffi.NULL and buffer.length == 0 and buffer.capacity == 0


def test_buffer_that_is_empty_holds_no_memory(buffer):
    assert is_empty(buffer)
    assert lib.th_buffer_append(buffer, ffi.NULL, 0) == lib.TH_OK
    assert lib.th_buffer_reserve(buffer, 0) == lib.TH_OK
    assert is_empty(buffer)


def test_buffer_grows_and_keeps_its_content(buffer, source):
    expected = b""
    for size in [1, 2, 0, 500, 8, 1, 513, 4096, 3000]:
        data = (b"%d," % size * 4096)[:size]
        assert lib.th_buffer_append(buffer, source.place(data), size) == lib.TH_OK
        expected += data
        assert content(buffer) == expected
        assert buffer.capacity >= buffer.length


def test_buffer_growth_is_geometric(buffer):
    # So that a million appended bytes are copied a few times, not a million.
    moves, before = 0, -1
    for _ in range(100_000):
        assert lib.th_buffer_append(buffer, b"x", 1) == lib.TH_OK
        moves += buffer.capacity != before
        before = buffer.capacity
    assert content(buffer) == b"x" * 100_000
    assert moves <= 12


def test_buffer_reserve_makes_room(buffer):
    lib.th_buffer_append(buffer, b"abc", 3)
    for size in [1, 509, 510, 5000, 100_000]:
        assert lib.th_buffer_reserve(buffer, size) == lib.TH_OK
        assert buffer.capacity - buffer.length >= size
        assert content(buffer) == b"abc"
    capacity = buffer.capacity
    assert lib.th_buffer_reserve(buffer, capacity - 3) == lib.TH_OK
    assert buffer.capacity == capacity


@pytest.mark.parametrize("size", [SIZE_MAX, SIZE_MAX - 1, SIZE_MAX // 2 + 1, SIZE_MAX // 2])
def test_buffer_reserve_of_more_than_there_can_be(buffer, size):
    lib.th_buffer_append(buffer, b"abc", 3)
    before = (buffer.data, buffer.capacity)
    assert lib.th_buffer_reserve(buffer, size) == lib.TH_ENOMEM
    assert content(buffer) == b"abc"
    assert (buffer.data, buffer.capacity) == before
    assert lib.th_buffer_append(buffer, b"d", 1) == lib.TH_OK
    assert content(buffer) == b"abcd"


def test_buffer_freed_may_be_used_again(buffer):
    lib.th_buffer_append(buffer, b"abc", 3)
    lib.th_buffer_free(buffer)
    assert is_empty(buffer)
    lib.th_buffer_free(buffer)
    assert lib.th_buffer_append(buffer, b"d", 1) == lib.TH_OK
    assert content(buffer) == b"d"


EDGES = [0, 1, 9, 10, 11, 15, 16, 99, 100, 2**32 - 1, 2**32, 10**19 - 1, 10**19, 2**63, 2**64 - 1]


@pytest.mark.parametrize("value", EDGES)
def test_buffer_numbers(buffer, value):
    assert lib.th_buffer_append_decimal(buffer, value) == lib.TH_OK
    assert lib.th_buffer_append(buffer, b"|", 1) == lib.TH_OK
    assert lib.th_buffer_append_hex(buffer, value) == lib.TH_OK
    assert content(buffer) == b"%d|%x" % (value, value)


@pytest.mark.parametrize("value", EDGES)
def test_write_chunk_head(buffer, value):
    assert lib.th_write_chunk_head(buffer, value) == lib.TH_OK
    assert content(buffer) == b"%x\r\n" % value


def test_write_status_line(buffer):
    assert lib.th_write_status_line(buffer, 404) == lib.TH_OK
    assert lib.th_write_status_line(buffer, 599) == lib.TH_OK
    assert content(buffer) == b"HTTP/1.1 404 Not Found\r\nHTTP/1.1 599 \r\n"


def write_field(buffer, source, other, name: bytes, value: bytes) -> int:
    return lib.th_write_field(buffer, source.place(name), len(name), other.place(value), len(value))


def test_write_field(buffer, source):
    other = Guard()
    assert write_field(buffer, source, other, b"X-a", b"b\t\xff c") == lib.TH_OK
    assert write_field(buffer, source, other, b"e", b"") == lib.TH_OK
    assert content(buffer) == b"X-a: b\t\xff c\r\ne: \r\n"


def test_write_field_at_the_edges_of_capacity(buffer, source):
    other = Guard()
    expected = b""
    for length in range(1, 300):
        assert write_field(buffer, source, other, b"n", b"v" * length) == lib.TH_OK
        expected += b"n: " + b"v" * length + b"\r\n"
    assert content(buffer) == expected


def test_write_field_that_is_refused_writes_nothing(buffer, source):
    other = Guard()
    write_field(buffer, source, other, b"a", b"b")
    for name in (b"", b"x y", b"x:", b"x\r\n", b"\xff"):
        assert write_field(buffer, source, other, name, b"v") == lib.TH_EFIELD_NAME
    for value in (b"\r", b"\n", b"\x00", b"a\x7f", b"a\r\nb: c"):
        assert write_field(buffer, source, other, b"x", value) == lib.TH_EFIELD_VALUE
    assert content(buffer) == b"a: b\r\n"

"""th_mask through cffi: against its scalar twin and plain Python, at guard pages."""

import random

import pytest
from guard import Guard
from portable import compiled_without_vectors

from thestral._csrc import ffi, lib

KEYS = [bytes.fromhex(key) for key in ("37fa213d", "00000000", "ffffffff", "80017ffe", "000000ff")]
LENGTHS = range(101)
DECLARATION = "void th_mask(char *dst, const char *src, size_t n, const char *key, size_t phase);"


@pytest.fixture(scope="module")
def source():
    return Guard()


@pytest.fixture(scope="module")
def target():
    return Guard()


@pytest.fixture(scope="module")
def key_guard():
    return Guard()


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """th_mask as compiled on a machine without vector instructions."""
    library = compiled_without_vectors("mask", DECLARATION, tmp_path_factory.mktemp("mask"))

    def masked(*arguments):
        library.th_mask(*arguments)

    return masked


@pytest.fixture(params=["th_mask", "th_mask_scalar", "portable"])
def th_mask(request):
    if request.param == "portable":
        return request.getfixturevalue("portable")
    return getattr(lib, request.param)


def model(data: bytes, key: bytes, phase: int) -> bytes:
    """RFC 6455 section 5.3: octet i with octet i MOD 4 of the key."""
    return bytes(byte ^ key[(phase + i) % 4] for i, byte in enumerate(data))


def test_rfc_example(th_mask):
    # RFC 6455 section 5.7.
    out = ffi.new("char[5]")
    th_mask(out, b"\x7f\x9f\x4d\x51\x58", 5, KEYS[0], 0)
    assert ffi.buffer(out)[:] == b"Hello"


def test_every_length_and_phase(th_mask, source, target, key_guard):
    # Both buffers and the key end at a page that nobody may touch.
    rng = random.Random(1)
    for length in LENGTHS:
        data = rng.randbytes(length)
        for phase in range(4):
            key = KEYS[(length + phase) % len(KEYS)]
            out = target.space(length)
            th_mask(out, source.place(data), length, key_guard.place(key), phase)
            assert ffi.buffer(out, length)[:] == model(data, key, phase), (length, phase)


def test_in_place(th_mask, source):
    rng = random.Random(2)
    for length in LENGTHS:
        data, key, phase = rng.randbytes(length), rng.randbytes(4), length % 4
        pointer = source.place(data)
        th_mask(pointer, pointer, length, key, phase)
        assert ffi.buffer(pointer, length)[:] == model(data, key, phase), length


def test_every_alignment(th_mask):
    # Of source and target, up to 32 bytes; the bytes around the target do not change.
    rng = random.Random(3)
    memory, out = ffi.new("char[256]"), ffi.new("char[256]")
    for length in (0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100):
        data, key = rng.randbytes(length), rng.randbytes(4)
        for at in range(32):
            ffi.memmove(memory + at, data, length)
            to, phase = (at * 7 + length) % 32, at % 4
            ffi.memmove(out, b"\xee" * 256, 256)
            th_mask(out + to, memory + at, length, key, phase)
            written = ffi.buffer(out)[:]
            assert written[to : to + length] == model(data, key, phase)
            assert written[:to] + written[to + length :] == b"\xee" * (256 - length)


def test_phase_is_that_of_the_cut(th_mask):
    # Cut in two pieces at every place; the second has the phase that follows from the first.
    rng = random.Random(4)
    for length in (1, 5, 16, 33, 70):
        data, key = rng.randbytes(length), rng.randbytes(4)
        whole = model(data, key, 0)
        for cut in range(length + 1):
            out = ffi.new("char[]", length)
            th_mask(out, data[:cut], cut, key, 0)
            th_mask(out + cut, data[cut:], length - cut, key, cut & 3)
            assert ffi.buffer(out)[:] == whole, (length, cut)


def test_large_phase(th_mask):
    data, key = bytes(range(40)), KEYS[0]
    for phase in (4, 5, 4096, 4099, 2**32 + 3, 2**63 + 1, 2**64 - 1):
        out = ffi.new("char[]", 40)
        th_mask(out, data, 40, key, phase)
        assert ffi.buffer(out)[:] == model(data, key, phase % 4), phase


def test_long(th_mask):
    rng = random.Random(5)
    for length in (4096, 65537, 1_000_003):
        data, key = rng.randbytes(length), rng.randbytes(4)
        out = ffi.new("char[]", length)
        th_mask(out, data, length, key, 3)
        keys = (key[3:] + key * (length // 4 + 1))[:length]
        whole = int.from_bytes(data) ^ int.from_bytes(keys)
        assert ffi.buffer(out)[:] == whole.to_bytes(length)

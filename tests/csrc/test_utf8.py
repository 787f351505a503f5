"""th_utf8_check through cffi: against its scalar twin and Python's decoder, at guard pages."""

import codecs
import itertools
import random

import pytest
from guard import Guard
from portable import compiled_without_vectors

from thestral._csrc import ffi, lib

STATE = "typedef struct { uint8_t left; uint8_t low; uint8_t high; } th_utf8;"
DECLARATION = STATE + "int th_utf8_check(th_utf8 *state, const char *src, size_t n);"


@pytest.fixture(scope="module")
def source():
    return Guard()


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """th_utf8_check as compiled on a machine without vector instructions."""
    library = compiled_without_vectors("utf8", DECLARATION, tmp_path_factory.mktemp("utf8"))

    def check(state, src, n):
        return library.th_utf8_check(ffi.cast("void *", state), src, n)

    return check


@pytest.fixture(params=["th_utf8_check", "th_utf8_check_scalar", "portable"])
def check(request):
    if request.param == "portable":
        return request.getfixturevalue("portable")
    return getattr(lib, request.param)


def verdict(check, pieces) -> int | None:
    """Number of continuation bytes missing after the pieces; None if they are not UTF-8."""
    state = ffi.new("th_utf8 *")
    for piece in pieces:
        status = check(state, piece, len(piece))
        if status != lib.TH_OK:
            assert status == lib.TH_EUTF8
            return None
    return state.left


def model(data: bytes) -> int | None:
    """The same by Python's decoder."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return None
    held = decoder.getstate()[0]
    if not held:
        return 0
    if held[0] == 0xED and held[1:] >= b"\xa0":
        return None  # a surrogate, for which the decoder waits
    return (2 if held[0] < 0xE0 else 3 if held[0] < 0xF0 else 4) - len(held)


def failing_byte(data: bytes) -> int | None:
    """Position of the first invalid byte, by Python's decoder."""
    for i in range(len(data)):
        if model(data[: i + 1]) is None:
            return i
    return None


EDGES = [0x00, 0x20, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xFF]
VALID = {chr(point).encode() for point in range(0x800, 0x10000) if not 0xD800 <= point <= 0xDFFF}


def test_every_sequence_of_one_and_two_bytes(check):
    assert verdict(check, [b""]) == 0
    for first in range(256):
        begun = model(bytes([first]))
        assert verdict(check, [bytes([first])]) == begun, first
        for second in range(256):
            data = bytes([first, second])
            assert verdict(check, [data]) == (None if begun is None else model(data)), data


def test_every_sequence_of_three_bytes(check):
    # After a first byte of three; other first bytes begin sequences of one and two.
    state = ffi.new("th_utf8 *")
    tails = [bytes(pair) for pair in itertools.product(range(0x80, 0xC0), range(256))]
    tails += [bytes(pair) for pair in itertools.product(EDGES, EDGES)]
    for first in range(0xE0, 0xF0):
        start = bytes([first])
        for tail in tails:
            ffi.memmove(state, b"\x00\x00\x00", 3)
            data = start + tail
            taken = check(state, data, 3) == lib.TH_OK
            assert taken == (data in VALID), data
            assert not taken or state.left == 0, data


def test_every_character_in_a_row(check):
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    for start in (0, 7):
        assert verdict(check, [b"a" * start, text]) == 0
        assert verdict(check, [b"a" * start + text]) == 0


def test_sequences_of_four_bytes(check):
    for first in (0xF0, 0xF1, 0xF3, 0xF4, 0xF5):
        for rest in itertools.product(EDGES, repeat=3):
            data = bytes([first, *rest])
            assert verdict(check, [data]) == model(data), data


def test_random_sequences_of_four_bytes(check):
    rng = random.Random(8)
    for _ in range(5000):
        rest = [rng.choice((rng.randrange(256), rng.randrange(0x80, 0xC0))) for _ in range(3)]
        data = bytes([rng.randrange(0xEE, 0xF6), *rest])
        assert verdict(check, [data]) == model(data), data


SAMPLES = [
    *("κόσμε", "aé€😀", "\x00\x7f\x80\u07ff\u0800\uffff", "\U00010000\U0010ffff", "\ud7ff\ue000"),
    *("a" * 15 + "é", "a" * 16 + "€" * 9 + "b" * 40, "😀" * 9, "é" * 20 + "a" * 33, "€a" * 12),
]
BROKEN = [
    *(b"\x80", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf"),
    *(b"\xf4\x90\x80\x80", b"\xf5", b"\xff", b"\xc3(", b"\xe2\x82(", b"\xf0\x9f\x98a", b"\xe2\xe2"),
]


@pytest.mark.parametrize("text", SAMPLES, ids=ascii)
def test_every_split(check, text):
    data = text.encode()
    for end in range(len(data) + 1):
        whole = model(data[:end])
        for cut in range(end + 1):
            assert verdict(check, [data[:cut], data[cut:end]]) == whole, (end, cut)
    for a, b in itertools.combinations(range(len(data)), 2):
        assert verdict(check, [data[:a], data[a:b], b"", data[b:]]) == 0


@pytest.mark.parametrize("broken", BROKEN, ids=ascii)
def test_broken_in_every_place_of_a_block(check, source, broken):
    # ASCII blocks of sixteen bytes are skipped at once.
    for before in range(50):
        for after in (0, 1, 15, 16, 40):
            data = b"a" * before + broken + b"a" * after
            assert verdict(check, [data]) is None, (before, after)
            at = failing_byte(broken) + before
            state = ffi.new("th_utf8 *")
            assert check(state, source.place(data[:at]), at) == lib.TH_OK
            assert check(state, source.place(data[at:]), len(data) - at) == lib.TH_EUTF8


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
def test_whole_in_every_place_of_a_block(check, source, character):
    for before in range(50):
        for after in (0, 1, 15, 16, 17, 40):
            data = b"a" * before + character.encode() + b"b" * after
            state = ffi.new("th_utf8 *")
            assert check(state, source.place(data), len(data)) == lib.TH_OK
            assert state.left == 0


def test_reads_no_further_than_told(check, source):
    for length in range(100):
        state = ffi.new("th_utf8 *")
        assert check(state, source.place(b"a" * length), length) == lib.TH_OK


def test_open_character_before_a_block(check):
    # ASCII blocks are wrong after an incomplete character, though each is valid by itself.
    for opening in ("é", "€", "😀"):
        begin = opening.encode()
        for held in range(1, len(begin)):
            assert verdict(check, [begin[:held], b"a" * 64]) is None
            assert verdict(check, [begin[:held], begin[held:] + b"a" * 64]) == 0


def test_random_pieces_of_random_text(check):
    rng = random.Random(9)
    for _ in range(1500):
        text = "".join(rng.choice("aaaaaaaaé€😀\u07ff\uffff") * rng.randrange(20) for _ in range(8))
        data = bytearray(text.encode())
        if data and rng.random() < 0.6:
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = sorted(rng.randrange(len(data) + 1) for _ in range(3))
        pieces = [bytes(data[a:b]) for a, b in zip([0, *cut], [*cut, None], strict=True)]
        assert verdict(check, pieces) == model(bytes(data)), bytes(data)

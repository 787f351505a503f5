"""Client data escaped for a log: any input becomes one line of printable ASCII."""

import json
import random
import re

import pytest
from guard import Guard

from thestral._csrc import ffi, lib

EVERY_BYTE = bytes(range(256))


@pytest.fixture(scope="module")
def source():
    return Guard(8192)


def appended(function, source, data: bytes) -> bytes:
    """The bytes that a function appends for data that ends at a page without access."""
    buffer = ffi.new("th_buffer *")
    lib.th_buffer_init(buffer)
    try:
        assert lib.th_buffer_append(buffer, b"<", 1) == lib.TH_OK
        assert function(buffer, source.place(data), len(data)) == lib.TH_OK
        assert buffer.length <= buffer.capacity
        text = ffi.buffer(buffer.data, buffer.length)[:]
    finally:
        lib.th_buffer_free(buffer)
    assert text[:1] == b"<"
    return text[1:]


def random_inputs():
    chance = random.Random(8259)
    alphabet = EVERY_BYTE + b'"\\\n' * 20 + "é€😀".encode() * 10
    for size in [*range(20), 100, 5000]:
        for _ in range(20):
            yield bytes(chance.choice(alphabet) for _ in range(size))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"/a?b=c~ !", b"/a?b=c~ !"),
        (b'say "hi"', rb"say \"hi\""),
        (b"a\\b", rb"a\\b"),
        (b"a\r\nb\tc\0", rb"a\x0d\x0ab\x09c\x00"),
        (b"\x1b[31m\x7f", rb"\x1b[31m\x7f"),
        ("é".encode(), rb"\xc3\xa9"),
    ],
)
def test_escaped_as_apache_does(source, data, expected):
    assert appended(lib.th_append_escaped, source, data) == expected


def test_escaped_is_one_line_without_bare_quote_and_can_be_read_back(source):
    for data in [EVERY_BYTE, *random_inputs()]:
        text = appended(lib.th_append_escaped, source, data)
        assert re.fullmatch(rb'([ !#-\[\]-~]|\\["\\]|\\x[0-9a-f]{2})*', text)
        back = re.sub(
            rb'\\(?:x(..)|(["\\]))', lambda m: bytes.fromhex(m[1].decode()) if m[1] else m[2], text
        )
        assert back == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain", b"plain"),
        (b'"\\/', rb"\"\\/"),
        (b"\n\0\x7f", rb"\u000a\u0000\u007f"),
        ("é€".encode(), rb"\u00e9\u20ac"),
        ("😀".encode(), rb"\ud83d\ude00"),
        ("\U0010ffff".encode(), rb"\udbff\udfff"),
        (b"\xff\xc3\xa9", rb"\u00ff\u00c3\u00a9"),  # no UTF-8: latin-1
        (b"a\xe2\x82", rb"a\u00e2\u0082"),  # cut within a character
        (b"\xed\xa0\x80", rb"\u00ed\u00a0\u0080"),  # a surrogate is not a character
    ],
)
def test_json_of(source, data, expected):
    assert appended(lib.th_append_json, source, data) == expected


def test_json_is_valid_for_any_bytes(source):
    for data in [EVERY_BYTE, *random_inputs()]:
        text = appended(lib.th_append_json, source, data)
        assert re.fullmatch(rb"[ -~]*", text)
        try:
            expected = data.decode()
        except UnicodeDecodeError:
            expected = data.decode("latin-1")
        assert json.loads(b'"' + text + b'"') == expected


def test_every_character_of_json_comes_back(source):
    for start in range(0, 0x110000, 0x800):
        if start not in (0xD800, 0xDC00):
            text = "".join(map(chr, range(start, start + 0x800)))
            got = appended(lib.th_append_json, source, text[-1000:].encode())
            assert json.loads(b'"' + got + b'"') == text[-1000:]


@pytest.mark.parametrize("function", [lib.th_append_escaped, lib.th_append_json])
def test_size_that_would_overflow_is_out_of_memory(function):
    buffer = ffi.new("th_buffer *")
    lib.th_buffer_init(buffer)
    huge = 2 ** (8 * ffi.sizeof("size_t")) - 1
    assert function(buffer, ffi.NULL, huge) == lib.TH_ENOMEM
    assert buffer.length == 0

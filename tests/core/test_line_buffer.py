"""LineBuffer: lines that wait, and what is appended to them."""

import time

import pytest

from thestral._core.log import LineBuffer, escaped, find_field, monotonic, wall_clock


def content(buffer: LineBuffer) -> str:
    return buffer.take(buffer.size())


def test_values_are_escaped_and_literals_are_not():
    lines = LineBuffer(False)
    lines.append('"é"'.encode())
    lines.append_value('"é"'.encode())
    lines.append_text('"é"')
    assert content(lines) == '"é"' + r"\"\xc3\xa9\"" * 2
    assert content(lines) == ""


def test_json_escapes_as_json():
    lines = LineBuffer(True)
    assert lines.json
    lines.append_value(b"\n\xff")
    lines.append_text("€")
    assert content(lines) == r"\u000a\u00ff\u20ac"


def test_numbers():
    lines = LineBuffer(False)
    for value in (0, 7, 2**63 - 1):
        lines.append_decimal(value)
        lines.append(b" ")
    lines.append_fraction(0, 1000)
    lines.append_fraction(42, 1000000)
    lines.append_fraction(999, 1000)
    assert content(lines) == f"0 7 {2**63 - 1} .000.000042.999"


def test_take_leaves_what_is_behind():
    lines = LineBuffer(False)
    lines.append(b"one\ntwo\nthree")
    assert lines.take(4) == "one\n"
    assert lines.size() == 9
    lines.truncate(4)
    assert content(lines) == "two\n"
    lines.append(b"x" * 1_000_000)  # its memory is given back
    assert content(lines) == "x" * 1_000_000
    lines.append(b"more")
    assert content(lines) == "more"


def test_text_that_is_no_unicode_is_an_error():
    lines = LineBuffer(False)
    with pytest.raises(UnicodeEncodeError):
        lines.append_text("\ud800")


def test_field_is_the_first_of_its_name():
    headers = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert find_field(headers, b"a") == b"1"
    assert find_field(headers, b"c") is None
    assert find_field([[b"a", b"1"]], b"a") == b"1"  # an application's own idea of a pair


def test_escaped():
    assert escaped(b"/a\n") == r"/a\x0a"
    assert escaped(b"") == ""


def test_clocks():
    assert time.monotonic() <= monotonic() <= time.monotonic()
    assert time.time() <= wall_clock() <= time.time()

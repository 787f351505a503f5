"""LineBuffer: lines that wait, and the values that are appended to them."""

import time

import pytest

from thestral._core.log import LineBuffer, escaped, find_field, monotonic, wall_clock


def content(buffer: LineBuffer) -> str:
    return buffer.take_line()


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


def made(*texts: str) -> LineBuffer:
    """A buffer with whole lines, and one that is being made."""
    lines = LineBuffer(False)
    for text in texts:
        lines.append(text.encode())
        lines.end_line()
    lines.append(b"under way")
    return lines


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("limit", "taken"),
    [(4, "one\n"), (7, "one\n"), (8, "one\ntwo\n"), (13, "one\ntwo\n"), (14, "one\ntwo\nthree\n")],
)
def test_lines_are_taken_whole_as_many_as_fit(limit, taken, whole):
    lines = made("one", "two", "three")
    assert lines.size() == 14
    assert lines.take(limit, whole) == taken
    assert lines.size() == 14 - len(taken)
    assert lines.take(100, whole) == "one\ntwo\nthree\n"[len(taken) :]
    assert lines.take(100, whole) == ""  # not the one being made
    assert lines.take_line() == "under way"


def test_line_longer_than_the_limit():
    lines = made("long one", "two")
    assert lines.take(3, True) == "long one\n"
    assert lines.size() == 4
    lines = made("aéé", "two")
    assert lines.take(4, False) == "aé"  # characters are not split
    assert lines.take(4, False) == "é\n"
    assert lines.take(4, False) == "two\n"


def test_line_being_made_can_be_dropped_or_taken():
    lines = made("one")
    lines.drop_line()
    lines.append(b"two")
    assert lines.take_line() == "two"
    assert lines.take_line() == ""
    assert lines.take(100, False) == "one\n"


def test_memory_of_a_large_line_is_given_back_and_the_buffer_goes_on():
    lines = made("x" * 1_000_000)
    lines.take_line()
    assert lines.take(1, True) == "x" * 1_000_000 + "\n"
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
    assert find_field([[b"a", b"1"]], b"a") == b"1"  # lists, as some applications write pairs


def test_escaped():
    assert escaped(b"/a\n") == r"/a\x0a"
    assert escaped(b"") == ""


def test_clocks():
    assert time.monotonic() <= monotonic() <= time.monotonic()
    assert time.time() <= wall_clock() <= time.time()

"""ResponseWriter: its output, the fields that it refuses, and how responses nest."""

import http
import sys

import pytest

from thestral._core.http1 import ResponseWriter, length_of, reason_phrase
from thestral.errors import LocalProtocolError

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write(headers, drop_content_length=False) -> tuple[bytes, ResponseWriter]:
    """The fields as written, and the writer."""
    writer = ResponseWriter()
    mark = writer.begin(200)
    writer.write_headers(headers, drop_content_length)
    written = writer.take(mark)
    status_line = b"HTTP/1.1 200 OK\r\n"
    assert written.startswith(status_line)
    return written[len(status_line) :], writer


def refused(headers, drop_content_length=False) -> str:
    writer = ResponseWriter()
    writer.begin(200)
    with pytest.raises(LocalProtocolError) as refusal:
        writer.write_headers(headers, drop_content_length)
    return str(refusal.value)


# --- Status line: RFC 9112 section 4 --------------------------------------------------------------


def test_status_line_of_every_registered_code():
    renamed = {  # since RFC 9110; older versions of Python have the names before it
        413: "Content Too Large",
        414: "URI Too Long",
        416: "Range Not Satisfiable",
        418: "I'm a Teapot",
        422: "Unprocessable Content",
    }
    for status in http.HTTPStatus:
        phrase = renamed.get(status.value, status.phrase)
        writer = ResponseWriter()
        mark = writer.begin(status.value)
        assert writer.take(mark) == f"HTTP/1.1 {status.value} {phrase}\r\n".encode()
        assert reason_phrase(status.value) == phrase


@pytest.mark.parametrize("status", [199, 299, 306, 399, 499, 599, 600, 999])
def test_status_line_without_a_reason_keeps_its_blank(status):
    # RFC 9112 section 4: the SP behind the code is there even when the reason is not.
    writer = ResponseWriter()
    assert writer.take(writer.begin(status)) == b"HTTP/1.1 %d \r\n" % status
    assert reason_phrase(status) == ""


# --- Fields: RFC 9110 section 5 -------------------------------------------------------------------


def test_no_fields():
    written, writer = write([])
    assert written == b""
    assert writer.content_length == -1
    assert not writer.close
    assert not writer.has_date
    assert not writer.has_server


def test_fields_keep_order_case_and_duplicates():
    headers = [(b"set-cookie", b"b"), (b"X-A", b"1"), (b"set-cookie", b"a"), (b"x-empty", b"")]
    written, _ = write(headers)
    assert written == b"set-cookie: b\r\nX-A: 1\r\nset-cookie: a\r\nx-empty: \r\n"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"b"), (b"c", b"d")],
        ((b"a", b"b"), (b"c", b"d")),
        [[b"a", b"b"], [b"c", b"d"]],
        {b"a": b"b", b"c": b"d"}.items(),
        (pair for pair in [(b"a", b"b"), (b"c", b"d")]),
        iter([iter([b"a", b"b"]), iter([b"c", b"d"])]),
    ],
    ids=["list", "tuple", "lists", "dict items", "generator", "iterators"],
)
def test_fields_of_any_iterable(headers):
    # ASGI: Iterable[[byte string, byte string]]
    assert write(headers)[0] == b"a: b\r\nc: d\r\n"


def test_name_of_every_byte():
    for byte in range(256):
        for name in (bytes([byte]), b"x" + bytes([byte]), bytes([byte]) + b"x"):
            if byte in TOKEN:
                assert write([(name, b"v")])[0] == name + b": v\r\n"
            else:
                assert repr(name) in refused([(name, b"v")])


def test_name_that_is_empty():
    assert "b''" in refused([(b"", b"v")])


def test_value_of_every_byte():
    for byte in range(256):
        value = b"a" + bytes([byte]) + b"b"
        if byte == 9 or (byte >= 32 and byte != 127):
            assert write([(b"x", value)])[0] == b"x: " + value + b"\r\n"
        else:
            assert "b'x'" in refused([(b"x", value)])


@pytest.mark.parametrize("name", [b"x", b"connection", b"date", b"server", b"content-type"])
@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"\r\n\r\nbody", b"\0"])
def test_response_splitting_is_refused(name, value):
    assert repr(name) in refused([(b"ok", b"1"), (name, value)])


@pytest.mark.parametrize(
    "pair",
    [
        ("a", b"b"),
        (b"a", "b"),
        (b"a", 1),
        (b"a", None),
        (b"a",),
        (b"a", b"b", b"c"),
        (),
        b"a",
        None,
        5,
        "ab",
    ],
)
def test_invalid_pair(pair):
    for headers in ([pair], [(b"ok", b"1"), pair], (pair,)):
        assert repr(pair)[:100] in refused(headers)


class Bytes(bytes):
    pass


@pytest.mark.parametrize("kind", [Bytes, bytearray, memoryview])
def test_other_bytes_are_taken_and_looked_at(kind):
    """As in a body. The writer reads the framing fields among them, too."""
    writer = ResponseWriter()
    mark = writer.begin(200)
    writer.write_headers([(kind(b"Content-Length"), kind(b"12")), (b"a", kind(b"b"))], False)
    assert writer.take(mark).endswith(b"\r\nContent-Length: 12\r\na: b\r\n")
    assert writer.content_length == 12
    assert "control" in refused([(b"a", kind(b"b\r\nc: d"))])


def test_message_is_cut():
    assert len(refused([(b"(" * 5000, b"v")])) < 600
    assert len(refused([("x" * 5000, b"v")])) < 600
    assert len(refused([(b"content-length", b"5" * 5000)])) < 600


def test_message_does_not_show_the_value():
    # It may be a cookie: only the name of a field that cannot be sent goes into a log.
    assert "s3cret" not in refused([(b"set-cookie", b"s3cret\r\n")])


def test_large_field():
    value = b"v" * 200_000
    assert write([(b"x", value)])[0] == b"x: " + value + b"\r\n"


# --- Fields that the server itself reads ----------------------------------------------------------


@pytest.mark.parametrize("name", [b"transfer-encoding", b"Transfer-Encoding", b"TRANSFER-ENCODING"])
@pytest.mark.parametrize("value", [b"chunked", b"gzip", b""])
def test_transfer_encoding_is_dropped(name, value):
    # RFC 9112 section 6.1: framing is the server's.
    written, writer = write([(b"a", b"b"), (name, value), (b"c", b"d")])
    assert written == b"a: b\r\nc: d\r\n"
    assert writer.content_length == -1


@pytest.mark.parametrize("name", [b"date", b"Date", b"DATE"])
def test_date_is_seen(name):
    written, writer = write([(name, b"x")])
    assert written == name + b": x\r\n"
    assert writer.has_date
    assert not writer.has_server


@pytest.mark.parametrize("name", [b"server", b"Server", b"SERVER"])
def test_server_is_seen(name):
    written, writer = write([(name, b"x")])
    assert written == name + b": x\r\n"
    assert writer.has_server
    assert not writer.has_date


@pytest.mark.parametrize("name", [b"dates", b"dat", b"x-date", b"servers", b"serve", b"connectio"])
def test_other_names_are_not_seen(name):
    _, writer = write([(name, b"close")])
    assert not writer.has_date
    assert not writer.has_server
    assert not writer.close


@pytest.mark.parametrize(
    ("value", "close"),
    [
        (b"close", True),
        (b"Close", True),
        (b"CLOSE", True),
        (b"keep-alive, close", True),
        (b"close,x", True),
        (b" , close\t,", True),
        (b"keep-alive", False),
        (b"closed", False),
        (b"x-close", False),
        (b"close x", False),
        (b"", False),
    ],
)
def test_connection_close_is_seen(value, close):
    written, writer = write([(b"Connection", value)])
    assert written == b"Connection: " + value + b"\r\n"
    assert writer.close is close


def test_connection_close_on_one_of_several_lines():
    _, writer = write([(b"connection", b"close"), (b"connection", b"x")])
    assert writer.close


# --- Content-Length: RFC 9110 section 8.6 ---------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"%d" % (2**63 - 1), 2**63 - 1),
        (b"%d" % 2**63, -1),
        (b"%d" % 2**64, -1),
        *((value, -1) for value in (b"", b"-1", b"+1", b" 1", b"1 ", b"1,1", b"\xb2")),
    ],
)
def test_length_of_a_content_length(value, length):
    assert length_of(value) == length


@pytest.mark.parametrize("value", [b"0", b"5", b"0005", b"9223372036854775807"])
@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_content_length(name, value):
    written, writer = write([(b"a", b"b"), (name, value), (b"c", b"d")])
    assert written == b"a: b\r\n" + name + b": " + value + b"\r\nc: d\r\n"
    assert writer.content_length == int(value)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b" ", b"-1", b"+1", b"1.0", b"0x1", b"1 2", b"1,1", b"1, 2", b"a", b"1a", b"\xb2"),
        *(b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"9" * 40),
    ],
)
@pytest.mark.parametrize("drop", [False, True])
def test_invalid_content_length(value, drop):
    message = refused([(b"content-length", value)], drop)
    assert "content-length" in message.lower()


def test_content_length_twice_the_same_is_written_once():
    # RFC 9110 section 8.6: a sender must not forward or send it twice.
    written, writer = write([(b"content-length", b"5"), (b"a", b"b"), (b"Content-Length", b"5")])
    assert written == b"content-length: 5\r\na: b\r\n"
    assert writer.content_length == 5


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("one", "two"), [(b"5", b"6"), (b"0", b"1"), (b"1", b"0")])
def test_content_length_that_contradicts_itself(one, two, drop):
    message = refused([(b"content-length", one), (b"content-length", two)], drop)
    assert one.decode() in message
    assert two.decode() in message


def test_content_length_dropped_is_remembered():
    written, writer = write([(b"content-length", b"7"), (b"a", b"b")], drop_content_length=True)
    assert written == b"a: b\r\n"
    assert writer.content_length == 7


@pytest.mark.parametrize("length", [0, 1, 9, 10, 12345, 2**31, 2**32, 2**63 - 1])
def test_write_content_length(length):
    writer = ResponseWriter()
    writer.write_content_length(length)
    assert writer.take(0) == b"content-length: %d\r\n" % length


# --- Chunks: RFC 9112 section 7.1 -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 9, 10, 15, 16, 255, 256, 4096, 2**31, 2**32, sys.maxsize])
def test_write_chunk_head(size):
    writer = ResponseWriter()
    writer.write_chunk_head(size)
    assert writer.take(0) == b"%x\r\n" % size


@pytest.mark.parametrize("size", [1, 15, 16, 511, 512, 513, 100_000])
def test_write_chunk(size):
    writer = ResponseWriter()
    data = bytes(range(256)) * (size // 256 + 1)
    for _ in range(3):  # the buffer grows within
        writer.write_chunk(data[:size])
    assert writer.take(0) == (b"%x\r\n" % size + data[:size] + b"\r\n") * 3


def test_write_is_verbatim():
    writer = ResponseWriter()
    writer.write(b"")
    assert writer.size() == 0
    writer.write(bytes(range(256)))
    writer.write(b"\r\n")
    assert writer.size() == 258
    assert writer.take(0) == bytes(range(256)) + b"\r\n"
    assert writer.size() == 0


# --- Marks ----------------------------------------------------------------------------------------


def test_take_leaves_what_was_before_the_mark():
    writer = ResponseWriter()
    writer.write(b"before")
    mark = writer.begin(204)
    assert mark == 6
    writer.write(b"x")
    assert writer.take(mark) == b"HTTP/1.1 204 No Content\r\nx"
    assert writer.size() == 6
    assert writer.take(0) == b"before"


def test_writers_nest():
    writer = ResponseWriter()
    outer = writer.begin(200)
    writer.write(b"a")
    inner = writer.begin(103)
    writer.write(b"b")
    innermost = writer.begin(404)
    writer.truncate(innermost)
    assert writer.take(inner) == b"HTTP/1.1 103 Early Hints\r\nb"
    writer.write(b"c")
    assert writer.take(outer) == b"HTTP/1.1 200 OK\r\nac"
    assert writer.size() == 0


def test_a_refused_head_leaves_nothing_behind():
    writer = ResponseWriter()
    writer.write(b"before")
    mark = writer.begin(200)
    with pytest.raises(LocalProtocolError):
        writer.write_headers([(b"a", b"b"), (b"c", b"d\n")], False)
    writer.truncate(mark)
    assert writer.size() == 6
    mark = writer.begin(500)
    writer.write_headers([], False)
    assert writer.take(0) == b"beforeHTTP/1.1 500 Internal Server Error\r\n"


def test_begin_forgets_what_the_last_head_said():
    writer = ResponseWriter()
    mark = writer.begin(200)
    headers = [(b"content-length", b"1"), (b"connection", b"close"), (b"date", b"d")]
    writer.write_headers([*headers, (b"server", b"s")], False)
    assert (writer.content_length, writer.close) == (1, True)
    assert (writer.has_date, writer.has_server) == (True, True)
    writer.take(mark)
    writer.begin(200)
    assert (writer.content_length, writer.close) == (-1, False)
    assert (writer.has_date, writer.has_server) == (False, False)


def test_large_responses_and_small_ones_after():
    writer = ResponseWriter()
    for size in (10, 300_000, 10, 5_000_000, 0, 10):
        mark = writer.begin(200)
        writer.write(b"x" * size)
        assert writer.take(mark) == b"HTTP/1.1 200 OK\r\n" + b"x" * size
        assert writer.size() == 0


def test_what_is_taken_is_a_copy():
    writer = ResponseWriter()
    writer.write(b"first")
    first = writer.take(0)
    writer.write(b"other")
    assert first == b"first"
    assert writer.take(0) == b"other"

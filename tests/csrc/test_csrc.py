"""The C layer through cffi, against plain Python twins, with input that ends at a guard page."""

import ipaddress
import itertools
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from guard import Guard
from vectors import http1 as vectors

from thestral._csrc import ffi, lib

SEED = 20240917
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") | frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
FIELD_VALUE = frozenset({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)})
VISIBLE = frozenset(range(0x21, 0x7F))
BYTES = [bytes([byte]) for byte in range(256)]
# Lengths around those of vector registers, for code that takes many bytes at once.
LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]


@pytest.fixture(scope="module")
def source():
    return Guard()


@pytest.fixture(scope="module")
def target():
    return Guard()


def test_guard_page_kills():
    # If it did not, no test here could fail by an over-read.
    code = "from guard import Guard; p = Guard().place(b'abc'); assert p[2] == b'c'; p[3]"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


# --- Byte classes ---------------------------------------------------------------------------------

CLASSES = [
    pytest.param(lib.th_is_token, TOKEN, 0, id="token"),
    pytest.param(lib.th_is_field_value, FIELD_VALUE, 1, id="field value"),
    pytest.param(lib.th_is_visible, VISIBLE, 1, id="visible"),
]


@pytest.mark.parametrize(("function", "members", "empty"), CLASSES)
def test_class_of_every_byte(source, function, members, empty):
    assert function(source.place(b""), 0) == empty
    for byte in BYTES:
        assert function(source.place(byte), 1) == (byte[0] in members), byte


@pytest.mark.parametrize(("function", "members", "empty"), CLASSES)
def test_class_with_one_stranger_anywhere(source, function, members, empty):
    for length in LENGTHS:
        good = b"a" * length
        assert function(source.place(good), length) == 1
        for place, byte in itertools.product(range(length), (0x00, 0x1F, 0x7F, 0x0D, 0x0A)):
            data = good[:place] + bytes([byte]) + good[place + 1 :]
            assert function(source.place(data), length) == 0, data


@pytest.mark.parametrize(("function", "members", "empty"), CLASSES)
def test_class_of_random_strings(source, function, members, empty):
    rng = random.Random(SEED)
    alphabet = [*members, *range(256)]
    for _ in range(3000):
        data = bytes(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        expected = all(byte in members for byte in data) if data else empty
        assert function(source.place(data), len(data)) == expected, data


def test_field_name_lower_of_every_byte(source, target):
    for byte in BYTES:
        for name in (byte, b"Ab" + byte, byte + b"yZ"):
            out = target.space(len(name))
            result = lib.th_field_name_lower(source.place(name), len(name), out)
            if byte[0] in TOKEN:
                assert result == len(name)
                assert ffi.buffer(out, len(name))[:] == name.lower()
            else:
                assert result == lib.TH_EFIELD_NAME, name


def test_field_name_lower_in_place(source):
    for length in LENGTHS:
        name = (b"X-Long_Name.9" * 6)[:length]
        pointer = source.place(name)
        assert lib.th_field_name_lower(pointer, length, pointer) == length
        assert ffi.buffer(pointer, length)[:] == name.lower()


def test_equals_lower(source, target):
    for byte, other in itertools.product(BYTES, BYTES):
        if other.lower() != other:
            continue  # the second is lower-case already
        expected = byte.lower() == other
        assert lib.th_equals_lower(source.place(byte), target.place(other), 1) == expected
    assert lib.th_equals_lower(source.place(b""), target.place(b""), 0) == 1
    assert lib.th_equals_lower(source.place(b"CLOSe"), target.place(b"close"), 5) == 1
    assert lib.th_equals_lower(source.place(b"CLOSe"), target.place(b"clost"), 5) == 0
    for size in (2, 7, 8, 9, 15, 16, 17, 25):  # it takes eight at once
        name = (b"abcdefghijklmnopqrstuvwxyz" * 2)[:size]
        other = target.place(name)
        for at in range(size):
            for byte in range(256):
                changed = name[:at] + bytes([byte]) + name[at + 1 :]
                expected = changed.lower() == name
                assert lib.th_equals_lower(source.place(changed), other, size) == expected


# --- Percent-decoding: RFC 3986 section 2.1 -------------------------------------------------------


def percent_decode(source, target, data: bytes) -> bytes | None:
    out = target.space(len(data))
    length = lib.th_percent_decode(source.place(data), len(data), out)
    if length < 0:
        assert length == lib.TH_ETARGET
        return None
    return ffi.buffer(out, length)[:]


def test_percent_decode_of_every_byte(source, target):
    for byte in range(256):
        for digits in (b"%02x" % byte, b"%02X" % byte):
            assert percent_decode(source, target, b"a%" + digits + b"b") == b"a%cb" % byte
            assert percent_decode(source, target, b"%" + digits) == bytes([byte])


def test_percent_decode_of_every_pair_of_bytes(source, target):
    hexadecimal = frozenset(b"0123456789abcdefABCDEF")
    for high, low in itertools.product(range(256), range(256)):
        decoded = percent_decode(source, target, bytes([0x25, high, low]))
        if high in hexadecimal and low in hexadecimal:
            assert decoded == bytes([int(bytes([high, low]), 16)])
        else:
            assert decoded is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"/plain", b"/plain"),
        (b"%2525", b"%25"),
        (b"%41%42%43", b"ABC"),
        (b"\x00\xff", b"\x00\xff"),
        (b"%", None),
        (b"%4", None),
        (b"a%", None),
        (b"a%4", None),
        (b"%%41", None),
        (b"%41%", None),
        (b"%41%4", None),
    ],
)
def test_percent_decode(source, target, data, expected):
    assert percent_decode(source, target, data) == expected


def test_percent_decode_of_escapes_alone(source, target):
    for count in range(1, 40):
        assert percent_decode(source, target, b"%61" * count) == b"a" * count


# --- Hosts: RFC 9110 section 7.2, RFC 3986 section 3.2.2 ------------------------------------------

REG_NAME = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
IP_FUTURE = re.compile(rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+")
AUTHORITY = re.compile(rb"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?", re.DOTALL)


def is_host(data: bytes) -> bool:
    """The twin; ipaddress knows the literals, but for the zone that RFC 3986 has none of."""
    match = AUTHORITY.fullmatch(data)
    if match is None or int(match[2] or 0) > 65535:
        return False
    host = match[1]
    if not host.startswith(b"["):
        return REG_NAME.fullmatch(host) is not None
    literal = host[1:-1]
    if IP_FUTURE.fullmatch(literal):
        return True
    if b"%" in literal or not literal.isascii() or b"/" in literal:
        return False
    try:
        ipaddress.IPv6Address(literal.decode())
    except ValueError:
        return False
    return True


def test_is_host_of_every_byte(source):
    for byte in BYTES:
        for data in (byte, b"a" + byte, byte + b"a", b"a:" + byte, b"[" + byte + b"::1]"):
            assert lib.th_is_host(source.place(data), len(data)) == is_host(data), data


def test_is_host_of_random_strings(source):
    rng = random.Random(SEED)
    parts = [b"::", b":", b"[", b"]", b".", b"1", b"0", b"12", b"255", b"256", b"abcd", b"f", b"g"]
    parts += [b"65535", b"65536", b"v1", b"%41", b"%", b"-", b"@", b"1.2.3.4", b"\x80", b" "]
    seen = {True: 0, False: 0}
    for _ in range(30_000):
        data = b"".join(rng.choices(parts[:-4], k=rng.randrange(9)))
        style = rng.randrange(4)
        if style == 0:
            data = b"[" + data + b"]"
        elif style == 1:
            groups = rng.choices([b"1", b"ab", b"0000", b"", b"1.2.3.4"], [6, 6, 2, 2, 1], k=8)
            data = b"[" + b":".join(groups[: rng.randrange(1, 9)]) + b"]:" + rng.choice(parts)
        elif style == 2:
            data += rng.choice(parts)
        expected = is_host(data)
        seen[expected] += 1
        assert lib.th_is_host(source.place(data), len(data)) == expected, data
    assert min(seen.values()) > 1000


@pytest.mark.parametrize("port", [0, 1, 65534, 65535, 65536, 65537, 2**32, 2**32 + 80, 2**64 + 80])
def test_is_host_port(source, port):
    data = b"a:%d" % port
    assert lib.th_is_host(source.place(data), len(data)) == (port <= 65535)


# --- Lists: RFC 9110 section 5.6.1 ----------------------------------------------------------------


def elements(source, data: bytes) -> list[bytes]:
    pointer = source.place(data)
    pos = ffi.new("size_t *", 0)
    out = ffi.new("th_slice *")
    found = []
    while lib.th_list_next(pointer, len(data), pos, out):
        assert out.offset + out.length <= pos[0] <= len(data)
        found.append(ffi.buffer(pointer + out.offset, out.length)[:])
    assert pos[0] == len(data)
    assert lib.th_list_next(pointer, len(data), pos, out) == 0  # the end stays the end
    return found


def test_list_next_of_every_short_string(source):
    for length in range(7):
        for data in itertools.product(b"ab, \t", repeat=length):
            text = bytes(data)
            expected = [part.strip(b" \t") for part in text.split(b",")]
            assert elements(source, text) == [part for part in expected if part], text


def test_list_next_takes_other_bytes_as_they_are(source):
    assert elements(source, b'"a,b"; q=1 ,\x80\x00') == [b'"a', b'b"; q=1', b"\x80\x00"]


# --- Fields ---------------------------------------------------------------------------------------


def field_names() -> list[bytes]:
    return [ffi.string(lib.th_field_name(i)) for i in range(lib.th_field_count())]


def lookup(source, name: bytes) -> int:
    return lib.th_field_lookup(source.place(name), len(name))


def test_field_lookup_finds_every_known_field(source):
    names = field_names()
    assert len(set(names)) == len(names)
    for index, name in enumerate(names):
        assert name == name.lower()
        for spelling in (name, name.upper(), name.title()):
            assert lookup(source, spelling) == index


def test_field_ids_are_positions_of_their_names():
    names = field_names()
    ids = [name for name in dir(lib) if name.startswith("TH_FIELD_") and name != "TH_FIELD_OTHER"]
    assert len(ids) >= 8
    for identity in ids:
        expected = identity.removeprefix("TH_FIELD_").lower().replace("_", "-").encode()
        assert names[getattr(lib, identity)] == expected


def test_field_lookup_misses(source):
    names = frozenset(field_names())
    for name in [b"", b"x", b"y" * 25, b"y" * 26, b"y" * 1000, b"\x00", b"\xff" * 4]:
        assert lookup(source, name) == lib.TH_FIELD_OTHER
    for name in names:
        near = {name[:-1], name[1:], name + b"x", name + b"\x00", b"x" + name, name[::-1]}
        for i in range(len(name)):
            # The other case of a letter, and what differs from a sign in that bit.
            near.add(name[:i] + bytes([name[i] ^ 0x20]) + name[i + 1 :])
            near.add(name[:i] + bytes([name[i] ^ 0x80]) + name[i + 1 :])
            near.add(name[:i] + bytes([name[i] + 1]) + name[i + 1 :])
            near.add(name[:i] + b"_" + name[i + 1 :])
        for other in near:
            found = lookup(source, other)
            assert (found != lib.TH_FIELD_OTHER) == (other.lower() in names), other


# --- Content-Length: RFC 9110 section 8.6 ---------------------------------------------------------


def read_content_length(source, data: bytes) -> int | None:
    out = ffi.new("uint64_t *", 77)
    status = lib.th_read_content_length(source.place(data), len(data), out)
    if status != lib.TH_OK:
        assert status == lib.TH_ECONTENT_LENGTH
        return None
    return out[0]


@pytest.mark.parametrize("around", [0, 10, 2**31, 2**32, 2**63, 2**64, 2**64 // 10, 10 * 2**64])
def test_read_content_length_edges(source, around):
    for value in range(max(around - 12, 0), around + 12):
        expected = value if value < 2**64 else None
        assert read_content_length(source, b"%d" % value) == expected
        assert read_content_length(source, b"000%d" % value) == expected


def test_read_content_length_of_digits_only(source):
    assert read_content_length(source, b"") is None
    for byte in BYTES:
        for data in (byte, b"1" + byte, byte + b"1"):
            expected = int(data) if re.fullmatch(rb"[0-9]+", data) else None
            assert read_content_length(source, data) == expected, data


# --- Statuses -------------------------------------------------------------------------------------

STATUS_CODES = {
    "TH_ENOMEM": 500,
    "TH_ESYNTAX": 400,
    "TH_EMETHOD": 501,
    "TH_ECONNECT": 501,
    "TH_EVERSION": 505,
    "TH_EPROTOCOL": 400,
    "TH_ETARGET": 400,
    "TH_EHOST_MISSING": 400,
    "TH_EHOST_DUPLICATE": 400,
    "TH_EHOST_INVALID": 400,
    "TH_ECONTENT_LENGTH": 400,
    "TH_ETRANSFER_ENCODING": 400,
    "TH_ETRANSFER_CODING": 501,
    "TH_EEXPECT": 417,
    "TH_ELINE_SIZE": 414,
    "TH_EHEAD_SIZE": 431,
    "TH_EHEAD_COUNT": 431,
    "TH_ECHUNK_SIZE": 400,
    "TH_ECHUNK": 400,
    "TH_ETRAILER_SIZE": 431,
    "TH_EBODY_SIZE": 413,
    "TH_ETLS": 400,
    "TH_EHTTP2": 505,
    "TH_EFIELD_NAME": 500,
    "TH_EFIELD_VALUE": 500,
    "TH_EBLOCKED": 500,
    "TH_ESYSTEM": 500,
    # close codes
    "TH_EFRAME_RESERVED": 1002,
    "TH_EFRAME_OPCODE": 1002,
    "TH_EFRAME_UNMASKED": 1002,
    "TH_EFRAME_LENGTH": 1002,
    "TH_EFRAME_CONTROL": 1002,
    "TH_EFRAME_ORDER": 1002,
    "TH_ECLOSE": 1002,
    "TH_EUTF8": 1007,
    "TH_EDEFLATE": 1007,
    "TH_EMESSAGE_SIZE": 1009,
    "TH_EPROXY": 400,
    "TH_EPROXY_SIZE": 400,
    # error codes of HTTP/2
    "TH_EHPACK": 0x9,
    "TH_EHPACK_SIZE": 0xB,
    "TH_EPREFACE": 0x1,
    "TH_EFIRST_FRAME": 0x1,
    "TH_EFRAME_STREAM": 0x1,
    "TH_ESTREAM_IDLE": 0x1,
    "TH_EPADDING": 0x1,
    "TH_EBLOCK": 0x1,
    "TH_ESETTING": 0x1,
    "TH_EINCREMENT": 0x1,
    "TH_EPUSH": 0x1,
    "TH_EPSEUDO": 0x1,
    "TH_EFIELD": 0x1,
    "TH_EHOP_BY_HOP": 0x1,
    "TH_ELENGTH": 0x1,
    "TH_ETRAILERS": 0x1,
    "TH_ESETTING_WINDOW": 0x3,
    "TH_EWINDOW": 0x3,
    "TH_ESTREAM_WINDOW": 0x3,
    "TH_ESTREAM_CLOSED": 0x5,
    "TH_EFRAME_SIZE": 0x6,
    "TH_EREFUSED": 0x7,
    "TH_EGLITCHES": 0xB,
    "TH_ERESETS": 0xB,
    "TH_EBLOCK_SIZE": 0xB,
    # and a refusal in HTTP/2
    "TH_EAUTHORITY": 400,
    "TH_EPRIORITIES": 0x1,
}


def test_every_status_has_a_code():
    errors = {name for name in dir(lib) if name.startswith("TH_E") and name != "TH_END"}
    assert errors == set(STATUS_CODES)
    values = [getattr(lib, name) for name in STATUS_CODES]
    assert len(set(values)) == len(values)
    for name, code in STATUS_CODES.items():
        assert getattr(lib, name) < 0
        assert lib.th_status_code(getattr(lib, name)) == code, name


def test_every_status_has_its_own_sentence():
    texts = {ffi.string(lib.th_status_text(getattr(lib, name))).decode() for name in STATUS_CODES}
    assert len(texts) == len(STATUS_CODES)
    unknown = ffi.string(lib.th_status_text(-1000)).decode()
    for text in texts:
        assert text != unknown
        assert text.isprintable()
        assert not text.endswith(".")
    assert ffi.string(lib.th_status_text(lib.TH_OK)).decode() not in texts


def test_llhttp_version_is_three_numbers():
    assert re.fullmatch(rb"\d+\.\d+\.\d+", ffi.string(lib.th_llhttp_version()))


def test_method_names_are_llhttps():
    count = lib.th_method_count()
    names = [ffi.string(lib.th_method_name(method)) for method in range(count)]
    assert names == [
        ffi.string(lib.llhttp_method_name(ffi.cast("llhttp_method_t", method)))
        for method in range(count)
    ]
    assert names[lib.HTTP_MSEARCH] == b"M-SEARCH"
    assert names[lib.HTTP_QUERY] == b"QUERY"
    assert ffi.string(lib.th_method_name(count)) == b""
    assert ffi.string(lib.th_method_name(-1)) == b""


def test_reason_phrase_of_what_has_none():
    for code in [-1, 0, 1, 99, 199, 299, 306, 600, 1000, 2**31 - 1]:
        assert ffi.string(lib.th_reason_phrase(code)) == b""


# --- Parser at the guard page ---------------------------------------------------------------------


def text(head, part) -> bytes:
    return ffi.buffer(head.data + part.offset, part.length)[:]


def run_at_guard(guard: Guard, pieces: list[bytes], **limits: int) -> tuple[list, int]:
    """The events of th_http1, with each piece at the end of memory and gone when used up."""
    numbers = vectors.LIMITS | limits
    http1 = ffi.gc(ffi.new("th_http1 *"), lib.th_http1_free)
    lib.th_http1_init(http1, ffi.new("th_http1_limits *", numbers))
    events: list = []
    for piece in pieces:
        lib.th_http1_feed(http1, guard.place(piece), len(piece))
        while (event := lib.th_http1_next(http1)) > 0:
            if event == lib.TH_HEAD:
                head = http1.head
                fields = [
                    lib.th_head_field(ffi.addressof(head), i) for i in range(head.field_count)
                ]
                events.append([text(head, field.name) for field in fields])
                events.append([text(head, field.value) for field in fields])
                events.append(text(head, head.target))
                events.append(b"")
            elif event == lib.TH_BODY:
                events[-1] += ffi.buffer(http1.body, http1.body_length)[:]
            else:
                events.append("end")
        if event < 0:
            ffi.buffer(http1.excerpt, http1.excerpt_length)[:]
            assert ffi.string(lib.th_http1_reason(http1))
            return events, event
        assert lib.th_http1_left(http1) == 0
        guard.poison()
    return events, 0


CASES = [case for case in vectors.load() if len(case.data) < 5000]


def test_parser_reads_no_byte_beyond_its_input():
    guard = Guard(8192)
    rng = random.Random(SEED)
    for case in CASES:
        data = case.data
        whole, status = run_at_guard(guard, [data], **case.limits)
        assert (lib.th_status_code(status) if status else None) == (
            vectors.parse([data], **case.limits).refused
        )
        styles = [vectors.bytewise(data)]
        styles += [vectors.random_pieces(data, rng) for _ in range(4)]
        for pieces in styles:
            assert run_at_guard(guard, pieces, **case.limits) == (whole, status), case.name


def test_parser_of_every_cut_of_a_request():
    guard = Guard()
    data = (
        b"\r\nPOST http://a/b%41?c HTTP/1.1\r\nHost: a\r\nX-Some: \t thing \r\nEmpty:\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nt: u\r\n\r\nFOO / HTTP/1.1\r\n"
    )
    whole = run_at_guard(guard, [data])
    assert whole == (
        [
            [b"Host", b"X-Some", b"Empty", b"Transfer-Encoding"],
            [b"a", b"thing", b"", b"chunked"],
            b"http://a/b%41?c",
            b"hello",
            "end",
        ],
        lib.TH_EMETHOD,
    )
    for pieces in vectors.halves(data):
        assert run_at_guard(guard, pieces) == whole

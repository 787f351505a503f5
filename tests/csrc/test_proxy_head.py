"""The PROXY protocol's head, at every split and up to a page without access."""

import random
import struct

import pytest
from guard import Guard

from thestral._csrc import ffi, lib

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
IPV4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack(">HH", 56324, 443)
IPV6 = bytes(range(32)) + struct.pack(">HH", 1, 65535)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")


def binary(command=0x21, family=0x11, addresses=IPV4, length=None) -> bytes:
    size = len(addresses) if length is None else length
    return SIGNATURE + struct.pack(">BBH", command, family, size) + addresses


def tlv(kind: int, value: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def with_checksum(*tlvs: bytes, **options) -> bytes:
    """A head with a checksum before the other TLVs."""
    head = binary(addresses=IPV4 + tlv(CRC32C, bytes(4)) + b"".join(tlvs), **options)
    place = 16 + len(IPV4) + 3
    return head[:place] + struct.pack(">I", crc32c(head)) + head[place + 4 :]


def crc32c(data: bytes) -> int:
    """CRC32C by its definition, a division of polynomials; the data is one large number."""
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    rest = int(bits, 2) << 32 ^ 0xFFFFFFFF << len(bits)
    for place in reversed(range(len(bits))):
        if rest >> place + 32 & 1:
            rest ^= 0x11EDC6F41 << place
    return ~int(f"{rest:032b}"[::-1], 2) & 0xFFFFFFFF


CRC32C, TLS, TLS_VERSION, TLS_NAME, TLS_CIPHER = 0x03, 0x20, 0x21, 0x22, 0x23
ABOUT_TLS = (
    tlv(TLS_VERSION, b"TLSv1.3")
    + tlv(TLS_NAME, "Zoë".encode())
    + tlv(TLS_CIPHER, b"TLS_AES_256_GCM_SHA384")
    + tlv(0x24, b"RSA-SHA256")
    + tlv(0x25, b"RSA2048")
)
SECURE = tlv(TLS, b"\x07\0\0\0\0" + ABOUT_TLS)


@pytest.fixture(scope="module")
def source():
    return Guard(2 * lib.TH_PROXY_HEAD_MAX)


def read(source, data: bytes):
    """(length or status, version, family, source, its port, destination, its port)."""
    head = ffi.new("th_proxy *")
    result = lib.th_proxy_read(source.place(data), len(data), head)
    ends = []
    if result > 0:
        for where, port in (
            (head.source, head.source_port),
            (head.destination, head.destination_port),
        ):
            ends += [data[where.offset : where.offset + where.length], port]
    return (result, head.version, head.family, *ends)


GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n": (
        *(1, lib.TH_PROXY_IPV4),
        *(b"192.0.2.1", 56324, b"198.51.100.7", 443),
    ),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": (
        *(1, lib.TH_PROXY_IPV4),
        *(b"255.255.255.255", 65535, b"255.255.255.255", 65535),
    ),
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 1\r\n": (
        *(1, lib.TH_PROXY_IPV6),
        *(b"2001:db8::1", 0, b"::ffff:192.0.2.1", 1),
    ),
    b"PROXY UNKNOWN\r\n": (1, lib.TH_PROXY_NONE, b"", 0, b"", 0),
    b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n": (1, lib.TH_PROXY_NONE, b"", 0, b"", 0),
    binary(): (2, lib.TH_PROXY_IPV4, IPV4[:4], 56324, IPV4[4:8], 443),
    binary(family=0x12): (2, lib.TH_PROXY_IPV4, IPV4[:4], 56324, IPV4[4:8], 443),
    binary(family=0x21, addresses=IPV6): (
        *(2, lib.TH_PROXY_IPV6),
        *(IPV6[:16], 1, IPV6[16:32], 65535),
    ),
    binary(family=0x31, addresses=UNIX): (2, lib.TH_PROXY_UNIX, b"/run/a", 0, b"/run/b", 0),
    binary(family=0x31, addresses=b"a" * 216): (
        *(2, lib.TH_PROXY_UNIX),
        *(b"a" * 108, 0, b"a" * 108, 0),
    ),
    binary(family=0x31, addresses=bytes(216)): (2, lib.TH_PROXY_UNIX, b"", 0, b"", 0),
    # LOCAL, whatever its family; UNSPEC; and TLVs after the addresses
    binary(command=0x20): (2, lib.TH_PROXY_NONE, b"", 0, b"", 0),
    binary(command=0x20, family=0x77, addresses=b""): (2, lib.TH_PROXY_NONE, b"", 0, b"", 0),
    binary(family=0x00, addresses=b"abc"): (2, lib.TH_PROXY_NONE, b"", 0, b"", 0),
    binary(addresses=IPV4 + b"\x04\x00\x01x"): (
        *(2, lib.TH_PROXY_IPV4),
        *(IPV4[:4], 56324, IPV4[4:8], 443),
    ),
    binary(addresses=IPV4.ljust(lib.TH_PROXY_HEAD_MAX - 16, b"\0")): (
        *(2, lib.TH_PROXY_IPV4),
        *(IPV4[:4], 56324, IPV4[4:8], 443),
    ),
}

BAD = {
    lib.TH_EPROXY: [
        b"GET / HTTP/1.1\r\n",
        b"PROXX",
        b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY \r\n",
        b"PROXY\r\n",
        b"PROXY \n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1a\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP6 ::1 :: 1 1 \r\n",
        b"PROXY TCP6 ::1%eth0 ::1 1 1\r\n",
        b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
        b"\r\n\r\n\x00\r\nQUIT\r",
        b"\r\nX",
        binary(command=0x11),
        binary(command=0x22),
        binary(family=0x10),
        binary(family=0x13),
        binary(family=0x41),
        binary(addresses=IPV4[:-1]),
        binary(family=0x21, addresses=IPV6[:-1]),
        binary(family=0x31, addresses=UNIX[:-1]),
        # TLVs: cut short, at the beginning, after a valid one, and within that about TLS; twice
        *(binary(addresses=IPV4 + SECURE[:end]) for end in range(1, len(SECURE))),
        binary(addresses=IPV4 + SECURE + b"\0"),
        binary(family=0x21, addresses=IPV6 + SECURE[:-1]),
        binary(family=0x31, addresses=UNIX + b"\x04\0"),
        *(binary(addresses=IPV4 + tlv(TLS, b"\x01\0\0\0\0"[:size])) for size in range(5)),
        *(
            binary(addresses=IPV4 + tlv(TLS, b"\x01\0\0\0\0" + tlv(TLS_VERSION, b"T")[:size]))
            for size in range(1, 4)
        ),
        binary(addresses=IPV4 + SECURE + SECURE),
        *(
            binary(addresses=IPV4 + tlv(TLS, b"\x01\0\0\0\0" + tlv(kind, b"T") * 2))
            for kind in (TLS_VERSION, TLS_NAME, TLS_CIPHER)
        ),
        # Checksums: wrong, of a wrong size, twice
        binary(addresses=IPV4 + tlv(CRC32C, bytes(4))),
        *(binary(addresses=IPV4 + tlv(CRC32C, bytes(size))) for size in (0, 3, 5)),
        with_checksum(with_checksum()[-7:]),
    ],
    lib.TH_EPROXY_SIZE: [
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        b"PROXY UNKNOWN " + b"f" * 200,
        binary(length=lib.TH_PROXY_HEAD_MAX - 15),
        binary(length=65535),
    ],
}


# TLVs after the addresses: bits, verification, version, name and cipher.
SAID = {
    SECURE: (7, 0, b"TLSv1.3", "Zoë".encode(), b"TLS_AES_256_GCM_SHA384"),
    tlv(0x04) + tlv(0xEA, b"x" * 300) + SECURE + tlv(0x04, b"..."): (
        *(7, 0, b"TLSv1.3", "Zoë".encode(), b"TLS_AES_256_GCM_SHA384"),
    ),
    tlv(TLS, b"\x03\0\0\x01\x0a" + tlv(TLS_VERSION, b"TLSv1.2")): (
        *(3, 266, b"TLSv1.2", b"", b""),
    ),
    tlv(TLS, b"\xf9\xff\xff\xff\xff"): (1, 0xFFFFFFFF, b"", b"", b""),
    tlv(TLS, b"\0\0\0\0\0"): (0, 0, b"", b"", b""),
    # An empty value, and a TLS version outside of the TLV for TLS
    tlv(TLS, b"\x01\0\0\0\0" + tlv(TLS_VERSION)): (1, 0, b"", b"", b""),
    tlv(TLS_VERSION, b"TLSv1.3"): (0, 0, b"", b"", b""),
    b"": (0, 0, b"", b"", b""),
}
SAID_HEADS = {binary(addresses=IPV4 + tlvs): said for tlvs, said in SAID.items()}
SAID_HEADS |= {with_checksum(tlvs): said for tlvs, said in SAID.items()}
SAID_HEADS |= {
    binary(family=0x21, addresses=IPV6 + SECURE): SAID[SECURE],
    binary(family=0x31, addresses=UNIX + SECURE): SAID[SECURE],
    binary(command=0x20, addresses=IPV4 + SECURE): SAID[b""],
    binary(command=0x20, addresses=IPV4 + SECURE[:-1]): SAID[b""],
    binary(family=0x00, addresses=SECURE): SAID[b""],
}


@pytest.mark.parametrize("data", SAID_HEADS, ids=range(len(SAID_HEADS)))
def test_what_a_head_says_of_tls(source, data):
    head = ffi.new("th_proxy *")
    assert lib.th_proxy_read(source.place(data), len(data), head) == len(data)
    texts = [
        data[where.offset : where.offset + where.length]
        for where in (head.tls_version, head.tls_name, head.tls_cipher)
    ]
    assert (head.tls, head.tls_verify, *texts) == SAID_HEADS[data]
    for end in range(len(data)):
        assert lib.th_proxy_read(source.place(data[:end]), end, head) == 0, end


def test_the_oracle_of_checksums_knows_the_published_value():
    assert crc32c(b"123456789") == 0xE3069283


def test_any_bit_that_differs_breaks_the_checksum(source):
    good = with_checksum(SECURE)
    for place in range(len(good)):
        # Without the length, or the type of the checksum, there is no checksum to fail.
        if place in (14, 15, 28):
            continue
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            is_local = (place, bit) == (12, 0)  # whose content is ignored
            assert (read(source, bytes(bad))[0] > 0) is is_local, (place, bit)


@pytest.mark.parametrize("data", GOOD, ids=range(len(GOOD)))
def test_a_head_is_read_whole_and_at_no_cut_before(source, data):
    expected = (len(data), *GOOD[data])
    assert len(data) <= lib.TH_PROXY_HEAD_MAX
    assert read(source, data) == expected
    assert read(source, data + b"GET / HTTP/1.1\r\n") == expected
    for end in range(len(data)):
        assert read(source, data[:end])[0] == 0, end


@pytest.mark.parametrize(
    ("status", "data"),
    [(status, data) for status, table in BAD.items() for data in table],
    ids=range(sum(map(len, BAD.values()))),
)
def test_a_wrong_head_has_one_verdict_however_it_is_cut(source, status, data):
    verdicts = [read(source, data[:end])[0] for end in range(len(data) + 1)]
    assert verdicts[-1] == status
    first = verdicts.index(status)
    assert set(verdicts[:first]) <= {0}
    assert set(verdicts[first:]) == {status}
    assert read(source, data + b"GET / HTTP/1.1\r\n\r\n")[0] == status


def test_nothing_but_a_head_is_read(source):
    """Valid heads, changed at random, give a length within the data, a refusal, or a wait."""
    chance = random.Random(1)
    heads = list(GOOD)
    seen = set()
    for _ in range(20_000):
        data = bytearray(chance.choice(heads)[:300])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(
                [0, 10, 13, 32, 48, 255, chance.randrange(256)]
            )
        result = read(source, bytes(data))[0]
        assert result <= len(data)
        if result == 0:
            assert len(data) < lib.TH_PROXY_HEAD_MAX
        seen.add(min(result, 1))
    assert seen == {1, 0, lib.TH_EPROXY, lib.TH_EPROXY_SIZE}

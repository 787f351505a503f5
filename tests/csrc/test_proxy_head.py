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
    # LOCAL, whatever it names; UNSPEC; and TLVs behind the addresses
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
    ],
    lib.TH_EPROXY_SIZE: [
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        b"PROXY UNKNOWN " + b"f" * 200,
        binary(length=lib.TH_PROXY_HEAD_MAX - 15),
        binary(length=65535),
    ],
}


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
    """Random changes of good heads: a length within the data, a refusal, or a wait."""
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

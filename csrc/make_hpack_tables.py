"""Writes hpack_tables.h: the static table and the Huffman code of RFC 7541 (appendices A and B),
and how the encoder treats the fields that it knows by name.

    python csrc/make_hpack_tables.py > csrc/hpack_tables.h

A test compares the file with what this prints.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator

WIDTH = 120  # columns

# --- RFC 7541 appendix A --------------------------------------------------------------------------

STATIC = [
    *((":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/")),
    *((":path", "/index.html"), (":scheme", "http"), (":scheme", "https")),
    *((":status", code) for code in ("200", "204", "206", "304", "400", "404", "500")),
    *(("accept-charset", ""), ("accept-encoding", "gzip, deflate")),
    *(
        (name, "")
        for name in (
            *("accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age"),
            *("allow", "authorization", "cache-control", "content-disposition"),
            *("content-encoding", "content-language", "content-length", "content-location"),
            *("content-range", "content-type", "cookie", "date", "etag", "expect", "expires"),
            *("from", "host", "if-match", "if-modified-since", "if-none-match", "if-range"),
            *("if-unmodified-since", "last-modified", "link", "location", "max-forwards"),
            *("proxy-authenticate", "proxy-authorization", "range", "referer", "refresh"),
            *("retry-after", "server", "set-cookie", "strict-transport-security"),
            *("transfer-encoding", "user-agent", "vary", "via", "www-authenticate"),
        )
    ),
]

# --- RFC 7541 appendix B --------------------------------------------------------------------------

# Bits of each symbol's code, EOS last. The code is canonical: codes count up, the shorter ones
# first, and among codes of a length in the order of the symbols.
LENGTHS = [
    *(13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28),
    *(28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28),
    *(6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6),
    *(5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10),
    *(13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7),
    *(7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6),
    *(15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5),
    *(6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28),
    *(20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23),
    *(24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24),
    *(22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23),
    *(21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23),
    *(26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25),
    *(19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27),
    *(20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23),
    *(26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26),
    30,
]
EOS = 256
# Bits that are decoded at once: the codes of nearly all printable ASCII, and pairs of the most
# frequent characters. The table takes 8 KB; each bit more would double it.
STEP = 11

# --- What the encoder knows -----------------------------------------------------------------------

# A field that is inserted costs its bytes once, and one byte each further time. One that never
# comes again with the same value costs the same bytes, and evicts others.
REPEATED = [
    # The same in all responses of a server, or of one second.
    *(":status", "server", "date", "via", "x-powered-by", "alt-svc", "strict-transport-security"),
    # A few values in an application: what it sends, and how it may be kept.
    *("content-type", "content-encoding", "content-language", "cache-control", "vary", "pragma"),
    *("accept-ranges", "allow", "x-accel-buffering"),
    # CORS: what a middleware adds to each response. (The origin is the page's, the same for a
    # connection.)
    *("access-control-allow-origin", "access-control-allow-credentials"),
    *("access-control-allow-methods", "access-control-allow-headers"),
    *("access-control-expose-headers", "access-control-max-age", "timing-allow-origin"),
    # Security: the same. content-security-policy is not here, because it often carries a nonce.
    *("x-content-type-options", "x-frame-options", "x-xss-protection", "referrer-policy"),
    *("permissions-policy", "cross-origin-opener-policy", "cross-origin-embedder-policy"),
    *("cross-origin-resource-policy",),
    # gRPC: in each response.
    *("grpc-status", "grpc-encoding", "grpc-accept-encoding"),
]
# Secrets that somebody who sends fields on the same connection, a script or another client of a
# proxy, could guess by watching lengths if they were in a table (RFC 7541 section 7.1):
# credentials, sessions, tokens. Never indexed, so that no proxy puts them into a table of its own.
SECRET = [
    *("set-cookie", "cookie", "authorization", "proxy-authorization", "authentication-info"),
    *("proxy-authentication-info", "x-auth-token", "x-csrf-token"),
]
# The other names of the static table are literals without indexing: of a resource (etag, expires,
# last-modified, link, location, content-disposition, content-location), of a body (content-length,
# content-range, age), or rare in responses.

SLOTS = 512  # of the hash table of names


@functools.cache
def codes() -> list[int]:
    """Each symbol's code."""
    found = [0] * len(LENGTHS)
    code = bits = 0
    for symbol in sorted(range(len(LENGTHS)), key=lambda symbol: (LENGTHS[symbol], symbol)):
        code <<= LENGTHS[symbol] - bits
        bits = LENGTHS[symbol]
        found[symbol] = code
        code += 1
    assert code == 1 << bits, "the code is not complete"
    return found


def steps() -> Iterator[int]:
    """What the next STEP bits are: 8 bits for each of two symbols, then the number of their bits
    (8), of the first one's (4), and how many there are (4). A longer code is 0.
    """
    first = dict.fromkeys(range(1 << STEP), (0, 0))  # symbol and bits
    for symbol, code in enumerate(codes()):
        if LENGTHS[symbol] <= STEP:
            free = STEP - LENGTHS[symbol]
            for rest in range(1 << free):
                first[code << free | rest] = symbol, LENGTHS[symbol]
    for window in range(1 << STEP):
        symbol, bits = first[window]
        following, more = first[window << bits & (1 << STEP) - 1]
        if not bits:
            yield 0
        elif more and bits + more <= STEP:
            yield symbol | following << 8 | bits + more << 16 | bits << 24 | 2 << 28
        else:
            yield symbol | bits << 16 | bits << 24 | 1 << 28


def long_codes() -> tuple[list[str], list[int]]:
    """Rows for each length above STEP; the symbols of these codes in their order, without EOS."""
    rows, symbols = [], []
    order = sorted(range(EOS), key=lambda symbol: (LENGTHS[symbol], symbol))
    for bits, group in itertools.groupby(order, key=lambda symbol: LENGTHS[symbol]):
        if bits > STEP:
            members = list(group)
            least, most = (codes()[members[i]] for i in (0, -1))
            first, end = least << 32 - bits, most + 1 << 32 - bits
            rows.append(f"{{0x{end:08x}, 0x{first:08x}, {bits}, {len(symbols)}}},")
            symbols += members
    return rows, symbols


def names() -> list[str]:
    """What the encoder knows, by id from 1 on: repeated ones, secrets, the others."""
    known = [*REPEATED, *SECRET]
    return known + [name for name in dict(STATIC) if name not in known]


def place(name: str, factors: tuple[int, int, int, int]) -> int:
    data = name.encode()
    marks = (len(data), data[len(data) // 4], data[len(data) // 2], data[-2])
    return sum(mark * factor for mark, factor in zip(marks, factors, strict=True)) % SLOTS


def hash_factors() -> tuple[int, int, int, int]:
    """Factors that give each name a place of its own: the first that a fixed seed comes to."""
    known = names()
    rng = random.Random(7541)
    for _ in range(100_000):
        factors = (rng.randrange(64), rng.randrange(64), rng.randrange(64), rng.randrange(64))
        if len({place(name, factors) for name in known}) == len(known):
            return factors
    raise AssertionError("two names differ neither in length nor in the bytes that are hashed")


def filled(items: Iterable[object]) -> str:
    """Items in lines."""
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(f" {item},") > WIDTH - 3:
            lines.append("")
        lines[-1] += f" {item},"
    return "\n".join(f"   {line}" for line in lines)


def known_rows() -> Iterator[str]:
    static = [name for name, _ in STATIC]
    for name in names():
        first = static.index(name) + 1 if name in static else 0
        yield f'{{"{name}", {len(name)}, {first}, {static.count(name)}}},'


def header() -> str:
    known = names()
    factors = hash_factors()
    places = [0] * SLOTS
    for number, name in enumerate(known, 1):
        places[place(name, factors)] = number
    rows, symbols = long_codes()
    static = [
        f'{{"{name}", {len(name)}, "{value}", {len(value)}, NULL, 0, {index}, {index}, 0}},'
        for index, (name, value) in enumerate(STATIC, 1)
    ]
    indent = "\n    "
    return f"""\
/* Generated by make_hpack_tables.py, which says what stands here and why. For hpack.c alone. */
#ifndef TH_HPACK_TABLES_H
#define TH_HPACK_TABLES_H

#include "hpack.h"

enum {{ STATIC_COUNT = {len(STATIC)}, STEP_BITS = {STEP}, SECRET_COUNT = {len(SECRET)} }};
_Static_assert(TH_HPACK_REPEATED == {len(REPEATED)}, "hpack.h has another number of them");

/* RFC 7541 appendix A, by index. */
static const th_hpack_field STATIC_FIELDS[STATIC_COUNT + 1] = {{
    {{"", 0, "", 0, NULL, 0, 0, 0, 0}},
    {indent.join(static)}
}};

/* RFC 7541 appendix B: what the next STEP_BITS bits are. From bit 0 on, a symbol (8 bits), the
 * next one (8), the number of bits of both (8), of the first (4), and how many symbols there are
 * (4): 0 for a longer code. */
static const uint32_t STEPS[1 << STEP_BITS] = {{
{filled(f"0x{step:08x}" for step in steps())}
}};

/* Longer codes, by their number of bits. Codes of 32 bits, left-aligned: `first` is the first of
 * this length, `end` is behind the last. `symbols` is where theirs begin in LONG_SYMBOLS. What is
 * not below the last end is EOS. */
static const struct {{
  uint32_t end;
  uint32_t first;
  uint8_t bits;
  uint8_t symbols;
}} LONG_CODES[] = {{
    {indent.join(rows)}
}};
static const uint8_t LONG_SYMBOLS[] = {{
{filled(symbols)}
}};

/* Names that the encoder knows, by id: from 1 on those that are inserted, then secrets, then the
 * others. */
typedef struct {{
  const char *name;
  uint8_t length;
  uint8_t index; /* the first in the static table with this name, 0 if there is none */
  uint8_t count; /* how many there are */
}} known_name;
static const known_name KNOWN[] = {{
    {{"", 0, 0, 0}},
    {indent.join(known_rows())}
}};

enum {{ SHORTEST_NAME = {min(map(len, known))}, LONGEST_NAME = {max(map(len, known))} }};

/* A perfect hash: where the id of a name of such a length is in KNOWN_AT, if the name is known. */
static inline uint32_t known_place(const char *name, size_t n) {{
  return ((uint32_t)n * {factors[0]} + (uint8_t)name[n / 4] * {factors[1]}u +
          (uint8_t)name[n / 2] * {factors[2]}u + (uint8_t)name[n - 2] * {factors[3]}u) % {SLOTS};
}}
static const uint8_t KNOWN_AT[{SLOTS}] = {{
{filled(places)}
}};

#endif
"""


if __name__ == "__main__":
    print(header(), end="")

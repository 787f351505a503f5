"""Mutated field blocks: th_hpack against PyPI's hpack and nghttp2, block by block on connections.

Fields, tables and verdicts must be the same. Where they are not, DIFFERENCES must name something in
the block that explains it; otherwise the test fails.

Each test goes on for THESTRAL_FUZZ_SECONDS beyond its first inputs. An input follows from its
number alone, so that a failure can be repeated.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import hpack
import pytest
from vectors.hpack import Decoder, Encoder, incremental, indexed, integer, literal, load, update
from vectors.hpack_peers import HUFFMAN, Hpack, Nghttp2, requests, responses, size

SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS") or 0)
SEED = 7541
INPUTS = 1500  # connections of each test, however little time it has

CORPUS = [block.data for case in load() for block in case.blocks if len(block.data) < 300]
STRAYS = [
    *(b"\x80", b"\xff", b"\xff\x80\x00", b"\x40", b"\x00", b"\x10", b"\x0f", b"\x7f", b"\x3f"),
    *(b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80", b"\x82", b"\xbe", b"\xbf", b"\xc0", b"\xd0"),
    *(update(0), update(100), update(4096), update(4097), update(65536)),
    *(incremental(b"", b""), incremental(b"a", b"b" * 90), incremental(62, b"c"), literal(63, b"")),
    *(indexed(61), indexed(62), indexed(63), literal(b"n", b"v", 4, 0x10), incremental(31, b"w")),
    *(b"\x04\x81\xff", b"\x04\x81\x1f", b"\x04\x82\x18\xff", b"\x04\x84\xff\xff\xff\xff"),
    b"\x04" + integer(32, 7, 0x80) + HUFFMAN.encode(bytes(range(32)))[:32],
    b"\x04" + integer(0, 7, 0x80, 0),
    b"\x04" + integer(127, 7, 0, 3) + b"x" * 127,
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Make a few small changes: bits and bytes changed, removed, repeated, inserted."""
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:at] + rng.choice(STRAYS) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(1, 6) :]
        elif kind == 2 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 4:
            data = data[:at] + data[at : at + rng.randrange(1, 20)] * 2 + data[at:]
        elif kind == 5:
            data += rng.choice(STRAYS)
        elif kind == 6:
            data = rng.choice(STRAYS) + data
        else:
            data = data[:at]
    return data


def connection(rng: random.Random, limit: int) -> list[bytes]:
    """Blocks: an encoder's traffic, vectors, or random bytes; some of them mutated."""
    count = rng.randrange(1, 8)
    kind = rng.randrange(4)
    if kind == 0:
        encoder = hpack.Encoder()
        encoder.header_table_size = limit
        huffman = rng.random() < 0.7
        blocks = [encoder.encode(fields, huffman) for fields in requests(rng, count)]
    elif kind == 1:
        ours = Encoder(rng.choice((limit, 4096)))
        ours.resize(limit)
        blocks = [ours.block(fields, status) for status, fields in responses(rng, count)]
    elif kind == 2:
        blocks = [b"".join(rng.choices(STRAYS, k=rng.randrange(6))) for _ in range(count)]
    else:
        blocks = rng.choices(CORPUS, k=count)
    return [mutate(block, rng) if rng.random() < 0.3 else block for block in blocks]


def inputs() -> Iterator[tuple[str, int, list[bytes]]]:
    """Name, size of the table, blocks."""
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= INPUTS and time.monotonic() >= end:
            return
        rng = random.Random(f"{SEED} {number}")
        limit = size(rng)
        yield f"connection {number}", limit, connection(rng, limit)


# Properties of a block that one of the others judges differently.
UPDATES = "more than two size updates"

DIFFERENCES = {
    Hpack: {
        UPDATES: "takes any number; RFC 7541 section 4.2: an encoder needs at most two",
    },
    Nghttp2: {
        UPDATES: "takes any number; RFC 7541 section 4.2: an encoder needs at most two",
    },
}


def oddities(block: bytes) -> set[str]:
    """The properties of the above kind that a block has."""
    found = set()
    updates = 0
    at = 0
    while at < len(block) and block[at] >> 5 == 1:
        updates += 1
        long = block[at] & 31 == 31
        at += 1
        while long and at < len(block):
            long = block[at] >= 128
            at += 1
    if updates > 2:
        found.add(UPDATES)
    return found


@pytest.mark.parametrize("peer", DIFFERENCES)
def test_against(peer):
    seen: Counter[str] = Counter()
    for name, limit, blocks in inputs():
        ours, theirs = Decoder(limit), peer(limit)
        for number, block in enumerate(blocks):
            one, other = ours.outcome(block), theirs.outcome(block)
            context = (name, number, limit, block, one, other)
            if bool(one.failed) != bool(other.failed):
                assert oddities(block) & DIFFERENCES[peer].keys(), context
                seen["different"] += 1
                break
            if one.failed:
                seen["failed"] += 1
                break
            assert one == other, context
            seen["taken"] += 1
    # Most blocks compare something, and not only refusals.
    assert seen["taken"] > seen.total() / 2, seen
    assert seen["failed"] > seen.total() / 10, seen
    assert seen["different"] < seen.total() / 50, seen


def test_what_came_before_a_refusal_is_what_nghttp2_gives():
    for name, limit, blocks in inputs():
        ours, theirs = Decoder(limit), Nghttp2(limit)
        for block in blocks:
            one, other = ours.outcome(block), theirs.outcome(block)
            assert one.fields == other.fields or oddities(block), (name, block)
            if one.failed or other.failed:
                break

"""th_hpack through cffi, blocks at a guard page: the examples of RFC 7541, both tables, the
encoder's choices, and the traffic of whole connections against PyPI's hpack and nghttp2.
"""

import random
import subprocess
import sys

import hpack
import pytest
from guard import Guard
from hpack.table import HeaderTable
from portable import ROOT
from vectors import hpack as vectors
from vectors.hpack import (
    Decoder,
    Encoder,
    Refused,
    incremental,
    indexed,
    integer,
    literal,
    size_of,
    string,
    update,
)
from vectors.hpack_peers import HUFFMAN, Hpack, Nghttp2, requests, responses, size

from thestral._csrc import ffi, lib

CASES = vectors.load()
STATIC = [tuple(entry) for entry in HeaderTable.STATIC_TABLE]
CONNECTIONS = 60  # of each kind of traffic
ENTRY = 20  # bytes of an entry: hpack.h


@pytest.fixture(scope="module")
def guard():
    return Guard(1 << 18)


@pytest.fixture
def make(guard):
    """Function (max_size, string_max) that gives a decoder whose blocks lie at a guard page."""

    def make(max_size=vectors.TABLE_SIZE, string_max=vectors.STRING_MAX):
        return Decoder(max_size, string_max, guard.place)

    return make


def pairs(fields):
    return [(field.name, field.value) for field in fields]


def status_of(decoder, block):
    """The status with which a block is refused, or 0."""
    try:
        decoder.fields(block)
    except Refused as exc:
        return exc.status
    return 0


# --- Vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_vectors(make, case):
    decoder = make(case.max_size, case.string_max)
    for block in case.blocks:
        outcome = decoder.outcome(block.data)
        if block.expected.failed:
            assert (outcome.fields, outcome.failed) == (
                block.expected.fields,
                block.expected.failed,
            )
            assert status_of(decoder, b"\x82") == block.expected.failed  # for good
        else:
            assert outcome == block.expected


def test_vectors_encoded():
    encoded = [case for case in CASES if case.encoded]
    assert len(encoded) == 3
    for case in encoded:
        encoder = Encoder(case.max_size)
        for block in case.blocks:
            assert encoder.block(block.expected.fields) == block.data, case.name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_beginning_of_a_block(make, case):
    for number, block in enumerate(case.blocks):
        for end in range(len(block.data)):
            decoder = make(case.max_size, case.string_max)
            for before in case.blocks[:number]:
                decoder.outcome(before.data)
            outcome = decoder.outcome(block.data[:end])
            assert outcome.fields == block.expected.fields[: len(outcome.fields)]
            assert outcome.failed in (0, lib.TH_EHPACK, lib.TH_EHPACK_SIZE)


# --- Static table and Huffman code ----------------------------------------------------------------


def test_tables_are_what_the_script_writes():
    script = ROOT / "csrc/make_hpack_tables.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "csrc/hpack_tables.h").read_text()


@pytest.mark.parametrize("index", range(1, 62))
def test_every_static_entry(make, index):
    name, value = STATIC[index - 1]
    (field,) = make().fields(indexed(index))
    assert field == vectors.Field(name, value, index=index, name_index=index)
    for kind in ((4, 0), (4, 0x10)):
        (field,) = make().fields(literal(index, b"v", *kind))
        assert field == vectors.Field(name, b"v", name_index=index, never_indexed=kind == (4, 0x10))
    first, again, other = make().fields(incremental(index, b"v") + indexed(62) + literal(62, b"w"))
    assert first == again == vectors.Field(name, b"v", serial=1, name_index=index, note=0)
    assert other == vectors.Field(name, b"w", name_index=index)
    assert Encoder().block([(name, value)]) in (indexed(index), literal(index, b"", 4, 0x10))


@pytest.mark.parametrize("byte", range(256))
def test_every_symbol_of_the_huffman_code(make, byte):
    for count in (1, 2, 3, 8, 9, 30):
        for before in (b"", b"a", b"--", b"0&\x00"):
            text = before + bytes([byte]) * count
            coded = HUFFMAN.encode(text)
            block = b"\x00" + integer(len(coded), 7, 0x80) + coded + b"\x01v"
            assert pairs(make().fields(block)) == [(text, b"v")]


def test_huffman_strings_of_all_kinds(make):
    rng = random.Random(7541)
    decoder = make()
    for _ in range(4000):
        alphabet = rng.choice(
            (bytes(range(256)), bytes(range(32, 127)), b"aeiost012 -/", b"\x00z~")
        )
        texts = [bytes(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(2)]
        coded = [HUFFMAN.encode(text) for text in texts]
        first = rng.choice((0x00, 0x10, 0x40))
        block = bytes([first]) + b"".join(integer(len(c), 7, 0x80) + c for c in coded)
        assert pairs(decoder.fields(block)) == [tuple(texts)]


# --- Integers and strings -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16510, 16511, 65535])
def test_strings_of_any_length(make, length):
    text = b"x" * length
    (field,) = make().fields(b"\x00" + string(text) + string(text[1:]))
    assert (field.name, field.value) == (text, text[1:])
    block = b"\x00" + string(text) + string(text[1:])
    if length:
        assert status_of(make(), block[:-1]) == lib.TH_EHPACK


@pytest.mark.parametrize("zeros", range(8))
@pytest.mark.parametrize("value", [31, 32, 158, 159, 4095, 4096])
def test_integers_with_zeros_at_their_end(make, value, zeros):
    block = integer(value, 5, 0x20, zeros)
    allowed = len(block) <= 6
    assert status_of(make(), block) == (0 if allowed else lib.TH_EHPACK)


@pytest.mark.parametrize("value", [2**32 - 1, 2**32, 2**35 - 1, 2**63, 2**64 + 1])
def test_integers_that_are_too_large(make, value):
    for block in (indexed(value), update(value), literal(value, b""), b"\x00" + integer(value, 7)):
        assert status_of(make(), block) == lib.TH_EHPACK
    assert status_of(make(), b"\x00\x01a" + integer(value, 7, 0x80)) == lib.TH_EHPACK


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_limit_of_strings(make, limit, coded):
    for length in (limit - 1, limit, limit + 1, 5 * limit):
        if length < 0:
            continue
        text = b"\x00" * length if length % 2 else b"a" * length  # codes of 13 and 5 bits
        data = HUFFMAN.encode(text) if coded else text
        value = integer(len(data), 7, 0x80 * coded) + data
        expected = 0 if length <= limit else lib.TH_EHPACK_SIZE
        assert status_of(make(string_max=limit), b"\x04" + value) == expected
        assert status_of(make(string_max=limit), b"\x00" + value + b"\x00") == expected


# --- Dynamic table --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 17, 40])
def test_eviction_at_the_limit(make, count):
    entries = [(b"name-%02d" % i, b"value") for i in range(count)]
    block = b"".join(incremental(*entry) for entry in entries)
    exact = size_of(entries)
    for limit, kept in ((exact - 1, count - 1), (exact, count), (exact + 1, count)):
        decoder = make(limit)
        decoder.fields(block)
        assert decoder.table() == entries[::-1][:kept]
        assert status_of(decoder, indexed(61 + kept)) == 0
        assert status_of(decoder, indexed(62 + kept)) == lib.TH_EHPACK


@pytest.mark.parametrize("count", [1, 2, 17])
def test_size_update_at_the_limit(make, count):
    entries = [(b"name-%02d" % i, b"value") for i in range(count)]
    exact = size_of(entries)
    for limit, kept in ((exact - 1, count - 1), (exact, count), (exact + 1, count), (0, 0)):
        decoder = make()
        decoder.fields(b"".join(incremental(*entry) for entry in entries))
        decoder.fields(update(limit))
        assert decoder.table() == entries[::-1][:kept]
        decoder.fields(update(4096) + incremental(b"a", b"b"))
        assert decoder.table() == [(b"a", b"b"), *entries[::-1][:kept]]


def test_two_size_updates_evict_what_the_smaller_one_does(make):
    decoder = make()
    decoder.fields(incremental(b"a", b"b"))
    decoder.fields(update(0) + update(4096) + incremental(b"c", b"d"))
    assert decoder.table() == [(b"c", b"d")]
    assert status_of(decoder, update(1) + update(2) + update(3)) == lib.TH_EHPACK


def test_table_above_the_size_that_a_connection_begins_with(make):
    entries = [(b"n", b"%04000d" % i) for i in range(3)]
    decoder = make(65536)
    decoder.fields(incremental(*entries[0]) + incremental(*entries[1]))
    assert decoder.table() == [entries[1]]
    decoder.fields(update(65536) + incremental(*entries[0]) + incremental(*entries[2]))
    assert decoder.table() == [entries[2], entries[0], entries[1]]


def test_note_and_serial_stay_with_their_entry(make):
    rng = random.Random(3)
    decoder = make(2000)
    out = ffi.new("th_hpack_field *")
    kept = {}
    inserted = 0
    for number in range(3000):
        count = decoder.struct.table.count
        is_new = not count or rng.random() < 0.4
        value = b"%d" % number * rng.randrange(30)
        block = incremental(b"n", value) if is_new else indexed(62 + rng.randrange(count))
        data = ffi.from_buffer(block)
        lib.th_hpack_begin(decoder.struct, data, len(block))
        assert lib.th_hpack_next(decoder.struct, out) == 1
        field = decoder.read(out)
        if is_new:
            inserted += 1
            assert (field.serial, field.note) == (inserted, 0)
            out.note[0] = rng.randrange(1, 2**32)
            kept[inserted] = (value, out.note[0])
        assert kept[field.serial] == (field.value, out.note[0])
        assert lib.th_hpack_next(decoder.struct, out) == 0
    assert inserted > 1000


def test_field_that_is_no_entry_has_no_note(make):
    too_large = incremental(b"n", b"v" * 100)
    for block in (indexed(2), literal(2, b"v"), literal(b"n", b"v", 4, 0x10), too_large):
        (field,) = make(100).fields(block)
        assert (field.note, field.serial) == (None, 0)


def test_only_the_never_indexed_literal_is_marked(make):
    block = literal(b"n", b"v", 4, 0x10) + literal(b"n", b"v") + literal(31, b"v", 4, 0x10)
    block += incremental(17, b"v") + incremental(b"n", b"v") + indexed(62) + indexed(17)
    block += incremental(b"n", b"v" * 5000)
    fields = make().fields(block)
    assert [field.never_indexed for field in fields] == [True, False, True, *[False] * 5]


def test_name_in_an_entry_that_moves_while_it_is_inserted(make):
    # The bytes of a small table are moved often; each entry has its name from the one before.
    decoder = make(700)
    decoder.fields(incremental(b"the-name", b""))
    for number in range(2000):
        value = b"%d" % number * (number % 90)
        (field,) = decoder.fields(incremental(62 + number % decoder.struct.table.count, value))
        assert (field.name, field.value) == (b"the-name", value)
        assert decoder.table()[0] == (b"the-name", value)


# --- Memory ---------------------------------------------------------------------------------------


def test_no_memory_before_the_first_insertion(make):
    decoder = make()
    decoder.fields(b"".join(map(indexed, range(1, 62))) + literal(b"n", b"v") + literal(4, b"v"))
    table = decoder.struct.table
    assert table.bytes.data == table.entries.data == decoder.struct.scratch.data == ffi.NULL
    encoder = Encoder()
    encoder.block([(b":path", b"/a"), (b"set-cookie", b"a=b"), (b"x-own", b"v")], 200)
    assert encoder.struct.table.bytes.data == ffi.NULL


@pytest.mark.parametrize("max_size", [100, 4096, 5000, 60_000])
def test_memory_of_a_table_is_bounded_and_moved_seldom(make, max_size):
    rng = random.Random(5)
    decoder = make(max_size)
    decoder.fields(update(max_size))
    table = decoder.struct.table
    capacities = set()
    for _ in range(3000):
        decoder.fields(
            incremental(rng.randbytes(rng.randrange(9)), rng.randbytes(rng.randrange(99)))
        )
        capacities.add(table.bytes.capacity)
    decoder.table()  # looks at the bounds
    assert len(capacities) <= 9
    for _ in range(3000):
        decoder.fields(incremental(b"", b""))
    assert table.count == max_size // 32
    assert table.entries.capacity <= max(512, 2 * ENTRY * (max_size // 32))


def test_memory_for_a_few_small_entries_is_small(make):
    decoder = make()
    decoder.fields(b"".join(incremental(b"name", b"value") for _ in range(16)))
    assert decoder.struct.table.bytes.capacity + decoder.struct.table.entries.capacity <= 1024


@pytest.mark.parametrize("longest", [5, 99, 900])
def test_rest_gives_memory_back_and_changes_nothing(make, longest):
    rng = random.Random(longest)
    rests, goes_on = make(), make()
    for _ in range(400):
        entry = incremental(rng.randbytes(rng.randrange(9)), rng.randbytes(rng.randrange(longest)))
        assert rests.fields(entry) == goes_on.fields(entry)
        if rng.random() < 0.3:
            lib.th_hpack_decoder_rest(rests.struct)
            table = rests.struct.table
            used = sum(len(name) + len(value) for name, value in rests.table())
            assert table.bytes.capacity <= max(512, used) + 512
            assert rests.struct.scratch.data == ffi.NULL
        assert rests.table() == goes_on.table()


def test_rest_before_the_first_insertion_and_behind_the_last_eviction(make):
    decoder = make()
    lib.th_hpack_decoder_rest(decoder.struct)
    assert decoder.struct.table.bytes.data == ffi.NULL
    decoder.fields(incremental(b"name", b"v" * 4000))
    decoder.fields(update(0))
    lib.th_hpack_decoder_rest(decoder.struct)
    assert decoder.struct.table.bytes.capacity == 512
    decoder.fields(update(4096) + incremental(b"", b""))
    assert decoder.table() == [(b"", b"")]


def test_large_strings_leave_no_memory_behind(make):
    decoder = make()
    coded = HUFFMAN.encode(b"a" * 5000)
    decoder.fields(b"\x04" + integer(len(coded), 7, 0x80) + coded)
    assert decoder.struct.scratch.data == ffi.NULL
    decoder.fields(b"\x04\x81\x1f")
    assert decoder.struct.scratch.capacity == 512


def test_string_that_must_be_over_its_limit_takes_no_memory(make):
    decoder = make(string_max=10)
    assert status_of(decoder, b"\x04" + integer(60_000, 7, 0x80) + bytes(60_000)) < 0
    assert decoder.struct.scratch.data == ffi.NULL


# --- The encoder's choices ------------------------------------------------------------------------

DATE = (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT")


def test_repeated_field_becomes_an_index():
    encoder = Encoder()
    fields = [DATE, (b"server", b"thestral"), (b"content-type", b"text/plain; charset=utf-8")]
    first = incremental(33, DATE[1]) + incremental(54, b"thestral") + incremental(31, fields[2][1])
    assert encoder.block(fields, 200) == b"\x88" + first
    assert encoder.block(fields, 200) == b"\x88\xc0\xbf\xbe"
    later = (b"date", b"Mon, 30 Nov 2026 12:00:01 GMT")
    assert (
        encoder.block([later, *fields[1:]], 200)
        == b"\x88" + incremental(33, later[1]) + b"\xc0\xbf"
    )


def test_repeated_field_without_a_static_name():
    encoder = Encoder()
    field = (b"x-frame-options", b"DENY")
    assert encoder.block([field, field]) == incremental(*field) + indexed(62)


@pytest.mark.parametrize("status", range(100, 1000))
def test_every_status(make, status):
    encoder, decoder = Encoder(), make()
    for _ in range(2):
        block = encoder.block([], status)
        assert pairs(decoder.fields(block)) == [(b":status", b"%d" % status)]
    assert len(block) == 1


@pytest.mark.parametrize("name", [b"set-cookie", b"cookie", b"authorization", b"x-csrf-token"])
def test_secret_is_never_indexed(make, name):
    encoder, decoder = Encoder(), make()
    for value in (b"secret", b"secret", b""):
        (field,) = decoder.fields(encoder.block([(name, value)]))
        assert field.never_indexed
        assert (field.name, field.value, field.serial) == (name, value, 0)
    assert encoder.table() == []


@pytest.mark.parametrize("name", [b"etag", b"content-length", b"location", b"x-request-id", b""])
def test_what_does_not_repeat_is_a_literal(make, name):
    encoder, decoder = Encoder(), make()
    for _ in range(2):
        (field,) = decoder.fields(encoder.block([(name, b"value")]))
        assert (field.name, field.value) == (name, b"value")
        assert (field.serial, field.never_indexed) == (0, False)
        assert field.name_index == (
            [n for n, _ in STATIC].index(name) + 1 if field.name_index else 0
        )
    assert encoder.table() == []


def test_some_values_of_a_name_may_alternate():
    encoder = Encoder()
    fields = [(b"content-type", b"type/%d" % i) for i in range(4)]
    encoder.block(fields)
    for _ in range(3):
        assert len(encoder.block(fields)) == 4
    encoder.block([(b"content-type", b"type/5")])
    assert len(encoder.block(fields[:1])) > 1


def test_large_field_does_not_displace_the_others():
    encoder = Encoder()
    encoder.block([DATE])
    least = (b"vary", b"x" * (2048 - 32 - 4))
    assert encoder.block([(b"vary", least[1] + b"x")]) == literal(59, least[1] + b"x")
    assert encoder.block([least]) == incremental(59, least[1])
    assert encoder.table() == [least, DATE]


def test_index_of_more_than_one_byte(make):
    encoder, decoder = Encoder(65536), make(65536)
    encoder.resize(65536)
    fields = [(b"vary", b"%d" % i) for i in range(300)]
    assert pairs(decoder.fields(encoder.block([DATE, *fields]))) == [DATE, *fields]
    assert encoder.block([DATE]) == indexed(62 + 300)
    assert encoder.table() == decoder.table()


def test_entry_that_was_evicted_is_inserted_again(make):
    encoder, decoder = Encoder(200), make()
    for number in range(500):
        fields = [DATE, (b"vary", b"%d" % (number % 7)), (b"server", b"s" * (number % 60))]
        assert pairs(decoder.fields(encoder.block(fields))) == fields
        assert encoder.table() == decoder.table()


def test_serials_wrap_around(make):
    encoder, decoder = Encoder(), make()
    encoder.block([DATE])  # serial 1
    encoder.struct.table.count = encoder.struct.table.size = 0
    encoder.struct.table.inserted = decoder.struct.table.inserted = 2**32 - 2
    for number in range(9):
        fields = [(b"vary", b"%d" % number), (b"vary", b"0")]
        assert pairs(decoder.fields(encoder.block(fields))) == fields
    assert encoder.block([DATE]) == incremental(33, DATE[1])


UPDATES = [
    ([], b""),
    ([4096], b""),
    ([100], update(100)),
    ([65536], b""),
    ([0], update(0)),
    ([0, 4096], update(0) + update(4096)),
    ([0, 100], update(0) + update(100)),
    ([100, 0], update(0)),
    ([3000, 2000, 100, 2500], update(100) + update(2500)),
    ([4096, 65536], b""),
]


@pytest.mark.parametrize(("sizes", "expected"), UPDATES)
def test_size_updates(sizes, expected):
    encoder = Encoder()
    encoder.block([DATE])
    for wanted in sizes:
        encoder.resize(wanted)
    assert encoder.block([]) == expected
    assert encoder.block([]) == b""
    assert encoder.table() == ([] if expected and min(sizes) == 0 else [DATE])


@pytest.mark.parametrize("max_size", [0, 100, 4095, 4096, 65536])
def test_table_that_is_smaller_than_a_peer_begins_with(make, max_size):
    encoder, decoder = Encoder(max_size), make()
    expected = update(max_size) if max_size < 4096 else b""
    assert encoder.block([]) == expected
    assert decoder.fields(expected) == []
    encoder.resize(65536)
    assert encoder.block([]) == (update(65536) if max_size > 4096 else b"")


def test_raising_the_size():
    encoder = Encoder(65536)
    encoder.resize(8192)
    assert encoder.block([]) == update(8192)
    encoder.resize(100_000)
    assert encoder.block([]) == update(65536)


# --- Against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [Hpack, Nghttp2])
def test_what_we_encode_is_read_by_others(make, peer):
    rng = random.Random(1)
    for _ in range(CONNECTIONS):
        limit = size(rng)
        encoder, theirs, ours = Encoder(size(rng)), peer(limit), make(limit)
        if limit != 4096:
            encoder.resize(limit)
        for status, fields in responses(rng, rng.randrange(1, 60)):
            if rng.random() < 0.05:
                for _ in range(rng.randrange(1, 4)):
                    encoder.resize(rng.choice((0, limit // 3, limit // 2, limit)))
            block = encoder.block(fields, status)
            expected = [(b":status", b"%d" % status), *fields]
            assert theirs.outcome(block) == vectors.Outcome(expected, encoder.table())
            assert ours.outcome(block) == vectors.Outcome(expected, encoder.table())


@pytest.mark.parametrize("huffman", [False, True])
def test_what_others_encode_is_read(make, huffman):
    rng = random.Random(2)
    for _ in range(CONNECTIONS):
        limit = size(rng)
        encoder, decoder = hpack.Encoder(), make(limit)
        encoder.header_table_size = limit
        secret = rng.random() < 0.3
        for fields in requests(rng, rng.randrange(1, 60)):
            if rng.random() < 0.05:
                encoder.header_table_size = rng.choice((0, limit // 3, limit))
            given = [
                hpack.NeverIndexedHeaderTuple(*field) if secret and field[0] == b"cookie" else field
                for field in fields
            ]
            taken = decoder.fields(encoder.encode(given, huffman))
            assert pairs(taken) == fields
            assert decoder.table() == [tuple(e) for e in encoder.header_table.dynamic_entries]
            if secret:
                assert all(f.never_indexed for f in taken if f.name == b"cookie")


def test_every_beginning_of_real_blocks(make):
    rng = random.Random(4)
    for fields in requests(rng, 6):
        block = hpack.Encoder().encode(fields, huffman=True)
        for end in range(len(block)):
            outcome = make().outcome(block[:end])
            assert outcome.fields == fields[: len(outcome.fields)]
            assert outcome.failed in (0, lib.TH_EHPACK)

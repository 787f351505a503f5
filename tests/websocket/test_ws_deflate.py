"""Compressed messages (RFC 7692 section 7.2), checked with Python's zlib."""

import itertools
import random
import zlib

import pytest
from ws_apps import Sessions, accept, echo, send_text, shared_server, ws_only
from ws_client import BINARY, CLOSE, CONT, DEFLATE, PING, PONG, RSV1, TEXT, fragments, frame
from ws_deflating import CLIENT_BITS, CLIENT_NO, SERVER_BITS, SERVER_NO, Deflating

server = shared_server(Sessions(echo), ws_deflate_min_size=0)
widest = shared_server(
    Sessions(echo),
    ws_deflate_min_size=0,
    ws_deflate_server_window_bits=15,
    ws_deflate_client_window_bits=15,
)


def repetitive(size: int, distance: int, seed: int = 1) -> bytes:
    """Noise that repeats after `distance` bytes; only a window of that size compresses it."""
    block = random.Random(seed).randbytes(distance)
    return (block * (size // distance + 1))[:size]


# --- Data: section 7.2 ----------------------------------------------------------------------------

TEXTS = ["", "x", "Hello", "caf\xe9 \u20ac \U0001f600" * 100, "{'key': 'value'}" * 5000]


@pytest.mark.parametrize(
    "offer",
    [
        f"{DEFLATE}; {CLIENT_BITS}",
        DEFLATE,
        f"{DEFLATE}; {SERVER_NO}; {CLIENT_BITS}",
        f"{DEFLATE}; {CLIENT_NO}; {CLIENT_BITS}",
        f"{DEFLATE}; {SERVER_NO}; {CLIENT_NO}",
    ],
)
def test_echo_7_2(server, offer):
    with Deflating(server, offer) as client:
        for text in TEXTS * 2:
            client.round_trip(TEXT, text.encode())
            client.round_trip(BINARY, text.encode())
        client.round_trip(BINARY, random.Random(2).randbytes(200_000))
        client.round_trip(BINARY, bytes(2_000_000))
        client.close()


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("takeover", [True, False])
def test_window_of_the_server_7_1_2_1(widest, bits, takeover):
    """A client with a window of the agreed size can inflate matches at any distance."""
    offer = f"{DEFLATE}; {SERVER_BITS}={bits}" + ("" if takeover else f"; {SERVER_NO}")
    with Deflating(widest, offer) as client:
        for distance in (200, 256, 400, 512, 1000, 2**bits - 262, 2**bits, 20_000, 32_768):
            for _ in range(2):
                client.round_trip(BINARY, repetitive(70_000, distance))
        client.close()


def test_window_of_the_server_of_8_bits_7_1_2_1(server):
    """zlib cannot compress with a window of 256 bytes, so the server does it in another way."""
    with Deflating(server, f"{DEFLATE}; {SERVER_BITS}=8") as client:
        assert client.agreed[SERVER_BITS] == "8"
        for distance in (100, 250, 256, 257, 300, 400, 500, 512):
            client.round_trip(BINARY, repetitive(20_000, distance))
        client.close()


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("takeover", [True, False])
def test_window_of_the_client_7_1_2_2(widest, bits, takeover):
    offer = f"{DEFLATE}; {CLIENT_BITS}={bits}" + ("" if takeover else f"; {CLIENT_NO}")
    with Deflating(widest, offer) as client:
        assert client.window == bits
        for distance in (200, 1000, 2**bits - 262, 2**bits, 20_000, 32_768):
            for _ in range(2):
                client.round_trip(BINARY, repetitive(70_000, distance))
        client.close()


def test_window_of_a_client_that_does_not_offer_it_7_1_2_2(server):
    """Its offer did not name client_max_window_bits, so it may use all 32 KiB."""
    with Deflating(server, DEFLATE) as client:
        assert client.window == 15
        for _ in range(2):
            client.round_trip(BINARY, repetitive(100_000, 32_000))
        client.close()


def test_takeover_of_the_server_7_1_1_1(server):
    text = random.Random(3).randbytes(700).hex().encode()
    with Deflating(server) as client:
        first, second = [client.round_trip(TEXT, text) for _ in range(2)]
        assert second < first / 5
        client.close()
    with Deflating(server, f"{DEFLATE}; {SERVER_NO}; {CLIENT_BITS}") as client:
        first, second = [client.round_trip(TEXT, text) for _ in range(2)]
        assert second == first
        client.close()


@pytest.mark.parametrize("fields", [{}, {"ws_deflate_min_size": 0}, {"ws_deflate_min_size": 1000}])
def test_min_size(serve, fields):
    least = fields.get("ws_deflate_min_size", 128)
    with Deflating(serve(ws_only(echo), **fields)) as client:
        for size in {max(1, least - 1), max(1, least), least + 1, 5000}:
            data = b"x" * size
            client.packed(TEXT, data)
            got = client.read()
            assert bool(got.rsv) == (size >= least), size
            assert (client.inflate(got.payload) if got.rsv else got.payload) == data
        client.close()


def test_min_size_counts_bytes(serve):
    """\u20ac is one character and three bytes."""
    with Deflating(serve(ws_only(echo), ws_deflate_min_size=30)) as client:
        for text in ("\u20ac" * 10, "\u20ac" * 9 + "xx", "\u20ac" * 9 + "xxx"):
            client.packed(TEXT, text.encode())
            got = client.read()
            assert bool(got.rsv) == (len(text.encode()) >= 30)
            assert (client.inflate(got.payload) if got.rsv else got.payload) == text.encode()
        client.close()


def test_compressed_and_uncompressed_may_be_mixed_6_1(server):
    """Uncompressed messages do not change the windows."""
    with Deflating(server) as client:
        for number in range(20):
            data = b"some text that repeats " * 20 + b"%d" % number
            if number % 3:
                client.packed(TEXT, data)
            else:
                client.send(frame(TEXT, data))
            assert client.unpacked()[:2] == (TEXT, data)
        client.close()


@pytest.mark.parametrize("cut", [1, 2, 5, 100])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_fragments_with_control_frames_between_6_1(server, cut, opcode):
    data = b"abc" * 200 + random.Random(4).randbytes(200).hex().encode()
    with Deflating(server) as client:
        for _ in range(2):
            packed = client.deflate(data)
            pieces = [packed[at : at + cut] for at in range(0, len(packed), cut)]
            frames = fragments(opcode, pieces, rsv=RSV1)
            for number, part in enumerate(frames):
                client.send(part)
                if number % 20 == 0 and part is not frames[-1]:
                    client.send(frame(PING, b"%d" % number))
                    client.expect(PONG, b"%d" % number)
            assert client.unpacked()[:2] == (opcode, data)
        client.close()


def test_every_split_in_two_fragments_6_1(server):
    data = "Hello, \u20ac! Hello, \u20ac!".encode()
    with Deflating(server) as client:
        for at in itertools.count():
            packed = client.deflate(data)
            if at > len(packed):
                break
            client.send(*fragments(TEXT, [packed[:at], packed[at:]], rsv=RSV1))
            assert client.unpacked()[:2] == (TEXT, data)
        client.close()


# The examples of section 7.2.3: lists of frames on one connection, with their content.
EXAMPLES = {
    "7_2_3_1": [("f248cdc9c90700", b"Hello")],
    "7_2_3_1_fragmented": [(("f248cd", "c9c90700"), b"Hello")],
    "7_2_3_2_shared_window": [("f248cdc9c90700", b"Hello"), ("f200110000", b"Hello")],
    "7_2_3_3_no_compression": [("000500faff48656c6c6f00", b"Hello")],
    "7_2_3_4_final_block": [("f348cdc9c9070000", b"Hello"), ("f248cdc9c90700", b"Hello")],
    "7_2_3_5_two_blocks": [("f248050000 00ffffcac9c90700", b"Hello")],
    "7_2_3_6_empty": [("00", b""), ("f248cdc9c90700", b"Hello"), ("00", b"")],
    "final_block_then_more_blocks": [("f348cdc9c90700f248cdc9c90700", b"HelloHello")],
    "final_stored_block": [("010500faff48656c6c6f00", b"Hello"), ("00", b"")],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_rfc(server, name):
    offer = f"{DEFLATE}; {CLIENT_BITS}"
    with Deflating(server, offer) as client:
        for given, want in EXAMPLES[name]:
            parts = (given,) if isinstance(given, str) else given
            client.send(*fragments(TEXT, [bytes.fromhex(part) for part in parts], rsv=RSV1))
            assert client.unpacked()[:2] == (TEXT, want)
        client.close()


def test_final_block_in_every_message_7_2_3_4(server):
    with Deflating(server, f"{DEFLATE}; {CLIENT_NO}; {CLIENT_BITS}") as client:
        for number in range(5):
            data = b"%d " % number * 300
            packed = zlib.compress(data, wbits=-12) + b"\x00"
            client.send(frame(TEXT, packed, rsv=RSV1))
            assert client.unpacked()[:2] == (TEXT, data)
        client.close()


CORRUPT = {
    "block_of_type_3_1951_3_2_3": "0607",
    "stored_length_and_its_complement_1951_3_2_4": "000500fafe48656c6c6f00",
    "stored_block_too_short_1951_3_2_4": "000500faff4865",
    "distance_before_the_start_1951_3_2_3": "f200110000",
    "too_many_codes_1951_3_2_7": "fcffffffffff",
    "noise": "ffffffffffffffff",
}


@pytest.mark.parametrize("name", CORRUPT)
@pytest.mark.parametrize("when", ["first", "later", "fragmented"])
def test_corrupt_data_7_4_1(server, name, when):
    data = bytes.fromhex(CORRUPT[name])
    # with the previous message's window the distance would be valid
    offer = f"{DEFLATE}; {CLIENT_NO}; {CLIENT_BITS}"
    with Deflating(server, offer) as client:
        if when == "later":
            client.round_trip(TEXT, b"Hello" * 100)
        if when == "fragmented":
            client.send(*fragments(BINARY, [data[:1], data[1:]], rsv=RSV1))
        else:
            client.send(frame(BINARY, data, rsv=RSV1))
        client.closed(1007)
    assert server.app.disconnect()[0] == 1007


@pytest.mark.parametrize("data", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"x" * 5000 + b"\xc0\x80"])
@pytest.mark.parametrize("parts", [1, 2])
def test_compressed_text_that_is_not_utf_8_6455_8_1(server, data, parts):
    with Deflating(server) as client:
        packed = client.deflate(data)
        pieces = [packed] if parts == 1 else [packed[:2], packed[2:]]
        client.send(*fragments(TEXT, pieces, rsv=RSV1))
        client.closed(1007)
    assert server.app.disconnect()[0] == 1007


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"\x00", rsv=RSV1, fin=False) + frame(CONT, b"\x00", rsv=RSV1),
        frame(TEXT, b"x", fin=False) + frame(CONT, b"\x00", rsv=RSV1),
        frame(PING, b"\x00", rsv=RSV1),
        frame(PONG, b"\x00", rsv=RSV1),
        frame(CLOSE, b"\x03\xe8", rsv=RSV1),
        frame(TEXT, b"\x00", rsv=0x20),
        frame(TEXT, b"\x00", rsv=0x50),
        frame(BINARY, b"\x00", rsv=0x70),
        frame(CONT, b"\x00", rsv=RSV1),
    ],
    ids=["continuation", "continuation of none", "ping", "pong", "close", "2", "13", "123", "lone"],
)
def test_reserved_bits_with_deflate_6_1(server, data):
    with Deflating(server) as client:
        client.send(data)
        client.closed(1002)


def test_compressed_frame_of_no_bytes(server):
    """It is no DEFLATE stream (section 7.2.2): an error or, to some readers, an empty message."""
    with Deflating(server) as client:
        client.send(frame(TEXT, b"", rsv=RSV1))
        got = client.read()
        if got.opcode == CLOSE:
            assert got.payload[:2] == (1007).to_bytes(2)
        else:
            assert client.inflate(got.payload) == b""


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("memory", [1, 5, 9])
def test_levels(serve, level, memory):
    options = {"ws_deflate_level": level, "ws_deflate_memory_level": memory}
    with Deflating(serve(ws_only(echo), **options)) as client:
        for data in (b"{'key': 1234}" * 1000, repetitive(50_000, 3000)):
            assert client.round_trip(BINARY, data) < len(data) / 3
        client.close()


def test_levels_differ(serve):
    data = b"".join(b'{"id": %d, "of": [%d, %d]}' % (i, i % 13, i % 17) for i in range(1000))
    sizes = []
    for level in (1, 9):
        with Deflating(serve(ws_only(echo), ws_deflate_level=level)) as client:
            sizes.append(client.round_trip(TEXT, data))
    assert sizes[0] > sizes[1]


def test_idle_server_may_start_a_new_stream_7_2_1(serve):
    """The server drops its window after a ping interval; the client's inflater keeps its own."""
    options = {"ws_deflate_min_size": 0, "ws_ping_interval": 0.1}
    text = random.Random(5).randbytes(700).hex().encode()
    with Deflating(serve(ws_only(echo), **options)) as client:
        sizes = []
        for _ in range(3):
            sizes.append(client.round_trip(TEXT, text))
            for _ in range(3):
                got = client.read()
                assert got.opcode == PING
                client.send(frame(PONG, got.payload))
        assert sizes[1] > sizes[0] / 2, "it was not dropped"


def test_compressed_messages_of_the_application_alone(serve):
    """The application sends after the accept, before any message has arrived."""

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        for number in range(100):
            await send_text(send, f"message number {number} " * 20)
        await receive()

    with Deflating(serve(app)) as client:
        for number in range(100):
            assert client.unpacked()[1] == f"message number {number} ".encode() * 20
        client.close()

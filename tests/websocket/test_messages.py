"""UTF-8 (RFC 6455 section 8.1), large messages, many messages, many fragments: categories 6, 9 and
10 of the Autobahn test suite.
"""

import os

import pytest
from ws_apps import Sessions, echo, shared_server, ws_only
from ws_client import BINARY, CONT, TEXT, Sender, connected, fragments, frame

server = shared_server(Sessions(echo))
large_server = shared_server(ws_only(echo))  # does not record messages

KOSME = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()


# --- 6 UTF-8: RFC 3629 section 3, the tests of Markus Kuhn ----------------------------------------

VALID = {
    "kosme": KOSME,
    "ascii": bytes(range(128)),
    "first_of_2_bytes": b"\xc2\x80",
    "first_of_3_bytes": b"\xe0\xa0\x80",
    "first_of_4_bytes": b"\xf0\x90\x80\x80",
    "last_of_2_bytes": b"\xdf\xbf",
    "last_of_3_bytes": b"\xef\xbf\xbf",
    "last_of_all": b"\xf4\x8f\xbf\xbf",
    "before_the_surrogates": b"\xed\x9f\xbf",
    "behind_the_surrogates": b"\xee\x80\x80",
    "replacement_character": b"\xef\xbf\xbd",
    "noncharacters": b"\xef\xbf\xbe\xf0\x9f\xbf\xbf\xf4\x8f\xbf\xbe",
    "byte_order_mark": b"\xef\xbb\xbfx",
    "mixed": "a\u00b5\u20ac\U0001f600".encode() * 3,
    "long_ascii_then_not": b"x" * 63 + "\U0001f600".encode(),
}

# Each is the text up to and including its first invalid byte.
INVALID = {
    "continuation_alone": b"\x80",
    "last_continuation_alone": b"\xbf",
    "two_continuations": b"a\x80",
    "overlong_nul": b"\xc0",
    "overlong_c1": b"\xc1",
    "overlong_3_bytes": b"\xe0\x9f",
    "overlong_4_bytes": b"\xf0\x8f",
    "surrogate_first": b"\xed\xa0",
    "surrogate_last": KOSME + b"\xed\xbf",
    "above_10ffff": b"\xf4\x90",
    "f5": b"\xf5",
    "f8_5_bytes": b"\xf8",
    "fc_6_bytes": b"\xfc",
    "fe": b"\xfe",
    "ff": b"\xff",
    "no_continuation_2": b"\xc2a",
    "no_continuation_3": b"\xe2\x82a",
    "no_continuation_4": b"\xf0\x9f\x98a",
    "lead_within_3": b"\xe2\xc2",
    "lead_within_4": b"\xf0\x9f\xc2",
    "behind_ascii": b"x" * 200 + b"\xff",
    "behind_64_bytes": b"x" * 63 + b"\xc3\x28",
}


def splits(data: bytes):
    """Yield the text cut in two at every place, or for a long text at the last 8 places."""
    return [(data[:at], data[at:]) for at in range(max(0, len(data) - 16), len(data) + 1)]


@pytest.mark.parametrize("name", VALID)
def test_valid_text_at_every_split_8_1(server, name):
    data = VALID[name]
    with connected(server) as client:
        for parts in splits(data):
            client.send(*fragments(TEXT, parts))
            client.echoes(TEXT, data)
            whole = frame(TEXT, data)
            client.drip(whole, [len(whole) - len(parts[1])])
            client.echoes(TEXT, data)
        client.send(*fragments(TEXT, [data[at : at + 1] for at in range(len(data))]))
        client.echoes(TEXT, data)
        client.close()


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("how", ["whole", "fragment", "within a frame", "each byte a fragment"])
def test_invalid_text_fails_at_the_first_wrong_byte_8_1(server, name, how):
    """The client sends nothing after the invalid byte, and still gets the Close."""
    data = INVALID[name]
    with connected(server) as client:
        if how == "whole":
            client.send(frame(TEXT, data))
        elif how == "fragment":
            client.send(frame(TEXT, data, fin=False))
        elif how == "within a frame":
            client.send(frame(TEXT, data + b"y" * 1000)[: 8 + len(data)])
        else:
            pieces = [data[at : at + 1] for at in range(len(data))]
            client.send(
                frame(TEXT, "ok", fin=False), *[frame(CONT, piece, fin=False) for piece in pieces]
            )
        client.closed(1007)
    assert server.app.disconnect()[0] == 1007
    assert len(server.app.last.received) == 2


@pytest.mark.parametrize(
    "data", [b"\xc2", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", KOSME[:-1]]
)
@pytest.mark.parametrize("parts", [1, 2])
def test_text_that_ends_within_a_character_8_1(server, data, parts):
    with connected(server) as client:
        client.send(*fragments(TEXT, [data] if parts == 1 else [data, b""]))
        client.closed(1007)
    assert server.app.disconnect()[0] == 1007


def test_binary_is_not_validated_5_6(server):
    payload = bytes(range(256)) + b"".join(INVALID.values())
    with connected(server) as client:
        client.send(*fragments(BINARY, [payload[:3], payload[3:]]))
        client.echoes(BINARY, payload)
        client.works()


def test_each_text_is_validated_by_itself_8_1(server):
    """An incomplete character at the end of a message does not continue in the next."""
    with connected(server) as client:
        for data in (b"a", KOSME, b"", b"b"):
            client.send(frame(TEXT, data))
            client.echoes(TEXT, data)
        client.send(frame(TEXT, KOSME[:1], fin=False), frame(CONT, b"", fin=False))
        client.send(frame(CONT, KOSME[1:]))
        client.echoes(TEXT, KOSME)
        client.works()


# --- 9 Large and many: section 5.2 ----------------------------------------------------------------

KIB = 1024
MIB = 1024 * KIB


def echoed(server, opcode: int, payload: bytes, data: bytes) -> None:
    with connected(server) as client:
        sender = Sender(client, data)
        client.echoes(opcode, payload)
        sender.join()
        client.close()


def payload_of(opcode: int, size: int) -> bytes:
    if opcode == BINARY:
        return os.urandom(size)
    return ("a\u00b5\u20ac\U0001f600" * (size // 10 + 1)).encode()[: size // 10 * 10].ljust(size)


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB])
def test_large_messages_5_2(large_server, opcode, size):
    payload = payload_of(opcode, size)
    echoed(large_server, opcode, payload, frame(opcode, payload))


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("part", [64, 256, 1 * KIB, 16 * KIB, 256 * KIB, MIB])
def test_large_messages_in_fragments_5_4(large_server, opcode, part):
    size = MIB if part == 64 else 4 * MIB
    payload = payload_of(opcode, size)
    pieces = [payload[at : at + part] for at in range(0, size, part)]
    echoed(large_server, opcode, payload, b"".join(fragments(opcode, pieces)))


def test_16_mib_in_fragments_5_4(large_server):
    payload = os.urandom(16 * MIB)
    pieces = [payload[at : at + 65536] for at in range(0, len(payload), 65536)]
    echoed(large_server, BINARY, payload, b"".join(fragments(BINARY, pieces)))


@pytest.mark.parametrize("size", [0, 16, 256, 4 * KIB, 16 * KIB])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_many_messages_5_2(large_server, opcode, size):
    """The echoes are in order, although messages arrive faster than the client reads."""
    payloads = [b"%d-" % number + bytes(size) for number in range(500)]
    with connected(large_server) as client:
        sender = Sender(client, b"".join(frame(opcode, payload) for payload in payloads))
        for payload in payloads:
            client.echoes(opcode, payload)
        sender.join()
        client.close()


@pytest.mark.parametrize("piece", [64, 1031, 65537])
def test_message_in_small_segments_5_2(large_server, piece):
    payload = os.urandom(128 * KIB)
    data = frame(BINARY, payload)
    with connected(large_server) as client:
        client.drip(data, [piece] * (len(data) // piece))
        client.echoes(BINARY, payload)
        client.close()


# --- 10 Fragments of a usual size: section 5.4 ----------------------------------------------------


def test_64_kib_in_fragments_of_1300_bytes_5_4(large_server):
    payload = b"*" * 65536
    pieces = [payload[at : at + 1300] for at in range(0, len(payload), 1300)]
    echoed(large_server, TEXT, payload, b"".join(fragments(TEXT, pieces)))

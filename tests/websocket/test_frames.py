"""Frames (RFC 6455 section 5) on real sockets, in the categories of the Autobahn test suite.

test_messages.py has its categories for UTF-8, large messages and many fragments.
"""

import contextlib
import itertools
import os

import pytest
from ws_apps import Sessions, echo, shared_server, sink
from ws_client import (
    BINARY,
    CLOSE,
    CONT,
    NO_MASK,
    PING,
    PONG,
    TEXT,
    ZERO_MASK,
    Client,
    close_frame,
    connected,
    fragments,
    frame,
    handshake,
)

server = shared_server(Sessions(echo))

HELLO = b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4\xc3\xbc\xc3\xa0\xc3\xa1-UTF-8!!"
NAMES = {CONT: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping"}
NAMES[PONG] = "pong"


def name_of(value):
    return NAMES.get(value) if isinstance(value, int) else None


def fails(server, data: bytes, code: int, how: str = "whole") -> None:
    """Expect the bytes to end the connection with this code, for the client and the application."""
    with connected(server) as client:
        if how == "behind a message":
            client.send(frame(TEXT, "first"))
            assert client.message() == "first"
        if how == "in pieces":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.drip(data)  # the server may refuse before the last byte
        else:
            client.send(data)
        client.closed(code)
    got, _reason = server.app.disconnect()
    assert got == code
    received = [message["type"] for message in server.app.last.received]
    messages = ["websocket.receive"] if how == "behind a message" else []
    assert received == ["websocket.connect", *messages, "websocket.disconnect"]


HOW = pytest.mark.parametrize("how", ["whole", "in pieces", "behind a message"])


# --- 1 Framing: section 5.2 -----------------------------------------------------------------------

SIZES = [0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537]


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=name_of)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [None, 1, 997])
def test_echo_of_each_length_form_5_2(server, opcode, size, cut):
    if cut == 1 and size > 200:
        cut = 4093  # sizes below it are sent byte by byte, through all states of the head
    payload = b"*" * size if opcode == TEXT else os.urandom(size)
    with connected(server) as client:
        data = frame(opcode, payload)
        client.drip(data, itertools.repeat(cut)) if cut else client.send(data)
        client.echoes(opcode, payload)
        client.close()


@pytest.mark.parametrize("mask", [ZERO_MASK, b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
@pytest.mark.parametrize("size", [*range(18), 31, 33, 63, 65, 127, 1000])
def test_masks_5_3(server, mask, size):
    payload = bytes(number % 128 for number in range(size))
    with connected(server) as client:
        client.send(frame(BINARY, payload, mask=mask), frame(TEXT, payload, mask=mask))
        client.echoes(BINARY, payload)
        client.echoes(TEXT, payload)
        client.close()


LENGTHS = {
    f"{size}_in_{form}_bits_5_2": frame(BINARY, bytes(size), form=form)
    for form, size in [
        (16, 0),
        (16, 1),
        (16, 125),
        (64, 0),
        (64, 125),
        (64, 126),
        (64, 65535),
    ]
}
LENGTHS |= {
    "top_bit_5_2": frame(BINARY, form=64, length=2**63),
    "all_bits_5_2": frame(TEXT, form=64, length=2**64 - 1),
    "top_bit_and_more_5_2": frame(BINARY, b"x", form=64, length=2**63 + 1),
}


@HOW
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_that_are_not_minimal_5_2(server, name, how):
    if how == "in pieces" and len(LENGTHS[name]) > 1000:
        how = "whole"
    fails(server, LENGTHS[name], 1002, how)


@HOW
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG], ids=name_of)
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8" + b"x" * 100])
def test_unmasked_frames_5_1(server, opcode, payload, how):
    fails(server, frame(opcode, payload, mask=NO_MASK), 1002, how)


def test_unmasked_continuation_5_1(server):
    data = frame(TEXT, "a", fin=False) + frame(CONT, "b", mask=NO_MASK)
    fails(server, data, 1002)


# --- 2 Pings and pongs: sections 5.5.2, 5.5.3 -----------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 124, b"\xfe" * 125],
)
@pytest.mark.parametrize("cut", [None, 1])
def test_ping_is_answered_5_5_3(server, payload, cut):
    with connected(server) as client:
        data = frame(PING, payload)
        client.drip(data) if cut else client.send(data)
        client.expect(PONG, payload)
        client.works()


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE], ids=name_of)
@pytest.mark.parametrize("size", [126, 127, 1000, 65536])
@pytest.mark.parametrize("how", ["whole", "behind a message"])
def test_control_frames_are_short_5_5(server, opcode, size, how):
    fails(server, frame(opcode, b"\x03\xe8" + b"x" * (size - 2)), 1002, how)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE], ids=name_of)
@pytest.mark.parametrize(("form", "size"), [(16, 4), (64, 4), (16, 125)])
def test_control_frames_have_short_lengths_5_5(server, opcode, form, size):
    fails(server, frame(opcode, b"\x03\xe8" + b"x" * (size - 2), form=form), 1002)


def test_unsolicited_pongs_are_ignored_5_5_3(server):
    with connected(server) as client:
        client.send(frame(PONG), frame(PONG, b"x" * 125), frame(PONG, "p") + frame(PING, "q"))
        client.expect(PONG, b"q")
        client.works()
    server.app.disconnect()
    assert [message["type"] for message in server.app.last.received] == [
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    ]


@pytest.mark.parametrize("dripped", [False, True])
def test_ten_pings_in_a_row_5_5_3(server, dripped):
    """A client that reads gets a Pong for each."""
    with connected(server) as client:
        data = b"".join(frame(PING, f"payload-{number}") for number in range(10))
        client.drip(data) if dripped else client.send(data)
        for number in range(10):
            client.expect(PONG, f"payload-{number}".encode())
        client.works()


# --- 3 Reserved bits: section 5.2 -----------------------------------------------------------------


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG], ids=name_of)
def test_reserved_bits_5_2(server, rsv, opcode):
    payload = b"\x03\xe8"
    fails(server, frame(opcode, payload, rsv=rsv << 4), 1002)
    fails(server, frame(opcode, payload, rsv=rsv << 4), 1002, "behind a message")


@pytest.mark.parametrize("rsv", range(1, 8))
def test_reserved_bits_on_a_continuation_5_2(server, rsv):
    data = frame(TEXT, "a", fin=False) + frame(CONT, "b", rsv=rsv << 4)
    fails(server, data, 1002)
    fails(server, data, 1002, "in pieces")


def test_no_pong_behind_a_failure_7_1_7(server):
    with connected(server) as client:
        client.send(frame(TEXT, "Hello", rsv=0x10) + frame(PING, "x") + frame(TEXT, "y"))
        assert client.read_close()[0] == 1002
        client.ended(reset=True)


# --- 4 Opcodes: section 5.2 -----------------------------------------------------------------------


@HOW
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcodes_5_2(server, opcode, how):
    fails(server, frame(opcode), 1002, how)
    fails(server, frame(opcode, "reserved"), 1002, how)


@pytest.mark.parametrize("opcode", [3, 11])
def test_unknown_opcodes_within_a_message_5_2(server, opcode):
    fails(server, frame(TEXT, "a", fin=False) + frame(opcode, fin=True), 1002)


# --- 5 Fragmentation: section 5.4 -----------------------------------------------------------------

# Frames to send, frames to expect: "e" is the echo of the joined message.
GOOD_FRAGMENTS = {
    "two": ([b"fragment1", b"fragment2"], {}),
    "first_empty": ([b"", b"fragment2"], {}),
    "last_empty": ([b"fragment1", b""], {}),
    "middle_empty": ([b"a", b"", b"b"], {}),
    "all_empty": ([b"", b"", b""], {}),
    "ten": ([bytes([65 + number]) for number in range(10)], {}),
    "a_ping_between_5_4": ([b"fragment1", b"fragment2"], {1: [b"ping"]}),
    "an_empty_ping_between_5_4": ([b"fragment1", b"fragment2"], {1: [b""]}),
    "a_long_ping_between_5_4": ([b"fragment1", b"fragment2"], {1: [b"x" * 125]}),
    "pings_between_all_5_4": ([b"1", b"2", b"3", b"4"], {1: [b"a"], 2: [b"b"], 3: [b"c"]}),
}


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=name_of)
@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("name", GOOD_FRAGMENTS)
def test_fragmented_messages_5_4(server, name, opcode, cut):
    parts, pings = GOOD_FRAGMENTS[name]
    data = b""
    for number, part in enumerate(fragments(opcode, parts)):
        data += b"".join(frame(PING, ping) for ping in pings.get(number, ())) + part
    with connected(server) as client:
        client.drip(data) if cut else client.send(data)
        for ping in itertools.chain.from_iterable(pings.values()):
            client.expect(PONG, ping)
        client.echoes(opcode, b"".join(parts))
        client.works()


def test_a_pong_does_not_wait_for_the_message_5_4(server):
    with connected(server) as client:
        client.send(frame(TEXT, "a", fin=False), frame(PING, "1"))
        client.expect(PONG, b"1")
        client.send(frame(PONG, "not asked"), frame(CONT, "b", fin=False), frame(PING, "2"))
        client.expect(PONG, b"2")
        client.send(frame(CONT, "c"))
        assert client.message() == "abc"
        client.works()


def test_a_ping_within_a_frames_bytes_is_not_one_5_2(server):
    """A payload may look like a frame; only real frame boundaries count."""
    payload = frame(PING, "x") + frame(CLOSE)
    with connected(server) as client:
        client.binary(payload)
        client.echoes(BINARY, payload)
        client.works()


BAD_FRAGMENTS = {
    "fragmented_ping_5_5": frame(PING, "fragment1", fin=False),
    "fragmented_pong_5_5": frame(PONG, "fragment1", fin=False),
    "fragmented_close_5_5": frame(CLOSE, b"\x03\xe8", fin=False),
    "fragmented_ping_within_a_message_5_5": frame(TEXT, "a", fin=False)
    + frame(PING, "x", fin=False),
    "nothing_to_continue_5_4": frame(CONT, "non-continuation"),
    "nothing_to_continue_empty_5_4": frame(CONT),
    "nothing_to_continue_not_final_5_4": frame(CONT, "x", fin=False),
    "text_within_a_text_5_4": frame(TEXT, "a", fin=False) + frame(TEXT, "b"),
    "text_within_a_text_not_final_5_4": frame(TEXT, "a", fin=False) + frame(TEXT, "b", fin=False),
    "binary_within_a_text_5_4": frame(TEXT, "a", fin=False) + frame(BINARY, "b"),
    "text_within_a_binary_5_4": frame(BINARY, "a", fin=False) + frame(TEXT, "b"),
    "text_behind_continuations_5_4": frame(TEXT, "a", fin=False)
    + frame(CONT, "b", fin=False)
    + frame(TEXT, "c"),
    "text_within_an_empty_start_5_4": frame(TEXT, "", fin=False) + frame(TEXT, ""),
}


@HOW
@pytest.mark.parametrize("name", BAD_FRAGMENTS)
def test_wrong_fragments_5_4(server, name, how):
    fails(server, BAD_FRAGMENTS[name], 1002, how)


def test_continuation_behind_a_complete_message_5_4(server):
    with connected(server) as client:
        client.send(frame(TEXT, "a", fin=False), frame(CONT, "b"))
        assert client.message() == "ab"
        client.send(frame(CONT, "c"))
        client.closed(1002)


# --- 7 Close: sections 5.5.1, 7.1, 7.4 ------------------------------------------------------------

VALID_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
@pytest.mark.parametrize("reason", ["", "bye", "\u20ac" * 41])
def test_close_is_echoed_5_5_1(server, code, reason):
    with connected(server) as client:
        client.close(code, reason)
    assert server.app.disconnect() == (code, reason)


def test_empty_close_is_echoed_empty_5_5_1(server):
    with connected(server) as client:
        client.close(None)
    assert server.app.disconnect()[0] == 1005  # section 7.1.5


def test_close_in_pieces_5_5_1(server):
    with connected(server) as client:
        client.drip(close_frame(4000, "a reason"))
        assert client.read_close()[0] == 4000
        client.ended()
    assert server.app.disconnect() == (4000, "a reason")


@HOW
@pytest.mark.parametrize("code", INVALID_CODES)
def test_codes_that_no_close_may_carry_7_4(server, code, how):
    fails(server, close_frame(code, "x"), 1002, how)


@HOW
def test_close_of_one_byte_5_5_1(server, how):
    fails(server, frame(CLOSE, b"\x03"), 1002, how)


@HOW
@pytest.mark.parametrize(
    "reason",
    [b"\xff", b"ok\xc3", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited", b"\xc0\x80", b"\x80"],
)
def test_reason_that_is_not_utf_8_5_5_1(server, reason, how):
    fails(server, close_frame(1000, reason), 1007, how)


@pytest.mark.parametrize(
    "behind",
    [
        frame(TEXT, "late"),
        frame(PING, "late"),
        close_frame(4001),
        frame(3),
        b"\xff" * 5000,
        frame(TEXT, b"x" * 300_000),
    ],
    ids=["text", "ping", "close", "bad opcode", "garbage", "much"],
)
def test_nothing_is_read_behind_a_close_5_5_1(server, behind):
    with connected(server) as client:
        client.send(close_frame(4000) + behind)
        assert client.read_close()[0] == 4000
        client.ended(reset=True)
    assert server.app.disconnect()[0] == 4000


def test_close_within_a_message_5_4(server):
    with connected(server) as client:
        client.send(frame(TEXT, "a", fin=False), close_frame(1001))
        assert client.read_close()[0] == 1001
        client.ended()
    assert server.app.disconnect()[0] == 1001
    assert len(server.app.last.received) == 2


def test_messages_before_a_close_are_delivered_7_1_4(serve):
    app = Sessions(sink)
    with connected(serve(app)) as client:
        client.send(*[frame(TEXT, str(number)) for number in range(5)], close_frame(1000, "done"))
        assert client.read_close()[0] == 1000
        client.ended()
    assert app.disconnect() == (1000, "done")
    texts = [message["text"] for message in app.last.received[1:-1]]
    assert texts == [str(number) for number in range(5)]


def test_the_verdict_can_be_read_while_more_is_sent_7_1_7(server):
    """A reset must not take the Close away from a client that is still sending."""
    with connected(server) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(frame(3), frame(BINARY, bytes(300_000)))
        assert client.read_close()[0] == 1002


def test_the_client_may_answer_the_verdict_7_1_7(server):
    with connected(server) as client:
        client.send(frame(3))
        assert client.read_close()[0] == 1002
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(close_frame(1002))
        client.ended(reset=True)


@pytest.mark.parametrize("cut", range(1, 14))
def test_end_within_a_frame_7_1_5(server, cut):
    """The connection ends at any byte without a Close: 1006."""
    data = frame(TEXT, "a", fin=False) + frame(CONT, "b")
    with Client(server, handshake() + data[:cut]) as client:
        client.accepted()
    assert server.app.disconnect()[0] == 1006

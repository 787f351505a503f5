"""receive() and send() of a websocket scope (ASGI 2.5): order, types, cancellation."""

import asyncio
import enum
import types

import pytest
from support import wait_until
from ws_apps import (
    Gate,
    Sessions,
    accept,
    echo,
    send_bytes,
    send_text,
    shared_server,
    ws_only,
)
from ws_client import BINARY, CLOSE, TEXT, close_frame, connected, fragments, frame

from thestral.errors import LocalProtocolError

SEND = "websocket.send"
CLOSING = "websocket.close"
START = "websocket.http.response.start"
BODY = "websocket.http.response.body"

# --- Invalid messages: ASGI, "Send", "Close" ------------------------------------------------------

WRONG = {
    "accept_twice": {"type": "websocket.accept"},
    "denial_start": {"type": START, "status": 401, "headers": []},
    "denial_body": {"type": BODY, "body": b""},
    "http_start": {"type": "http.response.start", "status": 200, "headers": []},
    "http_body": {"type": "http.response.body", "body": b""},
    "received_type": {"type": "websocket.receive", "text": "x"},
    "disconnect": {"type": "websocket.disconnect"},
    "unknown_type": {"type": "websocket.ping"},
    "type_none": {"type": None},
    "message_none": None,
    "message_as_text": "websocket.send",
    "message_as_number": 5,
    "message_as_pairs": [("type", SEND), ("text", "x")],
    "no_type": {"text": "x"},
    "no_data": {"type": SEND},
    "both_none": {"type": SEND, "text": None, "bytes": None},
    "both_given": {"type": SEND, "text": "x", "bytes": b"x"},
    "both_empty": {"type": SEND, "text": "", "bytes": b""},
    "text_as_bytes": {"type": SEND, "text": b"x"},
    "text_as_number": {"type": SEND, "text": 1},
    "bytes_as_text": {"type": SEND, "bytes": "x"},
    "bytes_as_list": {"type": SEND, "bytes": [1, 2]},
    "bytes_as_number": {"type": SEND, "bytes": 5},
    "lone_surrogate_3629_3": {"type": SEND, "text": "x\ud800y"},
    "lone_low_surrogate_3629_3": {"type": SEND, "text": "\udfff"},
    "reason_of_124_bytes_5_5": {"type": CLOSING, "reason": "x" * 124},
    "reason_of_126_bytes_5_5": {"type": CLOSING, "reason": "\u20ac" * 42},
    "reason_with_a_surrogate_5_5_1": {"type": CLOSING, "reason": "\ud800"},
    "reason_as_bytes": {"type": CLOSING, "reason": b"x"},
    "reason_as_number": {"type": CLOSING, "reason": 1},
    "code_as_text": {"type": CLOSING, "code": "1000"},
    "code_as_float": {"type": CLOSING, "code": 1000.5},
    "code_as_true": {"type": CLOSING, "code": True},
}
WRONG |= {
    f"code_{code}_7_4": {"type": CLOSING, "code": code}
    for code in (-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65536, 2**70)
}


async def wrong_then_echo(scope, receive, send):
    """Sends the message that the path names, tells the client the result, and goes on."""
    await accept(receive, send)
    try:
        await send(WRONG[scope["path"][1:]])
    except LocalProtocolError as exc:
        await send_text(send, str(exc) or "no words")
    else:
        await send_text(send, "it was taken")
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": SEND})


wrong_server = shared_server(Sessions(wrong_then_echo))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_messages_change_nothing(wrong_server, name):
    with connected(wrong_server, path=f"/{name}") as client:
        said = client.message()
        assert said != "it was taken"
        if "surrogate" not in name:
            wrong = WRONG[name]
            kind = wrong.get("type") if isinstance(wrong, dict) else type(wrong).__name__
            assert str(kind) in said, "it names the message"
        client.works()


@pytest.mark.parametrize(
    "message",
    [
        {"type": SEND, "text": "x"},
        {"type": SEND, "bytes": b"x"},
        {"type": BODY, "body": b""},
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "websocket.receive"},
        {},
        None,
        "websocket.accept",
    ],
    ids=lambda message: message.get("type", "no type") if isinstance(message, dict) else None,
)
def test_wrong_first_messages(serve, message):
    said = []

    @ws_only
    async def app(scope, receive, send):
        with pytest.raises(LocalProtocolError) as caught:
            await send(message)
        said.append(str(caught.value))
        await echo(scope, receive, send)

    with connected(serve(app)) as client:
        client.works()
    kind = repr(message.get("type")) if isinstance(message, dict) else type(message).__name__
    assert kind in said[0]


class Word(enum.StrEnum):
    A = "a"


class Code(enum.IntEnum):
    DONE = 1000


def test_an_enumerations_values_are_text(serve):
    """Subprotocol, text and reason are often members of a string enumeration."""

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send, subprotocol=Word.A)
        await send({"type": SEND, "text": Word.A})
        await send({"type": CLOSING, "code": Code.DONE, "reason": Word.A})

    with connected(serve(app), "Sec-WebSocket-Protocol: a") as client:
        assert client.message() == "a"
        assert client.read_close() == (1000, "a")


LATE = [
    {"type": SEND, "text": "late"},
    {"type": SEND, "bytes": b"late"},
    {"type": CLOSING},
    {"type": CLOSING, "code": 4000},
    {"type": "websocket.accept"},
    {"type": START, "status": 401, "headers": []},
    {"type": "unknown"},
    {"type": None},
]


@pytest.mark.parametrize("message", LATE, ids=lambda message: str(message["type"]))
def test_messages_behind_the_applications_own_close(serve, message, errors):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": 4001})
        await send(message)

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        assert client.read_close()[0] == 4001
        client.send(close_frame(4001))
        client.ended()
        wait_until(lambda: sessions.last.ended)
    assert type(sessions.last.raised) is LocalProtocolError
    wait_until(errors)
    assert len(errors()) == 1


# --- Valid messages -------------------------------------------------------------------------------

GOOD = [
    ({"text": "x"}, TEXT, b"x"),
    ({"text": ""}, TEXT, b""),
    ({"text": "\u20ac\U0001f600\0"}, TEXT, "\u20ac\U0001f600\0".encode()),
    ({"text": "x" * 126}, TEXT, b"x" * 126),
    ({"text": "\xe9" * 40_000}, TEXT, "\xe9".encode() * 40_000),
    ({"text": "x", "bytes": None}, TEXT, b"x"),
    ({"bytes": b"\xff\0"}, BINARY, b"\xff\0"),
    ({"bytes": b""}, BINARY, b""),
    ({"bytes": b"x" * 125}, BINARY, b"x" * 125),
    ({"bytes": b"x" * 65535}, BINARY, b"x" * 65535),
    ({"bytes": b"x" * 65536}, BINARY, b"x" * 65536),
    ({"bytes": b"x", "text": None}, BINARY, b"x"),
    ({"bytes": bytearray(b"array")}, BINARY, b"array"),
    ({"bytes": memoryview(b"a view")}, BINARY, b"a view"),
    ({"bytes": memoryview(b"a view")[2:]}, BINARY, b"view"),
]


def test_good_messages_5_6(serve):
    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        for fields, _, _ in GOOD:
            await send({"type": SEND} | fields)
        await send(types.MappingProxyType({"type": SEND, "text": "any mapping"}))
        await send({"type": CLOSING})

    with connected(serve(app)) as client:
        for _, opcode, payload in GOOD:
            client.echoes(opcode, payload)
        assert client.message() == "any mapping"
        assert client.read_close() == (1000, "")


def test_a_bytearray_may_be_changed_behind_send(serve):
    """send() has copied the bytes, whether they have left or not."""

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        data = bytearray(b"x" * 3_000_000)
        await send_bytes(send, data)
        data[:] = b"y" * 3_000_000
        data += b"resizable"  # resizing fails while a buffer is exported
        await send_bytes(send, b"end")
        await receive()

    with connected(serve(app), receive_buffer=4096) as client:
        assert client.message() == b"x" * 3_000_000
        assert client.message() == b"end"
        client.close()


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 4999])
def test_codes_of_the_application_7_4(serve, code):
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING, "code": code, "reason": "r" * 123})
        await receive()

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        assert client.read_close() == (code, "r" * 123)
        client.send(close_frame(code))
        client.ended()
    assert sessions.disconnect()[0] == code


@pytest.mark.parametrize("fields", [{}, {"code": 1000}, {"reason": ""}, {"reason": None}])
def test_close_has_defaults(serve, fields):
    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await send({"type": CLOSING} | fields)

    with connected(serve(app)) as client:
        assert client.read_close() == (1000, "")


def test_sent_messages_leave_before_the_close_5_5_1(serve):
    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        for _ in range(20):
            await send_bytes(send, b"x" * 100_000)
        await send({"type": CLOSING, "code": 4000})

    with connected(serve(app), receive_buffer=4096) as client:
        for _ in range(20):
            assert client.message() == b"x" * 100_000
        assert client.read_close()[0] == 4000


# --- receive() ------------------------------------------------------------------------------------


def test_receive_behind_the_disconnect(serve):
    async def app(scope, receive, send):
        await accept(receive, send)
        await receive()
        for _ in range(2):
            with pytest.raises(LocalProtocolError):
                await receive()

    sessions = Sessions(app)
    with connected(serve(sessions)) as client:
        client.close()
    assert sessions.disconnect()[0] == 1000
    assert sessions.last.raised is None


def test_receive_that_is_cancelled_loses_nothing(serve):
    """Time-outs and task groups of frameworks cancel it."""
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await receive()
        await gate.wait()
        waiting = asyncio.ensure_future(receive())
        waiting.cancel()  # before its first step, or as it returns a message
        await asyncio.gather(waiting, return_exceptions=True)
        if not waiting.cancelled():
            await send(waiting.result() | {"type": SEND})
        while (message := await receive())["type"] == "websocket.receive":
            await send(message | {"type": SEND})

    running = serve(app)
    with connected(running) as client:
        wait_until(lambda: gate.reached)
        client.send(frame(TEXT, "a"), frame(TEXT, "b"))
        gate.open(running)
        assert [client.message(), client.message()] == ["a", "b"]
        client.close()


def test_receive_cancelled_as_the_message_comes(serve):
    """The waiter is woken and cancelled in one turn of the loop, and the message is kept."""
    got = []

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        waiting = asyncio.ensure_future(receive())
        connection = next(iter(running.context.connections))
        await asyncio.sleep(0)
        connection.data_received(frame(TEXT, "x"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not waiting.cancelled():
            got.append(waiting.result())
        async with asyncio.timeout(5):
            if not got:
                got.append(await receive())
        await send({"type": CLOSING})

    running = serve(app)
    with connected(running) as client:
        assert client.read_close()[0] == 1000
    assert got == [{"type": "websocket.receive", "text": "x"}]


def test_two_receive_at_once(serve):
    """Each message goes to one of them, in order; both learn in some form that the client left."""
    gate = Gate()
    got = []
    ends = []

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)

        async def one():
            try:
                message = await receive()
                while message["type"] == "websocket.receive":
                    got.append(message["text"])
                    message = await receive()
                ends.append(message["type"])
            except LocalProtocolError as exc:
                ends.append(type(exc).__name__)

        both = [asyncio.ensure_future(one()) for _ in range(2)]
        await gate.wait()
        await asyncio.gather(*both)

    running = serve(app)
    with connected(running) as client:
        for number in range(50):
            client.text(str(number))
        wait_until(lambda: len(got) == 50)
        client.close()
        gate.open(running)
    wait_until(lambda: len(ends) == 2)
    assert got == [str(number) for number in range(50)]
    assert sorted(ends)[-1] == "websocket.disconnect"


def test_message_types_are_exact_5_6(serve):
    app = Sessions(echo)
    with connected(serve(app)) as client:
        client.send(frame(TEXT, ""), frame(BINARY, b""), frame(TEXT, "t"), frame(BINARY, b"b"))
        client.send(*fragments(TEXT, [b"\xc3", b"\xa9"]))
        for _ in range(5):
            client.message()
        client.close(3000, "done")
    app.disconnect()
    assert app.last.received == [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
        {"type": "websocket.receive", "text": "t"},
        {"type": "websocket.receive", "bytes": b"b"},
        {"type": "websocket.receive", "text": "\xe9"},
        {"type": "websocket.disconnect", "code": 3000, "reason": "done"},
    ]
    assert type(app.last.received[2]["bytes"]) is bytes


# --- send() from elsewhere ------------------------------------------------------------------------


def test_send_from_another_task(serve):
    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)

        async def ticker():
            for number in range(100):
                await send_text(send, f"tick {number}")
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(ticker())
        message = await receive()
        await send(message | {"type": SEND})
        await ticking
        await send({"type": CLOSING})

    with connected(serve(app)) as client:
        client.text("mine")
        seen = []
        while (got := client.read()).opcode == TEXT:
            seen.append(got.payload.decode())
        assert got.opcode == CLOSE
    assert seen.count("mine") == 1
    assert [text for text in seen if text != "mine"] == [f"tick {number}" for number in range(100)]


def test_sends_at_once_do_not_mix_5_4(serve):
    """Messages stay whole while many tasks wait for a client that reads slowly."""

    @ws_only
    async def app(scope, receive, send):
        await accept(receive, send)
        await asyncio.gather(*[send_bytes(send, bytes([number]) * 100_000) for number in range(50)])
        await send({"type": CLOSING})

    with connected(serve(app), receive_buffer=4096) as client:
        seen = []
        for _ in range(50):
            data = client.message()
            assert len(set(data)) == 1
            assert len(data) == 100_000
            seen.append(data[0])
        assert client.read_close()[0] == 1000
    assert seen == list(range(50))

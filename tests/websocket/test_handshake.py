"""The opening handshake (RFC 6455 section 4) on real sockets: which requests count as handshakes,
and which of them are accepted or refused.
"""

import pytest
from support import read_all, wait_until
from ws_apps import Gate, Sessions, echo, shared_server, ws_only
from ws_client import (
    BINARY,
    KEY,
    TEXT,
    Client,
    Sender,
    accept_value,
    close_frame,
    connected,
    frame,
    handshake,
    parse_head,
)

GET_CLOSE = b"GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def both(scope, receive, send):
    """Echoes WebSocket messages; answers HTTP requests with a body that says "http"."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"http"})
    else:
        await echo(scope, receive, send)


class Both(Sessions):
    """Records WebSocket sessions, and passes HTTP through."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await both(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


server = shared_server(Both(echo))


# --- Which requests ask for WebSocket: RFC 6455 section 4.2.1, RFC 9110 section 7.8 ---------------

ORDINARY = {
    "another_protocol_9110_7_8": handshake(
        "Upgrade: h2c",
        "Connection: Upgrade",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        without=("upgrade", "connection", "sec-websocket-key", "sec-websocket-version"),
    ),
    "similar_protocol_9110_7_8": handshake(
        "Upgrade: websockets", without=("upgrade", "sec-websocket-key")
    ),
    "prefix_of_the_protocol_9110_7_8": handshake(
        "Upgrade: websocke", without=("upgrade", "sec-websocket-key")
    ),
    "no_connection_9110_7_8": handshake(without=("connection", "sec-websocket-key")),
    "connection_without_upgrade_9110_7_8": handshake(
        "Connection: keep-alive", without=("connection", "sec-websocket-key")
    ),
    "connection_similar_9110_7_8": handshake(
        "Connection: upgraded", without=("connection", "sec-websocket-key")
    ),
    "no_upgrade_9110_7_8": handshake(without=("upgrade", "sec-websocket-key")),
    "http_1_0_without_key_9110_7_8": handshake(without=("sec-websocket-key",), version="1.0"),
    "version_alone": handshake(without=("upgrade", "connection", "sec-websocket-key")),
    "empty_upgrade": handshake("Upgrade:", without=("upgrade", "sec-websocket-key")),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_request_that_does_not_ask_for_websocket_is_http(server, name):
    raw = server.raw(ORDINARY[name] + GET_CLOSE)
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    # with HTTP/1.0 the client does not expect a second response
    assert raw.count(b"http") in (raw.count(b"HTTP/1.1 200"), 2)
    if b"HTTP/1.0" not in ORDINARY[name]:
        assert raw.count(b"HTTP/1.1 200") == 2


MEANT = {
    "lists_keep_alive_4_2_1": handshake("Connection: keep-alive, Upgrade", without=["connection"]),
    "lists_without_spaces_9110_5_6_1": handshake(
        "Connection: keep-alive,upgrade", without=["connection"]
    ),
    "tabs_9110_5_6_3": handshake("Connection: keep-alive\t,\tUpgrade\t", without=["connection"]),
    "empty_elements_9110_5_6_1_2": handshake(
        "Connection: , ,Upgrade,", "Upgrade: ,websocket,", without=["connection", "upgrade"]
    ),
    "two_connection_lines_9110_5_3": handshake(
        "Connection: keep-alive", "Connection: upgrade", without=["connection"]
    ),
    "connection_that_would_close_9112_9_6": handshake(
        "Connection: close, upgrade", without=["connection"]
    ),
    "upgrade_first_of_two_lines": handshake(
        "Connection: upgrade", "Connection: keep-alive", without=["connection"]
    ),
    "any_case_4_2_1": handshake(
        "CONNECTION: UPGRADE", "uPGRADE: WebSocket", without=["connection", "upgrade"]
    ),
    "upgrade_list_9110_7_8": handshake("Upgrade: h2c, websocket", without=["upgrade"]),
    "upgrade_list_other_order": handshake("Upgrade: websocket, h2c", without=["upgrade"]),
    "two_upgrade_lines": handshake("Upgrade: h2c", "Upgrade: websocket", without=["upgrade"]),
    "content_length_0_9110_8_6": handshake("Content-Length: 0"),
    "key_with_spaces_around": handshake(
        f"sec-websocket-KEY: \t {KEY} \t", without=["sec-websocket-key"]
    ),
    "version_with_spaces_around": handshake(
        "Sec-WebSocket-Version:  13 ", without=["sec-websocket-version"]
    ),
    "origin_and_cookie_4_1": handshake("Origin: http://evil.example", "Cookie: a=b; c=d"),
    "absolute_form_9112_3_2_2": handshake(path="http://a/"),
    "protocols_not_chosen_4_2_2": handshake("Sec-WebSocket-Protocol: chat, superchat"),
    "protocols_with_empty_elements_9110_5_6_1_2": handshake("Sec-WebSocket-Protocol: a,,b,"),
    "unknown_extension_9_1": handshake('Sec-WebSocket-Extensions: foo; bar; baz="q"; x=y'),
    "quoted_pair_in_an_extension_9_1": handshake('Sec-WebSocket-Extensions: foo; a="\\b"'),
    "several_extension_lines_11_3_2": handshake(
        "Sec-WebSocket-Extensions: foo", "Sec-WebSocket-Extensions: bar; a=1"
    ),
    "extension_with_empty_elements_9110_5_6_1_2": handshake("Sec-WebSocket-Extensions: ,a,,b"),
}


@pytest.mark.parametrize("name", MEANT)
def test_request_that_asks_for_websocket_is_accepted(server, name):
    with Client(server, MEANT[name]) as client:
        client.accepted()
        assert client.answer.all(b"sec-websocket-protocol") == []
        assert client.answer.all(b"sec-websocket-extensions") == []
        client.works()


@pytest.mark.parametrize("key", ["AAAAAAAAAAAAAAAAAAAAAA==", "/+/+/+/+/+/+/+/+/+/+/w==", KEY])
def test_accept_is_made_of_the_key_4_2_2(server, key):
    with Client(server, handshake(key=key)) as client:
        assert client.head().one(b"sec-websocket-accept") == accept_value(key)


def test_accept_of_the_rfc_1_3(server):
    with connected(server) as client:
        assert client.answer.one(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_handshake_may_come_byte_by_byte(server):
    with Client(server, b"") as client:
        client.drip(handshake("Cookie: a=b"))
        client.accepted().works()


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue, 100-continue"])
def test_continue_comes_before_the_101_9110_7_8(server, expect):
    with Client(server, handshake(f"Expect: {expect}")) as client:
        interim = client.head()
        assert (interim.status, interim.fields) == (100, [])
        client.accepted().works()


def test_no_continue_before_a_refusal_9110_10_1_1(server):
    with Client(server, handshake("Expect: 100-continue", method="POST")) as client:
        assert client.head().status == 400


def test_the_handshake_may_follow_a_request(server):
    """RFC 9112 section 9.3: the connection is persistent until the handshake."""
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with Client(server, get + get + handshake() + frame(TEXT, "x")) as client:
        for _ in range(2):
            assert client.head().status == 200
            assert client.sock.recv(4) == b"http"
        client.accepted()
        assert client.message() == "x"
        client.works()


# --- Refused --------------------------------------------------------------------------------------


def without_and(name, *lines):
    return handshake(*lines, without=[name])


def keyed(value):
    return without_and("sec-websocket-key", f"Sec-WebSocket-Key: {value}")


def versioned(value):
    return without_and("sec-websocket-version", f"Sec-WebSocket-Version: {value}")


REFUSED = {
    "post_4_1": handshake(method="POST"),
    "post_with_length_0_4_1": handshake("Content-Length: 0", method="POST"),
    "put_4_1": handshake(method="PUT"),
    "options_4_1": handshake(method="OPTIONS"),
    "delete_4_1": handshake(method="DELETE"),
    "http_1_0_4_1": handshake(version="1.0"),
    "no_upgrade_4_2_1": handshake(without=["upgrade"]),
    "other_upgrade_4_2_1": without_and("upgrade", "Upgrade: h2c"),
    "no_connection_4_2_1": handshake(without=["connection"]),
    "other_connection_4_2_1": without_and("connection", "Connection: keep-alive"),
    "no_key_4_2_1": handshake(without=["sec-websocket-key"]),
    "empty_key_4_2_1": keyed(""),
    "key_twice_11_3_1": handshake(f"Sec-WebSocket-Key: {KEY}"),
    "two_keys_11_3_1": handshake("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
    "key_of_15_bytes_4_2_1": keyed("AAAAAAAAAAAAAAAAAAAA"),
    "key_of_17_bytes_4_2_1": keyed("AAAAAAAAAAAAAAAAAAAAAAA="),
    "key_of_18_bytes_4_2_1": keyed("AAAAAAAAAAAAAAAAAAAAAAAA"),
    "key_without_padding_4648_3_2": keyed("AAAAAAAAAAAAAAAAAAAAAA"),
    "key_with_one_padding_4648_3_2": keyed("AAAAAAAAAAAAAAAAAAAAAA="),
    "key_of_base64url_4648_5": keyed("-_-_-_-_-_-_-_-_-_-_-w=="),
    "key_with_a_space_4648_3_3": keyed("AAAAAAAAAAA AAAAAAAAAA=="),
    "key_with_garbage_4648_3_3": keyed("!!!!!!!!!!!!!!!!!!!!!!=="),
    "key_of_padding_4648_3_2": keyed("AAAAAAAAAAAAAAAAAAAA===="),
    "key_with_more_behind_4_2_1": keyed(KEY + ", x"),
    "no_version_4_2_1": handshake(without=["sec-websocket-version"]),
    "content_length": handshake("Content-Length: 5") + b"hello",
    "chunked": handshake("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "no_host_9112_3_2": handshake(without=["host"]),
    "two_hosts_9112_3_2": handshake("Host: b"),
    "bad_host_9112_3_2": without_and("host", "Host: a b"),
}
REFUSED |= {
    f"protocol_{name}": handshake(f"Sec-WebSocket-Protocol: {value}")
    for name, value in {
        "empty_11_3_4": "",
        "only_commas_11_3_4": ",",
        "with_a_space_4_3": "a b",
        "quoted_4_3": '"a"',
        "with_a_slash_4_3": "a/b",
        "with_a_parameter_4_3": "a; b",
        "with_an_equals_sign_4_3": "a=b",
        "bad_among_good_4_3": "a, b, (c), d",
        "not_ascii_4_3": "caf\xe9",
    }.items()
}
REFUSED["protocol_bad_in_the_second_line_11_3_4"] = handshake(
    "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b c"
)
REFUSED |= {
    f"extension_{name}": handshake(f"Sec-WebSocket-Extensions: {value}")
    for name, value in {
        "empty_9_1": "",
        "only_commas_9_1": " , ",
        "parameter_alone_9_1": "; a",
        "semicolon_at_the_end_9_1": "a;",
        "two_semicolons_9_1": "a;; b",
        "two_words_9_1": "a b",
        "value_without_parameter_9_1": "a=b",
        "empty_value_9_1": "a; b=",
        "empty_name_9_1": "a; =b",
        "two_values_9_1": "a; b=c d",
        "unterminated_quote_9_1": 'a; b="c',
        "lone_quote_9_1": 'a; b="',
        "escape_at_the_end_9_1": 'a; b="c\\',
        "empty_quotes_9_1": 'a; b=""',
        "quoted_not_a_token_9_1": 'a; b="c d"',
        "more_behind_the_quotes_9_1": 'a; b="c"d',
        "quoted_name_9_1": '"a"',
        "bad_behind_a_good_one_9_1": "permessage-deflate, a b",
        "not_ascii_9_1": "caf\xe9",
    }.items()
}
REFUSED["extension_bad_in_the_second_line_9_1"] = handshake(
    "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Extensions: a;"
)


def connection_options(answer) -> set[bytes]:
    lines = b",".join(answer.all(b"connection")).lower()
    return {option.strip() for option in lines.split(b",")}


def refused(server, request: bytes):
    """Send a bad handshake; return the response's head and body. Nothing may follow, and no
    application may have run.
    """
    calls = server.app.calls
    raw = server.raw(request + GET_CLOSE)
    head, _, body = raw.partition(b"\r\n\r\n")
    answer = parse_head(head)
    assert len(body) == int(answer.one(b"content-length"))
    assert b"close" in connection_options(answer)
    assert answer.one(b"content-type").startswith(b"text/plain")
    assert body.endswith(b"\n")
    assert body.count(b"\n") == 1
    assert server.app.calls == calls
    return answer, body


@pytest.mark.parametrize("name", REFUSED)
def test_bad_handshakes_are_400(server, name):
    answer, body = refused(server, REFUSED[name])
    assert answer.status == 400
    assert len(body) > len("Bad Request: \n")


@pytest.mark.parametrize("value", ["0", "7", "8", "12", "14", "013", "255", "13a", "1", "130"])
def test_other_versions_are_426_4_2_2(server, value):
    answer, _ = refused(server, versioned(value))
    assert answer.status == 426
    assert answer.one(b"sec-websocket-version") == b"13"
    assert answer.one(b"upgrade").lower() == b"websocket"  # RFC 9110 section 15.5.22
    assert connection_options(answer) == {b"upgrade", b"close"}


@pytest.mark.parametrize("values", [("13", "8"), ("8", "13"), ("13", "13"), ("13, 8",)])
def test_several_versions_are_refused_11_3_5(server, values):
    lines = [f"Sec-WebSocket-Version: {value}" for value in values]
    answer, _ = refused(server, handshake(*lines, without=["sec-websocket-version"]))
    assert answer.status in (400, 426)


def test_head_is_refused_without_a_body_9110_9_3_2(server):
    raw = server.raw(handshake(method="HEAD") + GET_CLOSE)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert parse_head(head).status == 400
    assert body == b""


def test_refusal_can_be_read_while_more_is_sent(server):
    """RFC 9112 section 9.6: a reset must not make the client lose the response."""
    with Client(server, keyed("x") + b"x" * 500_000) as client:
        assert client.head().status == 400
        assert b"x" * 100 not in read_all(client.sock)


# --- Bytes after the handshake --------------------------------------------------------------------


def test_frames_behind_the_handshake(server):
    with Client(server, handshake() + frame(TEXT, "a") + frame(TEXT, "b")) as client:
        client.accepted()
        assert [client.message(), client.message()] == ["a", "b"]
        client.works()


@pytest.mark.parametrize("cut", range(1, 9))
def test_part_of_a_frame_behind_the_handshake(server, cut):
    data = frame(TEXT, "abc")
    with Client(server, handshake() + data[:cut]) as client:
        client.accepted()
        client.send(data[cut:])
        assert client.message() == "abc"
        client.works()


def test_close_behind_the_handshake(server):
    with Client(server, handshake() + close_frame(1001, "bye")) as client:
        client.accepted()
        assert client.read_close()[0] == 1001
        client.ended()
    assert server.app.disconnect() == (1001, "bye")


def test_bad_frame_behind_the_handshake(server):
    with Client(server, handshake() + frame(3)) as client:
        client.accepted().closed(1002)
    assert server.app.disconnect()[0] == 1002


@pytest.mark.parametrize("count", [1, 10, 2000])
def test_frames_before_the_application_accepts(serve, count):
    """However many they are, they are kept or left in the socket, and echoed after the accept."""
    gate = Gate()

    @ws_only
    async def app(scope, receive, send):
        await gate.wait()
        await echo(scope, receive, send)

    running = serve(app)
    payloads = [bytes([number % 256]) * 200 for number in range(count)]
    with Client(running, handshake()) as client:
        wait_until(lambda: gate.reached)
        sender = Sender(client, b"".join(frame(BINARY, payload) for payload in payloads))
        wait_until(lambda: sender.done or running.holds_back())
        gate.open(running)
        client.accepted()
        for payload in payloads:
            assert client.message() == payload
        sender.join()
        client.close()


def test_clients_that_leave_behind_the_handshake_are_forgotten(serve):
    running = serve(ws_only(echo))
    for leave in (Client.reset, Client.__exit__):
        client = Client(running).accepted()
        leave(client)
    wait_until(lambda: not running.context.connections)
    wait_until(lambda: not running.context.cycles)

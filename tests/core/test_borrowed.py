"""A parser that borrows a read buffer gives the same events as one that is fed the bytes."""

import socket

import pytest

from thestral._core.http1 import Event, RequestParser
from thestral._core.socket import ReadBuffer
from thestral.errors import RemoteProtocolError

REQUESTS = (
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    b"GET /c HTTP/1.1\r\nHost: a\r\n\r\n"
)


def drain(parser, most):
    """At most `most` events, in a form that can be compared."""
    events = []
    while len(events) < most and (event := parser.next_event()) != Event.NEED_DATA:
        scope = {}
        if event == Event.HEAD:
            parser.read_head().fill(scope)
        events.append((event, scope, parser.read_body() if event == Event.BODY else b""))
    return events


def merged(events):
    """The events, with the pieces of each body joined."""
    result = []
    for event, scope, body in events:
        if event == Event.BODY and result and result[-1][0] == Event.BODY:
            result[-1] = (event, scope, result[-1][2] + body)
        else:
            result.append((event, scope, body))
    return result


@pytest.mark.parametrize("per_read", [0, 1, 2, 100])
def test_every_split_and_any_number_of_events_left(per_read):
    whole = RequestParser(8000, 8000, 100, 0)
    whole.feed(REQUESTS)
    expected = merged(drain(whole, 100))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for cut in range(1, len(REQUESTS)):
            parser = RequestParser(8000, 8000, 100, 0)
            buffer = ReadBuffer(4096)
            events = []
            for piece in (REQUESTS[:cut], REQUESTS[cut:]):
                theirs.send(piece)
                assert buffer.receive(ours.fileno()) == len(piece)
                parser.borrow(buffer)
                events += drain(parser, per_read)
                parser.keep()
                parser.keep()
                theirs.send(b"\xff" * 4096)  # another connection's bytes in the same place
                assert buffer.receive(ours.fileno()) == 4096
            events += drain(parser, 100)
            assert merged(events) == expected, cut


def test_bytes_of_a_refused_request_are_shown_once():
    """Afterwards another connection's bytes may be in the same place."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parser = RequestParser(8000, 8000, 100, 0)
        buffer = ReadBuffer(64)
        theirs.send(b"GET nothing HTTP/1.1\r\n\r\n")
        buffer.receive(ours.fileno())
        parser.borrow(buffer)
        with pytest.raises(RemoteProtocolError) as first:
            parser.next_event()
        assert first.value.excerpt.startswith(b"GET nothing")
        parser.keep()
        theirs.send(b"secret" * 10)
        buffer.receive(ours.fileno())
        with pytest.raises(RemoteProtocolError) as second:
            parser.next_event()
        assert second.value.status == first.value.status
        assert second.value.excerpt == b""

"""AdminServer: the requests that it refuses, and clients that try to delay it."""

from __future__ import annotations

import contextlib
import socket

import pytest
from support import read_all, read_response, reset, wait_until

from thestral.admin.server import (
    LARGEST_BODY,
    LARGEST_HEAD,
    LIFETIME,
    MOST_FIELDS,
    MOST_OPEN,
    MOST_SERVED,
    Response,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def say(request, reply):
    reply(Response(200, f"{request.method} {request.path} {request.query} {request.accept}\n"))


def status(port, request):
    """The status of the response to a request."""
    with port.connect() as sock:
        sock.sendall(request)
        return int(read_all(sock).split()[1])


def test_a_request_gets_its_answer_and_the_connection_ends(port):
    port = port(say)
    with port.connect() as sock:
        sock.sendall(b"GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nAccept: x\r\nAccept: y\r\n\r\n")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\ncache-control: no-store" in head
    assert body == b"GET /a b c=d x,y\n"


def test_a_request_may_come_byte_by_byte(port):
    port = port(say)
    with port.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            sock.send(bytes([byte]))
        assert read_all(sock).endswith(b"GET /  \n")


def test_head_gets_no_body(port):
    port = port(say)
    with port.connect() as sock:
        sock.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = read_all(sock)
    assert head.endswith(b"\r\n\r\n")
    assert b"content-length: 9\r\n" in head


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), 400),  # TLS
        (b"GET /" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * MOST_FIELDS + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LARGEST_HEAD + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1), 413),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n"
            % (LARGEST_BODY + 1, b"a" * (LARGEST_BODY + 1)),
            413,
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(port, request_, expected):
    port = port(say)
    assert status(port, request_) == expected
    assert status(port, GET) == 200


def test_the_largest_head_and_body_are_accepted(port):
    port = port(say)
    body = b"a" * LARGEST_BODY
    assert status(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 512\r\n\r\n" + body) == 200
    fields = b"Host: a\r\n" + b"a: b\r\n" * (MOST_FIELDS - 1)
    assert status(port, b"GET / HTTP/1.1\r\n" + fields + b"\r\n") == 200


def test_what_a_client_sends_after_its_request_does_not_destroy_the_response(port):
    port = port(say)
    with port.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n" + b"a" * 9999)
        assert read_all(sock).startswith(b"HTTP/1.1 413 ")


def test_the_sixteenth_connection_is_served_and_the_seventeenth_gets_503(port):
    port = port(say)
    with contextlib.ExitStack() as open_ones:
        idle = [open_ones.enter_context(port.connect()) for _ in range(MOST_SERVED)]
        with port.connect() as sock:
            assert read_all(sock).startswith(b"HTTP/1.1 503 ")
        idle[-1].sendall(GET)
        assert read_response(idle[-1])[1] == b"GET /  \n"
        with port.connect() as sock:  # takes the place of the one that has its response
            sock.sendall(GET)
            assert read_response(sock)[1] == b"GET /  \n"


def test_clients_that_only_wait_are_closed_to_make_room(port):
    """They have their responses, and do not close their connections."""
    port = port(say)
    with contextlib.ExitStack() as open_ones:
        for _ in range(3 * MOST_OPEN):
            sock = open_ones.enter_context(port.connect())
            sock.sendall(GET)
            assert read_response(sock)[1] == b"GET /  \n"


def test_a_connection_ends_after_its_time_whatever_the_client_does(port):
    port = port(say)
    with port.connect() as idle, port.connect() as slow, port.connect() as answered:
        slow.sendall(b"GET / HT")
        answered.sendall(GET)
        read_response(answered)
        turns = port.turns
        wait_until(lambda: port.turns > turns + 2)
        port.hurry = LIFETIME + 1
        assert idle.recv(1) == slow.recv(1) == answered.recv(1) == b""
    port.hurry = 0.0
    assert status(port, GET) == 200


def test_a_client_that_does_not_read_delays_nobody(port):
    size = 30_000_000  # more than the kernel's buffers hold
    port = port(lambda request, reply: reply(Response(200, "a" * size)))
    with port.connect() as sock:
        sock.sendall(GET)
        assert sock.recv(1, socket.MSG_PEEK)
        assert status(port, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n") == 200
        assert len(read_response(sock)[1]) == size


def test_clients_that_reset_break_nothing(port):
    port = port(say)
    for data in (b"", b"GET", GET):
        sock = port.connect()
        sock.sendall(data)
        reset(sock)
    assert status(port, GET) == 200


def test_a_fault_of_ours_gets_500_and_breaks_nothing(port, errors):
    def fail(request, reply):
        if request.path == "/fail":
            raise RuntimeError("broken")
        say(request, reply)

    port = port(fail)
    assert status(port, b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n") == 500
    assert status(port, GET) == 200
    assert "broken" in str(errors()[0].exc_info[1])


def test_an_answer_may_come_later_or_too_late(port):
    replies = []
    port = port(lambda request, reply: replies.append(reply))
    with port.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: replies)
        replies[0](Response(200, "late\n"))
        replies[0](Response(200, "twice\n"))
        assert read_all(sock).endswith(b"\r\n\r\nlate\n")
    with port.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: len(replies) == 2)
    port.hurry = LIFETIME + 1
    turns = port.turns
    wait_until(lambda: port.turns > turns + 2)
    replies[1](Response(200, "too late\n"))

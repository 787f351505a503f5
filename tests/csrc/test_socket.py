"""csrc/socket.c: its constants, and its results for sockets that are not ready or broken."""

import errno
import os
import socket
import sys

import pytest

from thestral._core.socket import (
    Bit,
    Outcome,
    Poll,
    ReadBuffer,
    SendQueue,
    drop_syn,
    send,
    socket_error,
)
from thestral._csrc import ffi, lib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")


@pytest.fixture
def pair():
    first, second = socket.socketpair()
    first.setblocking(False)
    with first, second:
        yield first, second


def test_numbers_are_those_of_the_header():
    for bit in Bit:
        assert bit == getattr(lib, f"TH_{bit.name}")
    assert all(outcome < 0 for outcome in Outcome)


def test_receiving(pair):
    ours, theirs = pair
    buffer = ffi.new("char[8]")
    assert lib.th_receive(ours.fileno(), buffer, 8) == lib.TH_EBLOCKED
    theirs.send(b"0123456789")
    assert lib.th_receive(ours.fileno(), buffer, 8) == 8
    assert ffi.buffer(buffer)[:] == b"01234567"
    assert lib.th_receive(ours.fileno(), buffer, 8) == 2
    theirs.close()
    assert lib.th_receive(ours.fileno(), buffer, 8) == 0
    assert lib.th_receive(-1, buffer, 8) == lib.TH_ESYSTEM
    assert ffi.errno == 9  # EBADF


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_dropping_syn(family, host):
    """A connection goes on, one that waits is accepted, and a later attempt gets no answer."""
    with socket.socket(family) as listener, socket.socket(family) as early:
        listener.bind((host, 0))
        listener.listen()
        early.connect(listener.getsockname())
        if lib.th_drop_syn(listener.fileno()) < 0 and ffi.errno == errno.EPERM:
            pytest.skip("this kernel lets only CAP_NET_ADMIN filter a TCP socket")
        assert drop_syn(listener.fileno())
        accepted, _ = listener.accept()
        with accepted, socket.socket(family) as late:
            early.sendall(b"a")
            assert accepted.recv(2) == b"a"
            accepted.sendall(b"b")
            assert early.recv(2) == b"b"
            late.settimeout(0.05)
            with pytest.raises(TimeoutError):
                late.connect(listener.getsockname())
    assert not drop_syn(-1)


def test_sending(pair):
    ours, theirs = pair
    assert lib.th_send(ours.fileno(), b"abc", 3) == 3
    texts = [ffi.new("char[]", b"x%d" % number) for number in range(70)]
    parts = ffi.new("th_part[]", [(text, len(text) - 1) for text in texts])
    sent = lib.th_send_parts(ours.fileno(), parts, 70)
    assert lib.TH_PARTS_MAX == 64
    expected = b"abc" + b"".join(b"x%d" % number for number in range(64))
    assert sent == len(expected) - 3
    assert theirs.recv(1000) == expected
    while (sent := lib.th_send(ours.fileno(), bytes(65536), 65536)) > 0:
        pass
    assert sent == lib.TH_EBLOCKED
    theirs.close()
    assert lib.th_send(ours.fileno(), b"a", 1) == lib.TH_ESYSTEM  # and no SIGPIPE
    assert ffi.errno == 32  # EPIPE


def test_readiness_is_reported_once(pair):
    ours, theirs = pair
    poll = lib.th_poll_open()
    ready = ffi.new("th_ready[]", lib.TH_READY_MAX)
    assert not os.get_inheritable(poll)
    assert lib.th_poll_add(poll, ours.fileno(), lib.TH_READABLE) == 0
    assert lib.th_poll_add(poll, ours.fileno(), lib.TH_READABLE) == lib.TH_ESYSTEM
    assert lib.th_poll_take(poll, ready) == 0
    theirs.send(b"a")
    assert lib.th_poll_take(poll, ready) == 1
    assert (ready[0].fd, ready[0].bits) == (ours.fileno(), lib.TH_READABLE)
    assert lib.th_poll_take(poll, ready) == 0
    assert lib.th_poll_change(poll, ours.fileno(), lib.TH_READABLE | lib.TH_WRITABLE) == 0
    assert lib.th_poll_take(poll, ready) == 1
    assert ready[0].bits == lib.TH_READABLE | lib.TH_WRITABLE
    theirs.close()
    assert lib.th_poll_take(poll, ready) == 1
    assert ready[0].bits & lib.TH_HANGUP
    assert lib.th_poll_remove(poll, ours.fileno()) == 0
    assert lib.th_poll_remove(poll, ours.fileno()) == lib.TH_ESYSTEM
    assert lib.th_close(poll) == 0
    assert lib.th_close(poll) == lib.TH_ESYSTEM


def test_addresses():
    address = ffi.new("th_address *")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        assert lib.th_accept(listener.fileno(), address) == lib.TH_EBLOCKED
        assert lib.th_own_address(listener.fileno(), address) == 0
        assert ffi.string(address.text) == b"127.0.0.1"
        assert address.port == listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()) as client:
            fd = lib.th_accept(listener.fileno(), address)
            assert fd >= 0
            assert not os.get_inheritable(fd)
            assert not os.get_blocking(fd)
            assert address.port == client.getsockname()[1]
            assert lib.th_socket_error(fd) == 0
            lib.th_close(fd)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200, 1000])
def test_queue_sends_all_in_order(pair, size):
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setblocking(False)
    queue = SendQueue()
    queue.push(b"__first", 2)
    parts = [b"first", *(bytes([number % 256]) * (number * 7 % 300) for number in range(size))]
    for part in parts[1:]:
        queue.push(part, 0)
    expected = b"".join(parts)
    assert queue.size == len(expected)
    received = b""
    while queue.size:
        before = queue.size
        sent = queue.flush(ours.fileno())
        assert before - queue.size >= max(sent, 0)
        assert sent == Outcome.BLOCKED or sent > 0
        received += theirs.recv(1 << 20)
    assert received == expected
    assert queue.flush(ours.fileno()) == 0
    queue.push(b"again", 0)
    assert queue.flush(ours.fileno()) == 5
    assert theirs.recv(10) == b"again"


def test_objects_over_the_calls(pair):
    ours, theirs = pair
    buffer = ReadBuffer(4)
    assert buffer.receive(ours.fileno()) == Outcome.BLOCKED
    assert buffer.take() == b""
    theirs.send(b"hello")
    assert buffer.receive(ours.fileno()) == 4
    assert buffer.take() == b"hell"
    assert buffer.size == buffer.capacity == 4
    assert send(ours.fileno(), b"abc") == 3
    assert socket_error(ours.fileno()) is None
    assert buffer.receive(-1) == Outcome.FAILED
    poll = Poll()
    with pytest.raises(OSError, match="Bad file descriptor"):
        poll.add(-1, Bit.READABLE)
    poll.close()
    poll.close()
    assert poll.fd == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        poll.change(ours.fileno(), Bit.READABLE)

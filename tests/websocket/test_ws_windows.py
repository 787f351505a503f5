"""When the server keeps its compression window, and when it frees the memory."""

import contextlib
import random

import pytest
from support import room_for_descriptors
from ws_apps import Sessions, echo
from ws_client import BINARY, PING, connected
from ws_deflating import Deflating

MANY = 1000  # of protocol/websocket.py
NOISE = random.Random(1).randbytes(1000)


@pytest.fixture
def descriptors():
    """Room for both ends of many connections in one process."""
    with room_for_descriptors(2 * MANY + 1000):
        yield


def test_window_is_kept_only_with_few_connections(serve, descriptors):
    running = serve(Sessions(echo), ws_deflate_min_size=0)
    with Deflating(running) as client:
        assert client.round_trip(BINARY, NOISE) > 1000
        # The second message refers to the first.
        assert client.round_trip(BINARY, NOISE) < 100
        with contextlib.ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(connected(running))
            assert client.round_trip(BINARY, NOISE) < 100
            assert client.round_trip(BINARY, NOISE) > 1000
            assert client.round_trip(BINARY, NOISE) > 1000
        client.close()


def test_window_is_given_back_when_nothing_was_sent_for_a_ping_interval(serve):
    running = serve(Sessions(echo), ws_deflate_min_size=0, ws_ping_interval=0.05)
    with Deflating(running) as client:
        sizes = []
        for _ in range(2):
            client.packed(BINARY, NOISE)
            while (got := client.read()).opcode == PING:
                pass
            sizes.append(len(got.payload))
            client.inflate(got.payload)
            for _ in range(2):  # the second Ping comes at least an interval later
                client.expect(PING)
        assert min(sizes) > 1000

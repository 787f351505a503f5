"""Clients that are slow to open a connection, or that leave one idle."""

from __future__ import annotations

import asyncio

import pytest
from abuse import (
    MIB,
    Counting,
    Large,
    answer,
    request,
    requests,
)
from apps import respond
from driven import DrivenLoop
from frames import (
    PREFACE,
    Code,
    settings,
    settings_ack,
)

from thestral.protocol.clock import SLOWEST_TICK

SETTINGS_TIME = 10.0  # seconds: of thestral.protocol.http2

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


@pytest.mark.parametrize("sent", [PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_preface_must_come_in_time(serve, sent):
    with serve(Counting(answer), timeout_head=0.3).client() as client:
        client.send(sent)
        client.end()
        assert client.closed


def test_idle_connection_is_told_and_closed(serve, open_client):
    client = open_client(serve(Counting(answer), timeout_keep_alive=0.3))
    requests(client, 1)
    assert client.end() == Code.NO_ERROR


def test_connection_with_an_open_stream_is_not_idle(serve, open_client):
    release = asyncio.Event()

    async def slow(scope, receive, send):
        await release.wait()
        await respond(send, b"at last")

    running = serve(Counting(slow), timeout_keep_alive=0.2)
    client = open_client(running)
    stream = client.request()
    client.alive()
    with pytest.raises(TimeoutError):  # five times the time-out pass without a frame
        client.read(1.0)
    running.loop.call_soon_threadsafe(release.set)
    assert client.finished(stream).status == 200


def test_settings_that_are_never_acknowledged_end_the_connection(serve):
    """They get 10 s, also while a stream is open."""
    running = serve(Counting(Large(MIB)))
    clock = DrivenLoop.drive(running)
    with running.client() as client:
        client.answers = False
        client.send(PREFACE + settings() + request(client, 1))
        client.wait(lambda: client.on(1).status)
        running.call(lambda: clock.move(SETTINGS_TIME - 0.1))
        assert client.on(1).status == 200
        running.call(lambda: clock.move(2 * SLOWEST_TICK))
        assert client.end() == Code.SETTINGS_TIMEOUT


def test_acknowledgement_that_comes_late_is_taken(serve):
    with serve(Counting(answer)).client() as client:
        client.answers = False
        client.send(PREFACE + settings())
        for i in range(1, 200, 2):
            client.send(request(client, i))
            assert client.finished(i).status == 200
        client.send(settings_ack())
        client.alive()

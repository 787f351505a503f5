"""bench/first_byte.py: streams directly, through nginx and in Chromium, and the table."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager

import applications
import first_byte
import pytest
from browser import Chromium
from support import Running

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port():
    # Chromium holds idle connections open; the server would wait a moment for them.
    with Running(applications.events, timeout_graceful_shutdown=0.1) as running:
        yield running.port


@pytest.fixture(scope="module")
def chromium():
    browser = Chromium()
    yield browser
    browser.close()


@contextmanager
def answering(data):
    """The port of a server that answers one request with these bytes, and closes."""

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_stream_directly(port):
    first, events = first_byte.stream(port)
    assert first > 0
    assert len(events) == applications.EVENTS


def test_stream_through_nginx(port):
    with first_byte.nginx(port) as proxy:
        first, events = first_byte.stream(proxy)
    assert first > 0
    assert len(events) == applications.EVENTS


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "closed after b''"),
        (HEAD + b"9\r\ndata: 1\n\n\r\n", "closed after"),
        (HEAD + b"9\r\ndata: 1\n\n\r\n0\r\n\r\n", "1 of 10 events in b'HTTP/1.1 200 OK"),
        (HEAD.replace(b"200", b"500") + b"1\r\na\r\n0\r\n\r\n", "in b'HTTP/1.1 500 OK"),
    ],
)
def test_stream_that_is_wrong(data, said):
    with answering(data) as port, pytest.raises(ValueError, match=said):
        first_byte.stream(port)


def test_nginx_that_does_not_start(monkeypatch):
    monkeypatch.setattr(first_byte, "NGINX", "no_such_directive;")
    with pytest.raises(ValueError, match='unknown directive "no_such_directive"'):
        first_byte.nginx(1).__enter__()


def test_streams_in_chromium(chromium, port):
    samples = chromium.measure(port, streams=2)
    assert {name: len(values) for name, values in samples.items()} == {
        "Chromium, EventSource open": 2,
        "Chromium, fetch() resolves": 2,
        "Chromium, each event": 2 * applications.EVENTS,
    }
    assert min(min(samples[name]) for name in samples if "each" not in name) > 0


def test_stream_that_is_wrong_in_chromium(chromium):
    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body"})

    with (
        Running(refuse, timeout_graceful_shutdown=0.1, lifespan="off") as running,
        pytest.raises(ValueError, match="in Chromium: the stream ended after 0 events"),
    ):
        chromium.measure(running.port, streams=1)


def test_first_event_comes_late(monkeypatch):
    pauses, messages = [], []

    async def sleep(seconds):
        pauses.append((seconds, len(messages)))

    async def send(message):
        messages.append(message)

    monkeypatch.setattr(applications.asyncio, "sleep", sleep)
    asyncio.run(applications.events({"type": "http"}, None, send))
    assert pauses[0] == (applications.FIRST_EVENT, 1)
    assert len(messages) == 1 + applications.EVENTS + 1


def test_table():
    samples = {figure: [1.0, 2.0, 3.0] for figure in first_byte.FIGURES}
    lines = first_byte.table({"thestral": samples, "uvicorn": samples}).splitlines()
    assert lines[:3] == [
        "| ms: median (95th percentile) | thestral | uvicorn |",
        "|---|---:|---:|",
        "| direct, first byte | 2.00 (2.90) | 2.00 (2.90) |",
    ]
    assert len(lines) == 2 + len(first_byte.FIGURES)

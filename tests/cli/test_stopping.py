"""How the command ends with requests under way, and with tasks and threads that do not end."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from probe import PROBE, Probe
from support import read_all, read_head


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_lets_a_response_end_and_takes_no_new_connection(thestral, tmp_path, number):
    server = thestral("probe:with_lifespan")
    with server.ask("/slow") as sock:
        assert read_head(sock).startswith(b"HTTP/1.1 200 OK\r\n")
        assert sock.recv(5, socket.MSG_WAITALL) == b"first"
        server.signal(number)
        server.saw("Waiting for running requests to finish")
        with pytest.raises(ConnectionRefusedError):
            server.connect().close()
        assert "shutdown\n" not in server.stdout  # the lifespan shuts down after the last request
        (tmp_path / "go").touch()
        assert read_all(sock) == b"later"
    assert server.finish() == 0
    server.saw('"GET /slow HTTP/1.1" 200 OK\n')
    assert "shutdown\n" in server.stdout
    assert "ERROR" not in server.stderr


def test_connection_that_sent_nothing_does_not_delay_the_exit(thestral):
    server = thestral("probe:app")
    with server.connect() as silent:
        server.get()  # by now the silent connection has been accepted
        before = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
        assert time.monotonic() - before < 3
        assert silent.recv(1) == b""


WEBSOCKET = """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
"""
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_websocket_that_answers_no_close_delays_the_exit_for_two_seconds(
    thestral, tmp_path, workers
):
    (tmp_path / "socketed.py").write_text(WEBSOCKET)
    server = thestral("socketed:app", "--ws-close-timeout", "20", *workers)
    with server.connect() as deaf:
        deaf.sendall(HANDSHAKE)
        assert read_head(deaf).startswith(b"HTTP/1.1 101 ")
        before = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 1.9 < time.monotonic() - before < 12
        assert deaf.recv(4) == b"\x88\x02\x03\xf4"  # Close 1012
    assert "Cancelled" not in server.stderr


@pytest.mark.parametrize("path", ["/stubborn", "/thread"])
def test_second_signal_ends_what_cannot_be_cancelled(thestral, path):
    # A task that swallows its cancellation and a request whose thread blocks are both abandoned.
    server = thestral("probe:app")
    with server.ask(path):
        server.saw("hanging")
        server.signal(signal.SIGINT)
        server.saw("Waiting for running requests to finish")
        server.signal(signal.SIGINT)
        server.finish()
    assert f"Cancelled at shutdown: GET {path}" in server.stderr


@pytest.mark.parametrize("path", ["/stubborn", "/thread"])
def test_graceful_timeout_ends_what_cannot_be_cancelled(thestral, path):
    server = thestral("--timeout-graceful-shutdown", "0.1", "probe:with_lifespan")
    with server.ask(path):
        server.saw("hanging")
        server.signal(signal.SIGTERM)
        server.finish()
    assert f"Cancelled at shutdown: GET {path}" in server.stderr
    assert "shutdown\n" in server.stdout


def test_run_returns_to_its_caller_after_a_signal(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    script = "import thestral; thestral.run('probe:app', port=0); print('returned', flush=True)"
    with Probe(tmp_path, program=("-c", script)) as server:
        assert server.get()[2] == b"hello"
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
        assert server.stdout.endswith("returned\n")

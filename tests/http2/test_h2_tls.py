"""TLS for HTTP/2: cipher suites and ALPN (RFC 9113 section 9.2)."""

from __future__ import annotations

import ssl

import pytest
from abuse import (
    Counting,
    answer,
    requests,
)
from frames import (
    PREFACE,
    Client,
    connect,
    settings,
)
from h2_servers import start

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


def handshake(running, suite: str | None, *protocols: str) -> ssl.SSLSocket:
    context = running.tls
    if suite is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suite)
    context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(running.connect(), server_hostname="localhost")


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"])
def test_suites_that_http2_prohibits_are_not_offered(serve, certificate, suite):
    with start(Counting(answer), certificate) as running, pytest.raises(OSError):
        handshake(running, suite, "h2", "http/1.1").close()


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", None])
def test_suites_of_http2_are_offered(serve, certificate, suite):
    with start(Counting(answer), certificate) as running:
        sock = handshake(running, suite, "h2", "http/1.1")
        with Client(sock, "localhost") as client:
            assert sock.selected_alpn_protocol() == "h2"
            client.start()
            requests(client, 1)


@pytest.mark.parametrize("protocols", [["http/1.1"], ["http/1.0"], []])
def test_preface_without_alpn_is_not_http2(serve, certificate, protocols):
    """Over TLS prior knowledge is not allowed."""
    with start(Counting(answer), certificate) as running:
        sock = handshake(running, None, *protocols)
        with Client(sock, "localhost") as client:
            client.send(PREFACE + settings())
            assert client.first_bytes(9) in (b"", b"HTTP/1.1 ")


def test_http1_is_served_beside(serve, certificate):
    with start(Counting(answer), certificate) as running:
        with handshake(running, None, "http/1.1") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        with connect("127.0.0.1", running.port, running.tls) as client:
            client.start()
            requests(client, 1)

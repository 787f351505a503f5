"""The PROXY protocol's head, which comes before TLS."""

import json
import ssl
import struct

import pytest
from support import read_all, read_response, wait_until
from tls_client import TLSClient

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def mirror(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    body = json.dumps([scope["client"], scope["server"], scope["scheme"]]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("together", [True, False])
def test_the_head_before_the_handshake(serve, together):
    running = serve(mirror, proxy_protocol=True)
    sock = running.plain()
    if together:

        class Behind:  # sends the ClientHello in one packet with the head
            def __init__(self, sock):
                self._sock, self._first = sock, V1

            def send(self, data):
                first, self._first = self._first, b""
                self._sock.sendall(first + data)
                return len(data)

            def __getattr__(self, name):
                return getattr(self._sock, name)

        client = TLSClient(Behind(sock), running.client, "localhost")
    else:
        sock.sendall(V1)
        client = TLSClient(sock, running.client, "localhost")
    with client:
        client.sendall(GET)
        expected = [["192.0.2.1", 56324], ["198.51.100.7", 443], "https"]
        assert json.loads(read_response(client)[1]) == expected


def test_tls_facts_of_our_handshake_beat_those_of_the_head(serve, shared):
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.append(scope)
        await mirror(scope, receive, send)

    about = b"\x03\0\0\0\0" + b"\x21\0\x07TLSv1.2" + b"\x22\0\4Luna"
    tlvs = b"\x20" + len(about).to_bytes(2) + about
    ends = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack(">HH", 56324, 443)
    head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + (len(ends) + len(tlvs)).to_bytes(2) + ends + tlvs
    running = serve(app, proxy_protocol=True)
    sock = running.plain()
    sock.sendall(head)
    with TLSClient(sock, running.client, "localhost") as client:
        client.sendall(GET)
        expected = [["192.0.2.1", 56324], ["198.51.100.7", 443], "https"]
        assert json.loads(read_response(client)[1]) == expected
    extension = seen[0]["extensions"]["tls"]
    assert extension["tls_version"] == 0x0304
    assert extension["client_cert_name"] is None
    assert extension["server_cert"] is not None


def test_plain_http_behind_the_head_is_told(serve):
    running = serve(mirror, proxy_protocol=True)
    with running.plain() as sock:
        sock.sendall(V1 + GET)
        assert b"plain HTTP on a TLS port" in read_all(sock)


def test_no_head_on_a_tls_port(serve):
    running = serve(mirror, proxy_protocol=True)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        running.connect()
    wait_until(lambda: not running.context.connections)

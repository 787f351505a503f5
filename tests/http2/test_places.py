"""Where HTTP/2 is available and where not: beside HTTP/1.1, on Unix sockets, after the PROXY
protocol's head, and over TLS with client certificates.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct

import frames
import pytest
import trustme
from frames import PREFACE, Client, Code, Setting, settings, window_update
from h2_servers import start
from support import PATIENCE, read_all, read_response

pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
ENDS = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack(">HH", 56324, 443)
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(ENDS).to_bytes(2) + ENDS
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def mirror(scope, receive, send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    tls = scope["extensions"].get("tls") or {}
    told = [scope["http_version"], scope["client"], scope["server"], scope["scheme"]]
    body = json.dumps([*told, tls.get("client_cert_name")]).encode()
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def told(client: Client) -> list:
    exchange = client.finished(client.request())
    assert exchange.status == 200
    return json.loads(exchange.body)


def test_unix_socket(serve, tmp_path):
    path = str(tmp_path / "s")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    with start(mirror, fd=listening.detach()), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        with Client(sock, "localhost") as client:
            client.start()
            assert told(client) == ["2", None, [path, None], "http", None]


@pytest.mark.parametrize("head", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("cut", [0, 1, 10, None], ids=str)
def test_behind_the_proxy_protocol(serve, head, cut):
    """The preface comes in the same packet as the head, which is cut anywhere."""
    running = serve(mirror, proxy_protocol=True)
    blob = head + PREFACE + settings()
    at = len(head) if cut is None else cut
    with running.client() as client:
        client.send(*(piece for piece in (blob[:at], blob[at:]) if piece))
        client._outgoing_tail.clear()  # it does not begin with the preface
        client.wait(lambda: client.greeted)
        expected = ["2", ["192.0.2.1", 56324], ["198.51.100.7", 443], "http", None]
        assert told(client) == expected


@pytest.mark.parametrize("head", [V1, V2], ids=["v1", "v2"])
def test_behind_the_proxy_protocol_over_tls(serve, certificate, head):
    with start(mirror, certificate, proxy_protocol=True) as running:
        sock = running.connect()
        sock.sendall(head)
        context = running.tls
        context.set_alpn_protocols(["h2"])
        sock = context.wrap_socket(sock, server_hostname="localhost")
        assert sock.selected_alpn_protocol() == "h2"
        with Client(sock, "localhost") as client:
            client.start()
            expected = ["2", ["192.0.2.1", 56324], ["198.51.100.7", 443], "https", None]
            assert told(client) == expected


def test_certificate_of_the_client(serve, certificate, tmp_path):
    own = trustme.CA()
    own.cert_pem.write_to_path(tmp_path / "own.pem")
    issued = own.issue_cert("luna@example.com", common_name="Luna")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "luna.pem")
    options = {"ssl_ca_certs": str(tmp_path / "own.pem"), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    with start(mirror, certificate, **options) as running:
        running.tls.load_cert_chain(tmp_path / "luna.pem")
        with running.started() as client:
            assert "CN=Luna" in told(client)[4]


# --- Beside HTTP/1.1 ------------------------------------------------------------------------------


def test_preface_at_every_cut_with_a_request_behind_it(serve):
    running = serve(mirror)
    for at in range(len(PREFACE + settings()) + 1):
        with running.client() as client:
            block = client.encoder.encode(client.fields())
            blob = PREFACE + settings() + frames.headers(1, block, end=True)
            client.send(*(piece for piece in (blob[:at], blob[at:]) if piece))
            assert client.finished(1).status == 200
            assert json.loads(client.on(1).body)[0] == "2"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"PRI / HTTP/1.1", b"501"),  # not a method of HTTP/1.1
        (b"PRI * HTTP/1.1", b"501"),
        (b"PROPFIND / HTTP/1.1", b"200"),
    ],
)
def test_http1_that_looks_like_a_preface(serve, request_line, status):
    running = serve(mirror)
    for cut in range(1, 16):
        blob = request_line + GET[14:]
        received = running.raw(blob[:cut], blob[cut:])
        assert received.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("pieces", [[PREFACE + settings()], [PREFACE[:10], PREFACE[10:]]], ids=len)
def test_preface_behind_a_request_of_http1_is_refused(serve, pieces):
    """Prior knowledge shows in a connection's first bytes (RFC 9113 section 3.3); later ones may be
    bytes that an attacker made a proxy send.
    """
    running = serve(mirror)
    with running.connect() as sock:
        sock.sendall(GET.replace(b"Connection: close\r\n", b""))
        assert b" 200 " in read_response(sock)[0]
        for piece in pieces:
            sock.sendall(piece)
            running.call(lambda: None)
        assert read_all(sock).startswith(b"HTTP/1.1 505 ")
    received = running.raw(GET.replace(b"Connection: close\r\n", b"") + PREFACE + settings())
    assert b"HTTP/1.1 505 " in received


def test_no_http2(serve, certificate):
    received = serve(mirror, http2=False).raw(PREFACE + settings())
    assert received.startswith(b"HTTP/1.1 505 ")
    with start(mirror, certificate, http2=False) as running:
        context = running.tls
        context.set_alpn_protocols(["h2", "http/1.1"])
        with context.wrap_socket(running.connect(), server_hostname="localhost") as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"
            sock.sendall(GET)
            assert read_response(sock)[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("secure", [False, True])
def test_limit_of_connections(serve, certificate, secure):
    running = start(mirror, certificate if secure else None, limit_connections=1)
    with running, running.started() as first:
        with running.client() as second:
            second.send(PREFACE)
            received = second.end() if secure else second.first_bytes(9)
            assert received in (Code.ENHANCE_YOUR_CALM, b"HTTP/1.1 ")
        assert told(first)[0] == "2"


async def pieces(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(1000):
        part = b"%d " % number
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


def test_small_pieces_that_wait_for_a_window_are_joined_in_order(serve):
    with serve(pieces).started((Setting.INITIAL_WINDOW_SIZE, 0)) as client:
        stream = client.request()
        client.wait(lambda: client.on(stream).status)
        client.alive()
        client.send(window_update(stream, 10_000))
        exchange = client.finished(stream)
        assert exchange.body == b"".join(b"%d " % number for number in range(1000))
        assert exchange.data_frames < 1000

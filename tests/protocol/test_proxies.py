"""Requests that come through proxies: --proxy-headers and its kin, --proxy-protocol."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct

import pytest
from apps import get, respond
from support import PATIENCE, Running, read_head, read_response, wait_until

from thestral import Config, Server

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([192, 0, 2, 1, 198, 51, 100, 7])
    + struct.pack(">HH", 56324, 443)
)
CERT_SHOWN, VERIFIED = 3, 0


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def secure_head(client: int, verify: int, *about: bytes) -> bytes:
    """A V2 head with the fields of a proxy that ends TLS (section 2.2.6)."""
    tlvs = tlv(0x20, struct.pack(">BI", client, verify) + b"".join(about))
    return V2[:14] + struct.pack(">H", 12 + len(tlvs)) + V2[16:] + tlvs


VERSION, CIPHER = tlv(0x21, b"TLSv1.3"), tlv(0x23, b"TLS_AES_256_GCM_SHA384")
SECURE = secure_head(CERT_SHOWN, VERIFIED, VERSION, CIPHER, tlv(0x22, b"Luna, M.D."))
TLS = {
    "server_cert": None,
    "client_cert_chain": [],
    "client_cert_name": None,
    "client_cert_error": None,
    "tls_version": 0x0304,
    "cipher_suite": None,
}
ENDS = {"client": ["192.0.2.1", 56324], "server": ["198.51.100.7", 443]}


async def mirror(scope, receive, send):
    """Answers with its scope; a WebSocket scope in a denial."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    keys = ("client", "server", "scheme", "root_path", "path")
    seen = {key: scope[key] for key in keys}
    seen["raw_path"] = scope["raw_path"].decode()
    seen["host"] = dict(scope["headers"])[b"host"].decode()
    seen["tls"] = scope["extensions"].get("tls")
    body = json.dumps(seen).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    if scope["type"] == "http":
        await respond(send, body, headers=headers)
        return
    prefix = "websocket.http.response"
    await send({"type": f"{prefix}.start", "status": 200, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})


def ask(sock: socket.socket, *fields: str, path: str = "/") -> dict:
    sock.sendall(get(path, *fields))
    return json.loads(read_response(sock)[1])


WEBSOCKET = [
    *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


# --- Fields ---------------------------------------------------------------------------------------


def test_client_and_scheme_come_from_a_trusted_proxy(serve):
    running = serve(mirror)
    with running.connect() as sock:
        plain = ask(sock)
        assert plain["client"][0] == "127.0.0.1"
        assert plain["scheme"] == "http"
        seen = ask(sock, "X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-Proto: https")
        assert seen == plain | {"client": ["1.2.3.4", 0], "scheme": "https"}
        assert ask(sock) == plain  # the next request is another client's


def test_a_websocket_has_the_scheme_of_the_client(serve):
    running = serve(mirror)
    for proto, scheme in (("https", "wss"), ("wss", "wss"), ("http", "ws"), ("ws", "ws")):
        with running.connect() as sock:
            seen = ask(sock, *WEBSOCKET, f"X-Forwarded-Proto: {proto}", "X-Forwarded-For: 1.2.3.4")
            assert (seen["scheme"], seen["client"]) == (scheme, ["1.2.3.4", 0])


@pytest.mark.parametrize(
    "options",
    [
        {"proxy_headers": False},
        {"forwarded_allow_ips": "10.0.0.0/8"},
        {"forwarded_allow_ips": ""},
        {"forwarded_fields": ""},
    ],
)
def test_from_nobody_else(serve, options):
    running = serve(mirror, **options)
    fields = ["Forwarded: for=1.2.3.4;proto=https;host=evil.example"]
    fields += [f"X-Forwarded-{name}" for name in ("For: 1.2.3.4", "Proto: https", "Port: 81")]
    fields += ["X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /evil"]
    with running.connect() as sock:
        plain = ask(sock)
        assert ask(sock, *fields) == plain
        assert plain["client"] == ["127.0.0.1", sock.getsockname()[1]]


def test_host_port_and_prefix_where_they_are_named(serve):
    fields = ["X-Forwarded-Host: a.example", "X-Forwarded-Port: 8443", "X-Forwarded-Prefix: /api/"]
    with serve(mirror).connect() as sock:
        assert ask(sock, *fields) == ask(sock)
    names = "x-forwarded-host,X-Forwarded-Port,x-forwarded-prefix"
    with serve(mirror, forwarded_fields=names).connect() as sock:
        seen = ask(sock, *fields, path="/items%20?q")
        assert seen["host"] == "a.example:8443"
        assert seen["root_path"] == "/api"
        assert (seen["path"], seen["raw_path"]) == ("/api/items ", "/api/items%20")
        assert ask(sock, *fields, path="/api/x")["path"] == "/api/x"  # the proxy has left it there


def test_a_prefix_takes_the_place_of_root_path(serve):
    running = serve(mirror, root_path="/v1", forwarded_fields="x-forwarded-prefix")
    with running.connect() as sock:
        assert ask(sock, path="/x")["path"] == "/v1/x"
        assert ask(sock, "X-Forwarded-Prefix: /api", path="/x")["path"] == "/api/x"


def test_forwarded_in_place_of_the_older_fields(serve):
    running = serve(mirror, forwarded_fields="forwarded")
    with running.connect() as sock:
        field = 'Forwarded: for="[2001:db8::1]:99";proto=https;host=a.example, for=127.0.0.1'
        seen = ask(sock, field, "X-Forwarded-For: 6.6.6.6")
        assert seen["client"] == ["2001:db8::1", 99]
        assert (seen["scheme"], seen["host"]) == ("https", "a.example")


def test_a_unix_socket_is_trusted_as_the_loopback_is(tmp_path):
    class AtPath(Running):
        def connect(self, receive_buffer=None):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            return sock

    path = tmp_path / "s"
    for trusted, expected in [
        (None, ["1.2.3.4", 0]),
        ("127.0.0.1", None),
        (str(path), ["1.2.3.4", 0]),
        ("/other", None),
    ]:
        with contextlib.ExitStack() as stack:
            running = AtPath(mirror, uds=str(path), forwarded_allow_ips=trusted)
            running.port = 0
            stack.enter_context(running)
            with running.connect() as sock:
                assert ask(sock, "X-Forwarded-For: 1.2.3.4")["client"] == expected


def test_the_access_log_names_the_client(serve, caplog):
    caplog.set_level(logging.INFO, "thestral.access")
    with serve(mirror, access_log=True).connect() as sock:
        ask(sock, "X-Forwarded-For: 1.2.3.4")
        wait_until(lambda: "GET / HTTP/1.1" in caplog.text)
    assert '1.2.3.4:0 - "GET / HTTP/1.1" 200' in caplog.text


def test_liars_are_told_of_once(serve, caplog):
    running = serve(mirror, forwarded_allow_ips="10.0.0.1")
    for _ in range(2):
        with running.connect() as sock:
            ask(sock, "X-Forwarded-For: 1.2.3.4")
    assert caplog.text.count("Ignoring X-Forwarded-For from 127.0.0.1") == 1


# --- The PROXY protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", [V1, V2], ids=["v1", "v2"])
def test_the_head_names_both_ends(serve, head):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(head + get("/"))
        seen = json.loads(read_response(sock)[1])
        assert seen == seen | ENDS
        assert ask(sock) == seen  # for each request of the connection


@pytest.mark.parametrize("head", [V1, V2], ids=["v1", "v2"])
def test_the_head_in_pieces(serve, head):
    running = serve(mirror, proxy_protocol=True)
    for seen in seen_at_every_cut(running, head):
        assert seen == seen | ENDS


def seen_at_every_cut(running, head):
    """What the application sees of a PROXY head in two pieces, for each place of the cut."""
    for cut in range(1, len(head)):
        with running.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(head[:cut])
            wait_until(lambda: running.context.connections)
            sock.sendall(head[cut:] + get("/"))
            yield json.loads(read_response(sock)[1])
        wait_until(lambda: not running.context.connections)


@pytest.mark.parametrize(
    "head", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"], ids=["v1", "v2"]
)
def test_a_proxy_that_speaks_for_itself(serve, head):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(head)
        assert ask(sock)["client"] == ["127.0.0.1", sock.getsockname()[1]]


@pytest.mark.parametrize("head", [V1, V2, SECURE], ids=["v1", "v2", "over TLS"])
def test_fields_are_believed_by_the_address_of_the_proxy(serve, head, caplog):
    """Not by that of its client, which stays the client: it is the nearest hop, and whatever comes
    from beyond an untrusted one it may have made up.
    """
    names = [f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix")]
    fields = ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"]
    fields += ["X-Forwarded-Host: a.example", "X-Forwarded-Port: 81", "X-Forwarded-Prefix: /api"]
    for trusted, client in [
        ("127.0.0.1", ["192.0.2.1", 56324]),
        ("127.0.0.1,192.0.2.0/24", ["6.6.6.6", 0]),
    ]:
        options = {"forwarded_allow_ips": trusted, "forwarded_fields": names}
        running = serve(mirror, proxy_protocol=True, **options)
        with running.connect() as sock:
            sock.sendall(head)
            seen = ask(sock, *fields)
            assert seen["client"] == client
            assert (seen["scheme"], seen["host"]) == ("https", "a.example:81")
            assert seen["root_path"] == "/api"
    assert "Ignoring" not in caplog.text


def test_forwarded_is_believed_by_the_address_of_the_proxy(serve):
    """The proxy has written only the last element."""
    options = {"forwarded_allow_ips": "127.0.0.1", "forwarded_fields": "forwarded"}
    running = serve(mirror, proxy_protocol=True, **options)
    with running.connect() as sock:
        sock.sendall(V1)
        field = "Forwarded: for=6.6.6.6;host=evil.example, for=192.0.2.1;proto=https;host=a.example"
        seen = ask(sock, field)
        assert seen["client"] == ENDS["client"]
        assert (seen["scheme"], seen["host"]) == ("https", "a.example")


def test_an_https_target_is_believed_by_the_address_of_the_proxy(serve):
    for trusted, status in (("127.0.0.1", b"200"), ("10.0.0.1", b"421")):
        running = serve(mirror, proxy_protocol=True, forwarded_allow_ips=trusted)
        with running.connect() as sock:
            head = V1 if trusted == "127.0.0.1" else b""
            sock.sendall(head + b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_head(sock).startswith(b"HTTP/1.1 " + status)


def test_what_a_head_says_about_tls_goes_before_an_https_target(serve):
    for head, scheme in ((V1, "https"), (secure_head(0, 0), "http"), (SECURE, "https")):
        running = serve(mirror, proxy_protocol=True)
        with running.connect() as sock:
            sock.sendall(head + b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert json.loads(read_response(sock)[1])["scheme"] == scheme


# --- A proxy that ends TLS ------------------------------------------------------------------------


def test_tls_that_ended_at_the_proxy_is_the_scheme(serve):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(SECURE)
        seen = ask(sock)
        assert seen == seen | ENDS | {"scheme": "https"}
        named = {"client_cert_name": "CN=Luna\\, M.D.", "cipher_suite": 0x1302}
        assert seen["tls"] == TLS | named
        assert ask(sock) == seen  # for each request of the connection
        seen = ask(sock, *WEBSOCKET)
        assert seen["scheme"] == "wss"
        assert seen["tls"] == TLS | named


def test_at_every_cut(serve):
    running = serve(mirror, proxy_protocol=True)
    for seen in seen_at_every_cut(running, SECURE):
        assert seen == seen | ENDS | {"scheme": "https"}
        assert seen["tls"]["tls_version"] == TLS["tls_version"]


NAME = tlv(0x22, b"Luna")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (secure_head(1, 0, VERSION), TLS),
        (secure_head(1, 0, VERSION, NAME), TLS),  # of no certificate
        (secure_head(3, 0, VERSION, NAME), TLS | {"client_cert_name": "CN=Luna"}),
        (secure_head(5, 0, VERSION, NAME), TLS | {"client_cert_name": "CN=Luna"}),
        (secure_head(3, 0, VERSION), TLS),
        (
            secure_head(3, 0, VERSION, tlv(0x22, "\u732b".encode())),
            TLS | {"client_cert_name": "CN=\u732b"},
        ),
        (secure_head(3, 0, VERSION, tlv(0x22, b"\xff")), TLS),
        (secure_head(3, 0, VERSION, tlv(0x22, b"a\0b")), TLS | {"client_cert_name": r"CN=a\00b"}),
        (
            secure_head(3, 10, VERSION, NAME),
            TLS | {"client_cert_error": "the proxy did not verify the certificate: 10"},
        ),
        (
            secure_head(1, 0, tlv(0x21, b"TLSv1.2"), tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256")),
            TLS | {"tls_version": 0x0303, "cipher_suite": 0xC02F},
        ),
        (secure_head(1, 0, VERSION, tlv(0x23, b"NONSENSE")), TLS),
        # Without a known TLS version there is no extension
        (secure_head(1, 0), None),
        (secure_head(3, 0, tlv(0x21, b"TLSv9"), NAME), None),
    ],
)
def test_the_extension_has_what_the_head_says(serve, head, expected):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(head)
        seen = ask(sock)
        assert seen["scheme"] == "https"
        assert seen["tls"] == expected


@pytest.mark.parametrize(
    "head",
    [V1, V2, secure_head(0, 0), secure_head(2, 0, VERSION, NAME)],
    ids=["v1", "v2", "no TLS", "a certificate without TLS"],
)
def test_without_tls_there_is_neither(serve, head):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(head)
        seen = ask(sock)
        assert (seen["scheme"], seen["tls"]) == ("http", None)


def test_a_peer_that_is_not_trusted_has_no_head(serve):
    running = serve(mirror, proxy_protocol=True, forwarded_allow_ips="10.0.0.1")
    with running.connect() as sock:
        assert ask(sock)["client"] == ["127.0.0.1", sock.getsockname()[1]]
    assert running.raw(V1 + get("/")).startswith(b"HTTP/1.1 400 ")
    assert running.raw(V2 + get("/")).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "data",
    [
        *(get("/"), b"PROXY TCP4 1.1.1.1\r\n", b"PROXY UNKNOWN" + b" " * 100, b"\x16\x03\x01"),
        secure_head(1, 0, VERSION[:-1]) + get("/"),
    ],
)
def test_a_trusted_peer_without_one_is_told(serve, data):
    running = serve(mirror, proxy_protocol=True)
    answer = running.raw(data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"PROXY protocol head" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_without_the_option_it_is_no_request(serve):
    running = serve(mirror)
    assert running.raw(V1 + get("/")).startswith(b"HTTP/1.1 400 ")


def test_a_head_that_does_not_come(serve):
    running = serve(mirror, proxy_protocol=True, timeout_head=0.2)
    with running.connect() as sock, running.connect() as half:
        half.sendall(V1[:20])
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        with pytest.raises(ConnectionResetError):
            half.recv(1)
    wait_until(lambda: not running.context.connections)


def test_a_client_that_leaves_within_it(serve):
    running = serve(mirror, proxy_protocol=True)
    with running.connect() as sock:
        sock.sendall(V1[:20])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    wait_until(lambda: not running.context.connections)


def test_connections_count_while_their_head_is_awaited(serve):
    running = serve(mirror, proxy_protocol=True, limit_connections=1)
    with running.connect() as sock:
        wait_until(lambda: running.context.connections)
        assert running.raw(V1 + get("/")).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: len(running.context.connections) == 1)
        sock.sendall(V1)
        assert ask(sock)["client"] == ENDS["client"]


def test_at_a_shutdown_one_that_says_nothing_is_closed(serve):
    running = serve(mirror, proxy_protocol=True, timeout_head=60.0)
    with running.connect() as sock, running.connect() as late:
        wait_until(lambda: len(running.context.connections) == 2)
        running.server.should_exit = True
        wait_until(lambda: running.context.draining)
        late.sendall(V1 + get("/"))
        head = read_head(late)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in head
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_at_a_shutdown_one_with_nothing_behind_its_head_is_closed(serve):
    options = {"timeout_head": 60.0, "timeout_graceful_shutdown": 60.0}
    running = serve(mirror, proxy_protocol=True, **options)
    with running.connect() as sock:
        wait_until(lambda: running.context.connections)
        (handshake,) = running.context.connections
        deadline = handshake.deadline
        running.server.should_exit = True
        wait_until(lambda: handshake.deadline < deadline)  # it has been told
        sock.sendall(V1)
        assert sock.recv(1) == b""


def test_in_a_program_too():
    config = Config(mirror, proxy_protocol=True, forwarded_allow_ips=["127.0.0.1"])
    assert Server(config).config.trusted_proxies == ["127.0.0.1"]

"""Handshakes that succeed, fail or never end, and bytes that are not TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
import time

import pytest
from apps import GET, GET_CLOSE, echo, hello, http_only, is_closed, post, respond, take_reply
from driven import DrivenLoop
from support import (
    PATIENCE,
    Running,
    on_every_transport,
    program,
    read_all,
    read_response,
    wait_until,
)
from tls_client import TLSClient

from thestral.protocol import protocols
from thestral.protocol.clock import SLOWEST_TICK
from thestral.protocol.phases import LINGER_TIMEOUT

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.mark.parametrize("version", VERSIONS)
def test_request_over_each_version(serve, shared, version):
    client = shared.client(maximum_version=VERSIONS[version], minimum_version=VERSIONS[version])
    running = serve(hello)
    with running.connect(client=client) as sock:
        assert sock.secure.version() == f"TLSv{version}"
        for _ in range(2):
            sock.sendall(GET)
            assert read_response(sock)[1] == b"hello"
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")
        assert sock.notified, "the end must be told from a cut"


@pytest.mark.parametrize("version", VERSIONS)
def test_handshake_and_request_in_any_pieces(serve, shared, version):
    """Sends a byte at a time, so that every record is cut at every place."""
    client = shared.client(maximum_version=VERSIONS[version])
    running = serve(echo)
    raw = running.plain()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    class Dripping:
        recv = raw.recv

        def send(self, data):
            for position in range(len(data)):
                raw.sendall(data[position : position + 1])
            return len(data)

    with raw:
        sock = TLSClient(Dripping(), client)
        sock.sendall(post(b"x" * 500, "Connection: close"))
        assert read_all(sock).endswith(b"x" * 500)


@on_every_transport
def test_requests_that_come_with_the_end_of_the_handshake(serve, shared):
    """With TLS 1.3 a client may send its Finished and first requests in one segment."""
    running = serve(hello)
    with running.plain() as raw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = shared.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        finished = b""
        while not finished:
            try:
                secure.do_handshake()
                finished = outgoing.read()
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
        secure.write(GET_CLOSE)
        raw.sendall(finished + outgoing.read())
        incoming.write(read_all(raw))
        assert secure.read(65536).endswith(b"hello")


def test_session_is_resumed(serve, shared):
    client = shared.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    running = serve(hello)
    with running.connect(client=client) as sock:
        session = sock.secure.session
    raw = running.plain()
    with client.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
        assert sock.session_reused
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


# --- Options -----------------------------------------------------------------------------------


def test_min_version_1_3_refuses_1_2(serve, shared, caplog):
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello, ssl_min_version="1.3")
    with pytest.raises(ssl.SSLError, match="protocol version"):
        running.connect(client=shared.client(maximum_version=ssl.TLSVersion.TLSv1_2))
    assert "failed: UNSUPPORTED_PROTOCOL" in caplog.text
    with running.connect() as sock:
        assert sock.secure.version() == "TLSv1.3"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_1_1_is_refused_by_default(serve, shared):
    client = shared.client()
    client.minimum_version = ssl.TLSVersion.TLSv1_1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    running = serve(hello)
    with pytest.raises(ssl.SSLError, match="protocol version"):
        running.connect(client=client)


def test_ssl_version_5_allows_only_1_2(serve, shared):
    running = serve(hello, ssl_version=int(ssl.PROTOCOL_TLSv1_2))
    with running.connect() as sock:
        assert sock.secure.version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="protocol version"):
        running.connect(client=shared.client(minimum_version=ssl.TLSVersion.TLSv1_3))


def test_ciphers(serve, shared):
    running = serve(hello, ssl_ciphers="ECDHE+AES256")
    client = shared.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    with running.connect(client=client) as sock:
        assert "AES256" in sock.secure.cipher()[0]
    client.set_ciphers("ECDHE+AES128")
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        running.connect(client=client)


@pytest.mark.parametrize(("offered", "chosen"), [(["h3", "http/1.1"], "http/1.1"), ([], None)])
def test_alpn_chooses_the_protocol(serve, shared, monkeypatch, offered, chosen):
    told = []

    def new_http(context, alpn):
        told.append(alpn)
        return protocols.HTTP1Connection(context)

    monkeypatch.setattr(protocols, "new_http", new_http)
    client = shared.client()
    if offered:
        client.set_alpn_protocols(offered)
    with serve(hello).connect(client=client) as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")
    assert told == [chosen]


@pytest.mark.parametrize(
    ("offered", "http2", "agreed"),
    [
        (["http/1.1"], True, "http/1.1"),
        (["h2", "http/1.1"], True, "h2"),
        (["http/1.1", "h2"], True, "h2"),
        (["h2", "http/1.1"], False, "http/1.1"),
        (["h2"], False, None),
        (["x"], True, None),
        ([], True, None),
    ],
)
def test_alpn(serve, shared, offered, http2, agreed):
    client = shared.client()
    client.set_alpn_protocols(offered)
    with serve(hello, http2=http2).connect(client=client) as sock:
        assert sock.secure.selected_alpn_protocol() == agreed


def test_keyfile_may_be_in_the_certificates_file(serve, shared, files):
    both = files.directory / "both.pem"
    with open(shared.cert) as cert, open(shared.key) as key:
        both.write_text(key.read() + cert.read())
    with serve(hello, ssl_certfile=both).connect() as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


def test_context_factory_adds_to_the_default(serve, shared):
    calls = []

    def factory(config, default_factory):
        context = default_factory()
        context.set_alpn_protocols(["ours"])
        calls.append(config)
        return context

    running = serve(hello, ssl_context_factory=factory, **shared.options)
    client = shared.client()
    client.set_alpn_protocols(["ours"])
    with running.connect(client=client) as sock:
        assert sock.secure.selected_alpn_protocol() == "ours"
    assert calls == [running.server.config]


def test_context_factory_without_files(serve, shared):
    def factory(config, default_factory):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shared.cert, shared.key)
        return context

    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append(scope["extensions"]["tls"])
        await respond(send, b"hello")

    with serve(app, ssl_context_factory=factory).connect() as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")
    assert seen[0]["server_cert"] is None
    assert seen[0]["tls_version"] == 0x0304


# --- Time --------------------------------------------------------------------------------------


def client_hello(shared) -> bytes:
    outgoing = ssl.MemoryBIO()
    secure = shared.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        secure.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_handshake_that_does_not_end_is_abandoned(serve, shared, caplog, share):
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello, timeout_tls_handshake=0.3)
    hello_record = client_hello(shared)
    with running.plain() as sock:
        started = time.monotonic()
        sock.sendall(hello_record[: int(len(hello_record) * share)])
        with pytest.raises(ConnectionResetError):
            read_all(sock)  # the server's messages of the handshake, and nothing else
            read_all(sock)
        assert 0.3 <= time.monotonic() - started < PATIENCE / 2
    wait_until(lambda: not running.context.connections)
    assert ("not completed in time" in caplog.text) is (share > 0)


def test_handshake_and_request_have_their_own_time_outs(serve):
    """A slow handshake does not shorten the request's time."""
    running = serve(hello, timeout_tls_handshake=0.2, timeout_head=PATIENCE)
    with running.connect() as sock:
        deadline = running.call(lambda: max(one.deadline for one in running.context.connections))
        assert deadline > running.call(lambda: running.context.clock.now) + 1
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


# --- Bytes that are not TLS --------------------------------------------------------------------


@on_every_transport
@pytest.mark.parametrize("request_", [GET, b"G", post(b"x" * 100_000)])
def test_plain_http_gets_a_400_that_mentions_https(serve, caplog, request_):
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello)
    with running.plain() as sock:
        sock.sendall(request_)
        reply, rest = take_reply(read_all(sock))
    assert reply.status == 400
    assert b"https://" in reply.body
    assert rest == b""
    assert "plain HTTP on a TLS port" in caplog.text
    wait_until(lambda: not running.context.connections)


def test_plain_http_behind_too_many_connections_gets_one_answer(serve):
    running = serve(hello, limit_connections=1)
    with running.connect(), running.plain() as sock:
        sock.sendall(GET)
        reply, rest = take_reply(read_all(sock))
    assert reply.status == 503
    assert rest == b""


def test_garbage_in_place_of_a_client_hello(serve, caplog):
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello)
    with running.plain() as sock:
        sock.sendall(b"\x16\x03\x01\x00\x10" + b"\xff" * 16)
        alert = read_all(sock)
        sock.sendall(b"more")
    assert alert[:1] == b"\x15"
    assert "TLS handshake with 127.0.0.1" in caplog.text
    wait_until(lambda: not running.context.connections)


def test_garbage_within_a_connection_ends_it(serve, caplog):
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello)
    with running.connect() as sock:
        sock.sendall(GET)
        assert read_response(sock)[1] == b"hello"
        sock.raw.sendall(b"\x17\x03\x03\x00\x20" + b"\xff" * 32)
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            read_all(sock)
    assert "TLS with 127.0.0.1" in caplog.text
    wait_until(lambda: not running.context.connections)


def test_renegotiation_is_refused(serve, shared):
    """Uses OpenSSL's client, which renegotiates when it reads `R`; Python's client cannot."""
    running = serve(hello)
    result = subprocess.run(
        [program("openssl"), "s_client", "-connect", f"127.0.0.1:{running.port}", "-tls1_2"],
        input="R\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "no renegotiation" in result.stderr
    wait_until(lambda: not running.context.connections)


def test_tls_to_a_plain_port_is_refused(shared):
    with Running(hello) as running, running.connect() as sock:
        sock.sendall(client_hello(shared))
        assert b"TLS handshake on a plain HTTP port" in read_all(sock)


# --- Ends of connections -----------------------------------------------------------------------


@on_every_transport
def test_end_without_close_notify_still_gets_the_answer(serve):
    with serve(hello).connect() as sock:
        sock.sendall(GET)
        sock.raw.shutdown(socket.SHUT_WR)
        assert read_all(sock).endswith(b"hello")
        assert sock.notified


def test_close_notify_alone_ends_an_idle_connection(serve):
    """TCP stays open: only close_notify shows that the client has finished."""
    running = serve(hello)
    with running.connect() as sock:
        sock.sendall(GET)
        assert read_response(sock)[1] == b"hello"
        with pytest.raises(ssl.SSLWantReadError):
            sock.secure.unwrap()
        sock._flush()
        assert read_all(sock) == b""
        assert is_closed(sock.raw)
    wait_until(lambda: not running.context.connections)


def test_refused_client_that_still_sends_can_read_why(serve):
    """The server lingers: bytes that arrive after the refusal must not reset the connection."""
    running = serve(hello, limit_request_body=1000)
    with running.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(20):
            sock.sendall(b"x" * 16384)
        reply, _ = take_reply(read_all(sock))
        assert reply.status == 413
        assert sock.notified


def test_shutdown_closes_idle_connections_and_waits_for_busy_ones(serve, shared):
    entered, release = [], asyncio.Event()

    @http_only
    async def app(scope, receive, send):
        entered.append(scope)
        await release.wait()
        await respond(send, b"done")

    running = serve(app, timeout_graceful_shutdown=PATIENCE)
    with running.connect() as idle, running.connect() as busy, running.plain() as handshaking:
        busy.sendall(GET)
        handshaking.sendall(client_hello(shared))
        wait_until(lambda: entered)
        running.server.should_exit = True
        assert read_all(idle) == b""
        running.loop.call_soon_threadsafe(release.set)
        assert read_all(busy).endswith(b"done")


def test_failed_handshake_is_closed_without_a_word_about_time(serve, caplog):
    """The client, which has read the alert, may keep its side open."""
    caplog.set_level(logging.INFO, "thestral.error")
    running = serve(hello)
    clock = DrivenLoop.drive(running)
    with running.plain() as sock:
        sock.sendall(b"\x16\x03\x01\x00\x10" + b"\xff" * 16)
        assert read_all(sock)[:1] == b"\x15"
        running.call(lambda: clock.move(LINGER_TIMEOUT + 2 * SLOWEST_TICK))
        wait_until(lambda: not running.context.connections)
    assert "not completed in time" not in caplog.text

"""Behind HAProxy, which ends TLS and says so in a PROXY head, with the lines that
docs/deployment.md shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from support import PATIENCE, Running, program
from websockets.asyncio.client import connect

DEPLOYMENT = Path(__file__).parents[2] / "docs/deployment.md"
CLIENT = "127.0.0.5"  # an address that nothing trusts
LIES = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"}


async def mirror(scope, receive, send):
    """Answers with its scope; a WebSocket gets it as a message."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    tls = scope["extensions"].get("tls")
    seen = {key: scope[key] for key in ("client", "scheme", "http_version")}
    text = json.dumps({**seen, "tls": tls})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


class Front:
    """HAProxy on two ports of its own: one for TLS and one for plain HTTP."""

    def __init__(self, directory: Path, made: Certificates, running: Running, text: str) -> None:
        self.made = made
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.tls_port = (sock.getsockname()[1] for sock in sockets)
        plain, secure = (sock.fileno() for sock in sockets)
        for old, new in {
            "bind :80": f"bind fd@{plain}",
            "bind :443": f"bind fd@{secure}",
            "/etc/haproxy/site.pem": made.server,
            "/etc/haproxy/clients.pem": made.authority,
            "10.0.0.5:8000": f"127.0.0.1:{running.port}",
        }.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        config = directory / "haproxy.cfg"
        times = [f" timeout {what} {PATIENCE:.0f}s\n" for what in ("connect", "client", "server")]
        config.write_text(f"defaults\n{''.join(times)}{text}")
        self._log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [program("HAProxy"), "-db", "-f", config],
            pass_fds=(plain, secure),
            stdout=self._log,
            stderr=self._log,
        )
        for sock in sockets:
            sock.close()  # if HAProxy ends, its clients are refused

    def stop(self) -> None:
        ended = self.process.poll()
        self.process.kill()
        self.process.wait(PATIENCE)
        with self._log:
            self._log.seek(0)
            assert ended is None, self._log.read()

    def ask(self, tls: ssl.SSLContext | None, **headers: str) -> dict[str, Any]:
        options: dict[str, Any] = {"source_address": (CLIENT, 0), "timeout": PATIENCE}
        if tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, **options)
        else:
            connection = http.client.HTTPSConnection(
                "localhost", self.tls_port, context=tls, **options
            )
        with contextlib.closing(connection):
            connection.request("GET", "/", headers=headers)
            seen: dict[str, Any] = json.loads(connection.getresponse().read())
            return seen


class Certificates:
    """HAProxy's, and those of clients that it knows and does not know."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        other = trustme.CA()
        self.authority = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.authority)
        self.server = str(directory / "server.pem")
        self._authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            self.server
        )
        self.shown = {}
        for authority, name in ((self._authority, "known"), (other, "unknown")):
            path = str(directory / f"{name}.pem")
            issued = authority.issue_cert(
                "luna@example.org", common_name="Luna, M.D.", organization_name="Ministry"
            )
            issued.private_key_and_cert_chain_pem.write_to_path(path)
            self.shown[name] = path

    def client(self, shown: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        if shown:
            context.load_cert_chain(self.shown[shown])
        return context


def documented() -> str:
    block, *_ = re.findall(
        r"^```haproxy\n(.*?)^```$", DEPLOYMENT.read_text(), re.DOTALL | re.MULTILINE
    )
    return block


MODES = {
    "http": documented(),
    "h2": documented().replace("send-proxy-v2-ssl-cn", "send-proxy-v2-ssl-cn proto h2"),
    "tcp": documented().replace("mode http", "mode tcp"),
    # HAProxy's other keyword for it, and a checksum
    "options": documented().replace(
        "send-proxy-v2-ssl-cn", "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,crc32c"
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def behind(directory: Path, made: Certificates, text: str, **options: Any) -> Iterator[Front]:
    with Running(mirror, **{"proxy_protocol": True, **options}) as running:
        front = Front(directory, made, running, text)
        try:
            yield front
        finally:
            front.stop()


@pytest.fixture(scope="module", params=MODES)
def front(request, made, tmp_path_factory):
    with behind(tmp_path_factory.mktemp("haproxy"), made, MODES[request.param]) as front:
        front.mode = request.param
        yield front


def test_https_at_haproxy(front):
    context = front.made.client()
    seen = front.ask(context, **LIES)
    assert seen["client"][0] == CLIENT
    assert seen["client"][1] > 0
    assert seen["scheme"] == "https"
    assert seen["tls"] == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302 if front.mode == "options" else None,
    }


def test_tls_1_2(front):
    context = front.made.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    tls = front.ask(context)["tls"]
    assert tls["tls_version"] == 0x0303
    assert tls["cipher_suite"] == (0xC02B if front.mode == "options" else None)


def test_plain_http(front):
    seen = front.ask(None, **LIES)
    assert seen["client"][0] == CLIENT
    assert (seen["scheme"], seen["tls"]) == ("http", None)  # HAProxy 2.6: `:scheme: https`
    assert seen["http_version"] == ("2" if front.mode == "h2" else "1.1")


def test_the_client_certificate(front):
    """HAProxy sends the common name, and does so again when a session is resumed."""
    context = front.made.client("known")
    for _ in range(3):
        tls = front.ask(context)["tls"]
        assert tls["client_cert_name"] == r"CN=Luna\, M.D."
        assert tls["client_cert_error"] is None


def test_a_certificate_that_haproxy_lets_pass_names_nobody(made, tmp_path):
    text = documented().replace("verify optional", "verify optional crt-ignore-err all")
    text = text.replace("crt-ignore-err all", "crt-ignore-err all ca-ignore-err all")
    with behind(tmp_path, made, text) as front:
        tls = front.ask(made.client("unknown"))["tls"]
    assert tls["client_cert_name"] is None
    assert re.fullmatch(
        r"the proxy did not verify the certificate: [1-9][0-9]*", tls["client_cert_error"]
    )


@pytest.mark.parametrize("tls", [False, True])
def test_websocket(front, tls):
    url = f"wss://localhost:{front.tls_port}/" if tls else f"ws://127.0.0.1:{front.port}/"
    options = {"ssl": front.made.client()} if tls else {}

    async def conversation():
        async with connect(url, local_addr=(CLIENT, 0), proxy=None, **options) as ws:
            seen = json.loads(await ws.recv())
            assert seen["client"][0] == CLIENT
            assert seen["scheme"] == ("wss" if tls else "ws")
            assert (seen["tls"] is not None) is tls

    asyncio.run(asyncio.wait_for(conversation(), PATIENCE))


def test_fields_that_haproxy_sets_are_believed_beside_its_head(made, tmp_path):
    """The head names a client that is not trusted, but HAProxy has set the field."""
    text = documented().replace("send-proxy-v2-ssl-cn", "send-proxy-v2")
    text = text.replace("mode http\n", "mode http\n    option forwardfor\n", 1)
    rule = "http-request set-header X-Forwarded-Proto https if { ssl_fc }"
    text = text.replace("mode http\n", f"mode http\n    {rule}\n", 1)
    with behind(tmp_path, made, text) as front:
        seen = front.ask(made.client(), **LIES)
        assert (seen["client"][0], seen["scheme"], seen["tls"]) == (CLIENT, "https", None)
        seen = front.ask(None, **LIES)
        assert (seen["client"][0], seen["scheme"]) == (CLIENT, "http")


def test_http2_without_a_proxy_head(made, tmp_path):
    """HAProxy is trusted by its address, so the field that it sets overrides `:scheme`."""
    text = documented().replace("send-proxy-v2-ssl-cn", "proto h2")
    (rule,) = re.findall(r"^`(http-request set-header .*)`\.", DEPLOYMENT.read_text(), re.MULTILINE)
    text = text.replace("mode http\n", f"mode http\n    {rule}\n", 1)
    with behind(tmp_path, made, text, proxy_protocol=False) as front:
        for tls, scheme in ((made.client(), "https"), (None, "http")):
            seen = front.ask(tls)
            assert (seen["scheme"], seen["http_version"]) == (scheme, "2")
            assert seen["client"][0] == "127.0.0.1"


def test_http2_of_a_haproxy_that_nobody_trusts(made, tmp_path):
    text = documented().replace("send-proxy-v2-ssl-cn", "proto h2")
    options = {"proxy_protocol": False, "forwarded_allow_ips": "10.0.0.1"}
    with behind(tmp_path, made, text, **options) as front:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().status == 421

"""What an application learns about TLS: the scope's scheme, and the extension `tls` (ASGI's TLS
specification 0.2), with and without client certificates.
"""

from __future__ import annotations

import ssl

import pytest
from apps import GET, GET_CLOSE, hello, http_only, respond
from cryptography import x509
from support import Running, read_all, read_response

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
KEYS = {
    "server_cert",
    "client_cert_chain",
    "client_cert_name",
    "client_cert_error",
    "tls_version",
    "cipher_suite",
}


def keeper(seen):
    @http_only
    async def app(scope, receive, send):
        seen.append(scope)
        await respond(send)

    return app


def ask(running, seen, client=None):
    """Send a request on a new connection; return the extension in its scope."""
    with running.connect(client=client) as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).startswith(b"HTTP/1.1 200")
    return seen[-1]["extensions"]["tls"]


def test_plain_connections_have_no_extension():
    seen = []
    with Running(keeper(seen)) as running:
        running.raw(GET_CLOSE)
    assert seen[0]["scheme"] == "http"
    assert seen[0]["extensions"].get("tls") is None


def test_without_client_certificate(serve, shared):
    seen = []
    found = ask(serve(keeper(seen)), seen)
    with open(shared.cert) as file:
        own = x509.load_pem_x509_certificate(file.read().encode())
    assert seen[0]["scheme"] == "https"
    assert set(found) == KEYS
    assert x509.load_pem_x509_certificate(found["server_cert"].encode()) == own
    assert list(found["client_cert_chain"]) == []
    assert found["client_cert_name"] is None
    assert found["client_cert_error"] is None


@pytest.mark.parametrize(
    ("version", "cipher", "expected"),
    [
        (TLS12, "ECDHE-ECDSA-AES128-GCM-SHA256", (0x0303, 0xC02B)),
        (TLS12, "ECDHE-ECDSA-CHACHA20-POLY1305", (0x0303, 0xCCA9)),
        (TLS13, None, (0x0304, 0x1302)),
    ],
)
def test_version_and_cipher_suite_are_the_protocols_numbers(
    serve, shared, version, cipher, expected
):
    client = shared.client(minimum_version=version, maximum_version=version)
    if cipher:
        client.set_ciphers(cipher)
    seen = []
    found = ask(serve(keeper(seen)), seen, client)
    assert (found["tls_version"], found["cipher_suite"]) == expected


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_client_certificate(serve, shared, version):
    cert, key = shared.issue(
        "client", "user@example.org", common_name="Zoë, of the \u732b", organization_name="A+B"
    )
    client = shared.client(cert, key, maximum_version=version)
    seen = []
    running = serve(keeper(seen), ssl_cert_reqs="required", ssl_ca_certs=shared.ca)
    found = ask(running, seen, client)
    with open(cert) as file:
        own = x509.load_pem_x509_certificate(file.read().encode())
    chain = list(found["client_cert_chain"])
    assert x509.load_pem_x509_certificate(chain[0].encode()) == own
    assert found["client_cert_name"] == own.subject.rfc4514_string()
    assert found["client_cert_name"].startswith("CN=Zo")
    assert found["client_cert_error"] is None
    resumed = ask(running, seen, client)
    assert next(iter(resumed["client_cert_chain"])) == chain[0]


def test_chain_of_a_client_certificate_leads_to_its_authority(serve, shared):
    middle = shared.authority.create_child_ca()
    issued = middle.issue_cert("user@example.org")
    cert = shared.write("deep.pem", *issued.cert_chain_pems)
    key = shared.write("deep.key", issued.private_key_pem)
    seen = []
    running = serve(keeper(seen), ssl_cert_reqs=2, ssl_ca_certs=shared.ca)
    found = ask(running, seen, shared.client(cert, key))
    one, two = [x509.load_pem_x509_certificate(p.encode()) for p in found["client_cert_chain"]]
    one.verify_directly_issued_by(two)


@pytest.mark.parametrize("shown", [False, True])
def test_optional_client_certificate(serve, shared, shown):
    client = shared.client(shared.cert, shared.key) if shown else shared.client()
    seen = []
    running = serve(keeper(seen), ssl_cert_reqs="optional", ssl_ca_certs=shared.ca)
    found = ask(running, seen, client)
    assert (found["client_cert_name"] is not None) is shown
    assert bool(found["client_cert_chain"]) is shown


@pytest.mark.parametrize("required", ["required", 2])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_required_client_certificate_is_required(serve, shared, version, required):
    running = serve(hello, ssl_cert_reqs=required, ssl_ca_certs=shared.ca)
    client = shared.client(maximum_version=version)
    # With TLS 1.3 the client has finished its handshake before the server can refuse it.
    with pytest.raises(ssl.SSLError, match=r"certificate required|handshake failure"):  # noqa: SIM117
        with running.connect(client=client) as sock:
            sock.sendall(GET)
            read_all(sock)
    assert running.context.total_requests == 0


@pytest.mark.parametrize("choice", ["optional", "required"])
def test_client_certificate_of_another_authority_is_refused(serve, shared, files, choice):
    running = serve(hello, ssl_cert_reqs=choice, ssl_ca_certs=shared.ca)
    client = shared.client(files.cert, files.key)
    refused = pytest.raises(ssl.SSLError, match="unknown ca")
    with running.connect(client=client) as sock, refused:
        read_all(sock)
    assert running.context.total_requests == 0


def test_what_an_application_changes_stays_with_its_request(serve):
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append(dict(scope["extensions"]["tls"]))
        scope["extensions"]["tls"].clear()
        await respond(send)

    with serve(app).connect() as sock:
        for _ in range(2):
            sock.sendall(GET)
            read_response(sock)
    assert seen[0] == seen[1]
    assert set(seen[1]) == KEYS

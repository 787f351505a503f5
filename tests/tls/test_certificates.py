"""Which certificate a client gets, by server name, and after the files have changed."""

from __future__ import annotations

import logging
import os
import ssl

import pytest
from apps import GET, GET_CLOSE, hello
from support import read_all, read_response, wait_until
from tls_client import TLSClient

import thestral.net.tls
from thestral import Config
from thestral.errors import ConfigError


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    """Check the files at every handshake, so that no test has to wait."""
    monkeypatch.setattr(thestral.net.tls, "LOOK_INTERVAL", 0.0)


def names_of(sock: TLSClient) -> set[str]:
    return {name for _, name in sock.secure.getpeercert()["subjectAltName"]}


def der_of(path: str) -> bytes:
    with open(path) as file:
        text = file.read()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[: text.index(end)] + end)


# --- SNI ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(shared):
    """Options for four certificates."""
    pairs = [
        shared.issue("a", "a.example", "shared.example"),
        shared.issue("wild", "*.wild.example"),
        shared.issue("exact", "exact.wild.example", "shared.example"),
        shared.issue("idna", "b\u00fccher.example"),
    ]
    return {
        "ssl_certfile": [cert for cert, _ in pairs],
        "ssl_keyfile": [key for _, key in pairs],
    }


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("a.example", 0),
        ("A.EXAMPLE", 0),
        ("shared.example", 0),
        ("one.wild.example", 1),
        ("exact.wild.example", 2),
        ("xn--bcher-kva.example", 3),
        # No certificate has these names, so the first one is used.
        ("two.one.wild.example", 0),
        ("wild.example", 0),
        ("other.example", 0),
        ("example", 0),
        (None, 0),
    ],
)
def test_server_name_chooses(serve, shared, several, name, number):
    client = shared.client(check_hostname=False)
    with serve(hello, **several).connect(client=client, name=name) as sock:
        assert sock.secure.getpeercert(True) == der_of(several["ssl_certfile"][number])
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


def test_every_certificate_keeps_the_options(serve, shared, several):
    """The server asks for a client certificate, whichever of its own certificates is chosen."""
    running = serve(hello, ssl_cert_reqs="required", ssl_ca_certs=shared.ca, **several)
    refused = pytest.raises(ssl.SSLError, match="certificate required")
    with running.connect(name="one.wild.example") as sock, refused:
        read_all(sock)
    client = shared.client(shared.cert, shared.key)
    with running.connect(client=client, name="one.wild.example") as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


# --- Renewal -----------------------------------------------------------------------------------


@pytest.fixture
def log(caplog):
    """The log lines about renewal."""
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [text for text in caplog.messages if "reloaded" in text]


def renew(files, *names: str) -> None:
    """Write new files, then rename them into place, as certificate managers do."""
    cert, key = files.issue("new", *names)
    os.replace(cert, files.cert)
    os.replace(key, files.key)


def test_changed_files_are_used_for_new_handshakes(serve, files, log):
    running = serve(hello, **files.options)
    client = files.client(check_hostname=False)
    with running.connect(client=client) as old:
        assert "localhost" in names_of(old)
        renew(files, "renewed.example")
        for _ in range(3):
            with running.connect(client=client) as sock:
                assert names_of(sock) == {"renewed.example"}
        old.sendall(GET)  # the old connection goes on
        assert read_response(old)[1] == b"hello"
    assert log() == ["TLS certificates reloaded"]


def test_server_names_of_changed_files_are_used(serve, files):
    second = files.issue("second", "second.example")
    running = serve(hello, ssl_certfile=[files.cert, second[0]], ssl_keyfile=[files.key, second[1]])
    client = files.client(check_hostname=False)
    for path, fresh in zip(second, files.issue("x", "other.example"), strict=True):
        os.replace(fresh, path)
    with running.connect(client=client, name="other.example") as sock:
        assert names_of(sock) == {"other.example"}
    with running.connect(client=client, name="second.example") as sock:
        assert "localhost" in names_of(sock)


@pytest.mark.parametrize("damage", ["gone", "empty", "mismatch", "garbage"])
def test_unusable_file_leaves_the_old_certificate_in_use(serve, files, log, damage):
    running = serve(hello, **files.options)
    client = files.client(check_hostname=False)
    if damage == "gone":
        os.unlink(files.key)
    elif damage == "mismatch":
        os.replace(files.issue("new", "renewed.example")[0], files.cert)
    else:
        with open(files.cert, "w") as file:
            file.write("" if damage == "empty" else "-----BEGIN CERTIFICATE-----\nxx\n")
    for _ in range(3):
        with running.connect(client=client) as sock:
            assert "localhost" in names_of(sock)
    (line,) = log()
    assert line.startswith("TLS certificates not reloaded, the old ones stay in use: ssl_")
    renew(files, "renewed.example")  # a usable file is loaded again
    with running.connect(client=client) as sock:
        assert names_of(sock) == {"renewed.example"}


def test_authorities_are_renewed_too(serve, files, tmp_path_factory):
    other = type(files)(tmp_path_factory.mktemp("other"))
    running = serve(hello, ssl_cert_reqs=2, ssl_ca_certs=files.ca, **files.options)
    client = files.client(other.cert, other.key)
    refused = pytest.raises(ssl.SSLError, match="unknown ca")
    with running.connect(client=client) as sock, refused:
        read_all(sock)
    os.replace(other.ca, files.ca + ".new")
    os.replace(files.ca + ".new", files.ca)
    with running.connect(client=client) as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


def test_reload_on_request(serve, files, monkeypatch):
    """SIGHUP calls this; it reloads even if the files look unchanged."""
    monkeypatch.setattr(thestral.net.tls, "LOOK_INTERVAL", 1e9)
    running = serve(hello, **files.options)
    client = files.client(check_hostname=False)
    renew(files, "renewed.example")
    with running.connect(client=client) as sock:
        assert "localhost" in names_of(sock)
    assert running.call(running.server.certificates.reload) is True
    with running.connect(client=client) as sock:
        assert names_of(sock) == {"renewed.example"}


def test_files_are_checked_once_an_interval(files, monkeypatch):
    looks = []
    certificates = thestral.net.tls.load(Config("a:b", **files.options))
    monkeypatch.setattr(thestral.net.tls, "LOOK_INTERVAL", 1e9)
    monkeypatch.setattr(certificates, "_look", lambda: looks.append(1) or certificates._seen)
    for _ in range(5):
        certificates.current()
    assert len(looks) == 1


def test_factory_is_asked_again(serve, files, log):
    calls = []

    def factory(config, default_factory):
        calls.append(config)
        if len(calls) == 2:
            raise RuntimeError("not now")
        return default_factory()

    running = serve(hello, ssl_context_factory=factory, **files.options)
    renew(files, "renewed.example")
    client = files.client(check_hostname=False)
    with running.connect(client=client) as sock:
        assert "localhost" in names_of(sock)
    assert log() == ["TLS certificates not reloaded, the old ones stay in use: not now"]
    assert running.call(running.server.certificates.reload) is True
    with running.connect(client=client) as sock:
        assert names_of(sock) == {"renewed.example"}


def test_handshake_begun_before_a_change_keeps_its_certificate(serve, files):
    """The extension has the certificate that was sent, not the newest one."""
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.append(scope["extensions"]["tls"]["server_cert"])
        await hello(scope, receive, send)

    running = serve(app, **files.options)
    old = der_of(files.cert)
    with running.plain() as raw:
        wait_until(lambda: running.context.connections)
        renew(files, "renewed.example")
        assert running.call(running.server.certificates.reload) is True
        sock = TLSClient(raw, files.client())
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")
    assert ssl.PEM_cert_to_DER_cert(seen[0]) == old


def test_factory_must_return_a_context(files):
    with pytest.raises(ConfigError, match=r"None.* returned, expected"):
        thestral.net.tls.load(Config("a:b", ssl_context_factory=lambda config, default: None))

"""Certificates, keys and authorities from pipes, which can be read only once."""

from __future__ import annotations

import logging
import os
import pickle
import ssl
import sys
import threading
from pathlib import Path

import pytest
from apps import GET_CLOSE, hello
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support import PATIENCE, read_all

import thestral.net.tls
from thestral import Config
from thestral.errors import ConfigError
from thestral.net.tls import load, loadable


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    monkeypatch.setattr(thestral.net.tls, "LOOK_INTERVAL", 0.0)


@pytest.fixture
def piped(tmp_path):
    """Function (path) that returns the name of a FIFO into which the file is written, once."""
    writers = []

    def make(path: str, data: bytes | None = None) -> str:
        name = str(tmp_path / f"pipe {len(writers)}")
        os.mkfifo(name)
        data = Path(path).read_bytes() if data is None else data
        writers.append(threading.Thread(target=Path(name).write_bytes, args=[data]))
        writers[-1].start()
        return name

    yield make
    for writer in writers:
        writer.join(PATIENCE)
        assert not writer.is_alive()


@pytest.fixture
def descriptor():
    """Function (path) that returns the name of a pipe's descriptor; the pipe holds that file."""
    opened = []

    def make(path: str) -> str:
        reader, writer = os.pipe()
        opened.append(reader)
        with open(writer, "wb") as file:
            file.write(Path(path).read_bytes())
        return f"/dev/fd/{reader}"

    yield make
    for reader in opened:
        os.close(reader)


@pytest.fixture(params=["FIFO", "descriptor"])
def pipe(request, piped, descriptor):
    return piped if request.param == "FIFO" else descriptor


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [text for text in caplog.messages if "reloaded" in text or "renew" in text]


def asked(running, client) -> bytes:
    with running.connect(client=client) as sock:
        sock.sendall(GET_CLOSE)
        return read_all(sock)


def test_certificate_key_and_authorities_come_from_pipes(serve, shared, pipe):
    options = {"ssl_certfile": pipe(shared.cert), "ssl_keyfile": pipe(shared.key)}
    options |= {"ssl_ca_certs": pipe(shared.ca), "ssl_cert_reqs": "required"}
    running = serve(hello, **options)
    client = shared.client(shared.cert, shared.key)
    for _ in range(2):
        assert asked(running, client).endswith(b"hello")


def test_one_pipe_may_hold_the_certificate_and_its_key(serve, shared, pipe, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(Path(shared.key).read_bytes() + Path(shared.cert).read_bytes())
    running = serve(hello, ssl_certfile=pipe(str(both)))
    assert asked(running, shared.client()).endswith(b"hello")


def test_an_encrypted_key_from_a_pipe(serve, shared, pipe, tmp_path):
    key = load_pem_private_key(Path(shared.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    kind = BestAvailableEncryption(b"open sesame")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kind))
    options = {"ssl_certfile": shared.cert, "ssl_keyfile_password": "open sesame"}
    running = serve(hello, ssl_keyfile=pipe(str(locked)), **options)
    assert asked(running, shared.client()).endswith(b"hello")
    options = {"ssl_certfile": shared.cert, "ssl_keyfile": pipe(str(locked))}
    with pytest.raises(ConfigError, match="is encrypted, and needs --ssl-keyfile-password"):
        load(Config("a:b", **options))


def test_several_certificates_share_the_authorities(serve, shared, pipe):
    """Each certificate's context loads them."""
    other = shared.issue("another", "another.example")
    options = {"ssl_certfile": [shared.cert, other[0]], "ssl_keyfile": [shared.key, pipe(other[1])]}
    running = serve(hello, ssl_ca_certs=pipe(shared.ca), ssl_cert_reqs=2, **options)
    client = shared.client(shared.cert, shared.key)
    with running.connect(client=client, name="another.example") as sock:
        sock.sendall(GET_CLOSE)
        assert read_all(sock).endswith(b"hello")


def test_more_than_a_pipe_holds_at_once(shared, piped):
    key = Path(shared.key).read_bytes()
    long = piped(shared.cert, Path(shared.cert).read_bytes() + b"#\n" * 500_000 + key)
    assert load(Config("a:b", ssl_certfile=long)) is not None


@pytest.mark.parametrize("data", [b"", b"vault: permission denied\n"])
def test_a_pipe_without_a_key_is_an_error_that_names_it(shared, piped, data):
    name = piped("", data)
    with pytest.raises(ConfigError, match=f"{name!r} contains no private key in PEM"):
        load(Config("a:b", ssl_certfile=shared.cert, ssl_keyfile=name))


# --- Contents are passed on with the options ------------------------------------------------------


def test_workers_get_the_contents_with_the_options(shared, descriptor):
    """A spawned worker gets the options by pickle, and does not inherit the descriptor."""
    options = {"ssl_certfile": shared.cert, "ssl_keyfile": descriptor(shared.key)}
    config = Config("a:b", **options)
    load(config)
    sent = pickle.dumps(config)
    assert load(pickle.loads(sent)) is not None
    assert load(config) is not None


def test_file_named_by_a_descriptor_is_read_once(shared):
    """This process could read the file again; a worker, which has not opened it, could not."""
    with open(shared.key) as file:
        name = f"/dev/fd/{file.fileno()}"
        config = Config("a:b", ssl_certfile=shared.cert, ssl_keyfile=name)
        load(config)
    assert load(pickle.loads(pickle.dumps(config))) is not None


def test_only_contents_of_pipes_are_kept(shared, descriptor):
    config = Config("a:b", **shared.options, ssl_ca_certs=shared.ca)
    load(config)
    assert config.read_once == {}
    name = descriptor(shared.key)
    config = Config("a:b", ssl_certfile=shared.cert, ssl_keyfile=name)
    load(config)
    assert config.read_once == {name: Path(shared.key).read_bytes()}
    assert "PRIVATE" not in repr(config)


# --- No copy of a key is left behind --------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a file is Linux's")
def test_openssl_reads_the_key_from_memory(shared, descriptor):
    name = descriptor(shared.key)
    config = Config("a:b", ssl_certfile=shared.cert, ssl_keyfile=name)
    before = set(os.listdir("/dev/fd"))
    load(config)
    assert set(os.listdir("/dev/fd")) == before
    with loadable(config, name) as path:
        assert os.readlink(path).startswith("/memfd:")
        assert not os.get_inheritable(int(Path(path).name))
    with loadable(config, shared.cert) as path:
        assert path == shared.cert


def test_without_memfd_the_key_is_in_a_file_without_a_name(shared, descriptor, monkeypatch):
    monkeypatch.setattr(sys, "platform", "other")
    name = descriptor(shared.key)
    config = Config("a:b", ssl_certfile=shared.cert, ssl_keyfile=name)
    load(config)
    with loadable(config, name) as path:
        found = os.stat(path)
        assert found.st_nlink == 0
        assert found.st_mode & 0o777 == 0o600


# --- Renewal --------------------------------------------------------------------------------------


def test_without_files_there_is_nothing_to_renew(serve, shared, pipe, log):
    options = {"ssl_certfile": pipe(shared.cert), "ssl_keyfile": pipe(shared.key)}
    running = serve(hello, **options)
    for _ in range(3):
        assert asked(running, shared.client()).endswith(b"hello")
    assert log() == []
    assert running.call(running.server.certificates.reload) is True
    (line,) = log()
    assert line.startswith("Cannot renew files that came from a pipe or descriptor, ")
    assert all(repr(name) in line for name in options.values())
    assert asked(running, shared.client()).endswith(b"hello")


def test_files_beside_a_pipe_are_renewed(serve, files, pipe, log, tmp_path_factory):
    other = type(files)(tmp_path_factory.mktemp("other"))
    key = pipe(files.key)
    options = {"ssl_certfile": files.cert, "ssl_keyfile": key}
    running = serve(hello, ssl_cert_reqs=2, ssl_ca_certs=files.ca, **options)
    client = files.client(other.cert, other.key)
    refused = pytest.raises(ssl.SSLError, match="unknown ca")
    with running.connect(client=client) as sock, refused:
        read_all(sock)
    assert log() == []
    os.replace(other.ca, files.ca)
    assert asked(running, client).endswith(b"hello")
    said, reloaded = log()
    assert said.startswith("Cannot renew")
    assert repr(key) in said
    assert files.cert not in said
    assert reloaded == "TLS certificates reloaded"


def test_renewed_certificate_that_does_not_fit_the_key_from_a_pipe(serve, files, pipe, log):
    running = serve(hello, ssl_certfile=files.cert, ssl_keyfile=pipe(files.key))
    os.replace(files.issue("new", "renewed.example")[0], files.cert)
    assert asked(running, files.client()).endswith(b"hello")
    said, failed = log()
    assert said.startswith("Cannot renew")
    start = "TLS certificates not reloaded, the old ones stay in use: ssl_keyfile: "
    assert failed.startswith(start)


def test_a_factory_is_asked_again(shared, pipe, log):
    contexts = []

    def factory(config, default_factory):
        contexts.append(default_factory())
        return contexts[-1]

    options = {"ssl_certfile": pipe(shared.cert), "ssl_keyfile": pipe(shared.key)}
    certificates = load(Config("a:b", ssl_context_factory=factory, **options))
    assert certificates.reload() is True
    assert certificates.current().front is contexts[1]

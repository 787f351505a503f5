"""--ssl-* on the running command, and the messages about files that cannot be used."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from process import PLAIN, Command
from support import PATIENCE, wait_until

PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with an application, certificates, keys, and files that are not PEM."""
    folder = tmp_path_factory.mktemp("made")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for stem in ("server", "other"):
        issued = authority.issue_cert(f"{stem}.example", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(folder / f"{stem}.pem")
        issued.private_key_pem.write_to_path(folder / f"{stem}.key")
    key = load_pem_private_key((folder / "server.key").read_bytes(), None)
    (folder / "locked.key").write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode())
        )
    )
    (folder / "text.pem").write_text("nothing of the kind\n")
    (folder / "bad.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (folder / "main.py").write_text(PLAIN)
    return folder


@pytest.fixture
def folder(made):
    return made


SERVER = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")


def client_of(made, http2=False):
    trust = ssl.create_default_context(cafile=made / "ca.pem")
    return httpx.Client(verify=trust, http1=not http2, http2=http2, timeout=10, trust_env=False)


def ask(made, command):
    url = command.url()
    assert url.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=made / "ca.pem")
    return httpx.get(url + "/x", verify=trust, timeout=10)


def test_https(made, start):
    command = start(*SERVER)
    assert ask(made, command).text == " /x"
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_https_in_workers(made, start):
    command = start(*SERVER, "--workers", "2")
    assert ask(made, command).text == " /x"
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_environment(made, start):
    command = start(
        env={"UVICORN_SSL_CERTFILE": "server.pem", "THESTRAL_SSL_KEYFILE": "server.key"}
    )
    assert ask(made, command).text == " /x"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_password_opens_the_key(made, start, how):
    flags, env = (), {"THESTRAL_SSL_KEYFILE_PASSWORD": PASSWORD}
    if how == "flag":
        flags, env = ("--ssl-keyfile-password", PASSWORD), {}
    command = start("--ssl-certfile", "server.pem", "--ssl-keyfile", "locked.key", *flags, env=env)
    assert ask(made, command).text == " /x"
    assert PASSWORD not in command.stderr


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_several_certificates(made, start, http2):
    command = start(*SERVER, "--ssl-certfile", "other.pem", "--ssl-keyfile", "other.key")
    for name in ("server.example", "other.example"):
        with client_of(made, http2) as client:
            # httpx verifies that the certificate has this name.
            response = client.get(command.url() + "/x", extensions={"sni_hostname": name})
        assert (response.text, response.http_version) == (" /x", "HTTP/2" if http2 else "HTTP/1.1")
    with client_of(made, http2) as client, pytest.raises(httpx.ConnectError, match="mismatch"):
        client.get(command.url(), extensions={"sni_hostname": "third.example"})


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_changed_file_is_taken_without_a_restart(made, start, tmp_path, http2):
    for kind in ("pem", "key"):
        (tmp_path / f"live.{kind}").write_bytes((made / f"server.{kind}").read_bytes())
    command = start("--ssl-certfile", str(tmp_path / "live.pem"))
    assert "contains no private key" in failed(command)
    paths = [str(tmp_path / f"live.{kind}") for kind in ("pem", "key")]
    command = start("--ssl-certfile", paths[0], "--ssl-keyfile", paths[1])
    port = int(command.url().rpartition(":")[2])
    before = ssl.get_server_certificate(("127.0.0.1", port))

    def peer(client):
        """The client's own port, and the certificate that it got."""
        stream = client.get(command.url()).extensions["network_stream"]
        der = stream.get_extra_info("ssl_object").getpeercert(True)
        return stream.get_extra_info("client_addr")[1], ssl.DER_cert_to_PEM_cert(der)

    with client_of(made, http2) as old, client_of(made, http2) as new:
        own_port, _ = peer(old)
        for kind in ("pem", "key"):
            (tmp_path / "new").write_bytes((made / f"other.{kind}").read_bytes())
            os.replace(tmp_path / "new", tmp_path / f"live.{kind}")
        wait_until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
        command.saw("TLS certificates reloaded")
        assert peer(old) == (own_port, before)  # the connection goes on
        assert peer(new)[1] == (made / "other.pem").read_text()


# --- Pipes, as a shell makes them for <(vault read ...) -------------------------------------------


@pytest.fixture
def pipe():
    """Function (*paths) that returns a descriptor of a pipe with the contents of those files."""
    opened = []

    def make(*paths) -> int:
        reader, writer = os.pipe()
        opened.append(reader)
        with open(writer, "wb") as file:
            for path in paths:
                file.write(path.read_bytes())
        return reader

    yield make
    for reader in opened:
        os.close(reader)


CANNOT = "Cannot renew files that came from a pipe or descriptor"


@pytest.mark.parametrize(
    "flags",
    [(), ("--workers", "2"), ("--workers", "2", "--preload"), ("--reload",)],
    ids=["one", "workers", "preload", "reload"],
)
def test_certificate_and_key_from_pipes(made, start, pipe, flags):
    """Workers that SIGHUP starts also use what was read once."""
    pipes = [pipe(made / name) for name in ("server.pem", "locked.key", "ca.pem")]
    options = [f"--ssl-{kind}" for kind in ("certfile", "keyfile", "ca-certs")]
    names = [f"/dev/fd/{number}" for number in pipes]
    arguments = [word for pair in zip(options, names, strict=True) for word in pair]
    command = start(
        *(*arguments, "--ssl-keyfile-password", PASSWORD, *flags), pass_fds=tuple(pipes)
    )
    assert ask(made, command).text == " /x"
    workers = 2 if "2" in flags else 1
    command.saw("Application startup complete", workers)
    command.signal(signal.SIGHUP)
    command.saw(CANNOT)
    if flags:
        command.saw("Application startup complete", 2 * workers)
    assert ask(made, command).text == " /x"
    command.stop()
    assert command.stderr.count(CANNOT) == 1
    assert all(repr(name) in command.stderr for name in names)
    assert "BEGIN" not in command.stderr


def test_a_pipe_with_a_name_is_read_once_for_all_workers(made, start, tmp_path):
    """The pipe holds certificate and key, and its writer opens it late."""
    os.mkfifo(tmp_path / "fifo")
    command = start("--ssl-certfile", str(tmp_path / "fifo"), "--workers", "2")
    both = (made / "server.pem").read_bytes() + (made / "server.key").read_bytes()
    (tmp_path / "fifo").write_bytes(both)
    assert ask(made, command).text == " /x"
    command.stop()


def test_certificate_from_stdin(made, start, pipe):
    arguments = (*CERT, "--ssl-keyfile", "/dev/stdin", "--limit-max-requests", "1")
    command = start(*arguments, stdin=pipe(made / "server.key"))
    assert ask(made, command).text == " /x"
    command.saw("Application startup complete", 2)  # in the second worker
    assert ask(made, command).text == " /x"
    command.stop()


# --- Time ----------------------------------------------------------------------------------------


def test_expiry_of_a_certificate_is_logged_once_for_all_workers(made, start, tmp_path):
    authority = trustme.CA()

    def renew(days: int) -> None:
        end = datetime.now(UTC) + timedelta(days=days)
        issued = authority.issue_cert("127.0.0.1", not_after=end)
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "live.pem")

    renew(2)
    command = start("--ssl-certfile", str(tmp_path / "live.pem"), "--workers", "2")
    port = int(command.url().rpartition(":")[2])
    line = f"The certificate in {str(tmp_path / 'live.pem')!r} expires on 20"
    assert command.stderr.count(line) == 1
    before = ssl.get_server_certificate(("127.0.0.1", port))
    command.saw("Application startup complete", 2)
    renew(1)
    command.saw(line, 2)
    wait_until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
    renew(90)
    command.saw("TLS certificates reloaded", 2)
    command.signal(signal.SIGHUP)
    command.saw("TLS certificates reloaded", 3)
    command.saw("Application startup complete", 4)
    command.stop()
    assert command.stderr.count(line) == 2
    assert command.stderr.count("TLS certificates reloaded") == 3


# --- Unusable files: one line, and status 2 -------------------------------------------------------


def failed(command) -> str:
    """Return the last line of the output; only click's usage comes before it."""
    assert command.wait() == 2
    assert "Traceback" not in command.stderr
    assert "Thestral running" not in command.stderr
    return command.stderr.splitlines()[-1]


CERT = ("--ssl-certfile", "server.pem")
KEY = ("--ssl-keyfile", "server.key")
CLIENTS = ("--ssl-cert-reqs", "required")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ssl-certfile", "no.pem", *KEY), "--ssl-certfile': 'no.pem' cannot be read: No such"),
        (("--ssl-certfile", ".", *KEY), "--ssl-certfile': '.' cannot be read: Is a directory"),
        (("--ssl-certfile", "text.pem", *KEY), "'text.pem' contains no certificate in PEM"),
        (("--ssl-certfile", "bad.pem", *KEY), "--ssl-certfile': 'bad.pem' with key 'server.key'"),
        (CERT, "--ssl-certfile': 'server.pem' contains no private key in PEM"),
        ((*CERT, "--ssl-keyfile", "no.key"), "--ssl-keyfile': 'no.key' cannot be read: No such"),
        ((*CERT, "--ssl-keyfile", "text.pem"), "'text.pem' contains no private key in PEM"),
        (
            (*CERT, "--ssl-keyfile", "other.key"),
            "--ssl-keyfile': 'other.key' is not the key of the certificate in 'server.pem'",
        ),
        (
            (*CERT, "--ssl-keyfile", "locked.key"),
            "--ssl-keyfile': 'locked.key' is encrypted, and needs --ssl-keyfile-password",
        ),
        (
            (*CERT, "--ssl-keyfile", "locked.key", "--ssl-keyfile-password", "wrong"),
            "--ssl-keyfile-password': does not decrypt 'locked.key'",
        ),
        (KEY, "--ssl-keyfile': needs --ssl-certfile"),
        (CLIENTS, "--ssl-cert-reqs': needs --ssl-certfile"),
        ((*SERVER, *CERT), "--ssl-keyfile': 1 given for 2 certificates, expected one for"),
        ((*SERVER, *CLIENTS), "--ssl-cert-reqs': needs --ssl-ca-certs"),
        ((*SERVER, *CLIENTS, "--ssl-ca-certs", "no.pem"), "--ssl-ca-certs': 'no.pem' cannot be"),
        ((*SERVER, *CLIENTS, "--ssl-ca-certs", "text.pem"), "'text.pem' contains no certificate"),
        ((*SERVER, *CLIENTS, "--ssl-ca-certs", "bad.pem"), "--ssl-ca-certs': 'bad.pem': "),
        ((*SERVER, "--ssl-ciphers", "NONSENSE"), "--ssl-ciphers': 'NONSENSE' selects no cipher"),
        ((*SERVER, "--ssl-version", "3"), "--ssl-version': 3 given, expected 17, or 5 for TLS 1.2"),
        ((*SERVER, "--ssl-version", "5", "--ssl-min-version", "1.3"), "but --ssl-version allows"),
        ((*SERVER, "--ssl-min-version", "1.1"), "'1.1' given, expected one of 1.2, 1.3"),
        ((*SERVER, "--timeout-tls-handshake", "0"), "'--timeout-tls-handshake': 0.0 given"),
        (("--ssl-certfile", "no.pem", "--workers", "2"), "'no.pem' cannot be read: No such"),
    ],
)
def test_unusable_file_is_reported_in_one_line(start, arguments, said):
    line = failed(start(*arguments))
    assert said in line, line


def test_check_looks_at_the_files_and_keeps_the_password(made):
    arguments = (*CERT, "--ssl-keyfile", "locked.key", "--ssl-keyfile-password")
    with Command("check", "main:app", *arguments, PASSWORD, cwd=made) as command:
        assert command.wait() == 0
        assert PASSWORD not in command.stdout + command.stderr
        assert "ssl_keyfile_password = '***'" in command.stdout
    with Command("check", "main:app", *arguments, "wrong", cwd=made) as command:
        assert "does not decrypt 'locked.key'" in failed(command)


GUNICORN = (
    *(sys.executable, "-m", "gunicorn", "main:app", "-k", "thestral.workers.ThestralWorker"),
    *("-b", "127.0.0.1:0", "--no-control-socket"),
)


@contextlib.contextmanager
def gunicorn(made, log, *arguments: str, **popen):
    """Start gunicorn with its log in a file; yield the process and its URL."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [*GUNICORN, *arguments], cwd=made, stderr=file, stdout=file, **popen
        )
    try:
        url = wait_until(lambda: re.search(r"Listening at: (https://\S+)", log.read_text()))[1]
        yield process, url
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_gunicorns_own_options_hold_in_its_worker(made, tmp_path):
    arguments = ("--keyfile", "server.key", "--certfile", "server.pem")
    arguments += ("--ca-certs", "ca.pem", "--cert-reqs", "2")
    with gunicorn(made, tmp_path / "log", *arguments) as (_, url):
        trust = ssl.create_default_context(cafile=made / "ca.pem")
        trust.load_cert_chain(made / "other.pem", made / "other.key")
        assert httpx.get(url + "/x", verify=trust, timeout=10).text == " /x"


def test_gunicorns_workers_share_what_its_arbiter_has_read(made, tmp_path, pipe):
    """Workers that start later do so, too. A warning that concerns all workers is logged once."""
    authority = trustme.CA()
    end = datetime.now(UTC) + timedelta(days=1)
    issued = authority.issue_cert("127.0.0.1", not_after=end)
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    pipes = [pipe(tmp_path / "cert"), pipe(tmp_path / "key")]
    names = [f"/dev/fd/{number}" for number in pipes]
    arguments = ("--certfile", names[0], "--keyfile", names[1], "-w", "2")
    log = tmp_path / "log"
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with gunicorn(made, log, *arguments, pass_fds=tuple(pipes)) as (process, url):
        assert httpx.get(url + "/x", verify=trust, timeout=10).text == " /x"
        wait_until(lambda: log.read_text().count("Application startup complete") == 2)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("Application startup complete") == 4)
        wait_until(lambda: log.read_text().count("Worker exiting") == 2)
        assert httpx.get(url + "/x", verify=trust, timeout=10).text == " /x"
    expected = f"The certificate in '{names[0]}' expires on {end:%Y-%m-%d at %H:%M} UTC"
    assert log.read_text().count(expected) == 1

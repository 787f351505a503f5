"""SIGHUP: renewal of certificates and workers, and a terminal that has closed."""

from __future__ import annotations

import os
import pty
import signal
import ssl

import httpx
import pytest
import trustme
from load import APP, ask, workers
from support import wait_until

TLS = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    return tmp_path


def test_one_process_reads_its_certificate_again(start):
    command = start(*TLS)
    command.url()
    command.signal(signal.SIGHUP)
    command.saw("TLS certificates reloaded")  # without any handshake
    command.stop()


def test_one_process_with_nothing_to_read(start):
    command = start()
    url = command.url()
    command.signal(signal.SIGHUP)
    command.saw("Nothing to reload: without workers, SIGHUP only reloads certificates")
    assert ask(url) == command.process.pid
    command.stop()


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
@pytest.mark.parametrize("files", ["both", "project", "none"])
def test_log_says_that_option_files_are_not_read_again(start, folder, arguments, files):
    options: tuple[str, ...] = ()
    if files == "both":
        (folder / "thestral.toml").write_text("backlog = 99\n")
        (folder / "variables").write_text("A=b\n")
        options = ("--env-file", "variables")
    if files == "project":
        (folder / "pyproject.toml").write_text("[tool.thestral]\nbacklog = 99\n")
    else:
        (folder / "pyproject.toml").write_text("[tool.other]\n")
    command = start(*arguments, *options)
    command.url()
    command.signal(signal.SIGHUP)
    command.saw("Received SIGHUP")
    said = "INFO:     These files are read again only after a restart: "
    if files == "both":
        command.saw(said)
        names = command.stderr.partition(said)[2].splitlines()[0].split(", ")
        assert set(names) == {"'thestral.toml'", "'variables'"}
    elif files == "project":
        command.saw(said + "'pyproject.toml'\n")
    command.stop()
    assert command.stderr.count(said) == (files != "none")


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_broken_certificate_leaves_the_old_one_in_use(start, folder, arguments):
    command = start(*TLS, *arguments)
    url = command.url()
    old = workers(command, 2 if arguments else 1)
    (folder / "server.pem").write_text("nothing of the kind\n")
    command.signal(signal.SIGHUP)
    if arguments:
        command.saw("Rolling restart abandoned: the old workers keep serving")
    else:
        command.saw("TLS certificates not reloaded, the old ones stay in use")
    assert command.stderr.count("'server.pem' contains no certificate in PEM format") == 1
    trust = ssl.create_default_context(cafile=folder / "ca.pem")
    assert int(httpx.get(url, verify=trust).text.split()[0]) in old
    assert "died" not in command.stderr  # no worker was started with the broken file
    command.stop()
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_closed_terminal_ends_the_server(start, count):
    terminal, theirs = pty.openpty()
    try:
        command = start("--workers", str(count), stderr=theirs)
        os.close(theirs)
        first = workers(command, count)
        output = b""
        command.signal(signal.SIGHUP)  # sent on purpose
        while b"Received SIGHUP" not in output:
            output += os.read(terminal, 4096)
        if count > 1:
            workers(command, 2 * count)
            wait_until(lambda: all(f"lifespan.shutdown {pid}" in command.stdout for pid in first))
        assert command.process.poll() is None
    finally:
        os.close(terminal)
    command.signal(signal.SIGHUP)
    assert command.wait() == 0
    assert command.stdout.count("lifespan.shutdown") == command.stdout.count("lifespan.startup")

"""Listening sockets: addresses, Unix sockets, inherited ones, and options of accepted sockets."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import struct
import sys
import threading

import httpx
import pytest
from load import APP, Load, workers
from process import PLAIN, Command
from support import Running, read_response, wait_until

from thestral import Config
from thestral.errors import BindError
from thestral.net import sockets

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    sock = scope["server"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(sock).encode()})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(PLAIN)
    return tmp_path


def opened(**options):
    """Open sockets for these options, yield their addresses, and close them afterwards."""
    found = sockets.open_all(Config("a:b", **options))
    try:
        return [sock.getsockname()[:2] for sock in found], [sockets.url(sock) for sock in found]
    finally:
        sockets.close_all(found)


def answers(host, port):
    with socket.create_connection((host, port), 10) as sock:
        sock.sendall(REQUEST)
        return read_response(sock)[0].startswith(b"HTTP/1.1 200")


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "reachable"),
    [
        (["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"]),
        (["::"], ["127.0.0.1", "::1"]),
        ([""], ["127.0.0.1", "::1"]),
        (["0.0.0.0", "::"], ["127.0.0.1", "::1"]),
        (["::", "0.0.0.0"], ["127.0.0.1", "::1"]),
        (["[::1]"], ["::1"]),
        (["::1"], ["::1"]),
        (["0.0.0.0"], ["127.0.0.1"]),
    ],
    ids=repr,
)
def test_hosts(serve, hosts, reachable):
    with Running(app, host=hosts) as server:
        ports = {sock.getsockname()[1] for sock in server.server.sockets}
        assert ports == {server.port}
        for host in reachable:
            assert answers(host, server.port)
        for host in {"127.0.0.1", "127.0.0.2", "::1"} - set(reachable) - {"127.0.0.2"}:
            with pytest.raises(ConnectionRefusedError):
                answers(host, server.port)


def resolver(*addresses):
    def getaddrinfo(host, port, **hints):
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port))
            for family, address in zip(families, addresses, strict=True)
        ]

    return getaddrinfo


def test_localhost_is_both_loopbacks_on_one_port(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", resolver("::1", "127.0.0.1"))
    (first, second), urls = opened(host="localhost", port=0)
    assert (first[0], second[0]) == ("::1", "127.0.0.1")
    assert first[1] == second[1] > 0
    assert urls == [f"http://[::1]:{first[1]}", f"http://127.0.0.1:{first[1]}"]


class Taken(socket.socket):
    """A socket class: the first `times` times that IPv6 is bound, the IPv4 port gets taken."""

    times = 0
    tries = 0
    others: list[socket.socket] = []

    def bind(self, address):
        super().bind(address)
        if self.family == socket.AF_INET6 and Taken.times:
            Taken.times -= 1
            Taken.tries += 1
            with contextlib.suppress(OSError):  # another process has taken it already
                other = socket.create_server(("127.0.0.1", self.getsockname()[1]))
                Taken.others.append(other)


@pytest.mark.parametrize("options", [{"host": "localhost"}, {"host": ["::1", "127.0.0.1"]}])
def test_free_port_that_is_taken_for_the_second_address(monkeypatch, options):
    monkeypatch.setattr(Taken, "others", [])
    monkeypatch.setattr(Taken, "tries", 0)
    if options["host"] == "localhost":
        monkeypatch.setattr(socket, "getaddrinfo", resolver("::1", "127.0.0.1"))
    monkeypatch.setattr(sockets, "TCPListener", Taken)
    try:
        monkeypatch.setattr(Taken, "times", 3)
        (first, second), _ = opened(port=0, **options)
        assert first[1] == second[1]
        assert Taken.tries == 3
        monkeypatch.setattr(Taken, "times", 1000)
        with pytest.raises(BindError, match="is in use"):
            opened(port=0, **options)
        assert Taken.tries == 13
    finally:
        sockets.close_all(Taken.others)


def test_address_that_the_machine_lacks(monkeypatch):
    # ::1 is such an address where IPv6 is switched off.
    monkeypatch.setattr(socket, "getaddrinfo", resolver("2001:db8::1", "127.0.0.1"))
    addresses, _ = opened(host="localhost", port=0)
    assert [host for host, _ in addresses] == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", resolver("2001:db8::1"))
    with pytest.raises(BindError, match=r"Cannot listen on \[2001:db8::1\]:0: Cannot assign"):
        opened(host="localhost", port=0)


def test_machine_without_ipv6(monkeypatch):
    class OnlyIPv4(socket.socket):
        def __init__(self, family=socket.AF_INET, *arguments, **settings):
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *arguments, **settings)

    monkeypatch.setattr(sockets, "TCPListener", OnlyIPv4)
    assert opened(host="", port=0)[0][0][0] == "0.0.0.0"
    with pytest.raises(BindError, match="Address family not supported"):
        opened(host="::1", port=0)


def test_unknown_host_name():
    with pytest.raises(BindError, match=r"Cannot listen on 'no\.such\.invalid'"):
        opened(host="no.such.invalid")


def test_several_hosts_are_printed_with_their_port(folder):
    with Command("main:app", "--host", "::1", "--host", "127.0.0.1", "--port=0", cwd=folder) as it:
        port = httpx.URL(it.url()).port
        it.saw(f"Thestral running on http://127.0.0.1:{port} (Press CTRL+C to quit)")
        it.saw(f"Thestral running on http://[::1]:{port} (Press CTRL+C to quit)")
        for host in ("[::1]", "127.0.0.1"):
            assert httpx.get(f"http://{host}:{port}/").text == " /"


# --- Unix sockets -------------------------------------------------------------------------------


def over(path):
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://a")


@pytest.mark.parametrize("arguments", [["--loop=uvloop"], ["--loop=asyncio"], ["--workers=2"]])
def test_unix_socket(folder, arguments):
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # as a killed server leaves it behind
    (folder / "main.py").write_text(APP)
    # Unix sockets do not have a queue for each worker.
    arguments = ["main:app", "--uds", "s", "--uds-permissions", "640", "--reuse-port", *arguments]
    with Command(*arguments, cwd=folder) as command:
        command.saw("Thestral running on unix:s")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        pids = workers(command, 2 if "--workers=2" in arguments else 1)
        with over(path) as client:
            assert int(client.get("/").text.split()[0]) in pids
        with Command(*arguments, cwd=folder) as second:
            assert second.wait() == 1
        assert "s is in use by another server" in second.stderr
        if "--workers=2" in arguments:
            os.kill(pids[0], signal.SIGTERM)  # a worker's end does not remove the path
            workers(command, 3)
            command.saw(f"lifespan.shutdown {pids[0]}")
        with over(path) as client:
            assert client.get("/").status_code == 200
        command.signal(signal.SIGTERM)
        assert command.wait() == 0
    assert not path.exists()


def test_servers_that_start_at_once_on_a_dead_unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "s"))
    # The import takes long: a server has bound the path by then, and does not listen on it yet.
    (folder / "main.py").write_text(
        "import os, time\nwhile not os.path.exists('release'): time.sleep(0.01)\n" + PLAIN
    )
    with contextlib.ExitStack() as stack:
        commands = [
            stack.enter_context(Command("main:app", "--uds", "s", cwd=folder)) for _ in range(4)
        ]
        wait_until(lambda: sum(it.process.poll() == 1 for it in commands) == 3)
        (folder / "release").touch()
        (server,) = [it for it in commands if it.process.poll() is None]
        server.saw("Thestral running on unix:s")
        with over(folder / "s") as client:
            assert client.get("/").text == " /"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    said = "".join(it.stderr for it in commands)
    assert said.count("s is in use by another server") == 3
    assert not (folder / "s").exists()


def test_only_one_gets_a_dead_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    together = threading.Barrier(4)
    found: list[socket.socket] = []

    def attempt():
        together.wait()
        with contextlib.suppress(BindError):
            found.append(sockets.bind_unix(path, 0o600))

    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        threads = [threading.Thread(target=attempt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sockets.close_all(found)
        assert len(found) == 1
        assert not os.path.exists(path)
        found.clear()


def test_unix_socket_taken_over_is_not_removed(folder):
    path = folder / "s"
    with Command("main:app", "--uds", str(path), cwd=folder) as command:
        command.saw(f"Thestral running on unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            command.signal(signal.SIGTERM)
            assert command.wait() == 0
            assert path.is_socket()


@pytest.mark.parametrize(
    ("path", "said"),
    [("main.py", "main.py exists and is not a socket"), ("no/s", "Cannot listen on no/s: No such")],
)
def test_unix_socket_that_cannot_be_bound(folder, path, said):
    with Command("main:app", "--uds", path, cwd=folder) as command:
        assert command.wait() == 1
    assert said in command.stderr
    assert (folder / "main.py").read_text() == PLAIN


# --- Inherited sockets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "listens", "count"),
    [
        (socket.AF_INET, False, "1"),
        (socket.AF_INET, True, "1"),
        (socket.AF_INET, True, "2"),
        (socket.AF_UNIX, True, "1"),
        (socket.AF_UNIX, False, "2"),
    ],
)
def test_descriptor(folder, family, listens, count):
    (folder / "main.py").write_text(APP)
    with socket.socket(family) as given:
        given.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(folder / "s"))
        if listens:
            given.listen()
        arguments = ["--fd", str(given.fileno()), "--workers", count, "--reuse-port"]
        with Command("main:app", *arguments, cwd=folder, pass_fds=[given.fileno()]) as command:
            command.saw("Thestral running on")
            pids = workers(command, int(count))
            if family == socket.AF_INET:
                with Load(command.url()) as load:
                    wait_until(lambda: len(load.pids) == int(count))
                assert load.pids == set(pids)
            else:
                with over(folder / "s") as client:
                    assert int(client.get("/").text.split()[0]) in pids
            command.signal(signal.SIGTERM)
            assert command.wait() == 0
    assert (folder / "s").exists() == (family == socket.AF_UNIX)  # its creator removes it


def test_descriptor_that_cannot_be_used(folder):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (folder / "main.py").open() as file,
    ):
        for descriptor, said in [
            (datagrams.fileno(), "is not a stream socket"),
            (file.fileno(), "Socket operation on non-socket"),
            (999, "Bad file descriptor"),
        ]:
            given = [] if descriptor == 999 else [descriptor]
            with Command("main:app", "--fd", str(descriptor), cwd=folder, pass_fds=given) as it:
                assert it.wait() == 1
            assert re.search(f"File descriptor {descriptor}:? {said}", it.stderr)
            assert "Traceback" not in it.stderr


ACTIVATED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv.pop(1)))
from thestral.cli import main
main()
"""


def test_sockets_from_systemd(folder):
    (folder / "main.py").write_text(
        PLAIN + "print({name for name in os.environ if 'LISTEN' in name}, flush=True)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "s"))

        def place():  # descriptors from 3 on, as systemd passes them
            os.dup2(tcp.fileno(), 103)
            os.dup2(unix.fileno(), 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        env = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
        popen = {"env": env, "preexec_fn": place, "close_fds": False}
        with Started(ACTIVATED, "0", "main:app", cwd=folder, **popen) as command:
            command.saw("Listening on 2 sockets passed by systemd")
            command.saw("Thestral running on unix:")
            url = command.url()
            assert httpx.URL(url).port == tcp.getsockname()[1]
            assert httpx.get(url).text == " /"
            with over(folder / "s") as client:
                assert client.get("/").text == " /"
            command.saw("set()\n")
            assert command.stdout.startswith("set()\n")
        # LISTEN_PID names another process.
        with Started(ACTIVATED, "1", "main:app", "--port=0", cwd=folder, **popen) as command:
            assert httpx.URL(command.url()).port != tcp.getsockname()[1]
            command.saw("set()\n")
            assert command.stdout.startswith("set()\n")


class Started(Command):
    """A Command whose process is started by another program."""

    def __init__(self, program, *arguments, **settings):
        self.program = ["-c", program]
        super().__init__(*arguments, **settings)


# --- Options of sockets -------------------------------------------------------------------------


def accepted_socket(server):
    (connection,) = server.context.connections
    return connection.transport.get_extra_info("socket")


@pytest.mark.parametrize(("idle", "seen"), [(60.0, 60), (0.4, 1), (7.0, 7), (0.0, None)])
def test_keepalive_and_nodelay(serve, idle, seen):
    server = serve(app, tcp_keepalive=idle)
    with server.connect() as sock:
        sock.sendall(REQUEST)
        read_response(sock)
        theirs = accepted_socket(server)
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == (seen is not None)
        if seen is not None:
            assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seen


def test_keepalive_of_given_and_of_twin_sockets():
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as given:
        (taken,) = sockets.open_all(Config("a:b", fd=os.dup(given.fileno()), tcp_keepalive=9.0))
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9
            assert sockets.own_queue(taken, 9.0) is None
    (sock,) = sockets.open_all(Config("a:b", port=0, reuse_port=True))
    with sock, sockets.own_queue(sock, 9.0) as twin:
        assert twin.getsockname() == sock.getsockname()
        assert twin.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY only then
        assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9


def test_reuse_port_allows_a_second_server(serve):
    server = serve(app, reuse_port=True)
    (other,) = sockets.bind("127.0.0.1", server.port, reuse_port=True)
    other.close()
    with pytest.raises(BindError, match=f"Port {server.port} is in use"):
        opened(port=server.port)


def test_backlog(serve):
    server = serve(app, backlog=37)
    # For a listening socket, Linux gives the backlog in tcpi_sacked.
    known = server.server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    assert struct.unpack_from("=8B6I", known)[-1] == 37

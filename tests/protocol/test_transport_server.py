"""The transport that owns its socket: names, accepting, many connections, a whole server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import select
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from recorder import BIG, RESET, Place, Recorder, until
from support import BY_LOOP, on_every_transport, read_all, wait_until

from thestral.net import listeners
from thestral.net.listeners import Listener, can_own
from thestral.net.poller import Poller
from thestral.net.transport import SocketTransport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's serve")


# --- Who is at either end -----------------------------------------------------------------------


def test_extra_info(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            info = protocol.transport.get_extra_info
            assert info("peername") == client.getsockname()
            assert info("sockname") == client.getpeername()
            sock = info("socket")
            assert sock.getpeername() == client.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert not sock.get_inheritable()
            assert sock.gettimeout() == 0
            assert info("cipher") is None
            assert info("cipher", 7) == 7
            protocol.transport.abort()
            await until(lambda: "lost" in protocol.events)
            assert sock.fileno() == -1

    run(main())


@pytest.mark.parametrize("bound", ["0.0.0.0", "127.0.0.1", "::", "::1", "unix", "abstract"])
def test_names_are_those_of_asyncio(bound, tmp_path):
    """The same listener, once with each kind of transport."""

    async def names(own):
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in bound else socket.AF_INET
        if bound in ("unix", "abstract"):
            family = socket.AF_UNIX
        sock = socket.socket(family)
        if family == socket.AF_UNIX:
            sock.bind(str(tmp_path / "s") if bound == "unix" else "\0thestral-test")
        else:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((bound, 0))
        sock.listen()
        made = []

        class Known(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.append(self)

        if own:
            poller = Poller(loop)
            listener = Listener(poller, sock, Known)
        elif family == socket.AF_UNIX:
            server = await loop.create_unix_server(Known, sock=sock)
        else:
            server = await loop.create_server(Known, sock=sock)
        target = sock.getsockname()
        if bound in ("0.0.0.0", "::"):
            target = ("127.0.0.1", target[1])
        client = socket.socket(socket.AF_INET if bound == "::" else family)
        if bound == "::":  # an IPv4 client, seen as a mapped address
            assert target[0] == "127.0.0.1"
        if family == socket.AF_UNIX:
            client.bind("")  # a name that the kernel makes
        with client:
            client.setblocking(False)
            await loop.sock_connect(client, target)
            await until(lambda: made)
            transport = made[0].transport
            peer = transport.get_extra_info("peername")
            own_name = transport.get_extra_info("sockname")
            expected = client.getsockname()
        transport.abort()
        if own:
            listener.stop(0)
            poller.close()
        else:
            server.close()
        with contextlib.suppress(FileNotFoundError):
            (tmp_path / "s").unlink()
        if isinstance(peer, tuple):
            peer = tuple("port" if part == expected[1] else part for part in peer)
            own_name = tuple("port" if part == target[1] else part for part in own_name)
        return type(peer), len(peer), peer if isinstance(peer, tuple) else None, own_name

    assert asyncio.run(names(True)) == asyncio.run(names(False))


def test_which_sockets_can_be_owned():
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        assert can_own([tcp, unix])
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as strange:
        assert not can_own([strange])


# --- Many ---------------------------------------------------------------------------------------


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_thousands_of_connections_leave_nothing(run):
    alive = weakref.WeakSet()

    class Known(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            alive.add(self)

        def data_received(self, data):
            self.transport.write(data)
            if data == b"close":
                self.transport.close()
            elif data == b"abort":
                self.transport.abort()

    def transports():
        return sum(isinstance(thing, SocketTransport) for thing in gc.get_objects())

    async def main():
        async with Place(Known) as place:
            place.protocols = None
            place._made = lambda protocol: protocol
            before = descriptors()
            gc.collect()
            known = transports()  # of tests that have left their loop
            for turn in range(3000):
                client = socket.create_connection(place.sock.getsockname())
                client.send((b"close", b"abort", b"other")[turn % 3])
                if turn % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                if turn % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: place.poller.open == 1 and descriptors() == before)
            gc.collect()
            assert len(alive) == 0
            assert transports() <= known
            assert place.problems == []

    run(main())


# A server that has room for ten connections; it ends when its input does.
NARROW = """
import asyncio, os, resource, socket, sys, time
from thestral.process.loop import loop_factory
from thestral.net.listeners import Listener
from thestral.net.poller import Poller

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    sock = socket.create_server(("127.0.0.1", 0))
    poller = Poller(loop)
    Listener(poller, sock, Echo)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))
    done = asyncio.Event()
    loop.add_reader(0, done.set)
    print(sock.getsockname()[1], flush=True)
    await done.wait()
    print(poller.turns, time.process_time(), flush=True)

with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
    time.process_time()
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_accepting_rests_without_descriptors(loop):
    """Accepted connections are served, the others once there is room; nothing spins, and the log is
    told once."""
    command = [sys.executable, "-c", NARROW, loop]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as server,
        contextlib.ExitStack() as stack,
    ):
        port = int(server.stdout.readline())
        waiting = []
        for _ in range(30):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            sock.send(b"x")
            waiting.append(sock)
        rounds = 0
        while waiting:
            served = select.select(waiting, [], [], 10)[0]
            assert served
            for sock in served:
                assert sock.recv(1) == b"x"
                waiting.remove(sock)
                sock.close()
            rounds += 1
        output, errors = server.communicate("stop\n", 10)
        turns, _ = output.split()
        assert errors.count("Cannot accept connections for now: Too many open files") >= 1
        assert errors.count("\n") <= 3
        assert rounds > 1
        assert int(turns) < 300


def test_close_of_the_poller_ends_all(run):
    async def main():
        before = descriptors()
        place = Place(Recorder)
        pairs = [await place.connect() for _ in range(10)]
        pairs[0][1].transport.close()
        pairs[1][1].transport.write(BIG)
        pairs[1][1].transport.close()
        await place.__aexit__()
        for _, protocol in pairs:
            assert protocol.events[-1] == "lost"
            assert protocol.events.count("lost") == 1
            transport = protocol.transport
            transport.write(b"x")
            transport.pause_reading()
            transport.resume_reading()
            transport.abort()
            assert transport.get_extra_info("socket") is None or transport.is_closing()
        await asyncio.sleep(0.01)
        assert descriptors() == before

    run(main())


# --- A whole server -----------------------------------------------------------------------------


async def hello(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@on_every_transport
def test_who_owns_the_connections(serve, request):
    running = serve(hello, lifespan="off")
    with running.connect():
        (connection,) = wait_until(lambda: list(running.context.connections))
        owned = request.node.callspec.params["serve"] not in BY_LOOP
        assert isinstance(connection.transport, SocketTransport) == owned


def test_accepting_ends_when_asked(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            (listening,) = place.listener.sockets
            assert listening.getsockname() == place.sock.getsockname()
            place.listener.close()
            place.listener.close()
            assert place.listener.sockets == ()
            client.send(b"still served")
            await until(lambda: protocol.data == b"still served")

    run(main())


def test_idle_server_uses_no_processor_time(serve):
    """Idle connections, one of them with bytes that nobody reads yet."""
    running = serve(hello, lifespan="off", timeout_keep_alive=60.0, timeout_head=60.0)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(running.connect()) for _ in range(20)]
        wait_until(lambda: len(running.context.connections) == 20)
        connection = next(iter(running.context.connections))
        running.call(connection.transport.pause_reading)
        for sock in socks:
            sock.send(b"GET / HT")
        poller = running.server.listeners.poller
        turns = wait_until(lambda: poller.turns)
        time.sleep(0.2)
        turns = poller.turns
        before = running.call(time.thread_time)
        time.sleep(1.0)  # this second is measured
        assert poller.turns == turns
        assert running.call(time.thread_time) - before < 0.05


def test_connections_in_the_queue_are_served_at_shutdown(serve):
    """The kernel has accepted them, the server has not."""
    running = serve(hello, lifespan="off")
    socks = []

    def crowd():
        for _ in range(100):
            sock = running.connect()
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            socks.append(sock)
        running.server.should_exit = True

    running.call(crowd)
    for sock in socks:
        with sock:
            assert read_all(sock).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
def test_connection_that_the_loop_would_accept_too_late_is_not_lost(run, monkeypatch):
    """asyncio drops a connection that it has accepted but not made when its server closes."""
    monkeypatch.setattr(listeners, "HANDSHAKE_GRACE", 0)
    made = []

    class Known(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(transport)

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as sock:
            opened = listeners.Listeners(asyncio.get_running_loop(), [sock], 10, Known, False)
            await opened.open()
            with socket.create_connection(sock.getsockname()):
                await asyncio.sleep(0)  # the loop has seen it, and would accept it next
                await opened.stop()
                await until(lambda: made)
                made[0].abort()

    run(main())

"""Servers for tests: real sockets, port 0, in a thread of their own; what a machine must have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from programs import PROGRAMS, find

from thestral import Config, Server
from thestral.process.loop import finish_loop, loop_factory

# Names of loops whose own transports carry the connections, as they do where there is no epoll.
BY_LOOP = ["uvloop transports", "asyncio transports"]
# For a test whose `serve` is to try those, too.
on_every_transport = pytest.mark.parametrize(
    "serve", ["uvloop", "asyncio", *BY_LOOP], indirect=True
)
PATIENCE = 15.0  # seconds until a fact that does not come true fails a test


def wait_until(fact: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for a fact and return it; the pause is how often we look, not how long we hope."""
    deadline = time.monotonic() + patience
    while not (value := fact()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{fact} did not come true within {patience} s")
        time.sleep(0.005)
    return value


def program(name: str) -> str:
    """Path of one of PROGRAMS; without it the test is skipped, or fails where CI=true."""
    package, places = PROGRAMS[name]
    path = find(places)
    if path is None:
        reason = f"{name} is not installed (Debian's package: {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@contextlib.contextmanager
def room_for_descriptors(wanted: int) -> Iterator[None]:
    """Let this process, and those that it starts meanwhile, open so many files; where that is not
    allowed, the test is skipped.
    """
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = hard if hard == resource.RLIM_INFINITY else max(hard, wanted)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        except ValueError:
            pytest.skip(f"{wanted} open files are needed, and {hard} allowed (ulimit -Hn)")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Running:
    """A server in a thread. Leave the `with` block and it has drained and stopped."""

    def __init__(self, app: Any, loop: str = "auto", **options: Any) -> None:
        options.setdefault("access_log", False)
        options.setdefault("timeout_graceful_shutdown", 3.0)
        self.server = self.new_server(app, **options)
        self.error: BaseException | None = None
        self.server.owns_sockets = loop not in BY_LOOP
        self._loop_name = loop.removesuffix(" transports")
        self._thread = threading.Thread(target=self._run, name="thestral")

    @staticmethod
    def new_server(app: Any, **options: Any) -> Any:
        return Server(Config(app, port=0, **options), install_signal_handlers=False)

    def _run(self) -> None:
        self.loop = loop_factory(self._loop_name)()
        try:
            self.loop.run_until_complete(self.server.serve_only())
        except BaseException as exc:
            self.error = exc
        finally:
            finish_loop(self.loop)

    def __enter__(self) -> Running:
        self._thread.start()
        wait_until(lambda: self.server.started or self.error)
        if self.error is not None:
            self._thread.join()
            raise self.error
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    @property
    def context(self) -> Any:
        """The worker's WorkerContext: counters, connections, cycles."""
        return self.server.context

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the server's loop and return what it returns."""
        future: Any = asyncio.run_coroutine_threadsafe(_call(function), self.loop)
        return future.result(PATIENCE)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A plain TCP connection to it; reads time out after PATIENCE."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def holds_back(self) -> bool:
        """Whether the server lets its clients wait, because their applications do not receive."""
        return all(connection.reading_paused for connection in self.context.connections)

    def raw(self, *pieces: bytes) -> bytes:
        """Send bytes on a new connection and return all that comes until the server closes.

        The request should ask for `Connection: close`, or be one that the server refuses.
        """
        with self.connect() as sock:
            for piece in pieces:
                sock.sendall(piece)
            return read_all(sock)


async def _call(function: Callable[[], Any]) -> Any:
    return function()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer closes."""
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def read_to(sock: socket.socket, text: bytes, times: int = 1) -> bytes:
    """What comes until a text is there so often."""
    received = b""
    while received.count(text) < times:
        data = sock.recv(4096)
        assert data, received
        received += data
    return received


def reset(sock: socket.socket) -> None:
    """Close with RST, as a crashed peer's kernel does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_head(sock: socket.socket) -> bytes:
    """A response head with its empty line, byte by byte, so that the body stays in the socket."""
    received = bytearray()
    while not received.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            raise AssertionError(f"closed within a head: {bytes(received)!r}")
        received += data
    return bytes(received)


def read_response(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one response with a Content-Length."""
    head = read_head(sock)
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = bytearray()
    while len(body) < length:
        data = sock.recv(length - len(body))
        if not data:
            raise AssertionError(f"closed within a body: {bytes(body)!r}")
        body += data
    return head, bytes(body)

"""An application that returns its process ID, and clients that send requests without a pause."""

from __future__ import annotations

import contextlib
import http.client
import signal
import ssl
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from process import Command
from support import PATIENCE, wait_until

REFUSED_PAUSE = 0.02  # seconds before a refused client connects again

# Each import adds to the file "imports"; "gate" is a FIFO that some paths wait for.
APP = """
import asyncio, os, sys, threading, time

VERSION = 1

def say(*words):  # at once, or the lines of several workers mix
    os.write(1, " ".join([*words, f"{os.getpid()}\\n"]).encode())

with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")

first, second = threading.Lock(), threading.Lock()

def cross(mine, other, barrier):
    with mine:
        barrier.wait()
        with other:
            pass

def deadlock():
    barrier = threading.Barrier(2)
    threading.Thread(target=cross, args=(first, second, barrier), daemon=True).start()
    cross(second, first, barrier)

def compute():
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        pass

def wait_for_gate():
    with open("gate") as file:
        file.read()

kept = []
BLOCKING = {
    "/deadlock": deadlock,
    "/compute": compute,
    "/block": wait_for_gate,
    "/grow": lambda: kept.append(b"x" * 200_000_000),
}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            say(message["type"])
            await send({"type": message["type"] + ".complete"})
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{os.getpid()} {VERSION}"})
        return
    if path in BLOCKING:
        say(path)
        BLOCKING[path]()
    elif path == "/thread":
        await asyncio.to_thread(say, path)
        await asyncio.to_thread(wait_for_gate)
    elif path == "/wait":
        say(path)
        while not os.path.exists("release"):
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/stream":
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"0", "more_body": True})
            await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"%d %d" % (os.getpid(), VERSION)})
"""

# To be put before APP: a lock that only one process can hold.
LOCK = """
import fcntl

lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


class Failure(NamedTuple):
    """A request that did not get a complete response with status 200.

    Attributes:
        kind: "refused": nobody listened; "unconnected": the connection broke before a request was
            sent; "unanswered": the request was sent, and nothing came back; "broken": the response
            is incomplete, or not a 200.
        client: number of the client.
        pid: the process that answered the last request on the connection; 0 if there was none.
        text: the exception.
        target: the request target; empty if there was no request.
    """

    kind: str
    client: int
    pid: int
    text: str
    target: str = ""


class Load:
    """Clients that request "/" and "/stream" without a pause; half of them keep their connection.

    When the `with` block ends, every request must have been answered with 200.

    Args:
        url: the server's URL.
        clients: number of clients, unless `keeping` and `fresh` are given.
        keeping: number of clients that keep their connection.
        fresh: number of clients that connect for each request.
        trust: CA certificates, for https.
        strict: fail the test at a failed request; otherwise only record it.

    Attributes:
        at_once: number of requests that a client has open at most.
        pause: seconds for which a client waits before it asks again.
        counted_as: what a server's metrics call that which `seen` counts: metric, label, value.
        seen: number of responses by (PID, version).
        again: by client, number of requests that the server has said may be repeated.
        certificates: certificates that the server has shown (DER).
    """

    at_once = 1
    pause = 0.0
    counted_as = ("http_server_request_duration_seconds_count", "status", "2xx")

    def __init__(
        self,
        url: str,
        clients: int = 4,
        *,
        keeping: int | None = None,
        fresh: int | None = None,
        trust: Path | None = None,
        strict: bool = True,
    ) -> None:
        self._host = urlsplit(url).netloc
        self._trust = ssl.create_default_context(cafile=trust) if trust else None
        self._strict = strict
        self.seen: Counter[tuple[int, int]] = Counter()
        self.again: Counter[int] = Counter()
        self.failures: list[Failure] = []
        self.certificates: set[bytes] = set()
        self._stop = threading.Event()
        kept = clients - clients // 2 if keeping is None else keeping
        total = kept + (clients // 2 if fresh is None else fresh)
        self._threads = [
            threading.Thread(target=self._ask, args=(number, number < kept, number % 2 == 0))
            for number in range(total)
        ]

    def _connection(self) -> http.client.HTTPConnection:
        if self._trust is None:
            return http.client.HTTPConnection(self._host, timeout=PATIENCE)
        return http.client.HTTPSConnection(self._host, timeout=PATIENCE, context=self._trust)

    def _request(self, plain: bool) -> tuple[str, str]:
        """Method and target of a client's next request."""
        return "GET", "/" if plain else "/stream"

    def _ask(self, number: int, keep: bool, plain: bool) -> None:
        connection = self._connection()
        pid = 0
        while not self._stop.wait(self.pause):
            kind, target = "unconnected", ""
            seen = self.seen  # bound as the request is made, because forget() replaces it
            try:
                if connection.sock is None:
                    pid = 0
                    connection.connect()
                    if self._trust is not None:
                        self.certificates.add(connection.sock.getpeercert(True))
                kind = "unanswered"
                headers = {} if keep else {"Connection": "close"}
                method, target = self._request(plain)
                connection.request(method, target, headers=headers)
                response = connection.getresponse()
                kind = "broken"
                body = response.read().decode().lstrip("0")
                assert response.status == 200, response.status
                pid, version = (int(word) for word in body.split())
                seen[pid, version] += 1
            except Exception as exc:
                kind = "refused" if isinstance(exc, ConnectionRefusedError) else kind
                connection.close()
                self._fail(kind, number, pid, exc, target)
        connection.close()

    def _fail(self, kind: str, number: int, pid: int, exc: Exception, target: str = "") -> None:
        """Note a failure; a client that was refused waits before it asks again."""
        self.failures.append(Failure(kind, number, pid, repr(exc), target))
        self._stop.wait(REFUSED_PAUSE if kind == "refused" else 0)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        if kind is None and self._strict and self.failures:
            raise AssertionError(f"of {self.seen.total()}: {self.failures[:5]}")

    @property
    def pids(self) -> set[int]:
        return {pid for pid, _ in list(self.seen)}

    def forget(self) -> None:
        """Forget the responses seen so far."""
        self.seen = Counter()


def ask(url: str, path: str = "/", timeout: float = PATIENCE) -> int:
    """Send a request on a new connection; return the PID of the process that answers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        return int(connection.getresponse().read().split()[0])


def ask_aside(url: str, path: str) -> threading.Thread:
    """Call ask() in a thread, and return that. Its attribute `pid` is None without a response."""

    def run() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, IndexError):
            thread.pid = ask(url, path)  # type: ignore[attr-defined]

    thread = threading.Thread(target=run)
    thread.pid = None  # type: ignore[attr-defined]
    thread.start()
    return thread


def stop_within(
    command: Command, path: str, count: int, number: signal.Signals = signal.SIGTERM
) -> None:
    """Stop a server with `count` workers while one of them answers a request."""
    asking = ask_aside(command.url(), path)
    command.saw(path)
    workers(command, count)
    command.signal(number)
    assert command.wait() == 0
    asking.join()


def workers(command: Command, count: int) -> list[int]:
    """Wait until `count` workers have announced their application's startup; return the PIDs of all
    that ever have, oldest first.
    """

    def started() -> list[int]:
        lines = command.stdout.splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("lifespan.startup ")]

    return wait_until(lambda: started() if len(started()) >= count else None)  # type: ignore[no-any-return]

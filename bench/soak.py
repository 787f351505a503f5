"""Runs mixed load for a long time: looks for growing memory, leaks and wrong responses.

    make soak MINUTES=30

One server over TCP, one over TLS, and one with two workers that are recycled, all with an admin
port. Prints a table, and exits with 1 for a wrong response, for memory that grows by more than
SLOPE_MAX, for descriptors and objects that are left when the load has ended, or for metrics that do
not agree with what the clients have counted. Needs Linux, and what the tests need.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import random
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator

import soak_h2
import trustme
from metered import sums
from soak_app import PART
from soak_h2 import BROKEN_OFF, WHOLE, WrongAnswerError, check
from websockets.asyncio.client import connect

from thestral.config.address import Address

HERE = pathlib.Path(__file__).parent
MINUTES = float(os.environ.get("MINUTES", "30"))
CLIENTS = 4  # of each kind, on each server
SAMPLE = 5.0  # seconds between two samples of the server
WARM = 0.4  # share of the time at the start in which memory may grow
SLOPE_MAX = 256.0  # KiB of resident memory per minute
RECYCLED_AFTER = 5000  # requests
PATIENCE = 180.0  # seconds for one connection, which gets at most 800 responses


class Target:
    """A server, and what was counted of its load."""

    def __init__(
        self, name: str, port: int, admin: Address, contexts: dict[str, ssl.SSLContext]
    ) -> None:
        self.name = name
        self.port = port
        self.admin = admin
        self.contexts = contexts  # for TLS: by the protocol that the client offers
        self.done: collections.Counter[str] = collections.Counter()
        self.asked = 0  # requests, without those that are broken off on purpose
        self.answered = 0
        self.metrics = 0  # answered, by the server's metrics
        self.wrong: list[str] = []
        self.cut = 0  # connections whose end recycling or an abort explains
        self.samples: list[tuple[float, int, int]] = []

    async def open(
        self, alpn: str = "http/1.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            ssl=self.contexts.get(alpn),
            server_hostname="localhost" if self.contexts else None,
            limit=1 << 20,
        )

    async def held(self) -> dict:
        reader, writer = await self.open()
        try:
            writer.write(request("/held", "Connection: close"))
            self.asked += 1
            return json.loads(await answer(self, reader))
        finally:
            await shut(writer)

    def slope(self) -> float:
        """Return KiB per minute over the samples after the warm-up, by least squares."""
        warm = self.samples[int(len(self.samples) * WARM) :]
        if len(warm) < 3:
            return 0.0
        middle = sum(at for at, _, _ in warm) / len(warm)
        mean = sum(rss for _, rss, _ in warm) / len(warm)
        above = sum((at - middle) * (rss - mean) for at, rss, _ in warm)
        below = sum((at - middle) ** 2 for at, _, _ in warm)
        return 60.0 * above / below


def request(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


async def shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def answer(target: Target, reader: asyncio.StreamReader) -> bytes:
    """Return the body of one response with status 200, with a length or in chunks."""
    body = await read_body(reader)
    target.answered += 1
    return body


async def read_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise WrongAnswerError(f"{head[:80]!r}")
    if b"\r\ntransfer-encoding: chunked\r\n" not in head:
        size = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        return await reader.readexactly(size)
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)


# --- Kinds of load: each runs one connection from start to end ------------------------------------


async def plain(target: Target) -> None:
    reader, writer = await target.open()
    try:
        for _ in range(random.randrange(1, 200)):
            path = f"/{random.random()}"
            writer.write(request(path))
            target.asked += 1
            check(await answer(target, reader), path.encode())
            target.done["requests"] += 1
    finally:
        await shut(writer)


async def pipelined(target: Target) -> None:
    reader, writer = await target.open()
    try:
        for _ in range(10):
            paths = [f"/{random.random()}" for _ in range(32)]
            writer.write(b"".join(request(path) for path in paths))
            target.asked += len(paths)
            for path in paths:
                check(await answer(target, reader), path.encode())
                target.done["pipelined"] += 1
    finally:
        await shut(writer)


async def upload(target: Target) -> None:
    reader, writer = await target.open()
    try:
        for _ in range(5):
            data = random.randbytes(random.choice([1, 1000, 70_000, 1_000_000]))
            target.asked += 1
            if random.random() < 0.5:
                writer.write(request("/upload", f"Content-Length: {len(data)}", method="POST"))
                writer.write(data)
            else:
                writer.write(request("/upload", "Transfer-Encoding: chunked", method="POST"))
                step = random.choice([50_000, 300_000])
                for at in range(0, len(data), step):
                    part = data[at : at + step]
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            expected = hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
            check(await answer(target, reader), expected)
            target.done["uploads"] += 1
    finally:
        await shut(writer)


async def stream(target: Target) -> None:
    reader, writer = await target.open()
    try:
        for _ in range(3):
            parts = random.randrange(1, 100)
            writer.write(request(f"/stream?{parts}"))
            target.asked += 1
            check(await answer(target, reader), PART * parts)
            target.done["streams"] += 1
    finally:
        await shut(writer)


async def abort(target: Target) -> None:
    """Leave in the middle of a head, a body or a response, with a reset or an end."""
    _, writer = await target.open()
    piece = random.choice(
        [
            b"GET / HT",
            request("/upload", "Content-Length: 5000", method=BROKEN_OFF) + b"x" * 100,
            request("/stream?5000", method=BROKEN_OFF),
            request("/", method=BROKEN_OFF) * 20,
            b"\x16\x03\x01",
        ]
    )
    writer.write(piece)
    await asyncio.sleep(random.random() * 0.05)
    sock = writer.get_extra_info("socket")
    if sock is not None and random.random() < 0.5:  # None: the server has closed it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
    target.done["aborts"] += 1


async def websocket(target: Target) -> None:
    context = target.contexts.get("http/1.1")
    scheme = "wss" if context else "ws"
    deflate = random.choice(["deflate", None])
    target.asked += 1
    async with connect(
        f"{scheme}://localhost:{target.port}/", ssl=context, compression=deflate, proxy=None
    ) as client:
        target.answered += 1
        for _ in range(random.randrange(1, 60)):
            size = random.choice([0, 10, 1000, 70_000])
            message = random.choice([random.randbytes(size), "\u20ac" * size])
            await client.send(message)
            if await client.recv() != message:
                raise WrongAnswerError("the echo is not the message that was sent")
            target.done["messages"] += 1


KINDS = [plain, pipelined, upload, stream, abort, websocket, *soak_h2.KINDS]
CLOSED = ("ConnectionClosedError", "ConnectionClosedOK")  # of websockets
LEAVING = (abort, soak_h2.h2_vanish)


async def repeat(kind: Callable[[Target], Awaitable[None]], target: Target, end: float) -> None:
    # A recycled worker may close after any response. No other end of a connection is expected.
    recycled = target.name == "workers"
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(PATIENCE):
                await kind(target)
        except (OSError, EOFError) as exc:
            if recycled or kind in LEAVING:
                target.cut += 1
            else:
                target.wrong.append(f"{kind.__name__}: {exc!r:.200}")
        except Exception as exc:  # whatever it is, it is a fault to report
            ended = isinstance(exc.__cause__, EOFError) or type(exc).__name__ in CLOSED
            if recycled and ended:
                target.cut += 1
            else:
                target.wrong.append(f"{kind.__name__}: {exc!r:.200}")


async def watch(target: Target, begin: float, end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(SAMPLE)
        held = await target.held()
        target.samples.append((time.monotonic() - begin, held["rss"], held["fds"]))


# --- Servers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[list[Target]]:
    """Run the three servers, and end them with SIGTERM."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    contexts = {}
    for protocol in ("http/1.1", "h2"):
        contexts[protocol] = ssl.create_default_context()
        contexts[protocol].set_alpn_protocols([protocol])
        authority.configure_trust(contexts[protocol])
    tls = ["--ssl-certfile", str(folder / "pem")]
    workers = ["--workers", "2", "--limit-max-requests", str(RECYCLED_AFTER)]
    targets, pids = [], []
    try:
        for name, options in (("tcp", []), ("tls", tls), ("workers", workers)):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            admin = Address(path=str(folder / f"{name}.admin"))
            command = [sys.executable, "-m", "thestral", "soak_app:app", "--app-dir", str(HERE)]
            command += ["--port", str(port), "--no-access-log", "--log-level", "error", *options]
            command += ["--admin", f"unix:{admin.path}"]
            pids.append(os.posix_spawn(sys.executable, command, dict(os.environ)))
            targets.append(Target(name, port, admin, contexts if options is tls else {}))
        yield targets
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status):
                targets[pids.index(pid)].wrong.append(f"ended with wait status {status}")


def compare(target: Target) -> list[str]:
    """Hold a server's metrics against what its clients have counted; return what is wrong."""
    metric = "http_server_request_duration_seconds_count"
    status = sums(target.admin, metric, "status", method=WHOLE)
    target.metrics = status["2xx"] + status["1xx"]  # 101: a WebSocket
    if target.answered <= target.metrics <= target.asked and status.total() <= target.asked:
        return []
    clients = f"{target.asked} asked, {target.answered} answered"
    return [f"{target.name}: {dict(status)} by metrics, {clients} by the clients"]


async def until_up(target: Target) -> dict:
    for _ in range(200):
        with contextlib.suppress(OSError):
            return await target.held()
        await asyncio.sleep(0.1)
    raise SystemExit(f"{target.name} does not start")


async def soak(targets: list[Target]) -> list[str]:
    """Load the servers, and return what was wrong."""
    begin = time.monotonic()
    for target in targets:
        await until_up(target)
    # Objects that are made once, when a kind is first used, are made before the first count.
    await asyncio.gather(*[repeat(kind, one, begin + 2) for one in targets for kind in KINDS])
    before = [await target.held() for target in targets]
    end = time.monotonic() + MINUTES * 60
    lives = [repeat(kind, one, end) for one in targets for kind in KINDS for _ in range(CLIENTS)]
    watches = [watch(target, begin, end) for target in targets if target.name != "workers"]
    await asyncio.gather(*lives, *watches)
    await asyncio.sleep(6.0)  # until lingering connections have closed
    faults = []
    title = f"{'':9}{'answered':>10}{'metrics':>10}{'asked':>10}{'cut':>6}"
    print(f"{title}{'MiB':>7}{'KiB/min':>9}{'fds':>5}{'left':>6}  objects")
    for target, first in zip(targets, before, strict=True):
        last = await target.held()
        faults += compare(target)
        faults += [f"{target.name}: {fault}" for fault in target.wrong[:5]]
        row = f"{target.name:9}{target.answered:10}{target.metrics:10}{target.asked:10}"
        row += f"{target.cut:6}{last['rss'] / 1024:7.1f}"
        if target.name == "workers":  # another process answers each time
            print(f"{row}   {dict(target.done)}")
            continue
        slope = target.slope()
        kinds = first["objects"].keys() | last["objects"].keys()
        grown = {
            kind: last["objects"].get(kind, 0) - first["objects"].get(kind, 0) for kind in kinds
        }
        grown = {kind: count for kind, count in grown.items() if count > 0}
        fds = last["fds"] - first["fds"]
        print(
            f"{row}{slope:9.1f}{max(n for _, _, n in target.samples):5}{fds:6}  "
            f"{grown or 'none left'} {dict(target.done)}"
        )
        if slope > SLOPE_MAX:
            faults.append(f"{target.name}: memory grows by {slope:.0f} KiB a minute")
        if fds > 0 or any(count > 2 for count in grown.values()):
            faults.append(f"{target.name}: {fds} descriptors and objects are left: {grown}")
    return faults


def main() -> None:
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write after a reset
    with tempfile.TemporaryDirectory() as folder, served(pathlib.Path(folder)) as targets:
        faults = asyncio.run(soak(targets))
    faults += [f"{one.name}: {fault}" for one in targets for fault in one.wrong if "wait" in fault]
    for fault in faults:
        print("WRONG", fault)
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Requests that a server under constant load loses when workers die, restart or are recycled, when
certificates change, and when it stops. `make load` prints the counts;
tests/cli/test_constant_load.py runs some scenarios briefly.

A server may lose the requests that a worker is answering when it gets kill -9: one for each client,
or over HTTP/2 as many as a client has open. It may refuse connections once it has stopped
listening. It may lose nothing else; a request that the server has told an HTTP/2 client to repeat
is not lost.

Servers with workers count, and their metrics must agree with what the clients have seen: as many
requests as were answered, and at most those more whose answers were lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import trustme
from load import APP, Load, workers
from load_http2 import HTTP2Load, WebSocketLoad
from metered import sums
from process import Command
from support import wait_until

from thestral.config.address import Address

KEEPING, FRESH = 8, 2  # clients
TLS = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
KINDS = ("refused", "unconnected", "unanswered", "broken")


class Clients(NamedTuple):
    """What kind of clients there are, and whether they speak TLS."""

    load: type[Load]
    secure: bool


class Count(NamedTuple):
    """Outcome of a scenario: answered requests, those that the server has said may be repeated,
    failures by kind, forbidden failures, and answered requests by the server's metrics.
    """

    answered: int
    again: int
    failed: Counter[str]
    wrong: list[str]
    metrics: int


class Site:
    """A directory with the application and its certificates, and a server on it under load."""

    def __init__(self, folder: Path, clients: Clients, *arguments: str) -> None:
        self.folder = folder
        self._clients = clients
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(folder / "ca.pem")
        self.renew()
        (folder / "main.py").write_text(APP)
        tls = TLS if clients.secure else ()
        # A server without workers would become one of the supervisor's by an admin port.
        self.metered = "--workers" in arguments
        admin = ("--admin", f"unix:{folder}/admin") if self.metered else ()
        self._arguments = ["main:app", "--port", "0", "--no-access-log", *tls, *admin, *arguments]
        self.metrics = 0  # answered requests, by the server's metrics
        self.disagreement: list[str] = []

    def renew(self) -> None:
        """Replace the certificate as certificate managers do: each file atomically."""
        issued = self._authority.issue_cert("127.0.0.1", "localhost")
        for name, blob in (("key", issued.private_key_pem), ("pem", issued.cert_chain_pems[0])):
            blob.write_to_path(self.folder / f"new.{name}")
            os.replace(self.folder / f"new.{name}", self.folder / f"server.{name}")

    @contextlib.contextmanager
    def serving(self, count: int = 2):
        """A Command under a Load that reaches all of its workers."""
        with Command(*self._arguments, cwd=self.folder) as command:
            url = command.url()
            pids = set(workers(command, count))
            trust = self.folder / "ca.pem" if self._clients.secure else None
            load = self._clients.load(url, keeping=KEEPING, fresh=FRESH, trust=trust, strict=False)
            with load:
                wait_until(lambda: load.pids == pids)
                yield command, load
            if command.process.poll() is None:
                self.compare(load, running=0)
                command.signal(signal.SIGTERM)
            assert command.wait() == 0, command.stderr

    def compare(self, load: Load, running: int) -> None:
        """Hold the server's metrics against what the clients have seen.

        Args:
            running: number of requests that may be under way.
        """
        if not self.metered:
            return
        metric, label, value = load.counted_as
        least = load.seen.total()
        found = sums(Address(path=f"{self.folder}/admin"), metric, label)
        most = load.seen.total() + len(load.failures) + running
        self.metrics = found[value]
        # Of messages, the others are those that have been received.
        others = found.total() - self.metrics if label == "status" else 0
        if not least <= self.metrics <= most or others > len(load.failures):
            self.disagreement.append(f"{dict(found)} by metrics, {least} to {most} by the clients")


def answered_more(load: Load, count: int = 200) -> None:
    target = load.seen.total() + count
    wait_until(lambda: load.seen.total() >= target)


def counted(site: Site, load: Load, wrong: list[str]) -> Count:
    kinds = Counter(failure.kind for failure in load.failures)
    wrong = wrong + site.disagreement
    return Count(load.seen.total(), load.again.total(), kinds, wrong, site.metrics)


def all_of(load: Load) -> list[str]:
    return [str(failure) for failure in load.failures]


def killed(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """kill -9 of a worker."""
    site = Site(folder, clients, "--workers", "2", *arguments)
    wrong: list[str] = []
    with site.serving() as (command, load):
        for number in range(times):
            pids = workers(command, 2 + number)
            before = len(load.failures)
            victim = pids[-2]  # the older of the two live workers
            os.kill(victim, signal.SIGKILL)
            workers(command, 3 + number)
            answered_more(load)
            seen = load.failures[before:]
            wrong += [
                str(failure)
                for failure in seen
                if failure.kind == "refused" or failure.pid not in (0, victim)
            ]
            each = Counter(failure.client for failure in seen)
            wrong += [
                f"client {client}: {n} failures" for client, n in each.items() if n > load.at_once
            ]
    return counted(site, load, wrong)


def rolled(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """SIGHUP."""
    site = Site(folder, clients, "--workers", "2", *arguments)
    with site.serving() as (command, load):
        for number in range(times):
            old = workers(command, 2 * (number + 1))[-2:]
            if clients.secure:
                site.renew()
            command.signal(signal.SIGHUP)
            for pid in old:
                command.saw(f"lifespan.shutdown {pid}")
        answered_more(load)
    wrong = all_of(load)
    if clients.secure and len(load.certificates) < 1 + times:
        wrong.append(f"{len(load.certificates)} certificates seen")
    return counted(site, load, wrong)


def recycled(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """--limit-max-requests."""
    site = Site(folder, clients, "--workers", "2", "--limit-max-requests", "200", *arguments)
    with site.serving() as (command, load):
        for number in range(2 * times):
            workers(command, 3 + number)
    return counted(site, load, all_of(load))


def renewed(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """Certificate files replaced."""
    site = Site(folder, clients, "--workers", "2", *arguments)
    with site.serving() as (_, load):
        for _ in range(times):
            seen = len(load.certificates)
            site.renew()
            wait_until(lambda seen=seen: len(load.certificates) > seen)
            answered_more(load)
    return counted(site, load, all_of(load))


def renewed_alone(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """SIGHUP to a single process."""
    site = Site(folder, clients, *arguments)
    with site.serving(1) as (command, load):
        for _ in range(times):
            seen = len(load.certificates)
            site.renew()
            command.signal(signal.SIGHUP)
            wait_until(lambda seen=seen: len(load.certificates) > seen)
            answered_more(load)
    return counted(site, load, all_of(load))


def ended(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """SIGTERM."""
    total = Count(0, 0, Counter(), [], 0)
    for _ in range(times):
        site = Site(folder, clients, *arguments)
        with site.serving(2 if "--workers" in arguments else 1) as (command, load):
            answered_more(load)
            site.compare(load, running=(KEEPING + FRESH) * load.at_once)
            command.signal(signal.SIGTERM)
            assert command.wait() == 0
        wrong = [str(failure) for failure in load.failures if failure.kind != "refused"]
        one = counted(site, load, wrong)
        total = Count(*(a + b for a, b in zip(total, one, strict=True)))  # type: ignore[misc]
    return total


def ended_with_workers(folder: Path, clients: Clients, times: int, *arguments: str) -> Count:
    """SIGTERM to the supervisor."""
    return ended(folder, clients, times, "--workers", "2", *arguments)


PLAIN, SECURE = Clients(Load, False), Clients(Load, True)
H2C, H2 = Clients(HTTP2Load, False), Clients(HTTP2Load, True)
WEBSOCKETS = Clients(WebSocketLoad, False)
SECURE_WEBSOCKETS = Clients(WebSocketLoad, True)
REUSE_PORT = ("--reuse-port",)
SCENARIOS: list[tuple[str, Callable[..., Count], Clients, tuple[str, ...]]] = [
    ("kill -9", killed, PLAIN, ()),
    ("kill -9, TLS", killed, SECURE, ()),
    ("SIGHUP", rolled, PLAIN, ()),
    ("SIGHUP, new certificate", rolled, SECURE, ()),
    ("SIGHUP, --reuse-port", rolled, PLAIN, REUSE_PORT),
    ("max requests", recycled, PLAIN, ()),
    ("max requests, TLS", recycled, SECURE, ()),
    ("max requests, --reuse-port", recycled, PLAIN, REUSE_PORT),
    ("new certificate files", renewed, SECURE, ()),
    ("SIGHUP, one process, new certificate", renewed_alone, SECURE, ()),
    ("SIGTERM, one process", ended, PLAIN, ()),
    ("SIGTERM, one process, asyncio", ended, PLAIN, ("--loop", "asyncio")),
    ("SIGTERM, one process, TLS", ended, SECURE, ()),
    ("SIGTERM, 2 workers", ended_with_workers, PLAIN, ()),
    ("SIGTERM, 2 workers, TLS", ended_with_workers, SECURE, ()),
    ("SIGTERM, 2 workers, --reuse-port", ended_with_workers, PLAIN, REUSE_PORT),
    ("SIGTERM, 2 workers, --preload", ended_with_workers, PLAIN, ("--preload",)),
    ("kill -9, h2c", killed, H2C, ()),
    ("SIGHUP, h2c", rolled, H2C, ()),
    ("SIGHUP, HTTP/2 over TLS, new certificate", rolled, H2, ()),
    ("SIGHUP, h2c, --reuse-port", rolled, H2C, REUSE_PORT),
    ("SIGHUP, WebSockets over h2c", rolled, WEBSOCKETS, ()),
    ("SIGHUP, WebSockets over HTTP/2 over TLS", rolled, SECURE_WEBSOCKETS, ()),
    ("max requests, h2c", recycled, H2C, ()),
    ("max requests, HTTP/2 over TLS", recycled, H2, ()),
    ("new certificate files, HTTP/2 over TLS", renewed, H2, ()),
    ("new certificate files, WebSockets over HTTP/2 over TLS", renewed, SECURE_WEBSOCKETS, ()),
    ("SIGHUP, one process, HTTP/2 over TLS, new certificate", renewed_alone, H2, ()),
    ("SIGTERM, one process, h2c", ended, H2C, ()),
    ("SIGTERM, one process, h2c, asyncio", ended, H2C, ("--loop", "asyncio")),
    ("SIGTERM, one process, HTTP/2 over TLS", ended, H2, ()),
    ("SIGTERM, one process, WebSockets over h2c", ended, WEBSOCKETS, ()),
    ("SIGTERM, 2 workers, h2c", ended_with_workers, H2C, ()),
    ("SIGTERM, 2 workers, HTTP/2 over TLS", ended_with_workers, H2, ()),
    (
        "SIGTERM, 2 workers, WebSockets over HTTP/2 over TLS",
        ended_with_workers,
        SECURE_WEBSOCKETS,
        (),
    ),
]


def main() -> int:
    """Run the scenarios whose names hold one of the arguments, and print a table."""
    times = int(os.environ.get("TIMES", "5"))
    print(f"2 workers, {KEEPING} keep-alive clients, {FRESH} that connect anew; {times} times each")
    kinds = " | ".join(KINDS)
    print(f"| scenario | answered | by metrics | asked again | {kinds} | not allowed | s |")
    print("| --- |" + " ---: |" * (len(KINDS) + 5))
    status = 0
    for name, scenario, clients, arguments in SCENARIOS:
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        folder = Path(tempfile.mkdtemp(prefix="load"))
        began = time.monotonic()
        try:
            count = scenario(folder, clients, times, *arguments)
        finally:
            shutil.rmtree(folder)
        took = time.monotonic() - began
        failed = " | ".join(str(count.failed[kind]) for kind in KINDS)
        metrics = count.metrics or "–"
        counts = f"{count.answered} | {metrics} | {count.again} | {failed} | {len(count.wrong)}"
        print(f"| {name} | {counts} | {took:.0f} |")
        print(*count.wrong[:5], sep="\n", end="\n" if count.wrong else "", flush=True)
        status |= bool(count.wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())

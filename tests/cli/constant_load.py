"""Requests that a server under constant load loses when workers die, restart or are recycled, when
certificates change, and when it stops. `make load` prints the counts;
tests/cli/test_constant_load.py runs some scenarios briefly.

A server may lose the requests that a worker is answering when it gets kill -9, at most one for each
client, and may refuse connections once it has stopped listening. It may lose nothing else.
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
from process import Command
from support import wait_until

KEEPING, FRESH = 8, 2  # clients
TLS = ("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
KINDS = ("refused", "unconnected", "unanswered", "broken")


class Count(NamedTuple):
    """Outcome of a scenario: answered requests, failures by kind, forbidden failures."""

    answered: int
    failed: Counter[str]
    wrong: list[str]


class Site:
    """A directory with the application and its certificates, and a server on it under load."""

    def __init__(self, folder: Path, secure: bool, *arguments: str) -> None:
        self.folder = folder
        self._secure = secure
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(folder / "ca.pem")
        self.renew()
        (folder / "main.py").write_text(APP)
        tls = TLS if secure else ()
        self._arguments = ["main:app", "--port", "0", "--no-access-log", *tls, *arguments]

    def renew(self) -> None:
        """Replace the certificate as certificate managers do: each file atomically."""
        issued = self._authority.issue_cert("127.0.0.1")
        for name, blob in (("key", issued.private_key_pem), ("pem", issued.cert_chain_pems[0])):
            blob.write_to_path(self.folder / f"new.{name}")
            os.replace(self.folder / f"new.{name}", self.folder / f"server.{name}")

    @contextlib.contextmanager
    def serving(self, count: int = 2):
        """A Command under a Load that reaches all of its workers."""
        with Command(*self._arguments, cwd=self.folder) as command:
            url = command.url()
            pids = set(workers(command, count))
            trust = self.folder / "ca.pem" if self._secure else None
            load = Load(url, keeping=KEEPING, fresh=FRESH, trust=trust, strict=False)
            with load:
                wait_until(lambda: load.pids == pids)
                yield command, load
            if command.process.poll() is None:
                command.signal(signal.SIGTERM)
            assert command.wait() == 0, command.stderr


def answered_more(load: Load, count: int = 200) -> None:
    target = load.seen.total() + count
    wait_until(lambda: load.seen.total() >= target)


def counted(load: Load, wrong: list[str]) -> Count:
    return Count(load.seen.total(), Counter(failure.kind for failure in load.failures), wrong)


def all_of(load: Load) -> list[str]:
    return [str(failure) for failure in load.failures]


def killed(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """kill -9 of a worker."""
    site = Site(folder, secure, "--workers", "2", *arguments)
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
            wrong += [f"client {client}: {n} failures" for client, n in each.items() if n > 1]
    return counted(load, wrong)


def rolled(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """SIGHUP."""
    site = Site(folder, secure, "--workers", "2", *arguments)
    with site.serving() as (command, load):
        for number in range(times):
            old = workers(command, 2 * (number + 1))[-2:]
            if secure:
                site.renew()
            command.signal(signal.SIGHUP)
            for pid in old:
                command.saw(f"lifespan.shutdown {pid}")
        answered_more(load)
    wrong = all_of(load)
    if secure and len(load.certificates) < 1 + times:
        wrong.append(f"{len(load.certificates)} certificates seen")
    return counted(load, wrong)


def recycled(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """--limit-max-requests."""
    site = Site(folder, secure, "--workers", "2", "--limit-max-requests", "200", *arguments)
    with site.serving() as (command, load):
        for number in range(2 * times):
            workers(command, 3 + number)
    return counted(load, all_of(load))


def renewed(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """Certificate files replaced."""
    site = Site(folder, secure, "--workers", "2", *arguments)
    with site.serving() as (_, load):
        for _ in range(times):
            seen = len(load.certificates)
            site.renew()
            wait_until(lambda seen=seen: len(load.certificates) > seen)
            answered_more(load)
    return counted(load, all_of(load))


def renewed_alone(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """SIGHUP to a single process."""
    site = Site(folder, secure, *arguments)
    with site.serving(1) as (command, load):
        for _ in range(times):
            seen = len(load.certificates)
            site.renew()
            command.signal(signal.SIGHUP)
            wait_until(lambda seen=seen: len(load.certificates) > seen)
            answered_more(load)
    return counted(load, all_of(load))


def ended(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """SIGTERM."""
    total = Count(0, Counter(), [])
    for _ in range(times):
        site = Site(folder, secure, *arguments)
        with site.serving(2 if "--workers" in arguments else 1) as (command, load):
            answered_more(load)
            command.signal(signal.SIGTERM)
            assert command.wait() == 0
        wrong = [str(failure) for failure in load.failures if failure.kind != "refused"]
        one = counted(load, wrong)
        total = Count(total.answered + one.answered, total.failed + one.failed, total.wrong + wrong)
    return total


def ended_with_workers(folder: Path, secure: bool, times: int, *arguments: str) -> Count:
    """SIGTERM to the supervisor."""
    return ended(folder, secure, times, "--workers", "2", *arguments)


REUSE_PORT = ("--reuse-port",)
SCENARIOS: list[tuple[str, Callable[..., Count], bool, tuple[str, ...]]] = [
    ("kill -9", killed, False, ()),
    ("kill -9, TLS", killed, True, ()),
    ("SIGHUP", rolled, False, ()),
    ("SIGHUP, new certificate", rolled, True, ()),
    ("SIGHUP, --reuse-port", rolled, False, REUSE_PORT),
    ("max requests", recycled, False, ()),
    ("max requests, TLS", recycled, True, ()),
    ("max requests, --reuse-port", recycled, False, REUSE_PORT),
    ("new certificate files", renewed, True, ()),
    ("SIGHUP, one process, new certificate", renewed_alone, True, ()),
    ("SIGTERM, one process", ended, False, ()),
    ("SIGTERM, one process, asyncio", ended, False, ("--loop", "asyncio")),
    ("SIGTERM, one process, TLS", ended, True, ()),
    ("SIGTERM, 2 workers", ended_with_workers, False, ()),
    ("SIGTERM, 2 workers, TLS", ended_with_workers, True, ()),
    ("SIGTERM, 2 workers, --reuse-port", ended_with_workers, False, REUSE_PORT),
    ("SIGTERM, 2 workers, --preload", ended_with_workers, False, ("--preload",)),
]


def main() -> int:
    """Run the scenarios whose names hold one of the arguments, and print a table."""
    times = int(os.environ.get("TIMES", "5"))
    print(f"2 workers, {KEEPING} keep-alive clients, {FRESH} that connect anew; {times} times each")
    print("| scenario | answered | " + " | ".join(KINDS) + " | not allowed | s |")
    print("| --- |" + " ---: |" * (len(KINDS) + 3))
    status = 0
    for name, scenario, secure, arguments in SCENARIOS:
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        folder = Path(tempfile.mkdtemp(prefix="load"))
        began = time.monotonic()
        try:
            count = scenario(folder, secure, times, *arguments)
        finally:
            shutil.rmtree(folder)
        took = time.monotonic() - began
        failed = " | ".join(str(count.failed[kind]) for kind in KINDS)
        print(f"| {name} | {count.answered} | {failed} | {len(count.wrong)} | {took:.0f} |")
        print(*count.wrong[:5], sep="\n", end="\n" if count.wrong else "", flush=True)
        status |= bool(count.wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())

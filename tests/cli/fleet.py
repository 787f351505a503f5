"""Three servers behind HAProxy and nginx, each in a network namespace of its own: counts the
requests that are lost when servers are killed, added, drained and rolled under load. `make fleet`
prints the counts; tests/cli/test_fleet.py runs one round.

When a server gets kill -9, the requests that a balancer has passed on to it may be lost: for each
client one per worker, or over HTTP/2 as many as a client has open. The logs show which server had a
request. No other request may be lost. Half of the requests are POST, which no balancer repeats once
it has sent them.

Everything runs in namespaces for processes, mounts and the network, which end with their first
process, so nothing is left behind, however the program ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from constant_load import KINDS
from load import APP, Failure, Load, workers
from load_http2 import HTTP2Load
from nginx import Nginx
from process import ROOT, Command
from support import PATIENCE, program, wait_until

DEPLOYMENT = ROOT / "docs/deployment.md"
SERVERS = {"one": "10.9.0.11", "two": "10.9.0.12", "three": "10.9.0.13"}
HAPROXY, NGINX = "10.9.0.2", "10.9.0.3"
HTTP1, HTTP2 = 8001, 8002  # ports of the balancers
PORT, ADMIN = 8000, 9100  # of a server
REFUSED = 3  # exit status of an attempt to make a network
SHUTDOWN_DELAY = 1  # seconds
WORKERS = 2  # of a server
KEEPING, FRESH = 1, 1  # clients of each kind
PAUSE = 0.01  # seconds between a client's requests: the load need not fill the machine
ANSWERED = 50  # requests of each kind of client that are waited for after a kill

HAPROXY_CONFIGURATION = f"""
global
    log stdout format raw daemon
defaults
    mode http
    log global
    log-format "%HU|%si|%ST|%ts"
    timeout connect {PATIENCE:.0f}s
    timeout client {PATIENCE:.0f}s
    timeout server {PATIENCE:.0f}s
frontend http1
    bind :{HTTP1}
    default_backend http1
frontend http2
    bind :{HTTP2} proto h2
    default_backend http2
"""
NGINX_CONFIGURATION = """
log_format hands '$request_uri|$upstream_addr|$upstream_status|$status';
{upstream}
server {{
    listen {listen};
    access_log {folder}/access.log hands;
    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }}
}}
"""


# --- Namespaces -----------------------------------------------------------------------------------


def unshared(*arguments: str) -> list[str]:
    """A command that runs this file in namespaces which end with it."""
    options = ["--fork", "--pid", "--mount-proc", "--kill-child", "--net"]
    return [program("unshare"), *options, sys.executable, __file__, *arguments]


def hindrance() -> str | None:
    """Why a network of namespaces cannot be made here, after an attempt; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    attempt = subprocess.run(unshared("attempt"), capture_output=True, text=True, env=environment)
    said = attempt.stderr.strip()
    if attempt.returncode == 0:
        return None
    if attempt.returncode != REFUSED and not said.startswith("unshare:"):
        raise AssertionError(f"the attempt itself has failed: {said}")
    return f"network namespaces are not allowed here: {said[-300:]}"


def attempt() -> int:
    """Make a network with one host; return the exit status."""
    try:
        make_network({"host": "10.9.0.2"})
    except subprocess.CalledProcessError as exc:
        print(exc, file=sys.stderr)
        return REFUSED
    return 0


def ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True)


def inside(host: str) -> list[str]:
    """A command that runs another one in the namespace of a host."""
    return [program("ip"), "netns", "exec", host]


def make_network(hosts: dict[str, str]) -> None:
    """Make a namespace for each host, by its address, and connect all to a bridge in this one."""
    # `ip netns` keeps files in /run, and the machine's own shall not have them.
    subprocess.run(["mount", "-t", "tmpfs", "fleet", "/run"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "fleet", "type", "bridge")
    ip("address", "add", "10.9.0.1/24", "dev", "fleet")
    ip("link", "set", "fleet", "up")
    for host, address in hosts.items():
        ip("netns", "add", host)
        ip("link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
        ip("link", "set", host, "master", "fleet", "up")
        ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "link", "set", "eth0", "up")


# --- Clients --------------------------------------------------------------------------------------

NUMBERS = itertools.count(1)  # of requests, over all clients


class Numbered(Load):
    """A Load whose requests can be found in the balancers' logs, by the number in their query."""

    pause = PAUSE

    def _request(self, plain: bool) -> tuple[str, str]:
        number = next(NUMBERS)
        _, target = super()._request(plain)
        return ("POST" if number % 2 else "GET"), f"{target}?{number}"


class NumberedHTTP2(Numbered, HTTP2Load):
    """The same over HTTP/2."""


class Route(NamedTuple):
    """A way to the servers, for clients of one kind."""

    name: str
    address: str
    port: int
    clients: type[Load]


ROUTES = [
    Route("HAProxy, HTTP/1.1", HAPROXY, HTTP1, Numbered),
    Route("HAProxy, HTTP/2 on both sides", HAPROXY, HTTP2, NumberedHTTP2),
    Route("nginx, HTTP/1.1", NGINX, HTTP1, Numbered),
    Route("nginx, HTTP/2 to clients", NGINX, HTTP2, NumberedHTTP2),
]


# --- Servers --------------------------------------------------------------------------------------


class Host:
    """A place for a server: a namespace with its address, and a directory."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.address = SERVERS[name]
        self._folder = folder / name
        self._folder.mkdir()
        (self._folder / "main.py").write_text(APP)
        self._running = contextlib.ExitStack()

    def start(self) -> set[int]:
        """Start a server; return the PIDs of its workers once they run."""
        self.command = self._running.enter_context(
            Command(
                *("main:app", "--host", self.address, "--port", f"{PORT}"),
                *("--workers", f"{WORKERS}", "--access-log-file", "access.log"),
                *("--admin", f"{self.address}:{ADMIN}", "--shutdown-delay", f"{SHUTDOWN_DELAY}"),
                *("--forwarded-allow-ips", f"{HAPROXY},{NGINX}"),
                cwd=self._folder,
                prefix=inside(self.name),
                start_new_session=True,
            )
        )
        return set(workers(self.command, WORKERS))

    def kill(self) -> None:
        """kill -9 of all its processes at once; return when they are gone."""
        os.killpg(self.command.process.pid, signal.SIGKILL)
        self.stop()

    def drain(self) -> int:
        """SIGTERM; return the exit status."""
        self.command.signal(signal.SIGTERM)
        status = self.command.wait()
        self.stop()
        return status

    def roll(self) -> set[int]:
        """SIGHUP; return the PIDs of the new workers once the old ones have ended."""
        old = workers(self.command, WORKERS)
        self.command.signal(signal.SIGHUP)
        new = workers(self.command, len(old) + WORKERS)[len(old) :]
        for pid in old[-WORKERS:]:
            self.command.saw(f"lifespan.shutdown {pid}")
        return set(new)

    def stop(self) -> None:
        """End whatever is left of the server."""
        self._running.close()

    def answered(self) -> dict[str, str]:
        """Its address, by the number of each request that its access log has."""
        log = (self._folder / "access.log").read_text()
        return dict.fromkeys(re.findall(r"\?([0-9]+) HTTP/", log), self.address)


class Lost(NamedTuple):
    """Failures of one kind of client from a kill on, until a server took the victim's place."""

    route: Route
    victim: str
    failures: list[Failure]


class Fleet:
    """The servers under load, and what happens to them in turns."""

    def __init__(self, folder: Path, loads: dict[Route, Load]) -> None:
        self.hosts = [Host(name, folder) for name in SERVERS]
        self.loads = loads
        self.wrong: list[str] = []
        self.lost: list[Lost] = []
        self.done: Counter[str] = Counter()

    def all_reach(self, pids: set[int]) -> None:
        """Wait until each kind of client has been answered by one of these processes."""
        wait_until(lambda: all(load.pids & pids for load in self.loads.values()))

    def all_answered_more(self) -> None:
        targets = {route: load.seen.total() + ANSWERED for route, load in self.loads.items()}
        wait_until(lambda: all(self.loads[r].seen.total() >= n for r, n in targets.items()))

    def kill(self, host: Host) -> None:
        before = {route: len(load.failures) for route, load in self.loads.items()}
        host.kill()
        self.all_answered_more()
        for route, load in self.loads.items():
            self.lost.append(Lost(route, host.address, load.failures[before[route] :]))
        self.done["killed"] += 1

    def drain(self, host: Host) -> None:
        status = host.drain()
        if status:
            self.wrong.append(f"{host.name} ended with status {status} after SIGTERM")
        self.all_answered_more()
        self.done["drained"] += 1

    def add(self, host: Host) -> None:
        self.all_reach(host.start())
        self.done["added"] += 1

    def roll(self, host: Host) -> None:
        self.all_reach(host.roll())
        self.done["rolled"] += 1

    def run(self, minutes: float) -> None:
        """One round, and as many more as begin within the time."""
        end = time.monotonic() + minutes * 60
        victims = itertools.cycle(self.hosts)
        while not self.done or time.monotonic() < end:
            for event in (self.kill, self.drain):
                host = next(victims)
                event(host)
                self.add(host)
            self.roll(next(victims))
            next(victims)  # so that each host gets each of the three


# --- Balancers ------------------------------------------------------------------------------------


def documented(language: str) -> str:
    """What docs/deployment.md shows for several servers, with ours in the place of its own."""
    section = DEPLOYMENT.read_text().partition("### Several servers\n")[2].partition("\n##")[0]
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    first, other = re.findall(r"^ +server .*\n", block, re.MULTILINE)
    lines = [
        first.replace("10.0.0.5", address).replace(" one ", f" {name} ")
        for name, address in SERVERS.items()
    ]
    return str(block).replace(first, "".join(lines)).replace(other, "")


class HAProxy:
    """HAProxy on HAPROXY; asks /readyz of the servers' admin ports."""

    def __init__(self, folder: Path) -> None:
        http1 = documented("haproxy").replace("backend app", "backend http1")
        http2 = documented("haproxy").replace("backend app", "backend http2")
        http2 = re.sub("(server .*)", r"\1 proto h2 check-proto h1", http2)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(f"{HAPROXY_CONFIGURATION}{http1}{http2}")
        self.log = folder / "haproxy.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*inside("haproxy"), program("HAProxy"), "-db", "-f", configuration],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def drains_seen(self) -> int:
        """How often /readyz has turned before the server ended, for one backend."""
        lines = self.log.read_text().splitlines()
        return sum(1 for line in lines if re.match(r"Server http1/\w+ is DOWN, .*code: 503", line))


def nginx(folder: Path) -> Nginx:
    """nginx on NGINX, which learns from failed attempts."""
    listen = f"{HTTP1};\n    listen {HTTP2} http2"
    block = NGINX_CONFIGURATION.format(folder=folder, upstream=documented("nginx"), listen=listen)
    return Nginx(folder, block, prefix=inside("nginx"))


def given(fleet: Fleet, *logs: Path) -> dict[str, str]:
    """Address of the last server that a balancer gave a request to, by the request's number.

    HAProxy does not log a request whose server has broken the connection without an answer if it
    was not the first on its client's connection: it closes that too, without a word, so that the
    client repeats the request. If a server has such a request in its access log, that one had it.
    """
    pattern = re.compile(r"\?([0-9]+)\|(?:[^|]*, )?([0-9.]+)(?::[0-9]+)?\|")
    found: dict[str, str] = {}
    for host in fleet.hosts:
        found |= host.answered()
    for log in logs:
        found |= dict(pattern.findall(log.read_text()))
    return found


def accepts(address: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0


# --- Outcome --------------------------------------------------------------------------------------


def forbidden(fleet: Fleet, holders: dict[str, str]) -> Iterator[tuple[Route, str]]:
    """Failures that are not allowed, each with the reason."""

    def holder(failure: Failure) -> str:
        return holders.get(failure.target.partition("?")[2], "nobody")

    for route, load in fleet.loads.items():
        left = Counter(load.failures)
        for lost in fleet.lost:
            if lost.route != route:
                continue
            left.subtract(lost.failures)
            for failure in lost.failures:
                if not failure.target or holder(failure) not in (lost.victim, "nobody"):
                    yield route, f"{lost.victim} was killed, {holder(failure)} had this: {failure}"
            for client, count in Counter(failure.client for failure in lost.failures).items():
                # Its workers do not end at the same moment.
                if count > WORKERS * load.at_once:
                    yield route, f"client {client} has lost {count} at one kill"
        for failure in left.elements():
            yield route, f"nobody was killed, {holder(failure)} had this: {failure}"


def report(fleet: Fleet, holders: dict[str, str], took: float) -> int:
    """Print the counts; return the exit status."""
    done = ", ".join(f"{count} {what}" for what, count in fleet.done.items())
    print(f"{len(SERVERS)} servers with {WORKERS} workers: {done}, in {took:.0f} s")
    print("| clients of | answered | asked again | " + " | ".join(KINDS) + " | not allowed |")
    print("| --- |" + " ---: |" * (len(KINDS) + 3))
    wrong = list(forbidden(fleet, holders))
    for route, load in fleet.loads.items():
        kinds = Counter(failure.kind for failure in load.failures)
        failed = " | ".join(str(kinds[kind]) for kind in KINDS)
        bad = sum(1 for which, _ in wrong if which == route)
        print(f"| {route.name} | {load.seen.total()} | {load.again.total()} | {failed} | {bad} |")
    reasons = [f"{route.name}: {reason}" for route, reason in wrong] + fleet.wrong
    print(*reasons[:20], sep="\n", end="\n" if reasons else "", flush=True)
    return 1 if reasons else 0


def run(folder: Path, minutes: float) -> int:
    """Run the fleet, in the namespaces."""
    make_network({"haproxy": HAPROXY, "nginx": NGINX, **SERVERS})
    began = time.monotonic()
    loads = {
        route: route.clients(
            f"http://{route.address}:{route.port}", keeping=KEEPING, fresh=FRESH, strict=False
        )
        for route in ROUTES
    }
    with contextlib.ExitStack() as stack:
        fleet = Fleet(folder, loads)
        for host in fleet.hosts:
            stack.callback(host.stop)
            host.start()
        balancers = [HAProxy(folder), nginx(folder)]
        for balancer in balancers:
            stack.callback(balancer.stop)
        for route in ROUTES:
            wait_until(lambda route=route: accepts(route.address, route.port))
        for load in loads.values():
            stack.enter_context(load)
        for host in fleet.hosts:
            fleet.all_reach(set(workers(host.command, WORKERS)))
        fleet.all_answered_more()
        fleet.run(minutes)
    seen = balancers[0].drains_seen()
    if seen != fleet.done["drained"]:
        fleet.wrong.append(f"HAProxy has seen {seen} drains by /readyz")
    holders = given(fleet, balancers[0].log, folder / "access.log")
    return report(fleet, holders, time.monotonic() - began)


def main() -> int:
    """Run this file again in namespaces; return the exit status."""
    minutes = os.environ.get("MINUTES", "1")
    try:
        for name in ("HAProxy", "nginx"):
            program(name)
        reason = hindrance()
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        reason = str(exc)
    if reason:
        print(f"The fleet cannot run: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fleet") as folder:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        process = subprocess.Popen(unshared("run", folder, minutes))
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            process.kill()  # and with it all that runs in the namespaces
            process.wait()


COMMANDS: dict[str, Callable[..., int]] = {
    "attempt": attempt,
    "run": lambda folder, minutes: run(Path(folder), float(minutes)),
}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]) if sys.argv[1:] else main())

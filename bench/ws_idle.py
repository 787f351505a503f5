"""Measures the memory of idle WebSockets: opens thousands and prints what each costs its server.

    python bench/ws_idle.py [--servers thestral uvicorn] [--connections 5000] [--hold 0]

Each server runs four times: permessage-deflate offered or not, no message or one each way.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import time

from environment import CHECKOUT, Environment, prepare
from scenarios import SCENARIOS
from servers import SERVERS, Server
from ws_load import OFFER, TEXT, Connection, sample

BATCH = 100  # handshakes at a time: fewer than any server's backlog
SIZE = 1024  # bytes of a message
SETTLE = 1  # seconds for the server to finish its work


def open_batch(port: int, offer: str, count: int) -> list[Connection]:
    connections = [Connection(port, offer) for _ in range(count)]
    for connection in connections:
        connection.open()
    return connections


def hold(connections: list[Connection], seconds: float) -> None:
    """Answer Pings for this many seconds."""
    waiting = select.poll()
    opened = {connection.sock.fileno(): connection for connection in connections}
    for descriptor in opened:
        waiting.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in waiting.poll(left * 1000):
            connection = opened[descriptor]
            connection.echoed(connection.receive(), b"", b"")


def measure(
    name: str, environment: Environment, options: argparse.Namespace, offer: str, messages: int
) -> str:
    """Measure one run, and return its row of the table."""
    scenario = SCENARIOS["WebSocket 64 B"]
    server = Server(name, scenario.setup, environment, {min(os.sched_getaffinity(0))})
    tree, payload = server.tree, sample(SIZE)
    try:
        server.wait(lambda: scenario.load.check(server))
        opened = open_batch(server.port, offer, BATCH)  # warm
        time.sleep(SETTLE)
        before, busy, started = tree.resident(), tree.processor_time(), time.monotonic()
        for _ in range(options.connections // BATCH):
            opened += open_batch(server.port, offer, BATCH)
        elapsed, busy = time.monotonic() - started, tree.processor_time() - busy
        deflate = b"permessage-deflate" in opened[0].response
        for connection in opened * messages:
            connection.exchange(TEXT, payload, compress=deflate)
        time.sleep(SETTLE)
        after = tree.resident()
        count = len(opened) - BATCH
        row = [name, "yes" if deflate else "no", str(messages)]
        row += [f"{before / 1e6:.1f}", f"{after / 1e6:.1f}", f"{(after - before) / count:.0f}"]
        row += [f"{elapsed:.2f}", f"{busy / count * 1e6:.0f}"]
        if options.hold:
            busy = tree.processor_time()
            hold(opened, options.hold)
            row += [f"{(tree.resident() - before) / count:.0f}"]
            row += [f"{(tree.processor_time() - busy) / options.hold:.3f}"]
        for connection in opened:
            connection.close()
    finally:
        server.stop()
        server.close()
    return f"| {' | '.join(row)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=["thestral", "uvicorn"], choices=SERVERS)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--hold", type=float, default=0, help="seconds idle, then memory again")
    options = parser.parse_args()
    descriptors = options.connections + 1000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, max(hard, descriptors)))
    held = ["bytes each, held", "CPU s/s, held"] if options.hold else []
    header = ["server", "deflate", "messages", "MB before", "MB after", "bytes each", "accept s"]
    header += ["CPU µs/accept", *held]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    environment = prepare(CHECKOUT / "build/bench")
    for server in options.servers:
        for offer in ("", OFFER):
            for messages in (0, 1):
                print(measure(server, environment, options, offer, messages), flush=True)


if __name__ == "__main__":
    main()

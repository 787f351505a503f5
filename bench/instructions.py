"""Instructions per request, counted by valgrind's callgrind: repeatable where times are not.

    python bench/instructions.py [--module thestral|uvicorn] [--websocket BYTES]

The difference between two runs of different length is divided by the difference of their requests,
so that start-up falls out. 4 request headers, keep-alive, no pipelining, the plain application;
or echoes of text messages of so many bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ws_load import TEXT, Connection, sample

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip\r\n\r\n"
)
FEW = 500
MANY = 1500


def get(port: int, requests: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(requests):
            connection.sendall(REQUEST)
            received = b""
            while not received.endswith(b"Hello, world!"):
                received += connection.recv(65536)


def echo(port: int, messages: int, size: int) -> None:
    connection = Connection(port)
    connection.open()
    for _ in range(messages):
        connection.exchange(TEXT, sample(size))
    connection.close()


def count(module: str, app: str, load: Callable[[int, int], None], requests: int) -> int:
    """Instructions of a server's whole life with so many requests."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", module, f"bench.apps:{app}", "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning"]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONHASHSEED": "0"},  # else dictionaries differ from run to run
            stderr=subprocess.PIPE,
            text=True,
        )
        wait(port)
        load(port, requests)
        process.terminate()
        errors = process.communicate()[1]
    found = re.search(r"Collected : (\d+)", errors)
    if found is None:
        raise SystemExit(errors)
    return int(found[1])


def wait(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server does not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default="thestral")
    parser.add_argument("--websocket", type=int, metavar="BYTES", help="echo such messages")
    options = parser.parse_args()
    module, size = options.module, options.websocket
    app, load, unit = "plain", get, "request"
    if size is not None:
        app, load, unit = "echo", partial(echo, size=size), "message"
    few, many = (count(module, app, load, requests) for requests in (FEW, MANY))
    print(f"{module}: {(many - few) / (MANY - FEW):.0f} instructions per {unit}")


if __name__ == "__main__":
    main()

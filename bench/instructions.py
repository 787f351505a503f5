"""Instructions per request, counted by valgrind's callgrind: repeatable where times are not.

    python bench/instructions.py [--module thestral|uvicorn]

The difference between two runs of different length is divided by the difference of their requests,
so that start-up falls out. 4 request headers, keep-alive, no pipelining, the plain application.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip\r\n\r\n"
)
FEW = 500
MANY = 1500


def count(module: str, requests: int) -> int:
    """Instructions of a server's whole life with so many requests."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", module, "bench.apps:plain", "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning"]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True
        )
        connection = connect(port)
        with connection:
            for _ in range(requests):
                connection.sendall(REQUEST)
                received = b""
                while not received.endswith(b"Hello, world!"):
                    received += connection.recv(65536)
        process.terminate()
        errors = process.communicate()[1]
    found = re.search(r"Collected : (\d+)", errors)
    if found is None:
        raise SystemExit(errors)
    return int(found[1])


def connect(port: int) -> socket.socket:
    for _ in range(600):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server does not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default="thestral")
    module = parser.parse_args().module
    few, many = count(module, FEW), count(module, MANY)
    print(f"{module}: {(many - few) / (MANY - FEW):.0f} instructions per request")


if __name__ == "__main__":
    main()

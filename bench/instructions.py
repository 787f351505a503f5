"""Counts instructions per request with valgrind's callgrind; unlike times, counts repeat.

    python bench/instructions.py                    # compares with instructions.json
    python bench/instructions.py --write            # stores the counts there
    python bench/instructions.py --check            # status 1 if one is over 3 % higher
    python bench/instructions.py --module uvicorn --cases "plain GET, 4 headers"

Each case runs twice, with few and with many requests; the difference of the counts divided by the
difference of the requests leaves out the start. There is one connection, with one request at a
time unless the case says otherwise; HTTP/2's cases need h2load.

Counts depend on the versions of everything that runs, so instructions.json has these, too. If they
differ, --check says "not comparable" and ends with status 3, which is neither a pass nor a
regression.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from heads import BROWSER, FOUR
from ws_load import TEXT, Connection, sample

BENCH = Path(__file__).resolve().parent
KEPT = BENCH / "instructions.json"
TOLERANCE = 3  # percent; repeated counts differ by less than 1, those of streams by up to 4
REGRESSION, NOT_COMPARABLE = 1, 3  # exit statuses; 2 is argparse's
START = 600.0  # seconds for a server to start under valgrind
NO_LOG = ("--no-access-log", "--log-level", "warning")
# Else dictionaries differ between runs; and the watchdog's timer, which ticks four times a second,
# counts for fifty times as much where requests are so slow.
STEADY = {"PYTHONHASHSEED": "0", "THESTRAL_WATCHDOG": "0"}
PARTS = ("uvloop", "Cython")  # packages that every count depends on
FASTAPI = ("fastapi", "starlette", "pydantic", "pydantic_core", "anyio")


@dataclass(frozen=True)
class Case:
    """One row of instructions.json.

    Attributes:
        app: "module:attribute".
        load: sends requests to a port; its arguments are the port and their number.
        packages: packages whose versions matter, in addition to PARTS.
        arguments: options of the server.
        few, many: requests in the two runs.
        module: runs the server; "" is the one that is asked for.
    """

    app: str
    load: Callable[[int, int], None]
    packages: tuple[str, ...] = ()
    arguments: tuple[str, ...] = NO_LOG
    few: int = 500
    many: int = 1500
    module: str = ""


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: 127.0.0.1:8000", *fields, "", "")).encode()


def exchange(port: int, requests: int, *, request: bytes, end: bytes) -> None:
    """Send each request once the response to the last one has arrived, up to `end`."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(requests):
            connection.sendall(request)
            received = b""
            while not received.endswith(end):
                data = connection.recv(65536)
                if not data:
                    raise SystemExit(f"closed after {received!r}")
                received += data


def echo(port: int, messages: int, *, size: int) -> None:
    connection = Connection(port)
    connection.open()
    for _ in range(messages):
        connection.exchange(TEXT, sample(size))
    connection.close()


def multiplexed(port: int, requests: int, *, streams: int) -> None:
    """Send requests over HTTP/2, `streams` of them at a time."""
    command = ["h2load", "-c1", f"-m{streams}", f"-n{requests}", f"http://127.0.0.1:{port}/"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if f"{requests} succeeded" not in printed:
        raise SystemExit(printed)


def get(*fields: str) -> Callable[[int, int], None]:
    return partial(exchange, request=head("GET /", *fields), end=b"\r\n\r\nHello, world!")


def stream(app: str, *packages: str) -> Case:
    load = partial(exchange, request=head("GET /", *FOUR), end=b"\r\n0\r\n\r\n")
    return Case(app, load, packages=packages, few=100, many=300)


def fastapi(request: bytes, answer: bytes, *options: str) -> Case:
    return Case(
        "frameworks:fast",
        partial(exchange, request=request, end=b"\r\n\r\n" + answer),
        arguments=(*NO_LOG, *options),
        packages=FASTAPI,
        few=200,
        many=600,
    )


BODY = b"x" * 1024
POST = head("POST /", *FOUR, "Content-Type: application/json", f"Content-Length: {len(BODY)}")
ITEM = head("GET /items/5?q=tea", *FOUR)
DEPENDS = head("GET /depends/5?limit=3", *FOUR)
TEA = json.dumps({"name": "tea", "price": 2.5, "tags": ["green", "leaf"]}).encode()
MADE = head("POST /items", *FOUR, "Content-Type: application/json", f"Content-Length: {len(TEA)}")
MADE += TEA
ACCELERATE = ("--accelerate", "fastapi=require")
CASES = {
    "plain GET, 4 headers": Case("applications:plain", get(*FOUR)),
    "plain GET, 12 headers": Case("applications:plain", get(*BROWSER)),
    "POST 1 KB": Case(
        "applications:body", partial(exchange, request=POST + BODY, end=b"\r\n\r\n1024")
    ),
    "stream, first step": stream("applications:stream"),
    "stream, after an await": stream("applications:late_stream"),
    "stream, Starlette": stream("frameworks:stream", "starlette", "anyio"),
    "FastAPI async": fastapi(ITEM, b'{"item_id":5,"q":"tea"}'),
    "FastAPI async, accelerated": fastapi(ITEM, b'{"item_id":5,"q":"tea"}', *ACCELERATE),
    "FastAPI POST": fastapi(MADE, b'{"name":"tea","total":5.0}'),
    "FastAPI POST, accelerated": fastapi(MADE, b'{"name":"tea","total":5.0}', *ACCELERATE),
    "FastAPI, 2 Depends": fastapi(DEPENDS, b'{"item_id":5,"user":"anonymous"}'),
    "FastAPI, 2 Depends, accelerated": fastapi(
        DEPENDS, b'{"item_id":5,"user":"anonymous"}', *ACCELERATE
    ),
    "WebSocket 64 B": Case("applications:echo", partial(echo, size=64)),
    "HTTP/2, one stream": Case("applications:plain", partial(multiplexed, streams=1)),
    "HTTP/2, 32 streams": Case(
        "applications:plain", partial(multiplexed, streams=32), few=640, many=2240
    ),
    "access log": Case("applications:plain", get(*FOUR), arguments=()),
    "plain GET, metrics": Case("applications:plain", get(*FOUR), arguments=(), module="counted"),
}


def count(module: str, case: Case, requests: int) -> int:
    """Count the instructions of a server from start to end, with this many requests."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w") as log:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [
            sys.executable,
            "-m",
            case.module or module,
            case.app,
            "--port",
            str(port),
            *case.arguments,
        ]
        process = subprocess.Popen(
            command,
            cwd=BENCH,
            env=os.environ | STEADY,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait(port)
            case.load(port, requests)
        finally:
            process.terminate()
            errors = process.communicate()[1]
    found = re.search(r"Collected : (\d+)", errors)
    if found is None:
        raise SystemExit(errors)
    return int(found[1])


def wait(port: int) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server does not start")


def per_request(module: str, case: Case) -> int:
    few, many = (count(module, case, requests) for requests in (case.few, case.many))
    return round((many - few) / (case.many - case.few))


def versions() -> dict[str, str]:
    """Return the versions that counts depend on."""
    found = {
        "python": platform.python_version(),
        "python's compiler": platform.python_compiler(),
        "compiler": compiler(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
    }
    for package in (*PARTS, *FASTAPI):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def compiler() -> str:
    """Return the compiler that thestral's codec was built with, as the object file names it."""
    spec = importlib.util.find_spec("thestral._core.http1")
    if spec is None or spec.origin is None:
        return "none"
    found = re.search(rb"(GCC: \([^)]*\)|clang version) [\d.]+", Path(spec.origin).read_bytes())
    return found[0].decode() if found else "unknown"


def differences(kept: dict[str, str], now: dict[str, str], packages: tuple[str, ...]) -> list[str]:
    """Return the reasons why two counts cannot be compared."""
    names = [name for name in now if name not in FASTAPI or name in packages]
    return [
        f"{name} {kept.get(name, 'none')}, here {now[name]}"
        for name in names
        if kept.get(name) != now[name]
    ]


def verdict(kept: int | None, found: int) -> tuple[int, str]:
    """Return the exit status for a count, and how it compares with the stored one."""
    if kept is None:
        return 0, "not stored yet"
    change = 100 * (found - kept)
    text = f"{change / kept:+.1f}% from {kept}"
    if change > TOLERANCE * kept:
        return REGRESSION, f"{text}: more than {TOLERANCE}% worse"
    if change < -TOLERANCE * kept:
        return 0, f"{text}: better, store it with --write"
    return 0, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default="thestral", choices=["thestral", "uvicorn"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help=f"store the counts in {KEPT.name}")
    what.add_argument("--check", action="store_true", help="fail where a count has grown")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not on the PATH. Install it: apt install valgrind")
    if options.module != "thestral" and (options.write or options.check):
        parser.error("only thestral's counts are stored")
    kept = json.loads(KEPT.read_text())
    now = versions()
    if options.write:
        if kept["measured_with"] != now and set(options.cases) != set(CASES):
            parser.error("the versions differ from those of the stored counts: count all cases")
        kept["measured_with"] = now
    status = 0
    for name in options.cases:
        case = CASES[name]
        other = differences(kept["measured_with"], now, case.packages)
        if options.check and other:
            print(f"{name}: not comparable: {'; '.join(other)}", flush=True)
            status = status or NOT_COMPARABLE
            continue
        found = per_request(options.module, case)
        text = f"{options.module}, {name}: {found} instructions"
        if options.write:
            kept["instructions"][name] = found
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        elif options.module == "thestral":
            failed, said = (0, "") if other else verdict(kept["instructions"].get(name), found)
            text += f", {said or 'not comparable with the stored one'}"
            if failed and options.check:
                status = failed
        print(text, flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()

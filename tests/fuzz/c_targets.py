"""Builds the targets in targets/, and gives them bytes to begin with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import vectors.http1
import vectors.websocket
from vectors.websocket import TEXT, frame

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "targets"
TARGETS = ("http1", "octets", "proxy", "websocket")
FLAGS = ("-std=gnu11", "-g", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/llhttp/include'}")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
LONGEST = 4096  # bytes of an input

PROXY_1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n"
PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_HEADS = [
    PROXY_1,
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN whatever it says\r\n",
    PROXY_2 + b"\x20\0\0\0",
    PROXY_2 + b"\x21\x11\0\x0c" + bytes(range(12)),
    PROXY_2 + b"\x21\x21\0\x2b" + bytes(36) + b"\x03\0\x04\0\0\0\0",
    PROXY_2 + b"\x21\x31\0\xd8" + b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"),
]
# Around the limits that the targets' settings choose.
LONG_LINES = [b"GET /" + b"a" * n + b" HTTP/1.1\r\nHost: a\r\n\r\n" for n in range(24, 29)]
OCTETS = [
    *(b"18446744073709551615", b"18446744073709551616", b"000123", b"+1"),
    *(b"5\r\n", b'a;x="\\"y";z = 1\r\n', b"ffffffffffffffff\r\n", b"10000000000000000\r\n"),
    *(b"\x0ccontent-typetext/html; charset=utf-8", b"\x01x\r\ny: z", b"\x01x y\tz"),
    *("naïve – \U0001f40e".encode() * 5, b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"),
    *(b'GET /"\\ HTTP/1.1\x1b[31m', bytes(range(256))),
]


def compile_core(place: Path, compiler: list[str]) -> list[str]:
    """All that the targets need of csrc and llhttp, as object files in `place`.

    Args:
        compiler: its command, with the options of sanitizers.

    Raises:
        subprocess.CalledProcessError: it does not compile; its stderr says why.
    """
    objects = []
    for source in [*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc/llhttp/src").glob("*.c")]:
        objects.append(str(place / f"{source.parent.name}-{source.stem}.o"))
        run([*compiler, *FLAGS, "-c", str(source), "-o", objects[-1]])
    return objects


def build(target: str, program: Path, compiler: list[str], rest: list[str]) -> None:
    """A program of a target and `rest`: object files, and what calls it.

    Raises:
        subprocess.CalledProcessError: as above.
    """
    source = str(FOLDER / f"{target}.c")
    run([*compiler, *FLAGS, *WARNINGS, source, *rest, "-lz", "-o", str(program)])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def seeds(target: str) -> list[bytes]:
    """Inputs of a target: its byte of settings, then what a peer may send."""
    if target == "http1":
        cases = [*(case.data for case in vectors.http1.load()), *LONG_LINES]
        found = [bytes([flags]) + data for data in cases for flags in (0, 15)]
    elif target == "websocket":
        plain = [(case.data, case.settings.bits) for case in vectors.websocket.load()]
        plain.append((frame(TEXT, "naïve – \U0001f40e".encode() * 9), None))
        found = [
            bytes([flags | (0 if bits is None else 10)]) + data
            for data, bits in plain
            for flags in (0, 1)
        ]
    else:
        found = [b"\0" + data for data in (PROXY_HEADS if target == "proxy" else OCTETS)]
    return [data for data in found if len(data) <= LONGEST]

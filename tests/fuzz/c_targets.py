"""Builds the targets in targets/, and provides their first inputs."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import hpack
import vectors.hpack
import vectors.http1
import vectors.http2
import vectors.websocket
from vectors.hpack_peers import requests, responses
from vectors.websocket import TEXT, frame

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "targets"
TARGETS = ("ascii", "hpack", "http1", "http2", "octets", "proxy", "websocket")
FLAGS = (
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-g",
    f"-I{ROOT / 'csrc'}",
    f"-I{ROOT / 'csrc/llhttp/include'}",
)
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
SANITIZERS = ("-fno-sanitize-recover=all", "-fsanitize=address,undefined")
LONGEST = 4096  # bytes of an input

PROXY_1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n"
PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_HEADS = [
    PROXY_1,
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n",
    *(b"PROXY TCP4 1.2.3.4 5.6.7.8 %s 1\r\n" % port for port in (b"0", b"00", b"65535", b"65536")),
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN whatever it says\r\n",
    PROXY_2 + b"\x20\0\0\0",
    PROXY_2 + b"\x21\x11\0\x0c" + bytes(range(12)),
    PROXY_2 + b"\x21\x21\0\x2b" + bytes(36) + b"\x03\0\x04\0\0\0\0",
    PROXY_2 + b"\x21\x31\0\xd8" + b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"),
    PROXY_2 + b"\x21\x31\0\xd8" + b"/" * 216,
    PROXY_2 + b"\x21\x11\0\x28" + bytes(12) + b"\x20\0\x13\x01" + bytes(4) + b"\x21\0\7TLSv1.3"
    b"\x22\0\1a" + b"\xea\0\3abc",
    PROXY_2 + b"\x21\x11\0\x19" + bytes(12) + b"\x03\0\4\x1c\xe7\xc3\x5f\x04\0\3abc",
]
# Around the limits that the targets' settings choose.
LONG_LINES = [
    b"GET " + start + b"a" * n + end + b"\r\nHost: a\r\n\r\n"
    for start in (b"/", b"a")
    for end in (b" HTTP/1.1", b" RTSP/1.0", b"", b"\n")
    for n in range(24, 38)
]
# Heads of binary frames whose length has a longer form than it needs; the second just needs it.
LONG_FORMS = [b"\x82\xfe\0\x7d", b"\x82\xfe\0\x7e", b"\x82\xff" + b"\0" * 6 + b"\xff\xff"]
# Names, addresses, lists.
TEXTS = [
    *(b"Host", b"Content-Length", b"TRANSFER-ENCODING", b"sec-websocket-extensions", b"x-a", b"@["),
    *(b"192.0.2.1", b"255.255.255.256", b"01.2.3.4", b"::", b"2001:db8::1", b"1:2:3:4:5:6:7::"),
    *(b"1:2:3:4::5:6:7:8", b"1:2:3:4:5:6:7:8", b"1::2:3:4:5:6:1.2.3.4"),
    *(b"::ffff:192.0.2.1", b"1::2::3", b"a:80", b"a:65536", b"[::1]:443", b"[v1.a]", b"%41.b"),
    *(b"/%61%2fb", b"%4", b"%", b"%zz", b"a, b\t,,c ,", b" , ", b"close,keep-alive", b"a\0b"),
]
OCTETS = [
    *(b"18446744073709551615", b"18446744073709551616", b"000123", b"+1"),
    *(b"5\r\n", b'a;x="\\"y";z = 1\r\n', b"ffffffffffffffff\r\n", b"10000000000000000\r\n"),
    *(b"5\x0b\n", b"5\n", b"5 \r\n", b"5 ;a\r\n", b"5;a \r\n"),
    *(b"\x0ccontent-typetext/html; charset=utf-8", b"\x01x\r\ny: z", b"\x01x y\tz"),
    *("naïve – \U0001f40e".encode() * 5, b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"),
    *(b'GET /"\\ HTTP/1.1\x1b[31m', bytes(range(256))),
]


def hpack_traffic() -> list[list[bytes]]:
    """Field blocks of connections, as PyPI's hpack and our encoder write them."""
    rng = random.Random(7541)
    found = []
    for huffman in (False, True):
        encoder = hpack.Encoder()
        found.append([encoder.encode(fields, huffman) for fields in requests(rng, 8)])
        ours = vectors.hpack.Encoder()
        found.append([ours.block(fields, status) for status, fields in responses(rng, 6)])
    return found


def compile_core(place: Path, compiler: list[str]) -> list[str]:
    """Compile the parts of csrc and llhttp that the targets need; return the object files.

    Args:
        place: directory for the object files.
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
    """Link a target with `rest`, which are object files and the code that calls the target.

    Raises:
        subprocess.CalledProcessError: as above.
    """
    source = str(FOLDER / f"{target}.c")
    run([*compiler, *FLAGS, *WARNINGS, source, *rest, "-lz", "-o", str(program)])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def seeds(target: str) -> list[bytes]:
    """First inputs of a target: its byte of settings, then bytes that a peer may send."""
    if target == "http1":
        cases = [*(case.data for case in vectors.http1.load()), *LONG_LINES]
        found = [bytes([flags]) + data for data in cases for flags in (0, 15)]
    elif target == "hpack":
        connections = [[block.data for block in case.blocks] for case in vectors.hpack.load()]
        connections += hpack_traffic()
        found = [
            bytes([flags]) + b"".join(len(data).to_bytes(2) + data for data in blocks)
            for blocks in connections
            for flags in (0, 1, 36)
        ]
    elif target == "http2":
        whole = [bytes([4]) + data for data in vectors.http2.conversations()]
        begun = [bytes([0]) + data[1 + len(vectors.http2.GREETING) :] for data in whole]
        found = [
            bytes([data[0] | flags]) + data[1:] for data in whole + begun for flags in (0, 3, 8)
        ]
    elif target == "websocket":
        messages = [(case.data, case.settings.bits) for case in vectors.websocket.load()]
        messages += [(head + bytes(4 + 126), None) for head in LONG_FORMS]
        messages.append((frame(TEXT, "naïve – \U0001f40e".encode() * 9), None))
        found = [
            bytes([flags | (0 if bits is None else 10)]) + data
            for data, bits in messages
            for flags in (0, 1)
        ]
    else:
        plain = {"ascii": TEXTS, "octets": OCTETS, "proxy": PROXY_HEADS}[target]
        found = [b"\0" + data for data in plain]
    return [data for data in found if len(data) <= LONGEST]

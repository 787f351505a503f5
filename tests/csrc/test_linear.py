"""The cost of parsing grows in proportion to the input, even byte by byte: counted, not timed."""

import os
import shlex
import subprocess
import sys
import sysconfig
import zlib

import pytest
from portable import ROOT
from vectors.websocket import BINARY, CONTINUATION, PING, TEXT, frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the linker has no --wrap")

WRAPPED = ("memcpy", "memmove", "memset", "memchr", "memcmp", "strlen", "realloc")
CSRC = ["ascii", "base", "buffer", "chunk", "deflate", "head", "http1", "mask", "proxy", "utf8"]
CSRC += ["websocket"]
LEAST = 3000  # bytes; four times as many stay below the limits on what chunk lines carry

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(0, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


# Kinds of input: which parser reads it, and a function that makes a part of it n bytes long.
PARTS = {
    "method": ("http1", lambda n: b"A" * n),
    "target": ("http1", lambda n: b"GET /" + b"a" * n + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target with escapes": ("http1", lambda n: b"GET /" + b"%41" * (n // 3) + b" HTTP/1.1\r\n"),
    "blanks behind the method": ("http1", lambda n: b"GET" + b" " * n + b"/ HTTP/1.1\r\n"),
    "empty lines": ("http1", lambda n: b"\r\n" * (n // 2) + GET + b"\r\n"),
    "name": ("http1", lambda n: GET + b"x" * n + b": y\r\n\r\n"),
    "value": ("http1", lambda n: GET + b"x: " + b"y" * n + b"\r\n\r\n"),
    "value with blanks": ("http1", lambda n: GET + b"x: " + b"y " * (n // 2) + b"\r\n\r\n"),
    "blanks before a value": ("http1", lambda n: GET + b"x:" + b" " * n + b"y\r\n\r\n"),
    "blanks behind a value": ("http1", lambda n: GET + b"x: y" + b"\t" * n + b"\r\n\r\n"),
    "fields": ("http1", lambda n: GET + b"x: y\r\n" * (n // 6) + b"\r\n"),
    "fields that are known": ("http1", lambda n: GET + b"accept:\r\n" * (n // 9) + b"\r\n"),
    "list": ("http1", lambda n: GET + b"Connection: " + b"a ," * (n // 3) + b"\r\n\r\n"),
    "list of nothing": ("http1", lambda n: GET + b"Connection: " + b", " * (n // 2) + b"\r\n\r\n"),
    "list with blanks": (
        "http1",
        lambda n: GET + b"Connection: " + (b" " * 99 + b"a") * (n // 100) + b"\r\n\r\n",
    ),
    "lines of a list": ("http1", lambda n: GET + b"Connection: x\r\n" * (n // 15) + b"\r\n"),
    "codings": (
        "http1",
        lambda n: GET + b"Transfer-Encoding:" + b"," * n + b"chunked\r\n\r\n0\r\n\r\n",
    ),
    "expectations": ("http1", lambda n: GET + b"Expect:100-continue" + b"," * n + b"\r\n\r\n"),
    "body": ("http1", lambda n: GET + b"Content-Length: %d\r\n\r\n" % n + b"a" * n),
    "requests": ("http1", lambda n: (GET + b"\r\n") * (n // 27)),
    "chunk": ("http1", lambda n: CHUNKED + b"%x\r\n" % n + b"a" * n + b"\r\n0\r\n\r\n"),
    "chunks": ("http1", lambda n: CHUNKED + b"1\r\na\r\n" * (n // 6) + b"0\r\n\r\n"),
    "zeros of a size": ("http1", lambda n: CHUNKED + b"0" * n + b"1\r\na\r\n0\r\n\r\n"),
    "extension": ("http1", lambda n: CHUNKED + b"1;" + b"x" * n + b"\r\na\r\n0\r\n\r\n"),
    "extensions": ("http1", lambda n: CHUNKED + b"1" + b";x=y" * (n // 4) + b"\r\na\r\n0\r\n\r\n"),
    "quotes": ("http1", lambda n: CHUNKED + b'1;x="' + b"\\y" * (n // 2) + b'"\r\na\r\n0\r\n\r\n'),
    "trailer": ("http1", lambda n: CHUNKED + b"0\r\nx: " + b"y" * n + b"\r\n\r\n"),
    "trailers": ("http1", lambda n: CHUNKED + b"0\r\n" + b"x: y\r\n" * (n // 6) + b"\r\n"),
    "text": ("ws", lambda n: frame(TEXT, "\u20ac".encode() * (n // 3))),
    "binary": ("ws", lambda n: frame(BINARY, bytes(n))),
    "fragments": (
        "ws",
        lambda n: (
            frame(TEXT, b"a", fin=False)
            + frame(CONTINUATION, b"b", fin=False) * (n // 7)
            + frame(CONTINUATION)
        ),
    ),
    "fragments of nothing": (
        "ws",
        lambda n: frame(BINARY, b"a", fin=False) + frame(CONTINUATION, fin=False) * (n // 6),
    ),
    "messages": ("ws", lambda n: frame(TEXT, b"a") * (n // 7)),
    "pings": ("ws", lambda n: frame(PING, b"a" * 100) * (n // 106)),
    "compressed": ("deflate", lambda n: frame(BINARY, deflated(bytes(n)), rsv=4)),
    "PROXY head": (
        "proxy",
        lambda n: b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + (n // 4).to_bytes(2) + bytes(n // 4),
    ),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Function (kind, data, step) that returns the cost of reading, counted by work.c."""
    place = tmp_path_factory.mktemp("work")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))
    sources = [ROOT / f"csrc/{name}.c" for name in CSRC]
    sources += sorted((ROOT / "csrc/llhttp/src").glob("*.c"))
    plain = [*compiler, "-std=gnu11", "-O1", "-fno-builtin", "-Icsrc", "-Icsrc/llhttp/include"]
    objects = []
    for source in sources:
        objects.append(place / f"{source.parent.name}-{source.stem}.o")
        command = [*plain, "-fsanitize-coverage=trace-pc", "-c", source, "-o", objects[-1]]
        subprocess.run(command, cwd=ROOT, check=True)
    wraps = ["-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED)]
    program = place / "work"
    command = [*plain, *wraps, "tests/csrc/work.c", *objects, "-lz", "-o", program]
    subprocess.run(command, cwd=ROOT, check=True)

    def work(kind: str, data: bytes, step: int = 1) -> int:
        run = [program, kind, str(step)]
        count = int(subprocess.run(run, input=data, capture_output=True, check=True).stdout)
        assert count != 0
        return count

    return work


def growth(work, kind, part, step=1) -> float:
    """How many times as much the second doubling adds as the first: 2 if linear, 4 if quadratic."""
    counts = [work(kind, part(LEAST << i), step) for i in range(3)]
    if counts[0] < 0:  # refused, and early
        assert len(set(counts)) == 1, counts
        return 1.0
    return (counts[2] - counts[1]) / max(counts[1] - counts[0], 1)


@pytest.mark.parametrize("name", PARTS)
def test_work_grows_as_the_input_does(work, name):
    kind, part = PARTS[name]
    for step in (1, 7):
        assert growth(work, kind, part, step) < 2.5, step


def test_what_is_read_again_and_again_is_seen(work):
    _, part = PARTS["value"]
    assert growth(work, "again", part) > 3.5

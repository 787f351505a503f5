"""Measures the codecs, in nanoseconds: what a request costs below the event loop and ASGI.

    python bench/micro.py [--rounds 7] [WORD ...]

Each figure is the lowest of several rounds, because noise only adds to it. If words are given, only
operations with one of them in the name are measured.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from functools import partial

from heads import BROWSER, FOUR
from instructions import head
from ws_load import TEXT, frame, message, sample

from thestral._core.http1 import Event, RequestParser, ResponseWriter
from thestral._core.websocket import FrameParser, FrameWriter
from thestral._csrc import ffi, lib

LIMITS = (65536, 65536, 100, 0)  # request line, head, fields, body
ROUND = 0.05  # seconds
SIZES = (64, 16384)
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
Operation = Callable[[], object]


def request(data: bytes) -> Operation:
    """One request, from its bytes to the values of a scope."""
    parser = RequestParser(*LIMITS)

    def operation() -> None:
        parser.feed(data)
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.HEAD:
                parser.read_head().fill({})
            elif event == Event.BODY:
                parser.read_body()

    return operation


def response(body: bytes) -> Operation:
    """Status line, two fields and the body as one bytes object."""
    writer = ResponseWriter()

    def operation() -> bytes:
        mark = writer.begin(200)
        writer.write_headers(HEADERS, False)
        writer.write(b"\r\n")
        writer.write(body)
        return writer.take(mark)

    return operation


def received(data: bytes) -> Operation:
    """A message, from a client's frame."""
    parser = FrameParser(1 << 24)

    def operation() -> str | bytes:
        parser.feed(data)
        parser.next_event()
        found = parser.read_message()
        parser.next_event()
        return found

    return operation


def chunked(chunks: int, size: int) -> bytes:
    data = (b"%x\r\n" % size + b"x" * size + b"\r\n") * chunks + b"0\r\n\r\n"
    return head("POST /", *FOUR, "Transfer-Encoding: chunked") + data


def mask(size: int) -> Operation:
    source, target = ffi.new("char[]", sample(size)), ffi.new("char[]", size)
    return partial(lib.th_mask, target, source, size, ffi.new("char[]", b"\x37\xfa\x21\x3d"), 0)


def utf8(size: int) -> Operation:
    text = ("Grüße, 世界! " * size).encode()[:size].decode(errors="ignore").encode()
    source, state = ffi.new("char[]", text), ffi.new("th_utf8 *")

    def operation() -> int:
        found: int = lib.th_utf8_check(state, source, len(text))
        return found

    return operation


def nothing(pointer: object) -> Operation:
    """A call to C through cffi without any work, which is a part of mask and utf8."""
    return partial(lib.th_utf8_check, ffi.new("th_utf8 *"), pointer, 0)


def operations() -> dict[str, Operation]:
    found = {
        "RequestParser, GET, 4 fields": request(head("GET /items/5?q=tea", *FOUR)),
        "RequestParser, GET, 12 fields": request(head("GET /items/5?q=tea", *BROWSER)),
        "RequestParser, POST of 1 KiB": request(
            head("POST /", *FOUR, "Content-Length: 1024") + b"x" * 1024
        ),
        "RequestParser, 16 chunks of 1 KiB": request(chunked(16, 1024)),
        "RequestParser, 1,000 chunks of 1 byte": request(chunked(1000, 1)),
        "ResponseWriter, 2 fields, 13 bytes": response(b"Hello, world!"),
        "ResponseWriter, 2 fields, 16 KiB": response(b"x" * 16384),
        "cffi's call itself": nothing(ffi.new("char[]", b"")),
    }
    writer = FrameWriter()
    for size in SIZES:
        text = sample(size).decode()
        found |= {
            f"FrameParser, text, {size} B": received(message(TEXT, sample(size))),
            f"FrameWriter, text, {size} B": partial(writer.message, text),
            f"mask, {size} B": mask(size),
            f"utf8, mixed, {size} B": utf8(size),
        }
    return found


def nanoseconds(operation: Operation, rounds: int) -> float:
    timer = timeit.Timer(operation)
    number, spent = timer.autorange()
    number = max(1, round(number * ROUND / spent))
    return min(timer.repeat(rounds, number)) / number * 1e9


def check() -> None:
    """Check that the operations do what their names say."""
    parser = FrameParser(1 << 24)
    parser.feed(message(TEXT, b"tea"))
    assert parser.next_event() == 1, "the frame is not a message"
    assert parser.read_message() == "tea"
    assert FrameWriter().message("tea") == frame(TEXT, b"tea")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    check()
    print("| operation | ns |\n|---|---:|")
    for name, operation in operations().items():
        if not options.words or any(word in name for word in options.words):
            print(f"| {name} | {nanoseconds(operation, options.rounds):,.0f} |", flush=True)


if __name__ == "__main__":
    main()

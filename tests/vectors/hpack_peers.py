"""Other implementations of HPACK, and header fields as browsers, curl and gRPC send them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import hpack
import ngh2._core
from cffi import FFI
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from vectors.hpack import TABLE_SIZE, Outcome, Pair, update

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
LIST_MAX = 1 << 24  # bytes that hpack takes of a block


class Hpack:
    """PyPI's hpack as a decoder."""

    def __init__(self, max_size: int = TABLE_SIZE) -> None:
        self.decoder = hpack.Decoder(max_header_list_size=LIST_MAX)
        self.decoder.max_allowed_table_size = max_size
        self.decoder.header_table_size = min(max_size, TABLE_SIZE)

    def outcome(self, block: bytes) -> Outcome:
        """Fields of a block and the table after it; of a refused block, that it failed."""
        try:
            fields = self.decoder.decode(block, raw=True)
        except hpack.HPACKError:
            return Outcome(failed=-1)
        table = [(bytes(n), bytes(v)) for n, v in self.decoder.header_table.dynamic_entries]
        return Outcome([(bytes(n), bytes(v)) for n, v in fields], table)


# What ngh2's module exports of the nghttp2 within.
nghttp2_ffi = FFI()
nghttp2_ffi.cdef("""
    typedef struct nghttp2_hd_inflater nghttp2_hd_inflater;
    typedef struct {
      uint8_t *name; uint8_t *value; size_t namelen; size_t valuelen; uint8_t flags;
    } nghttp2_nv;
    int nghttp2_hd_inflate_new(nghttp2_hd_inflater **inflater);
    void nghttp2_hd_inflate_del(nghttp2_hd_inflater *inflater);
    int nghttp2_hd_inflate_change_table_size(nghttp2_hd_inflater *inflater, size_t size);
    ptrdiff_t nghttp2_hd_inflate_hd3(nghttp2_hd_inflater *inflater, nghttp2_nv *out, int *flags,
                                     const uint8_t *in, size_t n, int final);
    int nghttp2_hd_inflate_end_headers(nghttp2_hd_inflater *inflater);
    size_t nghttp2_hd_inflate_get_num_table_entries(nghttp2_hd_inflater *inflater);
    const nghttp2_nv *nghttp2_hd_inflate_get_table_entry(nghttp2_hd_inflater *inflater, size_t i);
""")
nghttp2 = nghttp2_ffi.dlopen(ngh2._core.__file__)
FINAL, EMIT = 1, 2  # of flags
STATIC_COUNT = 61


class Nghttp2:
    """nghttp2's inflater."""

    def __init__(self, max_size: int = TABLE_SIZE) -> None:
        made = nghttp2_ffi.new("nghttp2_hd_inflater **")
        assert nghttp2.nghttp2_hd_inflate_new(made) == 0
        self.inflater = nghttp2_ffi.gc(made[0], nghttp2.nghttp2_hd_inflate_del)
        if max_size != TABLE_SIZE:
            assert nghttp2.nghttp2_hd_inflate_change_table_size(self.inflater, max_size) == 0
        if max_size < TABLE_SIZE:  # it wants to be told in the next block
            assert self.outcome(update(max_size)) == Outcome()

    def outcome(self, block: bytes) -> Outcome:
        """The same; of a refused block also the fields before."""
        found = Outcome()
        out = nghttp2_ffi.new("nghttp2_nv *")
        flags = nghttp2_ffi.new("int *")
        data = nghttp2_ffi.from_buffer("uint8_t[]", block)
        at = 0
        while not flags[0] & FINAL:
            flags[0] = 0
            read = nghttp2.nghttp2_hd_inflate_hd3(
                self.inflater, out, flags, data + at, len(block) - at, 1
            )
            if read < 0:
                found.failed = -1
                return found
            at += read
            if flags[0] & EMIT:
                found.fields.append(pair(out))
            elif not flags[0] and at == len(block):
                found.failed = -1  # it waits for more
                return found
        nghttp2.nghttp2_hd_inflate_end_headers(self.inflater)
        count = nghttp2.nghttp2_hd_inflate_get_num_table_entries(self.inflater)
        for index in range(STATIC_COUNT + 1, count + 1):
            entry = nghttp2.nghttp2_hd_inflate_get_table_entry(self.inflater, index)
            found.table.append(pair(entry))
        return found


def pair(nv: Any) -> Pair:
    buffer = nghttp2_ffi.buffer
    name = buffer(nv.name, nv.namelen)[:] if nv.namelen else b""
    return name, buffer(nv.value, nv.valuelen)[:] if nv.valuelen else b""


# --- Traffic --------------------------------------------------------------------------------------

CHROME = (
    b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    b" Safari/537.36"
)
PATHS = [b"/", b"/index.html", b"/api/items?page=2&q=%C3%A9", b"/static/app.9f3c.js", b"/a" * 40]
HOSTS = [b"www.example.com", b"localhost:8000", b"[::1]:443"]
TYPES = [b"text/html; charset=utf-8", b"application/json", b"text/css", b"image/avif", b""]


def requests(rng: random.Random, count: int) -> Iterator[list[Pair]]:
    """Requests of one connection: of one client, to one host."""
    client = rng.choice((browser, curl, grpc))
    host = rng.choice(HOSTS)
    session = rng.randbytes(15).hex().encode()
    for _ in range(count):
        yield client(rng, host, session)


def browser(rng: random.Random, host: bytes, session: bytes) -> list[Pair]:
    fields = [
        (b":method", rng.choice((b"GET", b"GET", b"POST", b"PUT"))),
        (b":authority", host),
        (b":scheme", b"https"),
        (b":path", rng.choice(PATHS)),
        (b"sec-ch-ua", b'"Chromium";v="140", "Not=A?Brand";v="24"'),
        (b"sec-ch-ua-mobile", b"?0"),
        (b"user-agent", CHROME),
        (b"accept", rng.choice((b"*/*", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"))),
        (b"sec-fetch-site", rng.choice((b"none", b"same-origin"))),
        (b"referer", b"https://" + host + rng.choice(PATHS)),
        (b"accept-encoding", b"gzip, deflate, br, zstd"),
        (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
    ]
    fields += [(b"cookie", crumb) for crumb in (b"session=" + session, b"theme=dark")]
    if rng.random() < 0.3:
        fields += [(b"content-length", b"%d" % rng.randrange(10**6)), (b"priority", b"u=1, i")]
    return fields


def curl(rng: random.Random, host: bytes, session: bytes) -> list[Pair]:
    return [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", host),
        (b":path", rng.choice(PATHS)),
        (b"user-agent", b"curl/8.16.0"),
        (b"accept", b"*/*"),
        (b"authorization", b"Bearer " + session),
    ]


def grpc(rng: random.Random, host: bytes, session: bytes) -> list[Pair]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/helloworld.Greeter/" + rng.choice((b"SayHello", b"SayHelloAgain"))),
        (b":authority", host),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"%dm" % rng.randrange(1000)),
        (b"user-agent", b"grpc-python/1.75.0 grpc-c/49.0.0 (linux; chttp2)"),
        (b"trace-bin", session + rng.randbytes(4)),
    ]


def responses(rng: random.Random, count: int) -> Iterator[tuple[int, list[Pair]]]:
    """Status and fields of the responses of one connection."""
    second = rng.randrange(60)
    for _ in range(count):
        second += rng.random() < 0.2
        fields = [
            (b"date", b"Mon, 30 Nov 2026 12:00:%02d GMT" % (second % 60)),
            (b"server", b"thestral"),
            (b"content-type", rng.choice(TYPES)),
            (b"content-length", b"%d" % rng.choice((0, 13, rng.randrange(10**7)))),
        ]
        extra = [
            (b"set-cookie", b"session=" + rng.randbytes(8).hex().encode() + b"; HttpOnly"),
            (b"vary", rng.choice((b"accept-encoding", b"origin"))),
            (b"etag", b'"%x"' % rng.randrange(10**9)),
            (b"cache-control", rng.choice((b"no-store", b"public, max-age=31536000, immutable"))),
            (b"access-control-allow-origin", b"https://" + rng.choice(HOSTS)),
            (b"x-request-id", rng.randbytes(16).hex().encode()),
            (b"location", b"https://www.example.com" + rng.choice(PATHS)),
            (b"content-security-policy", b"script-src 'nonce-%x'" % rng.randrange(10**9)),
            (b"grpc-status", b"0"),
            (b"x-frame-options", b"DENY"),
            (b"permissions-policy", b"geolocation=()," * rng.choice((1, 150))),
            (b"x-empty", b""),
        ]
        fields += rng.sample(extra, rng.randrange(len(extra)))
        yield rng.choice((200, 200, 204, 206, 301, 304, 400, 404, 418, 429, 500, 503)), fields


def size(rng: random.Random) -> int:
    """A size of a table."""
    return rng.choice((0, 31, 32, 64, 100, 256, 1000, 4096, 4096, 65536))

"""HTTP/2 in C: frames that end at a guard page, the table of streams, priorities."""

from __future__ import annotations

import itertools
import random

import pytest
from guard import Guard
from vectors.http2 import GREETING, POST, conversations, request

from thestral._csrc import ffi, lib

ALPHABET = b"ui=?01,; \t7"


class Connection:
    """A connection in C, with its memory."""

    def __init__(self, streams: int = 1000) -> None:
        self.limits = ffi.new("th_http2_limits *")
        self.limits.streams = streams
        self.limits.connection_window = 1 << 20
        self.limits.stream_window_max = 1 << 20
        self.limits.head = 4096
        self.limits.fields = 20
        self.scratch = ffi.new("th_http2_scratch *")
        self.http2 = ffi.new("th_http2 *")
        self.out = ffi.new("th_buffer *")
        lib.th_http2_scratch_init(self.scratch)
        assert lib.th_http2_init(self.http2, self.limits, self.scratch, 0.0) == lib.TH_OK

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        lib.th_buffer_free(self.out)
        lib.th_http2_free(self.http2)
        lib.th_http2_scratch_free(self.scratch)

    def feed(self, place, size: int) -> list[int]:
        """Return the events; a failure is the last."""
        lib.th_http2_feed(self.http2, place, size)
        found = []
        while (event := lib.th_http2_next(self.http2)) != lib.TH_HTTP2_NEED_DATA:
            found.append(event)
            if event < 0:
                break
        lib.th_http2_feed(self.http2, b"", 0)
        return found


def test_nothing_is_read_behind_the_bytes():
    guard = Guard(1 << 17)
    for sent in conversations():
        with Connection() as whole:
            events = whole.feed(guard.place(sent), len(sent))
        with Connection() as cut:
            found = []
            for size in itertools.chain([1] * 40, itertools.repeat(7)):
                if not sent or (found and found[-1] < 0):
                    break
                piece, sent = sent[:size], sent[size:]
                found += cut.feed(guard.place(piece), len(piece))
                guard.poison()
        body = lib.TH_HTTP2_BODY
        assert [e for e in found if e != body] == [e for e in events if e != body]


@pytest.mark.parametrize("seed", range(20))
def test_table_of_streams_is_a_dict(seed):
    """Streams begin in order, often with gaps, and end in any order."""
    rng = random.Random(seed)
    gaps = rng.choice(([2], [2, 2, 4], [16, 32, 2], [512]))
    share = rng.choice((0.5, 0.6, 0.9))
    guard = Guard()
    with Connection() as connection:
        http2 = connection.http2
        assert connection.feed(GREETING, len(GREETING)) == []
        model: dict[int, int] = {}
        newest = -1
        for step in range(600):
            http2.now = step * 10.0
            if not model or rng.random() < share:
                newest = 1 if newest < 0 else newest + rng.choice(gaps)
                blob = request(newest, POST, end=False)
                assert connection.feed(guard.place(blob), len(blob)) == [lib.TH_HTTP2_HEAD]
                stream = lib.th_http2_find(http2, newest)
                model[newest] = stream.received = rng.randrange(1 << 30)
            else:
                ended = rng.choice(list(model))
                del model[ended]
                assert lib.th_http2_reset(http2, connection.out, ended, 0) == lib.TH_OK
            assert http2.open == len(model)
            if step % 20 == 0:
                for key in range(1, newest + 2, 2):
                    stream = lib.th_http2_find(http2, key)
                    assert (stream.received if stream != ffi.NULL else None) == model.get(key)
        for ended in model:
            assert lib.th_http2_reset(http2, connection.out, ended, 0) == lib.TH_OK
        assert http2.open == 0
        assert http2.streams.capacity <= 512  # most of it is given back


def plainly(text: bytes) -> tuple[int, int]:
    """Read a priority (RFC 9218 section 4) whose members are written as most clients do."""
    urgency, incremental = 3, 0
    for member in text.split(b","):
        name = member.strip(b" \t").split(b";")[0]
        if len(name) == 3 and name[:2] == b"u=" and name[2:] in b"01234567":
            urgency = int(name[2:])
        elif name in (b"i", b"i=?1"):
            incremental = 1
        elif name == b"i=?0":
            incremental = 0
    return urgency, incremental


def test_priority_of_every_short_string():
    guard = Guard()
    urgency = ffi.new("uint8_t *")
    incremental = ffi.new("uint8_t *")
    for size in range(5):
        for letters in itertools.product(ALPHABET, repeat=size):
            text = bytes(letters)
            urgency[0], incremental[0] = 3, 0
            lib.th_http2_read_priority(guard.place(text), size, urgency, incremental)
            assert (urgency[0], incremental[0]) == plainly(text), text

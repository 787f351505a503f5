"""Mutated conversations, frame by frame: FrameCodec against nghttp2's server session.

Heads, content, ends, resets and the connection's end must be the same after each frame. Where they
are not, DIFFERENCES must have the pair with the reason, and the conversation ends there. The test
goes on for THESTRAL_FUZZ_SECONDS beyond its first inputs; an input follows from its number alone.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from typing import Any

from frames import (
    Code,
    Frame,
    Type,
    code_name,
    continuation,
    data,
    headers,
    literals,
    number,
    ping,
    priority,
    priority_update,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from vectors.http2 import (
    GET,
    GREETING,
    POST,
    USUAL,
    WEBSOCKET,
    Outcome,
    conversations,
    take_events,
)
from vectors.http2_peer import Nghttp2

SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS") or 0)
SEED = 9113
INPUTS = 1500  # conversations, however little time there is

HEADS = [
    *(GET, GET, POST, POST, GET[1:], WEBSOCKET, [], [(b"x", b"y")]),
    [*POST, (b"content-length", b"5")],
    *([*GET, field] for field in ((b"te", b"gzip"), (b"Bad", b"x"), (b"priority", b"u=1, i"))),
]
TRAILERS = [[(b"x", b"y")], [], GET, [(b"X", b"")]]
SETTINGS = [1, 2, 3, 4, 5, 6, 8, 9, 99]
VALUES = [0, 1, 2, 100, 16_384, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1]


def split(blob: bytes) -> list[bytes]:
    """The frames of a conversation; none if it does not consist of whole frames."""
    found = []
    while blob:
        size = 9 + number(blob[:3])
        if len(blob) < size:
            return []
        found.append(blob[:size])
        blob = blob[size:]
    return found


# GOAWAY is left out: after it nghttp2 takes no new streams, and sends nothing more.
POOL = [
    frame
    for sent in conversations()
    if sent.startswith(GREETING)
    for frame in split(sent[len(GREETING) :])
    if len(frame) < 400 and frame[3] != Type.GOAWAY
]


def a_frame(rng: random.Random, newest: int) -> bytes:
    kind = rng.randrange(12)
    stream = rng.choice((newest, newest, max(1, newest - 2), rng.randrange(1, 12)))
    if kind < 3:
        return headers(
            newest + 2,
            literals(rng.choice(HEADS)),
            end=rng.random() < 0.5,
            end_headers=rng.random() < 0.9,
            pad=rng.choice((None, None, 0, 9)),
            priority=rng.choice((None, None, (0, 1, False), (newest, 3, True))),
        )
    if kind == 3:
        payload = b"x" * rng.choice((0, 1, 5, 5, 100, 16_384))
        return data(stream, payload, end=rng.random() < 0.4, pad=rng.choice((None, None, 0, 7)))
    if kind == 4:
        return headers(stream, literals(rng.choice(TRAILERS)), end=rng.random() < 0.7)
    if kind == 5:
        return rst_stream(stream, rng.choice((0, 8)))
    if kind == 6:
        return window_update(rng.choice((0, stream)), rng.choice((0, 1, 5, 5, 1000, 2**31 - 1)))
    if kind == 7:
        pairs = [(rng.choice(SETTINGS), rng.choice(VALUES)) for _ in range(rng.randrange(3))]
        return settings(*pairs)
    if kind == 8:
        some = (ping(), ping(ack=True), settings_ack(), priority(stream), priority(stream, stream))
        unknown = bytes(Frame(0x77, 3, stream, b"abc"))
        return rng.choice((*some, priority_update(stream, b"u=1"), unknown))
    if kind == 9:
        return continuation(newest, literals([(b"a", b"b")]), end_headers=rng.random() < 0.7)
    frame = bytearray(rng.choice(POOL))
    if kind == 10:  # not its length: one side may refuse a frame before all of it has come
        frame[rng.randrange(3, len(frame))] ^= 1 << rng.randrange(8)
    return bytes(frame)


def conversation(number_: int) -> list[bytes]:
    rng = random.Random(f"{SEED} {number_}")
    found = [headers(1, literals(rng.choice((GET, POST))), end=rng.random() < 0.4)]
    newest = 1
    for _ in range(rng.randrange(24)):
        frame = a_frame(rng, newest)
        if frame[3] == Type.GOAWAY:
            continue
        found.append(frame)
        if frame[3] == Type.HEADERS:
            newest = max(newest, min(number(frame[5:9]) & 0x7FFFFFFF, 10**6) | 1)
    return found


def usual(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Our events in the form of nghttp2's."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        if event[0] == "head":
            found += [event[:2], ("end", event[1])] if event[5] else [event[:2]]
        elif event[0] == "reset":
            found.append(("reset", event[1], None if event[2] is None else event[2][0]))
        elif event[0] == "refused":
            found.append(event[:3])
        elif event[0] != "pong":
            found.append(event)
    return found


def summary(events: list[tuple[Any, ...]], failed: int | None) -> str:
    """The result of one frame, in words, without stream ids."""
    if failed is not None:
        return f"failed {code_name(failed)}"
    words = []
    for event in events:
        if event[0] == "reset":
            words.append("reset" if event[2] is None else f"reset {code_name(event[2])}")
        else:
            words.append("refused" if event[0] == "refused" else event[0])
    return " ".join(words) or "nothing"


# Frame, ours, nghttp2's: why.
MILDER = "an error of the stream, as RFC 9113 asks for; the other streams need not end with it"
PRIORITIES = "RFC 7540 section 5.3.1: a stream cannot depend on itself; h2spec asks for it"
CLOSED = "RFC 9113 section 5.1: a stream that the client has reset takes nothing more"
SKIPPED = "RFC 9113 section 5.1: a stream that was skipped never began"
UNFINISHED = "nghttp2 judges a field block before it is complete"
ORDER = "two faults in one frame, looked for in another order"
LENIENT = "nghttp2 leaves an invalid regular field out of the request"
ANSWERED = "answered with a status: the fault concerns this request alone, RFC 9113 section 8.1.1"
DIFFERENCES = {
    ("HEADERS", "reset STREAM_CLOSED", "failed STREAM_CLOSED"): MILDER,
    ("DATA", "reset STREAM_CLOSED", "failed STREAM_CLOSED"): MILDER,
    ("CONTINUATION", "reset STREAM_CLOSED", "failed STREAM_CLOSED"): MILDER,
    ("WINDOW_UPDATE", "reset FLOW_CONTROL_ERROR", "failed FLOW_CONTROL_ERROR"): MILDER,
    ("WINDOW_UPDATE", "reset PROTOCOL_ERROR", "failed PROTOCOL_ERROR"): MILDER,
    ("PRIORITY", "reset FRAME_SIZE_ERROR", "failed FRAME_SIZE_ERROR"): MILDER,
    ("HEADERS", "reset PROTOCOL_ERROR", "failed PROTOCOL_ERROR"): MILDER,
    ("PRIORITY", "reset PROTOCOL_ERROR", "nothing"): PRIORITIES,
    ("PRIORITY", "failed PROTOCOL_ERROR", "nothing"): PRIORITIES,
    ("HEADERS", "reset PROTOCOL_ERROR", "head"): LENIENT,
    ("HEADERS", "reset PROTOCOL_ERROR", "head end"): LENIENT,
    ("CONTINUATION", "reset PROTOCOL_ERROR", "head"): LENIENT,
    ("CONTINUATION", "reset PROTOCOL_ERROR", "head end"): LENIENT,
    ("HEADERS", "reset PROTOCOL_ERROR", "end"): "RFC 9113 section 8.5: a tunnel has no trailers",
    ("HEADERS", "failed STREAM_CLOSED", "nothing"): CLOSED,
    ("CONTINUATION", "failed STREAM_CLOSED", "nothing"): CLOSED,
    ("DATA", "failed STREAM_CLOSED", "nothing"): CLOSED,
    ("HEADERS", "failed PROTOCOL_ERROR", "nothing"): SKIPPED,
    ("CONTINUATION", "failed PROTOCOL_ERROR", "nothing"): SKIPPED,
    ("DATA", "failed PROTOCOL_ERROR", "nothing"): SKIPPED,
    ("RST_STREAM", "failed PROTOCOL_ERROR", "nothing"): SKIPPED,
    ("WINDOW_UPDATE", "failed PROTOCOL_ERROR", "nothing"): SKIPPED,
    ("HEADERS", "nothing", "reset PROTOCOL_ERROR"): UNFINISHED,
    ("CONTINUATION", "nothing", "reset PROTOCOL_ERROR"): UNFINISHED,
    ("HEADERS", "nothing", "failed STREAM_CLOSED"): UNFINISHED,
    ("HEADERS", "nothing", "failed COMPRESSION_ERROR"): UNFINISHED,
    ("HEADERS", "nothing", "failed PROTOCOL_ERROR"): UNFINISHED,
    ("HEADERS", "failed COMPRESSION_ERROR", "failed STREAM_CLOSED"): ORDER,
    ("HEADERS", "failed STREAM_CLOSED", "failed COMPRESSION_ERROR"): ORDER,
    ("HEADERS", "failed FRAME_SIZE_ERROR", "failed PROTOCOL_ERROR"): ORDER,
    ("HEADERS", "failed PROTOCOL_ERROR", "failed COMPRESSION_ERROR"): ORDER,
    ("HEADERS", "failed PROTOCOL_ERROR", "failed STREAM_CLOSED"): ORDER,
    ("DATA", "failed PROTOCOL_ERROR", "failed STREAM_CLOSED"): ORDER,
    ("DATA", "failed FRAME_SIZE_ERROR", "failed PROTOCOL_ERROR"): ORDER,
    ("DATA", "failed FRAME_SIZE_ERROR", "failed STREAM_CLOSED"): ORDER,
    ("DATA", "failed FRAME_SIZE_ERROR", "nothing"): "nghttp2 passes over DATA of closed streams",
    ("SETTINGS", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("PING", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("PRIORITY", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("RST_STREAM", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("WINDOW_UPDATE", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("PRIORITY_UPDATE", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("PUSH_PROMISE", "failed PROTOCOL_ERROR", "failed FRAME_SIZE_ERROR"): ORDER,
    ("CONTINUATION", "failed STREAM_CLOSED", "failed COMPRESSION_ERROR"): ORDER,
    (
        "SETTINGS",
        "failed PROTOCOL_ERROR",
        "nothing",
    ): "nghttp2 looks at a setting's last value only",
    ("SETTINGS", "failed FLOW_CONTROL_ERROR", "nothing"): "the same",
    ("SETTINGS", "failed FLOW_CONTROL_ERROR", "failed PROTOCOL_ERROR"): ORDER,
    ("SETTINGS", "failed PROTOCOL_ERROR", "failed FLOW_CONTROL_ERROR"): ORDER,
    ("SETTINGS", "nothing", "failed PROTOCOL_ERROR"): "nghttp2 counts acknowledgements",
    ("PRIORITY_UPDATE", "failed PROTOCOL_ERROR", "nothing"): "RFC 9218 section 7.1: stream 0",
    ("HEADERS", "refused", "reset PROTOCOL_ERROR"): ANSWERED,
    ("HEADERS", "refused", "head"): ANSWERED,
    ("HEADERS", "refused", "head end"): ANSWERED,
    ("CONTINUATION", "refused", "reset PROTOCOL_ERROR"): ANSWERED,
    ("CONTINUATION", "refused", "head"): ANSWERED,
    ("CONTINUATION", "refused", "head end"): ANSWERED,
}


def test_against_nghttp2():
    seen: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    for number_ in itertools.count():
        if number_ >= INPUTS and time.monotonic() >= end:
            break
        codec, outcome, peer = USUAL.codec(), Outcome(), Nghttp2()
        for frame in [GREETING, *conversation(number_)]:
            outcome.events.clear()
            peer.events.clear()
            codec.feed(frame, 0.0)
            take_events(codec, outcome)
            peer.feed(frame)
            ours, theirs = usual(outcome.events), peer.events
            if frame[3] == Type.RST_STREAM and not ours:
                theirs = []  # nghttp2 reports one on a stream that is over
            failed = None if outcome.failed is None else outcome.failed[0]
            one, other = summary(ours, failed), summary(theirs, peer.failed)
            if one != other:
                kind = frame[3] if frame is not GREETING else Type.SETTINGS
                key = (Type(kind).name, one, other)
                assert key in DIFFERENCES, (number_, key, frame.hex(), outcome.failed)
                seen["different"] += 1
                break
            if failed is not None:
                assert failed != Code.ENHANCE_YOUR_CALM
                seen["failed"] += 1
                break
            assert ours == theirs, (number_, frame.hex())
            seen["taken"] += 1
    assert seen["taken"] > seen.total() / 2, seen
    assert seen["failed"] > seen["different"], seen

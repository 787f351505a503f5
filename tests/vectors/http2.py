"""FrameCodec without a socket: runs bytes through it, and reads what it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import frames
from conformance import Writer, load
from frames import PREFACE, Frame, literals, number, settings

from thestral._core.http1 import ResponseWriter
from thestral._core.http2 import Event, FrameCodec
from thestral.errors import RemoteProtocolError

GREETING = PREFACE + settings()
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
POST = [(b":method", b"POST"), *GET[1:]]
WEBSOCKET = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


@dataclass(frozen=True)
class Limits:
    """Arguments of FrameCodec, by its names."""

    streams: int = 8
    connection_window: int = 65_535
    stream_window_max: int = 1 << 20
    head: int = 4096
    fields: int = 20
    body: int = 0
    websocket: bool = True

    def codec(self, now: float = 0.0) -> FrameCodec:
        return FrameCodec(
            self.streams,
            self.connection_window,
            self.stream_window_max,
            self.head,
            self.fields,
            self.body,
            self.websocket,
            now,
        )


USUAL = Limits()


@dataclass
class Outcome:
    """What came of some bytes.

    Attributes:
        events: in order; the parts of a body that follow each other are one.
        failed: the code of the connection error, and why.
        sent: frames of the codec's own, as text.
    """

    events: list[tuple[Any, ...]] = field(default_factory=list)
    failed: tuple[int, str] | None = None
    sent: list[str] = field(default_factory=list)


def read_frames(data: bytes) -> list[Frame]:
    found = []
    while data:
        size = number(data[:3])
        found.append(Frame(data[3], data[4], number(data[5:9]) & 0x7FFFFFFF, data[9 : 9 + size]))
        assert len(found[-1].payload) == size
        data = data[9 + size :]
    return found


def output(codec: FrameCodec) -> list[Frame]:
    """Take what the codec has to send of its own accord."""
    writer = ResponseWriter()
    codec.write_output(writer)
    return read_frames(writer.take(0))


def text(frame: Frame) -> str:
    """A frame in a line: its head, and its payload in hexadecimal."""
    line = f"{frames.Type(frame.type).name} {frame.flags:#x} {frame.stream}"
    return f"{line} {frame.payload.hex()}" if frame.payload else line


def take_events(codec: FrameCodec, outcome: Outcome, *, consume: bool = False) -> None:
    """Pull events until the fed bytes are used up, or the connection fails."""
    try:
        while (event := codec.next_event()) != Event.NEED_DATA:
            stream = codec.stream()
            if event == Event.HEAD:
                head = codec.read_head()
                outcome.events.append(
                    ("head", stream, head.method, head.raw_path, head.headers, codec.ended())
                )
            elif event == Event.BODY:
                data = codec.read_body()
                if outcome.events and outcome.events[-1][:2] == ("body", stream):
                    outcome.events[-1] = ("body", stream, outcome.events[-1][2] + data)
                else:
                    outcome.events.append(("body", stream, data))
                if consume:
                    codec.consumed(stream, len(data), False)
            elif event == Event.END:
                outcome.events.append(("end", stream))
            elif event == Event.RESET:
                error = codec.error()
                why = None if error is None else (error.status, error.reason)
                outcome.events.append(("reset", stream, why))
            elif event == Event.REFUSED:
                outcome.events.append(("refused", stream, codec.error().status, codec.ended()))
            else:
                outcome.events.append(("pong",))
    except RemoteProtocolError as error:
        outcome.failed = (error.status, error.reason)


def run(pieces: list[bytes], limits: Limits = USUAL, *, consume: bool = False) -> Outcome:
    """What a new connection makes of the pieces; its preface is not among `sent`."""
    codec = limits.codec()
    output(codec)
    outcome = Outcome()
    for piece in pieces:
        codec.feed(piece, 0.0)
        take_events(codec, outcome, consume=consume)
        if outcome.failed:
            break
    outcome.sent = [text(frame) for frame in output(codec)]
    return outcome


def agree(data: bytes, limits: Limits = USUAL) -> Outcome:
    """The same for the greeting and `data`: whole, byte by byte and at every cut in two."""
    whole = run([GREETING + data], limits)
    assert run([GREETING, *frames.bytewise(data)], limits) == whole
    if len(data) <= 2_000:
        for cut in range(len(data)):
            assert run([GREETING + data[:cut], data[cut:]], limits) == whole, cut
    return whole


def request(stream: int, fields: list[tuple[bytes, bytes]] = GET, *, end: bool = True) -> bytes:
    return frames.headers(stream, literals(fields), end=end)


def conversations() -> list[bytes]:
    """What the client of each case sends (tests/http2/cases)."""
    server = {**frames.DEFAULTS, frames.Setting.MAX_CONCURRENT_STREAMS: USUAL.streams}
    writer = Writer("http", "localhost:1", server)
    found = []
    for case in load():
        sent = b"".join(writer(step) for step in case.steps if isinstance(step, dict))
        found.append(GREETING + sent if case.greets else sent)
    return found

"""Reads the WebSocket vectors (README.md) and runs FrameParser over bytes cut in pieces."""

from __future__ import annotations

import itertools
import random
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectors.http1 import halves, random_pieces

from thestral._core.websocket import Event, FrameParser
from thestral.errors import RemoteProtocolError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODES = {
    "text": TEXT,
    "binary": BINARY,
    "more": CONTINUATION,
    "close": CLOSE,
    "ping": PING,
    "pong": PONG,
}
FIN, RSV1 = 0x80, 0x40
KEY = bytes.fromhex("37fa213d")  # RFC 6455 section 5.7
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1: what the sender of a message takes off
MAX_SIZE = 1 << 20
LONGEST_FOR_HALVES = 400  # bytes that are cut in two everywhere
LONGEST_FOR_THIRDS = 24  # and in three


@dataclass(frozen=True)
class Settings:
    """A parser's: bytes of a message; window bits and takeover if there is compression."""

    max_size: int = MAX_SIZE
    bits: int | None = None
    takeover: bool = True


@dataclass
class Outcome:
    """What came out, and the close code that the connection failed with.

    Attributes:
        events: ("text", str), ("binary", bytes), ("ping", bytes), ("close", code, reason).
        failed_in: the piece that the failure came with, as its first byte and the one behind it.
    """

    events: list[tuple[Any, ...]] = field(default_factory=list)
    failed: int | None = None
    failed_in: range = field(default=range(0), compare=False)


@dataclass
class Case:
    name: str
    why: str
    data: bytes
    settings: Settings
    expected: Outcome
    fails_at: int | None  # the byte that the failure must come with


# --- Frames ---------------------------------------------------------------------------------------


def mask(data: bytes, key: bytes) -> bytes:
    """RFC 6455 section 5.3, byte by byte."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def head(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    form: int | None = None,
) -> bytes:
    """A frame's head; `form` is the number of length bits (7, 16, 64) where not the least."""
    form = form or (7 if length < 126 else 16 if length < 1 << 16 else 64)
    first = FIN * fin | rsv << 4 | opcode
    second = {7: length, 16: 126, 64: 127}[form] | (0x80 if key is not None else 0)
    extended = b"" if form == 7 else length.to_bytes(form // 8)
    return bytes([first, second]) + extended + (key or b"")


def frame(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    """A client's frame; options are head()'s."""
    key = options.get("key", KEY)
    return head(opcode, len(payload), **options) + (mask(payload, key) if key else payload)


class Deflater:
    """Compresses messages as a client does (RFC 7692 section 7.2.1), with Python's zlib."""

    def __init__(self, bits: int = 15, takeover: bool = True, level: int = 6) -> None:
        self._settings = (level, zlib.DEFLATED, -bits)
        self._takeover = takeover
        self._stream = zlib.compressobj(*self._settings)

    def message(self, data: bytes) -> bytes:
        out = self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        assert out.endswith(TAIL)
        if not self._takeover:
            self._stream = zlib.compressobj(*self._settings)
        return out.removesuffix(TAIL)


def fragments(opcode: int, parts: list[bytes], rsv: int = 0) -> list[bytes]:
    """One message in several frames; the reserved bits are its first one's."""
    last = len(parts) - 1
    return [
        frame(opcode if i == 0 else CONTINUATION, part, fin=i == last, rsv=0 if i else rsv)
        for i, part in enumerate(parts)
    ]


# --- Running --------------------------------------------------------------------------------------


def make_parser(settings: Settings) -> FrameParser:
    parser = FrameParser(settings.max_size)
    if settings.bits is not None:
        parser.use_deflate(settings.bits, settings.takeover)
    return parser


def take_events(parser: FrameParser, outcome: Outcome) -> None:
    """Pull events until NEED_DATA or a failure."""
    try:
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.MESSAGE:
                message = parser.read_message()
                outcome.events.append(("text" if type(message) is str else "binary", message))
            elif event == Event.PING:
                outcome.events.append(("ping", parser.read_control()))
            else:
                assert event == Event.CLOSE
                outcome.events.append(("close", parser.close_code, parser.read_control()))
        assert parser.left() == 0, "NEED_DATA with bytes left"
    except RemoteProtocolError as exc:
        outcome.failed = exc.status


def parse(pieces: Iterable[bytes], settings: Settings) -> Outcome:
    """All that comes out of the pieces; a failure ends it and must stay."""
    parser = make_parser(settings)
    outcome = Outcome()
    start = 0
    for piece in pieces:
        parser.feed(piece)
        take_events(parser, outcome)
        if outcome.failed is not None:
            outcome.failed_in = range(start, start + len(piece))
            again = Outcome()
            take_events(parser, again)
            parser.feed(piece)
            take_events(parser, again)
            assert again == Outcome(failed=outcome.failed), "a failure that does not stay"
            break
        start += len(piece)
    return outcome


def bytewise(data: bytes, settings: Settings) -> Outcome:
    return parse((data[i : i + 1] for i in range(len(data))), settings)


def cuts(data: bytes, rng: random.Random, rounds: int = 8) -> Iterator[list[bytes]]:
    """Whole, every cut in two and in three of what is short, random pieces."""
    yield [data]
    if len(data) <= LONGEST_FOR_HALVES:
        yield from halves(data)
    if len(data) <= LONGEST_FOR_THIRDS:
        for a, b in itertools.combinations(range(1, len(data)), 2):
            yield [data[:a], data[a:b], data[b:]]
    for _ in range(rounds):
        yield random_pieces(data, rng)


def agree(data: bytes, settings: Settings, seed: int, rounds: int = 8) -> Outcome:
    """What comes out byte by byte; each other cut must give the same, and as early."""
    expected = bytewise(data, settings)
    for pieces in cuts(data, random.Random(seed), rounds):
        outcome = parse(pieces, settings)
        context = f"seed {seed}, pieces {[len(piece) for piece in pieces]}"
        assert outcome == expected, context
        if expected.failed is not None:
            assert expected.failed_in.start in outcome.failed_in, context
    return expected


# --- Reading --------------------------------------------------------------------------------------

MARK = "!"  # stands before the byte that a failure must come with


def load() -> list[Case]:
    cases = []
    for path in sorted(Path(__file__).parent.glob("websocket_*.toml")):
        for table in tomllib.loads(path.read_text())["case"]:
            for item in table.pop("each", [None]):
                cases.append(_case(_fill(table, item), item))
    return cases


def _fill(value: Any, item: Any) -> Any:
    """The value with the item in the place of every `<>`, in keys too."""
    if item is None:
        return value
    if value == "<>":
        return item
    if isinstance(value, str):
        return value.replace("<>", item) if isinstance(item, str) else value
    if isinstance(value, list):
        return [_fill(part, item) for part in value]
    if isinstance(value, dict):
        return {_fill(key, item): _fill(part, item) for key, part in value.items()}
    return value


def _data(value: Any, as_hex: bool = False) -> tuple[bytes, int | None]:
    """Bytes, and the place of the mark in them."""
    if isinstance(value, list):
        parts = [
            _data(part, as_hex)
            if isinstance(part, str)
            else (_data(part[0], as_hex)[0] * part[1], None)
            for part in value
        ]
        at, start = None, 0
        for part, mark in parts:
            at = start + mark if mark is not None else at
            start += len(part)
        return b"".join(part for part, _ in parts), at
    if not as_hex:
        return value.encode(), None
    before, mark, after = value.partition(MARK)
    return bytes.fromhex(before + after), len(bytes.fromhex(before)) if mark else None


def _frames(table: dict[str, Any], deflater: Deflater) -> tuple[bytes, int | None]:
    """Bytes of a frame or of a fragmented message, and the place of its mark."""
    table = dict(table)
    (kind,) = set(table) & {*OPCODES, "opcode"}
    value = table.pop(kind)
    opcode = value if kind == "opcode" else OPCODES[kind]
    if kind == "opcode":
        value = table.pop("data", "")
    payload, at = _data(value, table.pop("hex", False))
    if "code" in table:
        payload = table.pop("code").to_bytes(2) + payload
    rsv = table.pop("rsv", 0)
    if table.pop("deflate", False):
        payload, rsv = deflater.message(payload), rsv | 0b100
    fails = table.pop("fails", None)
    parts = table.pop("parts", None)
    if parts is not None:
        assert not table, f"unknown keys: {table}"
        size = max(-(-len(payload) // parts), 1)
        split = [payload[i : i + size] for i in range(0, len(payload), size)]
        return b"".join(fragments(opcode, split, rsv)), None
    options: dict[str, Any] = {"fin": table.pop("fin", True), "rsv": rsv}
    if "key" in table:
        options["key"] = bytes.fromhex(table.pop("key"))
    if not table.pop("masked", True):
        options["key"] = None
    if "form" in table:
        options["form"] = table.pop("form")
    begin = head(opcode, table.pop("claims", len(payload)), **options)
    assert not table, f"unknown keys: {table}"
    key = options.get("key", KEY)
    data = begin + (mask(payload, key) if key else payload)
    key_size = len(key or b"")
    places = {
        "first": 0,
        "second": 1,
        "length": len(begin) - key_size - 1,
        "key": len(begin) - 1,
        "end": len(data) - 1,
    }
    if fails is not None:
        at = places[fails]
    elif at is not None:
        at += len(begin)
    return data, at


def _event(table: dict[str, Any]) -> tuple[Any, ...]:
    table = dict(table)
    as_hex = table.pop("hex", False)
    kind = next(iter(table))
    value = table.pop(kind)
    if kind == "close":
        reason = _data(table.pop("reason", ""), as_hex)[0]
        event: tuple[Any, ...] = ("close", value, reason)
    else:
        data = _data(value, as_hex)[0]
        event = (kind, data.decode() if kind == "text" else data)
    assert not table, f"unknown keys: {table}"
    return event


def _case(table: dict[str, Any], item: Any) -> Case:
    table = dict(table)
    name, why = table.pop("name"), table.pop("why")
    settings = Settings(**table.pop("settings", {}))
    deflater = Deflater(settings.bits or 15, settings.takeover)
    data, fails_at = b"", None
    for part in table.pop("input"):
        piece, at = _data(part, True) if isinstance(part, str) else _frames(part, deflater)
        if at is not None:
            assert fails_at is None, f"{name}: two marks"
            fails_at = len(data) + at
        data += piece
    case = Case(
        name=name if item is None else f"{name}: {item}",
        why=why,
        data=data,
        settings=settings,
        expected=Outcome(
            events=[_event(event) for event in table.pop("events", [])],
            failed=table.pop("failed", None),
        ),
        fails_at=fails_at,
    )
    assert not table, f"{name}: unknown keys {table}"
    assert case.expected.failed is not None or fails_at is None, f"{name}: a mark without failure"
    return case

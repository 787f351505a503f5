"""Reads the cases (cases/README.md), runs them on connections, and judges the server's frames."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INCREMENTAL,
    NEVER,
    PLAIN,
    PREFACE,
    PRIORITY_FLAG,
    Client,
    Code,
    Frame,
    Setting,
    Type,
    bytewise,
    code_name,
    dependency,
    literal,
    padded,
    ping,
    random_pieces,
    settings,
)

LONGEST_FOR_BYTES = 1_500  # bytes of a burst that are sent one by one
# May replace any other code: RFC 9113 section 5.4.
GENERIC = {Code.PROTOCOL_ERROR, Code.INTERNAL_ERROR}
FORMS = {"plain": PLAIN, "incremental": INCREMENTAL, "never": NEVER}
STATIC_SCHEME = {"http": "86", "https": "87"}  # RFC 7541 appendix A
ALIVE = b"\x00alive?\x00"


class Mark(Enum):
    """The outcome of a case."""

    OK = "ok"
    LOOSE = "loose"  # not as expected, but RFC 9113 section 5.4 and h2spec allow it
    FAIL = "FAIL"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Verdict:
    mark: Mark
    detail: str = ""


@dataclass
class Case:
    """One conversation.

    Attributes:
        rfc: number and section, e.g. "9113 6.1".
        steps: a table is sent, a string is expected.
        greets: whether the prefaces are exchanged before the steps.
        strict: replaces the last step where a server must do more than RFC 9113 requires.
        h2spec: the subjects of h2spec 2.6 that the case covers.
        only: "h2c" or "tls".
        needs: the case is skipped if the server does not send these settings.
    """

    name: str
    rfc: str
    why: str
    steps: list[dict[str, Any] | str]
    greets: bool = True
    strict: str | None = None
    h2spec: list[str] = field(default_factory=list)
    only: str | None = None
    needs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"RFC {self.rfc}: {self.name}"


# --- Reading --------------------------------------------------------------------------------------


def load() -> list[Case]:
    """Load all cases; a case with `each` becomes several."""
    cases = []
    for path in sorted((Path(__file__).parent / "cases").glob("*.toml")):
        for table in tomllib.loads(path.read_text())["case"]:
            each = table.pop("each", None)
            for item in [None] if each is None else each:
                filled = table if item is None else _fill(table, item)
                if item is not None:
                    filled = {**filled, "name": f"{table['name']}: {_short(item)}"}
                cases.append(Case(**filled))
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    assert not twice, f"names that are not unique: {twice}"
    return cases


def _short(item: Any) -> str:
    text = item if isinstance(item, str) else str(item)
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _fill(value: Any, item: Any) -> Any:
    """Replace every "<>" by the item, and "<0>", "<1>" by the parts of a list. A string that is
    nothing else becomes the item itself, whatever its type.
    """
    if isinstance(value, str):
        if value == "<>":
            return item
        if isinstance(item, list) and value in ("<0>", "<1>"):
            return item[int(value[1])]
        return value.replace("<>", str(item)) if "<>" in value else value
    if isinstance(value, list):
        return [_fill(part, item) for part in value]
    if isinstance(value, dict):
        return {key: _fill(part, item) for key, part in value.items()}
    return value


# --- Bytes of a step ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """Turns the tables of a case into bytes for one connection."""

    scheme: str
    authority: str
    server: dict[int, int]

    def __call__(self, step: dict[str, Any]) -> bytes:
        table = dict(step)
        if "raw" in table:
            return self._hex(table["raw"])
        if table.pop("preface", False):
            return PREFACE
        times = self._count(table.pop("times", 1))
        kind = next(iter(table))  # the first key is the kind of step
        blob = b""
        for i in range(times):
            again = {**table, kind: table[kind] + 2 * i} if times > 1 else dict(table)
            blob += self._frames(kind, again)
        return blob

    def _frames(self, kind: str, table: dict[str, Any]) -> bytes:
        split = table.pop("split", None)
        changes = {
            key: table.pop(key)
            for key in ("on", "payload", "claims", "flags", "reserved")
            if key in table
        }
        built = getattr(self, f"_{kind}")(table.pop(kind), table)
        assert not table, f"unknown keys {table}"
        if split is not None:
            assert not changes
            return self._split(built, split)
        return bytes(
            Frame(
                built.type,
                built.flags | changes.get("flags", 0),
                changes.get("on", built.stream),
                self._hex(changes["payload"]) if "payload" in changes else built.payload,
                changes.get("claims"),
                changes.get("reserved", False),
            )
        )

    def _split(self, built: Frame, sizes: list[int]) -> bytes:
        """Encode HEADERS and CONTINUATION frames; the last one gets the rest of the block."""
        parts, rest = [], built.payload
        for size in sizes:
            parts.append(rest[:size])
            rest = rest[size:]
        first, *more = [*parts, rest]
        blob = bytes(Frame(Type.HEADERS, built.flags & ~END_HEADERS, built.stream, first))
        for i, part in enumerate(more):
            flags = END_HEADERS if i == len(more) - 1 else 0
            blob += bytes(Frame(Type.CONTINUATION, flags, built.stream, part))
        return blob

    def _count(self, value: int | str) -> int:
        """Return a number, which may be relative to a server's setting: "MAX_FRAME_SIZE+1"."""
        if isinstance(value, int):
            return value
        name, _, more = value.partition("+")
        return self.server[Setting[name]] + int(more or 0)

    def _bytes(self, value: str | list[Any]) -> bytes:
        if isinstance(value, str):
            text = value.replace("<scheme>", self.scheme).replace("<authority>", self.authority)
            return text.encode("latin-1")
        return b"".join(
            self._bytes(part)
            if isinstance(part, str)
            else self._bytes(part[0]) * self._count(part[1])
            for part in value
        )

    def _hex(self, text: str) -> bytes:
        text = text.replace("<scheme>", STATIC_SCHEME[self.scheme])
        text = text.replace("<authority>", literal(1, self.authority.encode()).hex())
        return bytes.fromhex(text)

    def _block(self, table: dict[str, Any], fields: list[list[Any]]) -> bytes:
        """Encode a table's field block: `block`, in hexadecimal, then `fields`, as `as` says."""
        form, huffman = FORMS[table.pop("as", "plain")], table.pop("huffman", False)
        block = self._hex(table.pop("block", ""))
        for name, value in fields:
            coded = name if isinstance(name, int) else self._bytes(name)
            block += literal(coded, self._bytes(value), form, huffman=huffman)
        return block

    def _headers(self, stream: int, table: dict[str, Any]) -> Frame:
        block = self._block(table, table.pop("fields", []))
        flags = END_STREAM * table.pop("end", False) | END_HEADERS * table.pop("end_headers", True)
        if "priority" in table:
            block = dependency(*table.pop("priority")) + block
            flags |= PRIORITY_FLAG
        flag, block = padded(block, table.pop("pad", None))
        return Frame(Type.HEADERS, flags | flag, stream, block)

    def _request(self, method: str, stream: int, table: dict[str, Any], end: bool) -> Frame:
        """Encode a request's HEADERS; `set`, `without`, `first`, `with`, `last` change fields."""
        fields = {
            ":method": method,
            ":scheme": "<scheme>",
            ":authority": "<authority>",
            ":path": "/",
        }
        fields |= table.pop("set", {})
        last = table.pop("last", [])
        moved = [*table.pop("without", []), *last]
        listed = [[name, value] for name, value in fields.items() if name not in moved]
        behind = [[name, fields[name]] for name in last]
        table["fields"] = [*table.pop("first", []), *listed, *table.pop("with", []), *behind]
        table.setdefault("end", end)
        return self._headers(stream, table)

    def _get(self, stream: int, table: dict[str, Any]) -> Frame:
        return self._request("GET", stream, table, True)

    def _post(self, stream: int, table: dict[str, Any]) -> Frame:
        return self._request("POST", stream, table, False)

    def _continuation(self, stream: int, table: dict[str, Any]) -> Frame:
        block = self._block(table, table.pop("fields", []))
        return Frame(Type.CONTINUATION, END_HEADERS * table.pop("end_headers", True), stream, block)

    def _data(self, stream: int, table: dict[str, Any]) -> Frame:
        flag, payload = padded(self._bytes(table.pop("bytes", "")), table.pop("pad", None))
        return Frame(Type.DATA, flag | END_STREAM * table.pop("end", False), stream, payload)

    def _priority(self, stream: int, table: dict[str, Any]) -> Frame:
        depends = table.pop("depends", 0), table.pop("weight", 15), table.pop("exclusive", False)
        return Frame(Type.PRIORITY, 0, stream, dependency(*depends))

    def _rst(self, stream: int, table: dict[str, Any]) -> Frame:
        return Frame(Type.RST_STREAM, 0, stream, _code(table.pop("code", "CANCEL")))

    def _settings(self, pairs: list[list[Any]], table: dict[str, Any]) -> Frame:
        payload = b"".join(
            (Setting[key] if isinstance(key, str) else key).to_bytes(2, "big")
            + value.to_bytes(4, "big")
            for key, value in pairs
        )
        return Frame(Type.SETTINGS, ACK * table.pop("ack", False), 0, payload)

    def _ping(self, opaque: str, table: dict[str, Any]) -> Frame:
        return Frame(Type.PING, ACK * table.pop("ack", False), 0, bytes.fromhex(opaque))

    def _goaway(self, last: int, table: dict[str, Any]) -> Frame:
        payload = last.to_bytes(4, "big") + _code(table.pop("code", "NO_ERROR"))
        return Frame(Type.GOAWAY, 0, 0, payload + self._bytes(table.pop("debug", "")))

    def _window_update(self, stream: int, table: dict[str, Any]) -> Frame:
        return Frame(Type.WINDOW_UPDATE, 0, stream, table.pop("by").to_bytes(4, "big"))

    def _push_promise(self, stream: int, table: dict[str, Any]) -> Frame:
        promised = table.pop("promised", 2).to_bytes(4, "big")
        request = self._request("GET", stream, table, True)
        return Frame(Type.PUSH_PROMISE, END_HEADERS, stream, promised + request.payload)

    def _priority_update(self, stream: int, table: dict[str, Any]) -> Frame:
        payload = stream.to_bytes(4, "big") + self._bytes(table.pop("value", ""))
        return Frame(Type.PRIORITY_UPDATE, 0, 0, payload)

    def _frame(self, kind: int, table: dict[str, Any]) -> Frame:
        return Frame(kind, 0, 0)


def _code(value: str | int) -> bytes:
    return (Code[value] if isinstance(value, str) else value).to_bytes(4, "big")


# --- Expectations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """One alternative of a string in `steps`; cases/README.md has the forms."""

    kind: str
    stream: int = 0
    codes: frozenset[int] = frozenset()
    argument: str = ""

    @classmethod
    def parse(cls, text: str) -> list[Expectation]:
        """Parse all alternatives of a step."""
        found = []
        for part in text.split(" | "):
            kind, *words = part.split()
            if kind == "connection":
                found.append(cls(kind, codes=_codes(words[0])))
            elif kind == "stream":
                found.append(cls(kind, int(words[0]), _codes(words[1])))
            elif kind == "refused":
                found.append(cls(kind, codes=_codes(words[0])))
            elif kind == "malformed":
                found.append(cls("stream", int(words[0]), frozenset([Code.PROTOCOL_ERROR])))
                found.append(cls("response", int(words[0]), argument="4xx"))
            elif kind in ("response", "head", "data"):
                found.append(cls(kind, int(words[0]), argument=words[1]))
            else:
                assert kind in ("ack", "pong", "open", "closed", "setting"), f"unknown: {part!r}"
                found.append(cls(kind, argument=" ".join(words)))
        return found

    def came(self, client: Client) -> bool:
        """Return whether it has come, exactly as expected."""
        exchange = client.on(self.stream)
        match self.kind:
            case "connection":
                return any(code in self.codes for _, code, _ in client.goaways)
            case "stream":
                return exchange.reset in self.codes
            case "refused":
                return any(each.reset in self.codes for each in client.exchanges.values())
            case "response":
                return exchange.ended and _status_fits(exchange.status, self.argument)
            case "head":
                return _status_fits(exchange.status, self.argument)
            case "data":
                return len(exchange.body) == int(self.argument)
            case "ack":
                return client.settings_acked == client.settings_sent
            case "pong":
                return bytes.fromhex(self.argument) in client.pongs
            case "open":
                return ALIVE in client.pongs
            case "closed":
                return client.closed
            case _:  # setting
                name, _, value = self.argument.partition(" ")
                return client.server.get(Setting[name]) == int(value)

    def loose(self, client: Client) -> str | None:
        """Return why another result is acceptable: RFC 9113 section 5.4 lets a server turn a stream
        error into a connection error, close without GOAWAY, and use PROTOCOL_ERROR or
        INTERNAL_ERROR for any error.
        """
        if self.kind not in ("connection", "stream", "refused"):
            return None
        codes = {code for _, code, _ in client.goaways}
        if codes & (self.codes | GENERIC):
            return f"GOAWAY {_names(codes)}"
        reset = client.on(self.stream).reset
        if self.kind == "stream" and reset in GENERIC:
            return f"RST_STREAM {_names({reset})}"
        return "closed without GOAWAY" if client.closed and not codes else None


def _codes(text: str) -> frozenset[int]:
    return frozenset(Code[name] for name in text.split("/"))


def _names(codes: set[int]) -> str:
    return ", ".join(map(code_name, sorted(codes)))


def _status_fits(status: int | None, wanted: str) -> bool:
    return status is not None and all(
        want in ("x", have) for want, have in zip(wanted, str(status), strict=True)
    )


# --- Running --------------------------------------------------------------------------------------


def run(
    case: Case,
    connect: Callable[[], Client],
    style: str = "whole",
    rng: random.Random | None = None,
    *,
    strict: bool = False,
) -> Verdict:
    """Run a case on a new connection.

    Args:
        style: how the client sends the frames between two expectations: "whole", byte by byte
            ("bytes"), or cut at random ("cuts"); "early" does not wait for the server's preface.
        strict: use each case's `strict`, although RFC 9113 allows more.
    """
    with connect() as client:
        if case.only not in (None, "tls" if client.scheme == "https" else "h2c"):
            return Verdict(Mark.SKIPPED, f"only over {case.only}")
        pending = b""
        if case.greets and style == "early":
            pending = PREFACE + settings()
        elif case.greets:
            try:
                client.start()
            except AssertionError as exc:
                return Verdict(Mark.FAIL, f"no prefaces: {exc}")
        missing = [name for name in case.needs if not client.server.get(Setting[name])]
        if missing:
            return Verdict(Mark.SKIPPED, f"the server has not set {missing}")
        steps = list(case.steps)
        if strict and case.strict is not None:
            steps[-1] = case.strict
        verdict = Verdict(Mark.FAIL, "nothing is expected")
        for i, step in enumerate(steps):
            if isinstance(step, dict):
                writer = Writer(client.scheme, client.authority, client.server)
                try:
                    pending += writer(step)
                except KeyError as exc:
                    return Verdict(Mark.SKIPPED, f"the server has not set {exc}")
                continue
            client.send(*_pieces(pending, style, rng))
            pending = b""
            verdict = _expect(client, Expectation.parse(step))
            if verdict.mark is not Mark.OK:
                where = "" if i == len(steps) - 1 else f"at {step!r}: "
                return Verdict(verdict.mark, where + verdict.detail)
        assert not pending, f"{case}: what is sent last must be followed by what is to come"
        return verdict


def styles(case: Case) -> Iterator[str]:
    """Return the styles that do not change a case's meaning."""
    yield from ["whole", "bytes", "cuts"]
    if case.greets and not case.needs and not _needs_settings(case.steps):
        yield "early"


def _needs_settings(value: Any) -> bool:
    """Return whether a step depends on the server's settings."""
    if isinstance(value, dict):
        return any(map(_needs_settings, value.values()))
    if isinstance(value, list):
        return any(map(_needs_settings, value))
    return isinstance(value, str) and re.fullmatch(r"[A-Z_]+\+[0-9]+", value) is not None


def _pieces(blob: bytes, style: str, rng: random.Random | None) -> list[bytes]:
    if style == "bytes" and len(blob) <= LONGEST_FOR_BYTES:
        return bytewise(blob)
    if style in ("bytes", "cuts") and len(blob) > 1:
        return random_pieces(blob, rng or random.Random(0))
    return [blob]


def _expect(client: Client, alternatives: list[Expectation]) -> Verdict:
    """Read until one of the alternatives has come, or none can come any more."""
    resets = {stream for stream, each in client.exchanges.items() if each.reset is not None}
    client.pongs = [pong for pong in client.pongs if pong != ALIVE]
    asks = any(each.kind == "open" for each in alternatives)
    if asks:
        client.send(ping(ALIVE))
    while True:
        for each in alternatives:
            if each.came(client):
                return _confirm(client, each, resets)
        if not client.closed and not _hopeless(client, alternatives):
            try:
                client.read()
                continue
            except TimeoutError:
                pass  # an idle connection may be closed any time, so its end proves nothing
        else:
            _read_to_close(client)
        for each in alternatives:
            if (why := each.loose(client)) is not None:
                return Verdict(Mark.LOOSE, why)
        return Verdict(Mark.FAIL, _summary(client))


def _hopeless(client: Client, alternatives: list[Expectation]) -> bool:
    """Return whether the frames that have come rule out all alternatives."""
    if any(code != Code.NO_ERROR for _, code, _ in client.goaways):
        return not any(each.kind == "closed" for each in alternatives)
    streams = {each.stream for each in alternatives if each.stream}
    over = streams and all(
        (each := client.on(stream)).ended or each.reset is not None for stream in streams
    )
    waits = any(each.kind in ("connection", "closed", "open", "pong") for each in alternatives)
    return bool(over) and not waits


def _confirm(client: Client, found: Expectation, resets: set[int]) -> Verdict:
    """Check that an error ends its stream or connection, and nothing else."""
    if found.kind == "connection":
        _read_to_close(client)
        if not client.closed:
            return Verdict(Mark.LOOSE, "GOAWAY, but the connection stays open")
        return Verdict(Mark.OK)
    if found.kind == "closed":
        return Verdict(Mark.OK)
    if found.kind in ("stream", "refused", "data"):
        body = len(client.on(found.stream).body)
        if not _answers(client):
            return Verdict(Mark.LOOSE, f"then the connection ends: {_summary(client)}")
        if found.kind == "data" and len(client.on(found.stream).body) != body:
            return Verdict(Mark.FAIL, f"more DATA than the window: {_summary(client)}")
        return Verdict(Mark.OK)
    now = {stream for stream, each in client.exchanges.items() if each.reset}
    if found.kind == "open" and now - resets:
        return Verdict(Mark.FAIL, f"a stream was reset: {_summary(client)}")
    return Verdict(Mark.OK)


def _answers(client: Client) -> bool:
    """Return whether a PING is still answered."""
    opaque = random.randbytes(8)
    client.send(ping(opaque))
    try:
        while opaque not in client.pongs:
            if client.read() is None:
                return False
    except TimeoutError:
        return False
    return not client.goaways


def _read_to_close(client: Client) -> None:
    try:
        while client.read() is not None:
            pass
    except TimeoutError:
        pass


def _summary(client: Client) -> str:
    """Describe a connection's state in a line."""
    parts = [f"GOAWAY {code_name(code)}" for _, code, _ in client.goaways]
    for stream, each in client.exchanges.items():
        if each.reset is not None:
            parts.append(f"stream {stream}: RST_STREAM {code_name(each.reset)}")
        if each.status is not None:
            ended = "" if each.ended else ", not ended"
            parts.append(f"stream {stream}: {each.status}, {len(each.body)} bytes{ended}")
    if client.closed:
        parts.append("closed")
    return "; ".join(parts) or "nothing came"

"""Reads the vectors (README.md) and runs RequestParser over bytes cut in pieces."""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thestral._core.http1 import Event, RequestParser
from thestral.errors import RemoteProtocolError

LIMITS = {"request_line": 65536, "head": 65536, "fields": 100, "body": 0}


@dataclass
class Outcome:
    """What came out: requests, bodies joined; the one that did not end; the refusal's status."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    unfinished: dict[str, Any] | None = None
    refused: int | None = None


@dataclass
class Case:
    name: str
    why: str
    data: bytes
    limits: dict[str, int]
    expected: Outcome


def make_parser(**limits: int) -> RequestParser:
    return RequestParser(**(LIMITS | limits))


def take_events(parser: RequestParser, outcome: Outcome) -> None:
    """Pull events until NEED_DATA or a refusal; an event out of turn fails."""
    try:
        while (event := parser.next_event()) != Event.NEED_DATA:
            if event == Event.HEAD:
                assert outcome.unfinished is None, "HEAD before END"
                head: dict[str, Any] = {}
                read = parser.read_head()
                read.fill(head)
                head["http_version"] = read.http_version
                head["keep_alive"] = read.keep_alive
                head["expect_continue"] = read.expect_continue
                head["websocket"] = read.websocket
                head["body"] = b""
                outcome.unfinished = head
            elif event == Event.BODY:
                assert outcome.unfinished is not None, "BODY without HEAD"
                part = parser.read_body()
                assert part != b"", "a BODY of nothing"
                outcome.unfinished["body"] += part
            else:
                assert event == Event.END
                assert outcome.unfinished is not None, "END without HEAD"
                outcome.requests.append(outcome.unfinished)
                outcome.unfinished = None
    except RemoteProtocolError as exc:
        outcome.refused = exc.status


def parse(pieces: Iterable[bytes], **limits: int) -> Outcome:
    """All that comes out of the pieces; a refusal ends it and must stay."""
    parser = make_parser(**limits)
    outcome = Outcome()
    for piece in pieces:
        parser.feed(piece)
        take_events(parser, outcome)
        if outcome.refused is not None:
            again = Outcome()
            take_events(parser, again)
            assert again == Outcome(refused=outcome.refused), "a refusal that does not stay"
            break
    return outcome


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def halves(data: bytes) -> Iterator[list[bytes]]:
    """Every cut in two."""
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]


def random_pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """Up to eight pieces, some of them a single byte."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))
    if rng.random() < 0.5:
        cuts = sorted({*cuts, *(min(cut + 1, len(data)) for cut in cuts)})
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if b > a]


def every_style(data: bytes, rng: random.Random, rounds: int = 8) -> Iterator[list[bytes]]:
    """Whole, byte by byte, every cut in two of what is short, random pieces."""
    yield [data]
    yield bytewise(data)
    if len(data) <= 400:
        yield from halves(data)
    for _ in range(rounds):
        yield random_pieces(data, rng)


def load() -> list[Case]:
    cases = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        if path.name.startswith(("websocket_", "hpack")):
            continue  # websocket.py's and hpack.py's
        for table in tomllib.loads(path.read_text())["case"]:
            for item in table.pop("each", [None]):
                cases.append(_case(_fill(table, item), item))
    return cases


def _fill(value: Any, item: str | None) -> Any:
    if item is None:
        return value
    if isinstance(value, str):
        return value.replace("<>", item)
    if isinstance(value, list):
        return [_fill(part, item) for part in value]
    if isinstance(value, dict):
        return {key: _fill(part, item) for key, part in value.items()}
    return value


def _bytes(text: str | list[Any]) -> bytes:
    if isinstance(text, str):
        return text.encode("latin-1")
    return b"".join(
        _bytes(part) if isinstance(part, str) else _bytes(part[0]) * part[1] for part in text
    )


def _request(table: dict[str, Any]) -> dict[str, Any]:
    raw_path = table.pop("raw_path", "/")
    request = {
        "method": table.pop("method", "GET"),
        "raw_path": _bytes(raw_path),
        "path": table.pop("path", raw_path),
        "query_string": _bytes(table.pop("query_string", "")),
        "headers": [
            (_bytes(name), _bytes(value)) for name, value in table.pop("headers", [["host", "a"]])
        ],
        "http_version": table.pop("http_version", "1.1"),
        "keep_alive": table.pop("keep_alive", True),
        "expect_continue": table.pop("expect_continue", False),
        "websocket": table.pop("websocket", False),
        "body": _bytes(table.pop("body", "")),
    }
    assert not table, f"unknown keys: {table}"
    return request


def _case(table: dict[str, Any], item: str | None) -> Case:
    table = dict(table)
    name, why = table.pop("name"), table.pop("why")
    unfinished = table.pop("unfinished", None)
    case = Case(
        name=name if item is None else f"{name}: {item!r}",
        why=why,
        data=_bytes(table.pop("input")),
        limits=table.pop("limits", {}),
        expected=Outcome(
            requests=[_request(dict(request)) for request in table.pop("requests", [])],
            unfinished=None if unfinished is None else _request(dict(unfinished)),
            refused=table.pop("refused", None),
        ),
    )
    assert not table, f"{name}: unknown keys {table}"
    return case

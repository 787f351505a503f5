"""The scenarios that are measured."""

from __future__ import annotations

import json
from dataclasses import dataclass

from applications import CHUNK, CHUNKS, LARGE
from heads import BROWSER
from loads import (
    Echoes,
    FixedRate,
    IdleConnections,
    Load,
    Nothing,
    Requests,
    Start,
    Streams,
)
from servers import Setup

KILO = 1024
MEGA = 1 << 20
RATE = 5000  # requests/s at which latency is measured; all servers can do more
UPLOAD = 16  # MiB
JSON = "application/json"


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    Attributes:
        primary: the figure of report.FIGURES by which servers are compared.
        unit: what "rate" counts, and "cpu" is divided by.
    """

    setup: Setup
    load: Load
    primary: str = "cpu"
    unit: str = "request"


def posted(size: int) -> bytes:
    """Return JSON of this many bytes."""
    start = json.dumps({"name": "a body of some size", "numbers": list(range(50)), "text": ""})[:-2]
    return start.encode() + b"x" * (size - len(start) - 2) + b'"}'


def counted(size: int, connections: int = 64, per: float = 1) -> Requests:
    return Requests(
        expected=b"%d" % size,
        body=posted(size),
        content_type=JSON,
        connections=connections,
        per=per,
    )


ITEM = json.dumps(
    {"name": "tea", "price": 2.5, "tags": ["green", "leaf"], "description": "a cup"}
).encode()
PLAIN = Setup("applications:plain", limits=True)
FAST = Setup("frameworks:fast")
STREAM = Requests(expected=CHUNK * CHUNKS, connections=32)
SCENARIOS: dict[str, Scenario] = {
    "plain GET, 4 headers": Scenario(PLAIN, Requests()),
    "plain GET, 12 headers": Scenario(PLAIN, Requests(fields=BROWSER)),
    "pipelined 16": Scenario(PLAIN, Requests(depth=16)),
    "connection per request": Scenario(
        Setup("applications:plain", limits=True, close=True),
        Requests(fields=("Connection: close",)),
    ),
    "POST 1 KB": Scenario(Setup("applications:body"), counted(KILO)),
    "POST 64 KB": Scenario(Setup("applications:body"), counted(64 * KILO)),
    "16 MB upload": Scenario(
        Setup("applications:body"), counted(UPLOAD * MEGA, 4, UPLOAD), primary="rate", unit="MB"
    ),
    "1 MB response": Scenario(
        Setup("applications:large", limits=True, size=MEGA), Requests(expected=LARGE, connections=8)
    ),
    "stream, first step": Scenario(Setup("applications:stream"), STREAM, unit="stream"),
    "stream, after an await": Scenario(Setup("applications:late_stream"), STREAM, unit="stream"),
    "stream, StreamingResponse": Scenario(
        Setup("frameworks:streaming_response"), STREAM, unit="stream"
    ),
    "stream, Starlette": Scenario(Setup("frameworks:stream"), STREAM, unit="stream"),
    "1 MB file by pathsend": Scenario(
        Setup("frameworks:file"), Requests(expected=LARGE, connections=8), primary="rate"
    ),
    "sleep 10 ms, 256 connections": Scenario(
        Setup("applications:sleep"), Requests(connections=256)
    ),
    "FastAPI async": Scenario(
        FAST, Requests(path="/items/5?q=tea", expected=b'{"item_id":5,"q":"tea"}')
    ),
    "FastAPI sync": Scenario(
        FAST, Requests(path="/sync/5?q=tea", expected=b'{"item_id":5,"q":"tea"}')
    ),
    "FastAPI POST": Scenario(
        FAST,
        Requests(
            path="/items", body=ITEM, content_type=JSON, expected=b'{"name":"tea","total":5.0}'
        ),
    ),
    "FastAPI, 2 Depends": Scenario(
        FAST, Requests(path="/depends/5?limit=3", expected=b'{"item_id":5,"user":"anonymous"}')
    ),
    "FastAPI, 50 included routes": Scenario(
        Setup("frameworks:included"),
        Requests(path="/items/5?q=tea", expected=b'{"item_id":5,"q":"tea"}'),
    ),
    "FastAPI, CORS and a middleware": Scenario(
        Setup("frameworks:wrapped"),
        Requests(path="/items/5?q=tea", expected=b'{"item_id":5,"q":"tea"}'),
    ),
    "TLS plain GET": Scenario(Setup("applications:plain", tls=True), Requests()),
    "HTTP/2, 8 x 32": Scenario(Setup("applications:plain", http2=True, limits=True), Streams()),
    "HTTP/2 over TLS, 8 x 32": Scenario(
        Setup("applications:plain", http2=True, tls=True, limits=True), Streams()
    ),
    "HTTP/2, 1 x 1": Scenario(
        Setup("applications:plain", http2=True, limits=True), Streams(connections=1, streams=1)
    ),
    "HTTP/2, 1 MB response": Scenario(
        Setup("applications:large", http2=True, limits=True, size=MEGA),
        Streams(expected=LARGE, connections=8, streams=1),
        unit="MB",
    ),
    "HTTP/2, 16 MB upload": Scenario(
        Setup("applications:body", http2=True),
        Streams(
            expected=b"%d" % (UPLOAD * MEGA),
            body=posted(UPLOAD * MEGA),
            connections=4,
            streams=1,
            per=UPLOAD,
        ),
        unit="MB",
    ),
    "WebSocket 64 B over HTTP/2, 8 x 8": Scenario(
        Setup("applications:echo", http2=True), Echoes(64, streams=8), unit="message"
    ),
    "WebSocket 64 B": Scenario(Setup("applications:echo"), Echoes(64), unit="message"),
    "WebSocket 16 KB": Scenario(Setup("applications:echo"), Echoes(16 * KILO), unit="message"),
    "access log": Scenario(Setup("applications:plain", access_log=True), Requests()),
    "latency at 5,000 requests/s": Scenario(PLAIN, FixedRate(RATE), primary="p99"),
    "5,000 idle connections": Scenario(PLAIN, IdleConnections(), primary="idle"),
    "start to first answer": Scenario(PLAIN, Start(), primary="start"),
    "idle server": Scenario(PLAIN, Nothing(), primary="idle_cpu"),
    "2 workers": Scenario(Setup("applications:plain", workers=2), Requests(connections=128)),
    "4 workers": Scenario(Setup("applications:plain", workers=4), Requests(connections=256)),
}

"""Heads without end, heads that decode to far more than was sent, and requests that smuggle."""

from __future__ import annotations

import pytest
from abuse import (
    CALM,
    FLOOD,
    MIB,
    Counting,
    answer,
    memory,
    request,
)
from apps import http_only, respond
from frames import (
    INCREMENTAL,
    Client,
    Code,
    Setting,
    continuation,
    headers,
    literal,
    literals,
)

# What is counted does not depend on the loop.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)


# --- CONTINUATION: CVE-2024-27316 -----------------------------------------------------------------


@pytest.mark.parametrize("fragment", [b"", b"\x00", literal(b"x", b"y" * 500)])
def test_continuation_without_end_ends_the_connection(serve, open_client, fragment):
    app = Counting(answer)
    client = open_client(serve(app))
    head = headers(1, literals([(b":method", b"GET")]), end_headers=False)
    blob = head + continuation(1, fragment, end_headers=False) * FLOOD
    before = memory()
    client.flood(blob)
    assert client.end() in CALM, str(client)
    assert memory() - before < 8 * MIB
    assert app.started == 0


@pytest.mark.parametrize(("count", "passes"), [(1, True), (7, True), (8, True), (9, False)])
def test_eight_continuation_frames_are_taken(serve, open_client, count, passes):
    client = open_client(serve(Counting(answer)))
    whole = request(client, 1, ("x", "y" * 4_000))[9:]
    size = len(whole) // (count + 1)
    parts = [whole[size * i : size * (i + 1)] for i in range(count)] + [whole[size * count :]]
    client.send(headers(1, parts[0], end=True, end_headers=False))
    for part in parts[1:-1]:
        client.send(continuation(1, part, end_headers=False))
    client.send(continuation(1, parts[-1]))
    if passes:
        assert client.finished(1).status == 200
    else:
        assert client.end() in CALM, str(client)


def test_empty_continuation_may_end_a_block_but_not_go_on(serve, open_client):
    running = serve(Counting(answer))
    client = open_client(running)
    block = request(client, 1)[9:]
    client.send(headers(1, block, end=True, end_headers=False) + continuation(1, b""))
    assert client.finished(1).status == 200
    other = open_client(running)
    empty = continuation(1, b"", end_headers=False)
    other.send(headers(1, block, end=True, end_headers=False) + empty + continuation(1, b""))
    assert other.end() in CALM, str(other)


def test_block_over_the_limit_of_a_head_is_not_collected(serve, open_client):
    """A block up to a quarter over the limit is still decoded. A larger one is not, so the table is
    lost, and the connection with it.
    """
    app = Counting(answer)
    client = open_client(serve(app, limit_header_size=32 * 1024))
    piece = literal(b"x", b"y" * 12_000)
    more = [continuation(1, piece, end_headers=False)] * 4
    client.send(headers(1, request(client, 1)[9:], end_headers=False), *more)
    assert client.end() not in (None, Code.NO_ERROR), str(client)
    assert app.started == 0


def test_head_that_does_not_end_in_time_ends_the_connection(serve, open_client):
    client = open_client(serve(Counting(answer), timeout_head=0.3))
    client.send(headers(1, request(client, 1)[9:], end_headers=False))
    client.end()
    assert client.closed


def test_large_head_in_its_frames_is_taken(serve, open_client):
    """A browser with many cookies sends such a head: 40 KB in HEADERS and CONTINUATION."""

    @http_only
    async def app(scope, receive, send):
        await respond(send, str(sum(len(value) for _, value in scope["headers"])).encode())

    client = open_client(serve(app))
    block = request(client, 1, *[(f"x-{i}", "v" * 4_000) for i in range(10)])[9:]
    parts = [block[i : i + 16_000] for i in range(0, len(block), 16_000)]
    client.send(headers(1, parts[0], end=True, end_headers=False))
    client.send(continuation(1, parts[1], end_headers=False), continuation(1, parts[2]))
    exchange = client.finished(1)
    assert exchange.status == 200
    assert int(exchange.body) > 40_000


# --- HPACK bombs: CVE-2016-6581 -------------------------------------------------------------------


def bomb(client: Client, stream: int, references: int, size: int = 4_000) -> bytes:
    """Build a request that refers to a field in the table `count` times."""
    block = request(client, stream)[9:] + literal(b"x", b"v" * size, INCREMENTAL)
    return headers(stream, block + b"\xbe" * (references - 1), end=True)


@pytest.mark.parametrize("references", [20, 8_000])
def test_bomb_is_431_and_the_table_goes_on(serve, open_client, references):
    app = Counting(answer)
    client = open_client(serve(app))
    client.send(bomb(client, 1, references))
    assert client.finished(1).status == 431
    assert app.started == 0
    client.send(headers(3, request(client, 3)[9:] + b"\xbe", end=True))
    assert client.finished(3).status == 200


@pytest.mark.parametrize(("fields", "status"), [(80, 200), (101, 431), (5_000, 431)])
def test_fields_are_counted(serve, open_client, fields, status):
    client = open_client(serve(Counting(answer)))
    block = request(client, 1)[9:] + literal(b"a", b"", INCREMENTAL) + b"\xbe" * (fields - 1)
    client.send(headers(1, block, end=True))
    assert client.finished(1).status == status
    client.alive()


def test_bombs_behind_a_closed_window_cost_little(serve, open_client):
    """A window of 0 keeps the streams open."""
    client = open_client(serve(Counting(answer)), (Setting.INITIAL_WINDOW_SIZE, 0))
    before = memory()
    for i in range(1, 2 * 100, 2):
        client.send(bomb(client, i, 8_000))
    client.wait(lambda: client.goaways or all(client.on(i).status for i in range(1, 200, 2)))
    assert memory() - before < 16 * MIB


def test_cookie_in_150_crumbs_is_joined(serve, open_client):
    @http_only
    async def app(scope, receive, send):
        cookies = [value for name, value in scope["headers"] if name == b"cookie"]
        assert len(cookies) == 1
        await respond(send, cookies[0])

    client = open_client(serve(app))
    crumbs = [f"name{i}=value{i}" for i in range(150)]
    for _ in range(3):  # with the table as earlier requests left it
        exchange = client.finished(client.request("GET", "/", *[("cookie", one) for one in crumbs]))
        assert exchange.status == 200
        assert exchange.body.decode() == "; ".join(crumbs)


@pytest.mark.parametrize(("crumbs", "status"), [(512, 200), (513, 431), (5_000, 431)])
def test_crumbs_are_counted_by_themselves(serve, open_client, crumbs, status):
    client = open_client(serve(Counting(answer)))
    block = request(client, 1)[9:] + literal(b"cookie", b"a=b", INCREMENTAL)
    client.send(headers(1, block + b"\xbe" * (crumbs - 1), end=True))
    assert client.finished(1).status == status
    client.alive()


# --- Smuggling, CONNECT ---------------------------------------------------------------------------

SMUGGLED = {
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "line in a value": [("x", "a\r\ntransfer-encoding: chunked")],
    "request in a value": [("x", "a\r\n\r\nGET /admin HTTP/1.1\r\nhost: b")],
    "line in a name": [("x: y\r\ntransfer-encoding", "chunked")],
    "two lengths": [("content-length", "0"), ("content-length", "5")],
    "host twice": [("host", "a"), ("host", "b")],
    "host other than :authority": [("host", "other.example")],
    "blank before a value": [("x", " y")],
}


@pytest.mark.parametrize("extra", SMUGGLED.values(), ids=SMUGGLED)
def test_smuggling_attempts_do_not_reach_the_application(serve, open_client, extra):
    app = Counting(answer)
    client = open_client(serve(app))
    client.send(request(client, 1, *extra))
    exchange = client.on(1)
    client.wait(lambda: exchange.reset is not None or exchange.ended)
    assert exchange.reset == Code.PROTOCOL_ERROR or exchange.status == 400
    assert app.started == 0
    client.alive()


@pytest.mark.parametrize("protocol", [None, "connect-udp"])
def test_connect_is_not_implemented(serve, open_client, protocol):
    app = Counting(answer)
    client = open_client(serve(app))
    fields = [(b":method", b"CONNECT"), (b":authority", b"a.example:443")]
    if protocol is not None:
        fields += [(b":protocol", protocol.encode()), (b":scheme", b"http"), (b":path", b"/")]
    client.send(headers(1, literals(fields)))
    client.wait(lambda: client.on(1).status is not None)
    assert client.on(1).status == 501
    assert app.started == 0
    client.alive()

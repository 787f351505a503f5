"""Clients that ask load.py's application over HTTP/2 without a pause."""

from __future__ import annotations

from collections import Counter

import frames
from frames import PREFACE, Code, Setting, settings
from load import Load
from support import PATIENCE
from ws_client import CLOSE, TEXT, close_frame, frame

AT_ONCE = 4  # requests on a connection
ANY = 2**31 - 1  # the last stream in a GOAWAY that still allows new ones
GOING_AWAY, NORMAL = 1012, 1000  # codes of a Close frame


class LostError(Exception):
    """A request without a whole answer, which its client could not know that it may repeat."""


class HTTP2Load(Load):
    """As Load, over HTTP/2: by prior knowledge, or by ALPN if there is `trust`.

    A client that keeps its connection has AT_ONCE requests under way, until it reads GOAWAY: then
    it opens another connection. Half of the clients go on until GOAWAY names the last stream, as
    those do which have not read the first GOAWAY yet.

    A request that the server says it has not begun is asked again, and is no failure: its stream is
    refused, or above the last one that GOAWAY names (RFC 9113 sections 6.8 and 8.7).
    """

    at_once = AT_ONCE

    def _ask(self, number: int, keep: bool, plain: bool) -> None:
        host, _, port = self._host.rpartition(":")
        late = number % 4 > 1
        while not self._stop.is_set():
            try:
                client = frames.connect(host, int(port), self._trust, PATIENCE)
            except Exception as exc:
                refused = isinstance(exc, ConnectionRefusedError)
                self._fail("refused" if refused else "unconnected", number, 0, exc)
                continue
            with client:
                if self._trust is not None:
                    self.certificates.add(client.sock.getpeercert(True))  # type: ignore[attr-defined]
                client.refill = True
                client.send(PREFACE + settings())
                self._talk(client, number, keep, plain, late)
                for _, code, text in client.goaways:
                    if code != Code.NO_ERROR:
                        error = LostError(f"GOAWAY {frames.code_name(code)} {text!r}")
                        self._fail("broken", number, 0, error)

    def _talk(
        self, client: frames.Client, number: int, keep: bool, plain: bool, late: bool
    ) -> None:
        """Ask until the connection ends."""
        under_way: dict[int, tuple[str, Counter[tuple[int, int]]]] = {}
        pid = asked = 0
        while True:
            self._stop.wait(self.pause)
            told = [last for last, _, _ in client.goaways if not late or last != ANY]
            if not (told or client.closed or self._stop.is_set()):
                while len(under_way) < AT_ONCE and (keep or not asked):
                    method, target = self._request(plain)
                    under_way[client.request(method, target)] = target, self.seen
                    asked += 1
            if not under_way:
                return
            read_more(client)
            for stream, (target, seen) in list(under_way.items()):
                exchange = client.on(stream)
                try:
                    if is_refused(client, stream):
                        self.again[number] += 1
                    elif is_over(client, stream):
                        assert exchange.status == 200, exchange.status
                        pid, version = (int(word) for word in exchange.body.lstrip(b"0").split())
                        seen[pid, version] += 1
                    else:
                        continue
                except Exception as exc:
                    kind = "broken" if exchange.status else "unanswered"
                    self._fail(kind, number, pid, exc, target)
                del under_way[stream], client.exchanges[stream]


class WebSocketLoad(HTTP2Load):
    """Clients of WebSockets (RFC 8441), each with one message at a time. A session may be told to
    come back by a Close frame with 1012, and ends in no other way.
    """

    at_once = 1
    counted_as = ("thestral_websocket_messages_total", "direction", "sent")

    def _talk(
        self, client: frames.Client, number: int, keep: bool, plain: bool, late: bool
    ) -> None:
        pid = stream = asked = heard = 0
        closing = False
        try:
            while not is_refused(client, stream):
                if stream and is_over(client, stream):
                    assert closing, "ended without a Close frame"
                    return
                exchange = client.on(stream)
                if not stream:
                    if client.server.get(Setting.ENABLE_CONNECT_PROTOCOL):
                        stream = handshake(client, self._request(plain)[1])
                elif exchange.status is not None and not closing:
                    assert exchange.status == 200, exchange.status
                    for opcode, payload in messages(exchange.body):
                        if opcode == CLOSE:
                            closing = True
                            code = frames.number(payload[:2])
                            assert code == GOING_AWAY, f"Close {code}"
                            client.send(frames.data(stream, close_frame(code), end=True))
                            break
                        assert opcode == TEXT
                        heard += 1
                        pid, version = (int(word) for word in payload.split())
                        self.seen[pid, version] += 1
                    if heard == asked and not closing:
                        if self._stop.is_set() or (asked and not keep):
                            closing = True
                            client.send(frames.data(stream, close_frame(NORMAL), end=True))
                        else:
                            client.send(frames.data(stream, frame(TEXT, b"?")))
                            asked += 1
                read_more(client)
                if client.closed and not stream and not client.goaways:
                    raise LostError("closed before the SETTINGS")
            self.again[number] += 1
        except Exception as exc:
            self._fail("broken" if asked else "unanswered", number, pid, exc)


def read_more(client: frames.Client) -> None:
    """Take in the next frame, and all that have come with it.

    Raises:
        TimeoutError: none came.
    """
    client.read()
    while not client.closed and client.has_frame():
        client.read()


def is_refused(client: frames.Client, stream: int) -> bool:
    """Whether the server has said that it has not begun a request, so that it may be repeated."""
    if any(stream > last for last, _, _ in client.goaways):
        return True
    if stream == 0:  # not asked yet
        return bool(client.goaways)
    return client.on(stream).reset == Code.REFUSED_STREAM


def is_over(client: frames.Client, stream: int) -> bool:
    """Whether a response is complete.

    Raises:
        LostError: it never will be.
    """
    exchange = client.on(stream)
    if exchange.reset not in (None, Code.NO_ERROR):
        raise LostError(f"stream {stream} was reset: {client}")
    if client.closed and not exchange.ended:
        raise LostError(f"stream {stream} was open: {client}")
    return exchange.ended


def handshake(client: frames.Client, path: str) -> int:
    """Send a WebSocket's handshake; return its stream."""
    fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
    return client.request("CONNECT", path, *fields, end=False)


def messages(body: bytearray) -> list[tuple[int, bytes]]:
    """Take the opcodes and payloads of the short frames that are complete out of `body`."""
    taken = []
    while len(body) >= 2 and len(body) >= 2 + body[1]:
        taken.append((body[0] & 0x0F, bytes(body[2 : 2 + body[1]])))
        del body[: 2 + body[1]]
    return taken

"""The `h2` package as a client, without TLS, and WebSockets of Starlette and FastAPI over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h2.events
import pytest
from fastapi import FastAPI
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from support import Running, wait_until
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, TextMessage

CONTENT = bytes(range(256)) * 1000


class Client:
    """One connection, by prior knowledge."""

    def __init__(self, running: Running) -> None:
        self.sock = running.connect()
        self.state = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.state.initiate_connection()
        self.flush()
        self._events: list[h2.events.Event] = []

    def flush(self) -> None:
        self.sock.sendall(self.state.data_to_send())

    def request(self, method: str, path: str, *extra: tuple[str, str], end: bool = True) -> int:
        stream = self.state.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
        self.state.send_headers(stream, [*head, *extra], end_stream=end)
        self.flush()
        return stream

    def upload(self, stream: int, content: bytes) -> None:
        """Send content as the windows allow it; the stream is not ended."""
        while content:
            room = self.state.local_flow_control_window(stream)
            size = min(room, self.state.max_outbound_frame_size, len(content))
            if size > 0:
                self.state.send_data(stream, content[:size])
                self.flush()
                content = content[size:]
            else:
                self._read()

    def _read(self) -> None:
        data = self.sock.recv(65536)
        assert data, "the server has closed"
        for event in self.state.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                self.state.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id
                )
            self._events.append(event)
        self.flush()

    def wait(self, kind: type[Any], stream: int | None = None) -> Any:
        """Return the next event of a kind, of this stream if one is given."""
        while True:
            for event in self._events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self._events.remove(event)
                    return event
            self._read()

    def status(self, stream: int) -> int:
        return int(dict(self.wait(h2.events.ResponseReceived, stream).headers)[":status"])

    def body(self, stream: int) -> bytes:
        self.wait(h2.events.StreamEnded, stream)
        parts = [
            event.data
            for event in self._events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream
        ]
        return b"".join(part or b"" for part in parts)


@pytest.fixture
def connect() -> Iterator[Callable[[Running], Client]]:
    clients = []

    def start(running: Running) -> Client:
        clients.append(Client(running))
        return clients[-1]

    yield start
    for client in clients:
        client.sock.close()


class App:
    """Echoes bodies; "/trailers" sends some, "/wait" waits until its client is gone."""

    def __init__(self) -> None:
        self.waits = 0
        self.left: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        trailers = scope["path"] == "/trailers"
        if scope["path"] == "/wait":
            self.waits += 1
            self.left.append((await receive())["type"])
            return
        await send({"type": "http.response.start", "status": 200, "trailers": trailers})
        await send({"type": "http.response.body", "body": body})
        if trailers:
            fields = [(b"x-size", b"%d" % len(body))]
            await send({"type": "http.response.trailers", "headers": fields})


def test_get(serve, connect):
    client = connect(serve(App()))
    stream = client.request("GET", "/")
    assert client.status(stream) == 200
    assert client.body(stream) == b""


def test_bodies_of_streams_that_are_open_together(serve, connect):
    client = connect(serve(App()))
    streams = [client.request("POST", "/", end=False) for _ in range(3)]
    for number, stream in enumerate(streams):
        client.upload(stream, bytes([number]) + CONTENT)
    for number, stream in enumerate(streams):
        client.state.end_stream(stream)
        client.flush()
        assert client.status(stream) == 200
        assert client.body(stream) == bytes([number]) + CONTENT


def test_trailers_both_ways(serve, connect):
    client = connect(serve(App()))
    stream = client.request("POST", "/trailers", end=False)
    client.upload(stream, b"abc")
    client.state.send_headers(stream, [("x-checksum", "1")], end_stream=True)
    client.flush()
    assert client.status(stream) == 200
    assert client.wait(h2.events.TrailersReceived, stream).headers == [("x-size", "3")]
    assert client.body(stream) == b"abc"


def test_reset_and_ping(serve, connect):
    app = App()
    client = connect(serve(app))
    stream = client.request("GET", "/wait")
    wait_until(lambda: app.waits)
    client.state.reset_stream(stream, ErrorCodes.CANCEL)
    client.state.ping(b"12345678")
    client.flush()
    assert client.wait(h2.events.PingAckReceived).ping_data == b"12345678"
    wait_until(lambda: app.left)
    assert app.left == ["http.disconnect"]
    other = client.request("GET", "/")
    assert client.status(other) == 200


# --- WebSocket: RFC 8441 --------------------------------------------------------------------------


class Session:
    """A WebSocket on a stream of its own, by wsproto's frames."""

    def __init__(self, client: Client, path: str, *extra: tuple[str, str]) -> None:
        client.wait(h2.events.RemoteSettingsChanged)
        assert client.state.remote_settings.enable_connect_protocol
        self._client = client
        self._frames = Frames(ConnectionType.CLIENT)
        fields = (":protocol", "websocket"), ("sec-websocket-version", "13"), *extra
        self.stream = client.request("CONNECT", path, *fields, end=False)
        answer = client.wait(h2.events.ResponseReceived, self.stream)
        self.fields = dict(answer.headers)
        self.status = int(self.fields[":status"])

    def send(self, event: Event) -> None:
        self._client.upload(self.stream, self._frames.send(event))

    def receive(self) -> Event:
        """Return the next message, whole, or the server's Close."""
        whole: Any = None
        while True:
            for event in self._frames.events():
                if not isinstance(event, Message):
                    return event
                whole = event.data if whole is None else whole + event.data
                if event.message_finished:
                    return type(event)(data=whole)
            came = self._client.wait(h2.events.DataReceived, self.stream)
            self._frames.receive_data(came.data)


def starlette() -> Any:
    async def endpoint(websocket: WebSocket) -> None:
        if websocket.url.path == "/denied":
            reply = PlainTextResponse("not you", 401, headers={"x-reason": "none"})
            await websocket.send_denial_response(reply)
            return
        await websocket.accept(subprotocol="b", headers=[(b"x-mine", b"1")])
        await websocket.send_text("<" + await websocket.receive_text() + ">")
        await websocket.send_bytes(b"<" + await websocket.receive_bytes() + b">")
        await websocket.close(4001, "enough")

    return Starlette(routes=[WebSocketRoute("/{path:path}", endpoint)])


def fastapi() -> Any:
    app = FastAPI()

    @app.websocket("/denied")
    async def denied(websocket: WebSocket) -> None:
        reply = PlainTextResponse("not you", 401, headers={"x-reason": "none"})
        await websocket.send_denial_response(reply)

    @app.websocket("/{name}")
    async def endpoint(websocket: WebSocket, name: str) -> None:
        await websocket.accept(subprotocol="b", headers=[(b"x-mine", b"1")])
        await websocket.send_text("<" + await websocket.receive_text() + ">")
        await websocket.send_bytes(b"<" + await websocket.receive_bytes() + b">")
        await websocket.close(4001, "enough")

    return app


@pytest.mark.parametrize("app", [starlette, fastapi])
def test_a_conversation(serve, connect, app):
    client = connect(serve(app()))
    session = Session(client, "/chat", ("sec-websocket-protocol", "a, b"))
    assert (session.status, session.fields["sec-websocket-protocol"]) == (200, "b")
    assert session.fields["x-mine"] == "1"
    assert not {"upgrade", "connection", "sec-websocket-accept"} & set(session.fields)
    session.send(TextMessage("grüße" * 10_000))
    assert session.receive() == TextMessage("<" + "grüße" * 10_000 + ">")
    session.send(BytesMessage(CONTENT[:10_000]))
    assert session.receive() == BytesMessage(b"<" + CONTENT[:10_000] + b">")
    close = session.receive()
    assert close == CloseConnection(4001, "enough")
    session.send(close.response())
    client.wait(h2.events.StreamEnded, session.stream)


@pytest.mark.parametrize("app", [starlette, fastapi])
def test_a_denial(serve, connect, app):
    client = connect(serve(app()))
    session = Session(client, "/denied")
    assert (session.status, session.fields["x-reason"]) == (401, "none")
    assert client.body(session.stream) == b"not you"
    other = client.request("GET", "/")
    assert client.status(other) in (404, 405)

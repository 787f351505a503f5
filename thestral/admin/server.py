"""A small HTTP/1.1 server for the admin port. It needs a selector and no event loop, serves one
request on each connection, and never blocks on a client.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from thestral._core.head import RequestHead
from thestral._core.http1 import Event, RequestParser, ResponseWriter, reason_phrase
from thestral.errors import RemoteProtocolError
from thestral.logging.loggers import error_logger
from thestral.net.sockets import close_all, let_go, listen, take_waiting, url
from thestral.types import Headers

# Connections that are served at the same time; further ones get 503.
MOST_SERVED = 16
# All connections, including those that get 503 and those that have had their response.
MOST_OPEN = 2 * MOST_SERVED
BACKLOG = 16  # connections that wait to be accepted
# Longest life of a connection, from its acceptance until the client closes it.
LIFETIME = 5.0  # seconds
LARGEST_HEAD = 8192  # bytes; a longer request line gets 414, a larger head 431
MOST_FIELDS = 100
LARGEST_BODY = 512  # bytes; a larger one gets 413
RECEIVED = 16384  # bytes to read at once
TEXT = "text/plain; charset=utf-8"
ALWAYS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


@dataclass(frozen=True)
class Request:
    """A request to the admin port.

    Attributes:
        method: in upper case.
        path: percent-decoded.
        query: as received.
        accept: the value of Accept; "" without one.
        is_local: whether it came through a Unix socket.
    """

    method: str
    path: str
    query: str
    accept: str
    is_local: bool


@dataclass(frozen=True)
class Response:
    """The response to a Request; its body is text."""

    status: int
    body: str
    content_type: str = TEXT
    headers: Headers = field(default_factory=list)


Reply = Callable[[Response], None]
# Answers a request, at once or later, by calling a function with the response.
Answer = Callable[[Request, Reply], None]


class AdminServer:
    """Serves the admin port.

    Args:
        sockets: bound sockets; closed by close().
        selecting: the caller's selector; the caller calls the `data` of each key that is ready.
        answer: answers a request.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], selecting: selectors.BaseSelector, answer: Answer
    ) -> None:
        self.selecting = selecting
        self.answer = answer
        self._sockets = sockets
        self._connections: list[AdminConnection] = []
        self._accepting: list[socket.socket] = []

    def open(self) -> None:
        """Begin to listen.

        Raises:
            BindError: another process has begun to listen on the same address.
        """
        for sock in self._sockets:
            listen(sock, BACKLOG)
        self._accept_again()

    def check(self, now: float) -> None:
        """Close the connections that have taken too long; to be called about once a second.

        Args:
            now: time.monotonic().
        """
        for connection in [one for one in self._connections if now >= one.deadline]:
            connection.close()
        self._accept_again()

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        self._stop_accepting()
        close_all(self._sockets)

    def let_go(self) -> None:
        """In a forked process, close its copies of the descriptors."""
        for connection in self._connections:
            let_go(connection.sock)
        for sock in self._sockets:
            let_go(sock)

    @property
    def addresses(self) -> list[str]:
        """URLs, or unix:PATH."""
        return [url(sock) for sock in self._sockets]

    def forget(self, connection: AdminConnection) -> None:
        self._connections.remove(connection)

    def _accept_again(self) -> None:
        for sock in self._sockets:
            if sock not in self._accepting:
                self.selecting.register(sock, selectors.EVENT_READ, partial(self._accept, sock))
                self._accepting.append(sock)

    def _stop_accepting(self) -> None:
        """Stop accepting until the next check(): the selector would be ready all the time."""
        for sock in self._accepting:
            self.unregister(sock)
        self._accepting.clear()

    def unregister(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError):  # the selector has been closed
            self.selecting.unregister(sock)

    def _accept(self, listener: socket.socket) -> None:
        """Accept one connection. The others make the selector ready again."""
        if len(self._connections) >= MOST_OPEN:
            for connection in [one for one in self._connections if one.is_over]:
                connection.close()
        if len(self._connections) >= MOST_OPEN:
            self._stop_accepting()
            return
        found = take_waiting(listener, 1)
        if not found:  # the client is gone, or no descriptors are left
            self._stop_accepting()
            return
        is_full = sum(not one.is_answered for one in self._connections) >= MOST_SERVED
        connection = AdminConnection(self, found[0])
        self._connections.append(connection)
        connection.begin()
        if is_full:
            reason = f"{MOST_SERVED} connections are open already"
            connection.respond(refusal(503, reason, [(b"retry-after", b"1")]))


class AdminConnection:
    """A connection to the admin port: it reads a request, writes the response, and waits for the
    client to close, because closing first could destroy a response that is still on its way.

    Attributes:
        deadline: when it is closed at the latest, by time.monotonic().
        is_answered: whether it has its response.
    """

    def __init__(self, server: AdminServer, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = time.monotonic() + LIFETIME
        self.is_answered = False
        self._server = server
        self._parser = RequestParser(LARGEST_HEAD, LARGEST_HEAD, MOST_FIELDS, LARGEST_BODY)
        self._head: RequestHead | None = None
        self._output = memoryview(b"")
        self._watched = 0  # events for which the selector waits
        self._is_closed = False

    @property
    def is_over(self) -> bool:
        """Whether the response has been sent."""
        return self.is_answered and not self._output

    def begin(self) -> None:
        self._watch(selectors.EVENT_READ)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._watch(0)
            self._server.forget(self)
            self.sock.close()

    def _watch(self, events: int) -> None:
        """Make the selector wait for these events; 0 for none."""
        selecting = self._server.selecting
        if self._watched and events:
            selecting.modify(self.sock, events, self._on_ready)
        elif events:
            selecting.register(self.sock, events, self._on_ready)
        elif self._watched:
            self._server.unregister(self.sock)
        self._watched = events

    def _on_ready(self) -> None:
        if self._is_closed:  # after the selector had returned
            return
        try:
            if self._output:
                self._send()
            else:
                self._receive()
        except BlockingIOError:
            pass
        except OSError:  # the client is gone
            self.close()

    def _receive(self) -> None:
        data = self.sock.recv(RECEIVED)
        if not data:
            self.close()
        elif not self.is_answered:
            self._parser.feed(data)
            self._advance()

    def _advance(self) -> None:
        try:
            while (event := self._parser.next_event()) != Event.NEED_DATA:
                if event == Event.HEAD:
                    self._head = self._parser.read_head()
                elif event == Event.END:
                    self._ask()
                    return
        except RemoteProtocolError as error:
            self.respond(refusal(error.status, error.reason))

    def _ask(self) -> None:
        head = self._head
        assert head is not None
        self._watch(0)
        accepted = [value.decode("latin-1") for name, value in head.headers if name == b"accept"]
        request = Request(
            head.method,
            head.path,
            head.query.decode("latin-1"),
            ",".join(accepted),
            self.sock.family == socket.AF_UNIX,
        )
        try:
            self._server.answer(request, self.respond)
        except Exception:
            error_logger.exception("Exception in the admin port at %.100r", head.path)
            self.respond(refusal(500, "the log has the reason"))

    def respond(self, response: Response) -> None:
        """Begin to send the response, unless the connection is closed or already has one."""
        if self._is_closed or self.is_answered:
            return
        self.is_answered = True
        body = response.body.encode("utf-8", "replace")
        head = head_of(response, len(body))
        is_head = self._parser.is_head() if self._head is None else self._head.head_only
        self._output = memoryview(head if is_head else head + body)
        try:
            self._send()
        except BlockingIOError:
            self._watch(selectors.EVENT_WRITE)
        except OSError:  # the client is gone
            self.close()

    def _send(self) -> None:
        self._output = self._output[self.sock.send(self._output) :]
        if self._output:
            self._watch(selectors.EVENT_WRITE)
        else:
            self.sock.shutdown(socket.SHUT_WR)
            self._watch(selectors.EVENT_READ)


def head_of(response: Response, length: int) -> bytes:
    """The head of a response whose body has `length` bytes."""
    writer = ResponseWriter()
    writer.begin(response.status)
    writer.write_headers([(b"content-type", response.content_type.encode())], False)
    writer.write_headers(response.headers, False)
    writer.write_headers(ALWAYS, False)
    writer.write_content_length(length)
    writer.write(b"connection: close\r\n\r\n")
    return writer.take(0)


def refusal(status: int, reason: str, headers: Headers | None = None) -> Response:
    """A response that says why a request is refused."""
    return Response(status, f"{reason_phrase(status)}: {reason}\n", headers=headers or [])

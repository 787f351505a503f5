"""Every exception that thestral raises on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thestral.types import Headers


class ThestralError(Exception):
    """Base class of thestral's exceptions.

    Attributes:
        exit_status: exit status of a process that could not start because of the error.
    """

    exit_status = 3  # uvicorn's STARTUP_FAILURE


class ConfigError(ThestralError):
    """An option has a value that cannot be used.

    Attributes:
        option: name of the Config field.
        reason: the value and what was expected, in one line.
    """

    exit_status = 2  # the same as for an invalid command line

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


class ImportFailedError(ThestralError):
    """The application could not be imported; the message is for the user."""


class AccelerateError(ThestralError):
    """A group of thestral.accelerate is required, but does not fit what is installed; the message
    is for the user.
    """


class LifespanError(ThestralError):
    """The application's lifespan failed at startup, so that the server must not start, or at
    shutdown.
    """


class BindError(ThestralError):
    """A listening socket could not be opened; the message is for the user."""

    exit_status = 1


class WorkerError(ThestralError):
    """No worker process could start; the log has the reason of each."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came before the server handled signals itself. Ctrl-C is a KeyboardInterrupt then."""


class ProtocolError(ThestralError):
    """A message broke the rules of its protocol."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules of the protocol.

    Attributes:
        status: HTTP status code to refuse the request with (RFC 9110 section 15), or close code to
            fail a WebSocket with (RFC 6455 section 7.4).
        reason: what was wrong, in llhttp's words or thestral's; a sentence without a full stop.
        excerpt: the bytes that were wrong: at most 64, of the first line only, because fields may
            hold secrets.
        headers: header fields of the refusal.
    """

    def __init__(
        self, status: int, reason: str, excerpt: bytes = b"", headers: Headers | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.excerpt = excerpt[:64].partition(b"\n")[0].partition(b"\r")[0]
        self.headers: Headers = headers or []


class LocalProtocolError(ProtocolError, RuntimeError):
    """The application broke the rules of ASGI; `await send(...)` or `await receive()` raises it.

    It is a RuntimeError as well, because applications written for uvicorn catch that.
    """


class ClientDisconnected(ThestralError, OSError):  # noqa: N818 (a fact, not a fault)
    """The client is gone; `await send(...)` raises it, as ASGI 2.4 requires.

    An application need not catch it: it is a normal end of a response and not logged as an error.
    """

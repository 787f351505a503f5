"""Every exception thestral raises on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thestral.types import Headers


class ThestralError(Exception):
    """Base of all.

    Attributes:
        exit_status: of a process that one keeps from starting.
    """

    exit_status = 3  # uvicorn's STARTUP_FAILURE


class ConfigError(ThestralError):
    """An option has a value that cannot be used.

    Attributes:
        option: name of the Config field.
        reason: the value and what was expected, in one line.
    """

    exit_status = 2  # as of a command line that cannot be used

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


class ImportFailedError(ThestralError):
    """The application could not be imported; the text is meant for the user."""


class LifespanError(ThestralError):
    """The application's lifespan failed, so the server must not start."""


class BindError(ThestralError):
    """A listening socket could not be had; the text is meant for the user."""

    exit_status = 1


class WorkerError(ThestralError):
    """No worker process can be had; each has said why."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came before the server took signals itself, as Ctrl-C raises KeyboardInterrupt."""


class ProtocolError(ThestralError):
    """A message broke the rules of its protocol."""


class RemoteProtocolError(ProtocolError):
    """The peer's fault.

    Attributes:
        status: HTTP status code to refuse the request with (RFC 9110 section 15), or close code to
            fail a WebSocket with (RFC 6455 section 7.4).
        reason: what was wrong, in llhttp's words or ours; a sentence without full stop.
        excerpt: the bytes it was found in, at most 64 of the first line: fields may hold secrets.
        headers: fields that the refusal carries.
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
    """The application's fault: raised out of `await send(...)` or `await receive()`.

    A RuntimeError, too, because that is what applications written for uvicorn catch.
    """


class ClientDisconnected(ThestralError, OSError):  # noqa: N818 (a fact, not a fault)
    """The client is gone; raised out of `await send(...)` as ASGI 2.4 asks for.

    An application may let it pass: it is a normal end of a response and not logged as an error.
    """

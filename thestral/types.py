"""Types of ASGI, for annotations. Messages and scopes are plain dictionaries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]


class ASGIApplication(Protocol):
    """An ASGI 3 application: any callable with this signature."""

    def __call__(self, scope: Any, receive: Any, send: Any, /) -> Awaitable[None]: ...

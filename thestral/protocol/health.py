"""Answers probes on the application's port, without the application (--health-path)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from thestral.types import ASGIApplication

METHODS = ("GET", "HEAD")
NO_STORE = (b"cache-control", b"no-store")


class HealthPath:
    """An ASGI application that answers requests for some paths, and has another one do the rest.

    Args:
        app: the other one.
        paths: percent-decoded.
        is_draining: whether the server is shutting down.
    """

    def __init__(
        self, app: ASGIApplication, paths: Collection[str], is_draining: Callable[[], bool]
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._is_draining = is_draining

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] in self._paths:
            return self._answer(scope["method"], send)
        return self._app(scope, receive, send)

    async def _answer(self, method: str, send: Any) -> None:
        status, text, fields = 200, b"ok\n", [NO_STORE]
        if method not in METHODS:
            status, text, fields = 405, b"GET or HEAD\n", [(b"allow", b"GET, HEAD")]
        elif self._is_draining():
            status, text = 503, b"shutting down\n"
        fields = [(b"content-type", b"text/plain; charset=utf-8"), *fields]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": text})


def paths_of(path: str, root_path: str) -> list[str]:
    """The paths of a scope that mean the health path: --root-path may be in front of it."""
    return [path, root_path.rstrip("/") + path]
